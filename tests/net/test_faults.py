"""Every fault of the wrapper, and of the wire itself, ends in the right error at the other side."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from moiety.errors import ChannelError, ConfigError, DeadlineExceeded, FrameError, MoietyError, PeerLost
from moiety.net import Channel, Fault, FaultKind, FaultyChannel, Injector, Kind, Link, fault
from moiety.net.frames import HEADER_BYTES

Pair = tuple[Channel, Channel]


def talk(sender: Link, receiver: Link, deadline_s: float = 0.5) -> list[bytes]:
    for wave in range(3):
        sender.send(Kind.WAVE, [bytes([wave]) * 100], wave=wave)
    return [bytes(receiver.receive(Kind.WAVE, 100, wave=wave, deadline_s=deadline_s, awaited=f"wave {wave}")) for wave in range(3)]


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("P1@1:drop", FrameError, "wave 1: frame number 3 came where 2 was expected .*missing"),
        ("P1@2:drop", DeadlineExceeded, "wave 2 was awaited"),
        ("P1#1:duplicate", FrameError, "wave 2: frame number 2 came where 3 was expected .*repeated"),
        ("P1#1:lie=20", FrameError, "wave 1: .*wrong checksum"),
        ("P1#1:lie", FrameError, "wave 1: .*wrong magic"),
        ("P1@1:alter", FrameError, "altered on the way .*wave 1"),
        (f"P1@2:truncate={HEADER_BYTES + 9}", DeadlineExceeded, "only 9 of 100 bytes came from P1"),
        ("P1@2:truncate=11", DeadlineExceeded, "nothing came"),
        (f"P1@1:truncate={HEADER_BYTES + 9}", FrameError, "wave 2: .*wrong magic"),
    ],
)
def test_faults_are_named(pair: Pair, fault: str, error: type[MoietyError], text: str) -> None:
    one, two = pair
    with pytest.raises(error, match=text):
        talk(FaultyChannel.once(one, fault), two)


def test_close(pair: Pair) -> None:
    one, two = pair
    with pytest.raises(ChannelError, match="P2 was closed here"):
        talk(FaultyChannel.once(one, "P1@1:close"), two)
    two.receive(Kind.WAVE, 100, deadline_s=1, awaited="wave 0")
    with pytest.raises(PeerLost, match=r"P1 closed .* wave 1"):
        two.receive(Kind.WAVE, 100, wave=1, deadline_s=1, awaited="wave 1")


def test_partition(pair: Pair) -> None:
    """Silence in both directions: even that one end closes, or aborts, does not get through."""
    one, two = pair
    with pytest.raises(DeadlineExceeded, match="nothing came"):
        talk(FaultyChannel.once(one, "P1@1:partition"), two)
    two.send(Kind.WAVE, [bytes(100)])
    with pytest.raises(DeadlineExceeded, match="nothing came"):
        one.receive(Kind.WAVE, 100, deadline_s=0.2, awaited="wave 0")
    one.abort("MOI-302", "too late")
    one.close()
    with pytest.raises(DeadlineExceeded, match="nothing came"):
        two.receive(Kind.WAVE, 100, wave=1, deadline_s=0.2, awaited="wave 1")
    one.mend()
    with pytest.raises(PeerLost):
        two.receive(Kind.WAVE, 100, wave=1, deadline_s=5, awaited="wave 1")


def test_altered_large_frame(pair: Pair) -> None:
    one, two = pair
    FaultyChannel.once(one, "P1@0:alter").send(Kind.WAVE, [bytes(10**6)])
    with pytest.raises(FrameError, match="altered on the way"):
        two.receive(Kind.WAVE, 10**6, deadline_s=5, awaited="wave 0")


def test_truncated_and_closed(pair: Pair) -> None:
    one, two = pair
    faulty = FaultyChannel.once(one, f"P1#0:truncate={HEADER_BYTES + 9}")
    faulty.send(Kind.WAVE, [bytes(100)])
    faulty.close()
    with pytest.raises(PeerLost, match="mid-frame"):
        two.receive(Kind.WAVE, 100, deadline_s=1, awaited="wave 0")


def test_delay_is_only_late(pair: Pair) -> None:
    one, two = pair
    started = time.monotonic()
    assert talk(FaultyChannel.once(one, "P1@1:delay=0.3"), two) == [bytes([w]) * 100 for w in range(3)]
    assert time.monotonic() - started > 0.3


def test_altered_payload_passes(pair: Pair) -> None:
    """A party may lie about its own words: that is beneath the net's promise, and what verified runs are for."""
    one, two = pair
    assert talk(FaultyChannel.once(one, f"P1@1:lie={HEADER_BYTES}"), two)[1] == b"\x00" + bytes([1]) * 99


