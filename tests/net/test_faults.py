"""Every fault of the wrapper, and of the wire itself, ends in the right error at the other side."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from moiety.errors import ChannelError, DeadlineExceeded, FrameError, MoietyError, PeerLost
from moiety.net import Action, Channel, Fault, FaultyChannel, Kind, Link
from moiety.net.frames import HEADER_BYTES

Pair = tuple[Channel, Channel]


def talk(sender: Link, receiver: Link, deadline_s: float = 0.5) -> list[bytes]:
    for wave in range(3):
        sender.send(Kind.WAVE, [bytes([wave]) * 100], wave=wave)
    return [bytes(receiver.receive(Kind.WAVE, 100, wave=wave, deadline_s=deadline_s, awaited=f"wave {wave}")) for wave in range(3)]


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (Fault(Action.DROP, 1), FrameError, "wave 1: frame number 3 came where 2 was expected .*missing"),
        (Fault(Action.DROP, 2), DeadlineExceeded, "wave 2 was awaited"),
        (Fault(Action.DUPLICATE, 1), FrameError, "wave 2: frame number 2 came where 3 was expected .*repeated"),
        (Fault(Action.ALTER, 1, at=20), FrameError, "wave 1: .*wrong checksum"),
        (Fault(Action.ALTER, 1, at=0), FrameError, "wave 1: .*wrong magic"),
        (Fault(Action.TRUNCATE, 2, at=HEADER_BYTES + 9), DeadlineExceeded, "only 9 of 100 bytes came from P1"),
        (Fault(Action.TRUNCATE, 2, at=11), DeadlineExceeded, "nothing came"),
        (Fault(Action.TRUNCATE, 1, at=HEADER_BYTES + 9), FrameError, "wave 2: .*wrong magic"),
    ],
)
def test_faults_are_named(pair: Pair, fault: Fault, error: type[MoietyError], text: str) -> None:
    one, two = pair
    with pytest.raises(error, match=text):
        talk(FaultyChannel(one, fault), two)


def test_close(pair: Pair) -> None:
    one, two = pair
    with pytest.raises(ChannelError, match="P2 was closed here"):
        talk(FaultyChannel(one, Fault(Action.CLOSE, 1)), two)
    two.receive(Kind.WAVE, 100, deadline_s=1, awaited="wave 0")
    with pytest.raises(PeerLost, match=r"P1 closed .* wave 1"):
        two.receive(Kind.WAVE, 100, wave=1, deadline_s=1, awaited="wave 1")


def test_truncated_and_closed(pair: Pair) -> None:
    one, two = pair
    faulty = FaultyChannel(one, Fault(Action.TRUNCATE, 0, at=HEADER_BYTES + 9))
    faulty.send(Kind.WAVE, [bytes(100)])
    faulty.close()
    with pytest.raises(PeerLost, match="mid-frame"):
        two.receive(Kind.WAVE, 100, deadline_s=1, awaited="wave 0")


def test_delay_is_only_late(pair: Pair) -> None:
    one, two = pair
    started = time.monotonic()
    assert talk(FaultyChannel(one, Fault(Action.DELAY, 1, seconds=0.3)), two) == [bytes([w]) * 100 for w in range(3)]
    assert time.monotonic() - started > 0.3


def test_altered_payload_passes(pair: Pair) -> None:
    """A party may lie about its own words: that is beneath the net's promise, and what verified runs are for."""
    one, two = pair
    assert talk(FaultyChannel(one, Fault(Action.ALTER, 1, at=HEADER_BYTES)), two)[1] == b"\x00" + bytes([1]) * 99


def test_the_wrapper_is_a_link(pair: Pair) -> None:
    one, two = pair
    faulty: Link = FaultyChannel(one, Fault(Action.DROP, 10**9))
    assert (faulty.peer, faulty.hello, faulty.nonce, faulty.counters) == (one.peer, one.hello, one.nonce, one.counters)
    two.send(Kind.CONTROL, [b"abc"])
    assert faulty.receive_message(Kind.CONTROL, deadline_s=1, awaited="abc") == b"abc"
    two.send(Kind.WAVE, [b"abc"])
    into = bytearray(3)
    faulty.receive_into(Kind.WAVE, [into], deadline_s=1, awaited="abc")
    assert into == b"abc"
    faulty.flush(1)
    assert faulty.wire_bytes() == one.wire_bytes()
    faulty.abort("MOI-000", "enough")
    faulty.close()


@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 20, 60, 10**9])
def test_flipped_byte_of_ciphertext(town: Any, flipping_proxy: Callable[..., Any], at: int) -> None:
    """One flipped bit between the parties: record type, version, length, body or tag. Both sides hear of it in time."""
    proxies: list[Any] = []

    def between(port: int) -> int:
        proxies.append(flipping_proxy(port, at))
        return int(proxies[0].port)

    one, two = town.pair(between)
    proxies[0].arm()
    started = time.monotonic()

    def work(channel: Channel) -> MoietyError | None:
        try:
            if channel is one:
                channel.send(Kind.WAVE, [bytes(100)])
            channel.receive(Kind.WAVE, 100, deadline_s=1, awaited="op mul, wave 1")
        except MoietyError as error:
            channel.close()
            return error
        return None

    jobs = [town.pool.submit(work, channel) for channel in (one, two)]
    errors = [job.result(10) for job in jobs]
    assert time.monotonic() - started < 4
    assert all(isinstance(error, ChannelError) and "op mul, wave 1" in str(error) for error in errors), errors
    if at in (20, 60, 10**9):
        assert all(isinstance(error, FrameError) and "altered on the way" in str(error) for error in errors), errors
