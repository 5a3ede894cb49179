"""A slow evaluator holds the dealer back: what P0 keeps for it is bounded, and the run goes on when it catches up."""

import threading
import time
from typing import Any

import numpy as np
import pytest

from moiety.engine.launch import CLIENT, PARTIES
from moiety.engine.session import DEALT
from moiety.net import Channel
from moiety.net.writer import QUEUE_BYTES

from . import plans
from .conftest import Threads, as_client, as_owner

PLAN = plans.chain(64, (1 << 19,))
LONG = 60.0


class Seam:
    """Both seams of one party: it stops at ``wave`` until it is released; its channels and the wave it is in are seen."""

    def __init__(self, wave: int | None = None) -> None:
        self.hold, self.wave = wave, -1
        self.held, self.released = threading.Event(), threading.Event()
        self.channels: dict[str, Channel] = {}

    def wrap(self, link: Any, purpose: str) -> Any:
        if purpose == DEALT:
            self.channels[link.peer] = link
        return link

    def wave_started(self, wave: int, label: str) -> None:
        self.wave = wave
        if wave == self.hold:
            self.held.set()
            assert self.released.wait(LONG)

    def wave_ended(self, wave: int, label: str) -> None: ...
    def run_failed(self, wave: int, error: BaseException) -> None: ...

    def seams(self) -> dict[str, Any]:
        return {"wrap": self.wrap, "watcher": self}


DEALER, SLOW = Seam(), Seam(1)


@pytest.mark.parametrize("threads", [{PARTIES[0]: DEALER.seams(), PARTIES[1]: SLOW.seams()}], indirect=True)
def test_the_dealer_does_not_run_ahead_without_bound(threads: Threads) -> None:
    with as_owner(threads) as owner:
        owner.deploy("chain", [PLAN], {})
    largest = max(max(row) for row in PLAN.waves)
    dealt = [sum(column) for column in zip(*PLAN.waves, strict=True)]
    assert max(dealt[2:4]) > 2 * (QUEUE_BYTES + largest), "else nothing has to be held back"
    x, found = np.linspace(-2, 2, 1 << 19), list[Any]()

    def ask() -> None:
        with as_client(threads, CLIENT) as client:
            found.append(client.run("chain", PLAN, plans.words(x)))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert SLOW.held.wait(LONG)
        deadline, peak = time.monotonic() + LONG, 0
        while peak + largest <= QUEUE_BYTES:  # until there is no room for another frame
            assert time.monotonic() < deadline
            peak = max(peak, *(channel.queued_bytes for channel in DEALER.channels.values()))
            time.sleep(0.001)
        stood = DEALER.wave
        assert stood < len(PLAN.waves) // 2
    finally:
        SLOW.released.set()
        thread.join(LONG)
    assert peak <= QUEUE_BYTES + largest
    assert np.abs(plans.reals(found[0]) - x * 2.0**-40).max() < 4 * 2.0**-plans.FRACTION
