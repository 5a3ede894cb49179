"""The systems that moiety is held against: how their environments are made, beside the project, and how they are run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moiety.bench.workloads import MODULE, Workload
from moiety.models.files import cache_folder

RUNNERS: Final = Path(__file__).parent / "runners"
OURS: Final = "moiety"
FLOOR: Final = "torch"
PARTIES: Final = 3

Tell = Callable[[str], None]


class NoEnvironment(RuntimeError):
    """A peer could not be installed here."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A side that is not moiety's. Those with ``installs`` run in an environment of their own, the others in moiety's."""

    name: str
    title: str
    command: tuple[str, ...]
    """A script of ``runners`` with its options, or a module of this package."""
    environment: str = ""
    installs: tuple[tuple[str, ...], ...] = ()
    """Arguments of pip, one installation after the other."""
    lighter: tuple[str, ...] = ()
    """Tried in place of the first one, which is far larger; it may not be offered here."""

    def takes(self, workload: Workload) -> bool:
        """Whether it is measured on the workload: whole language models with caches have no counterpart at the peers."""
        return workload.kind == MODULE or not self.installs

    def installed(self, folder: Path) -> bool:
        """Whether its environment is complete."""
        return not self.installs or self._mark(folder).is_file()

    def line(self, folder: Path) -> list[str]:
        """The command that evaluates a job; the job's folder and the answer's are to be added."""
        if not self.installs:
            return [sys.executable, "-m", *self.command]
        script, *options = self.command
        return [str(folder / self.environment / "bin" / "python"), str(RUNNERS / script), *options]

    def install(self, folder: Path, tell: Tell) -> None:
        """Make the environment in ``folder`` unless it is there. Raises NoEnvironment with what pip said."""
        if self.installed(folder):
            return
        place = folder / self.environment
        tell(f"installing {self.title} into {place}, once")
        shutil.rmtree(place, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(place)], self.title)
        pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        first, *others = self.installs
        if not (self.lighter and _works([*pip, *self.lighter])):
            _run([*pip, *first], self.title)
        for packages in others:
            _run([*pip, *packages], self.title)
        self._mark(folder).write_text(repr(self.installs), encoding="utf-8")

    def _mark(self, folder: Path) -> Path:
        return folder / self.environment / ".complete"


@dataclass(frozen=True, slots=True)
class Built(Peer):
    """A peer that is compiled from its sources, and knows a few workloads. Its script runs in moiety's environment."""

    sources: str = ""
    """A repository for git."""
    variable: str = ""
    """Of the environment: a checkout to be used in place of one's own."""
    target: str = ""
    needs: tuple[str, ...] = ()
    """Programs that building takes."""
    hint: str = ""
    workloads: tuple[str, ...] = ()

    def takes(self, workload: Workload) -> bool:
        """Whether its library has a function for it."""
        return workload.name in self.workloads

    def checkout(self, folder: Path) -> Path:
        """Where its sources are, or will be."""
        named = os.environ.get(self.variable)
        return Path(named) if named else folder / self.environment

    def installed(self, folder: Path) -> bool:
        """Whether it is built, with certificates for its parties."""
        place = self.checkout(folder)
        return (place / self.target).is_file() and (place / "Player-Data" / "P2.pem").is_file()

    def line(self, folder: Path) -> list[str]:
        """As for every peer."""
        script, *options = self.command
        return [sys.executable, str(RUNNERS / script), str(self.checkout(folder).resolve()), *options]

    def install(self, folder: Path, tell: Tell) -> None:
        """Fetch and compile it unless that is done. Raises NoEnvironment with what is missing or what was said."""
        if self.installed(folder):
            return
        if missing := [program for program in self.needs if shutil.which(program) is None]:
            raise NoEnvironment(f"{self.title} cannot be built here: there is no {', '.join(missing)}. {self.hint}")
        place = self.checkout(folder)
        tell(f"building {self.title} in {place}, once; it takes some minutes")
        if not (place / "Makefile").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _run(["git", "clone", "-q", "--depth", "1", self.sources, str(place)], self.title)
        _run(["make", "-C", str(place), f"-j{os.cpu_count() or 1}", self.target], self.title)
        _run(["sh", "-c", f'cd "$1" && bash Scripts/setup-ssl.sh {PARTIES}', "sh", str(place)], self.title)


def _works(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: Sequence[str], title: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoEnvironment(f"{title} cannot be installed here: {' '.join(command[-4:])} said {done.stderr.strip()[-600:]}")


SPU: Final = ("spu", (("spu==0.9.5",),))
CRYPTEN: Final = (
    ("torch==2.5.1",),  # it imports no later one
    ("numpy<2", "scipy", "pyyaml", "omegaconf", "onnx", "pandas", "future"),
    ("--no-deps", "crypten==0.4.1"),  # what it names itself includes a package that no longer exists
)
CPU_TORCH: Final = ("--extra-index-url", "https://download.pytorch.org/whl/cpu", "--timeout", "15", "--retries", "1", "torch==2.5.1+cpu")

PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer("spu", "SPU 0.9.5, PUMA's functions", ("run_spu.py", "--functions", "puma"), *SPU),
        Peer("spu-jax", "SPU 0.9.5, JAX's functions", ("run_spu.py", "--functions", "jax"), *SPU),
        Peer("crypten", "CrypTen 0.4.1", ("run_crypten.py",), "crypten", CRYPTEN, CPU_TORCH),
        Built(
            "mp-spdz",
            "MP-SPDZ",
            ("run_mp_spdz.py",),
            "mp-spdz",
            sources="https://github.com/data61/MP-SPDZ",
            variable="MOIETY_MP_SPDZ",
            target="replicated-ring-party.x",
            needs=("git", "make", "clang++", "openssl"),
            hint="Debian has what it takes in git make clang openssl libboost-dev libboost-filesystem-dev libboost-iostreams-dev "
            "libboost-thread-dev libgmp-dev libntl-dev libsodium-dev libssl-dev; or name a checkout that is built in MOIETY_MP_SPDZ",
            workloads=("matmul-512x768x768", "matmul-1x4096x4096", "mul-1e6", "relu-1e5", "softmax-12x128x128"),
        ),
        Peer(FLOOR, "PyTorch in the clear", ("moiety.bench.plain",)),
    )
}
USUAL: Final = ("spu", "crypten", FLOOR)


def usual(folder: Path) -> tuple[str, ...]:
    """The peers that are measured unless told otherwise: those that pip installs, and those that somebody has built."""
    return (*USUAL, *(name for name, peer in PEERS.items() if isinstance(peer, Built) and peer.installed(folder)))


def folder() -> Path:
    """Where environments are made unless told otherwise."""
    return cache_folder() / "peers"


def ours() -> list[str]:
    """moiety's own command."""
    return [sys.executable, "-m", "moiety.bench.ours"]
