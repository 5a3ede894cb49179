"""What a member counted in a run that just ended, as its report."""

from moiety import ring
from moiety.engine.executor import Tally
from moiety.engine.report import Report, packages
from moiety.engine.session import Session
from moiety.engine.waves import Bound


def wire_bytes(session: Session) -> dict[str, tuple[int, int]]:
    """TCP bytes (sent, received) so far, by peer."""
    total: dict[str, tuple[int, int]] = {}
    for link in session.links():
        (sent, received), (s, r) = total.get(link.peer, (0, 0)), link.wire_bytes()
        total[link.peer] = (sent + s, received + r)
    return total


def make_report(
    name: str,
    bound: Bound,
    session: Session,
    tally: Tally,
    before: dict[str, tuple[int, int]],
    seconds: float,
    weight_bytes: int,
    state_bytes: int,
    peak_bytes: int,
    cpu_s: float,
) -> Report:
    """One member's report of the run that just ended."""
    after = wire_bytes(session)
    return Report(
        name=name,
        role=session.role.name,
        waves=bound.spoken,
        rounds=bound.rounds,
        seconds=seconds,
        waiting_s=tally.waiting_s,
        links=tally.traffic(),
        wire={peer: (sent - before[peer][0], received - before[peer][1]) for peer, (sent, received) in after.items()},
        peak_memory_bytes=peak_bytes,
        weight_bytes=weight_bytes,
        state_bytes=state_bytes,
        cpu_s=cpu_s,
        streamed_bytes=tally.streamed,
        kernels=ring.features(),
        packages=packages(),
    )