def test_the_wrapper_is_a_link(pair: Pair) -> None:
    one, two = pair
    faulty: Link = FaultyChannel.once(one, "P1@1000000:drop")
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


@pytest.mark.parametrize("text", ["alice@17:drop", "alice@0>bob:delay=0.5", "a.b-c#4:kill", "P1#0>P2:lie=40", "x@3:partition"])
def test_the_language_reads_what_it_writes(text: str) -> None:
    assert str(Fault.parse(text)) == text


def test_the_language() -> None:
    assert Fault.parse("alice@17:drop") == fault("alice", 17, "drop") == Fault("alice", 17, FaultKind.DROP)
    assert fault("alice", 2, "delay", peer="bob", amount=1.5) == Fault("alice", 2, FaultKind.DELAY, 1.5, "bob")
    assert fault("alice", 2, "delay").amount > 0
    for text in ("alice", "alice@x:drop", "alice@1:explode", "alice@1:drop=", "@1:drop", "alice@-1:drop", "alice@1:drop extra"):
        with pytest.raises(ConfigError, match="write it like alice@17:drop"):
            Fault.parse(text)


def test_when_a_fault_strikes() -> None:
    later, numbered = Fault.parse("a@3>b:drop"), Fault.parse("a#3:drop")
    assert [later.strikes("b", Kind.WAVE, wave, 0) for wave in (2, 3, 4)] == [False, True, True]
    assert not later.strikes("c", Kind.WAVE, 3, 0)
    assert not later.strikes("b", Kind.CONTROL, 3, 0)
    assert [numbered.strikes("any", Kind.CONTROL, 0, number) for number in (2, 3, 4)] == [False, True, False]


def test_an_injector_strikes_its_own_party_once_a_session(town: Any) -> None:
    told: list[str] = []
    source = [Fault.parse("P1@1:drop"), Fault.parse("P2@0:drop")]
    injector = Injector("P1", lambda: source, told.append)
    for _ in range(2):
        one, two = town.pair(session=b"session" + bytes([len(told)]))
        faulty = injector.wrap(one, "test")
        with pytest.raises(FrameError, match="missing"):
            talk(faulty, two)
        faulty.send(Kind.WAVE, [bytes(100)], wave=7)
    assert told == ["commits the fault P1@1:drop at WAVE frame 1 to P2, wave 1"] * 2
    one, _ = town.pair(session=b"another")
    source.clear()
    assert injector.wrap(one, "test") is one


def test_a_partition_cuts_all_channels_of_the_party_until_the_next_session(town: Any) -> None:
    source = [Fault.parse("P1@1:partition")]
    injector = Injector("P1", lambda: source, lambda _: None)
    ends = [town.pair(session=b"the same") for _ in range(2)]
    first, second = [injector.wrap(one, "test") for one, _ in ends]
    second.send(Kind.WAVE, [bytes(100)])
    first.send(Kind.WAVE, [bytes(100)], wave=1)
    second.send(Kind.WAVE, [bytes(100)], wave=1)
    two = ends[1][1]
    two.receive(Kind.WAVE, 100, deadline_s=5, awaited="wave 0")
    with pytest.raises(DeadlineExceeded):
        two.receive(Kind.WAVE, 100, wave=1, deadline_s=0.1, awaited="wave 1")
    first.close()
    second.close()
    source.clear()
    injector.wrap(town.pair(session=b"the next")[0], "test")
    with pytest.raises(PeerLost):
        two.receive(Kind.WAVE, 100, wave=1, deadline_s=5, awaited="wave 1")
