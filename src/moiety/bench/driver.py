"""All sides in turn, workload after workload, so that a slow hour of the machine is everybody's."""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from moiety.bench import machine, peers
from moiety.bench.peers import OURS, PEERS, NoEnvironment, Peer
from moiety.bench.report import Report, made
from moiety.bench.results import Store
from moiety.bench.sides import Turn, TurnFailed, printed, take
from moiety.bench.workloads import WORKLOADS, Workload
from moiety.errors import ConfigError

Tell = Callable[[str], None]
T = TypeVar("T")


@dataclass(slots=True)
class Bench:
    """Workloads, the peers that moiety is held against on them, and where everything lies."""

    workloads: Sequence[Workload]
    peers: Sequence[Peer]
    turns: int
    """Of each side, at least."""
    store: Store
    environments: Path
    tell: Tell
    failures: list[str] = field(default_factory=list)

    def run(self) -> Report:
        """Measure what is missing. What fails is told and left out."""
        load = os.getloadavg()[0]
        if load > machine.BUSY * (os.cpu_count() or 1):
            self.tell(f"load average {load:.1f}: something else runs here, so take no seconds from this")
        self.peers = [peer for peer in self.peers if self._ready(peer)]
        for workload in self.workloads:
            self._measure(workload)
        if machine.build() != self.store.build:
            self._failed("the package was changed while it was measured: the last turns are of no build")
        return made(self.store, load, os.getloadavg()[0], self.failures)

    def _ready(self, peer: Peer) -> bool:
        try:
            peer.install(self.environments, self.tell)
        except NoEnvironment as error:
            self._failed(str(error))
            return False
        return True

    def _measure(self, workload: Workload) -> None:
        sides = {OURS: peers.ours()} | {peer.name: peer.line(self.environments) for peer in self.peers if peer.takes(workload)}
        missing = {side: self.turns - self.store.calm(workload.name, side) for side in sides}
        if max(missing.values()) <= 0:
            self.tell(f"{workload.title}: measured before")
            return
        with tempfile.TemporaryDirectory(prefix="moiety-job-") as folder:
            job = Path(folder)
            try:
                printed(workload.title, [sys.executable, "-m", "moiety.bench.material", workload.name, folder])
            except TurnFailed as error:
                self._failed(str(error))
                return
            for number in range(max(missing.values())):
                for side in [side for side in sides if missing[side] > number]:
                    if not self._take(workload, side, sides[side], job):
                        missing[side] = 0

    def _take(self, workload: Workload, side: str, command: Sequence[str], job: Path) -> bool:
        try:
            turn = take(side, command, job, self.store.build)
        except TurnFailed as error:
            self._failed(f"{workload.title}: {error}")
            return False
        self.store.add(turn)
        self.tell(f"{workload.title}: {_brief(turn)}")
        return True

    def _failed(self, text: str) -> None:
        self.failures.append(text)
        self.tell(text)


def _brief(turn: Turn) -> str:
    told = turn.measured
    busy = f"; {turn.others:.1f} processors were busy with something else" if turn.others > machine.BUSY else ""
    whole = "" if told.between_s is None else f" ({told.whole_s:.3f} s end to end)"
    cost = f"{max(told.cpu_s):.2f} CPU-s a party, {told.among_bytes / 1e6:.1f} MB among parties, {told.rounds} rounds"
    return f"{turn.side} {told.wall_s:.3f} s{whole}, {cost}, error {turn.max_error:.1e}{busy}"


def chosen(names: Sequence[str], peer_names: Sequence[str]) -> tuple[list[Workload], list[Peer]]:
    """Workloads and peers by name. Raises ConfigError for one that does not exist."""
    return [_named(WORKLOADS, name, "workload") for name in names], [_named(PEERS, name, "peer") for name in peer_names]


def _named(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise ConfigError(f"there is no {what} {name!r}; take {', '.join(known)}")
    return known[name]
