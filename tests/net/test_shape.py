"""A shaped link takes the time that its delay and bandwidth say, both ways, and loses nothing."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from moiety.errors import ConfigError, DeadlineExceeded, FrameError, PeerAborted, PeerLost
from moiety.net import Channel, FaultyChannel, Kind, Net, Shaper, net
from moiety.net.shape import SOCKET_BYTES, on_wire

Pair = tuple[Channel, Channel]


def shaped(pair: Pair, net: Net) -> Pair:
    for end in pair:
        assert Shaper(net).wrap(end, "test") is end
    return pair


def timed(call: Callable[[], None], least: float, most: float) -> None:
    """Never too early; and on a machine that may be busy, once in three times not too late."""
    for tries_left in (2, 1, 0):
        began = time.monotonic()
        call()
        seconds = time.monotonic() - began
        assert seconds >= least
        if seconds <= most or not tries_left:
            break
    assert seconds <= most


def test_dependent_rounds_take_a_delay_each(pair: Pair) -> None:
    one, two = shaped(pair, Net("far", 0.02, 1e9))
    count = 20

    def talk() -> None:
        for _ in range(count // 2):
            for sender, receiver in ((one, two), (two, one)):
                sender.send(Kind.WAVE, [bytes(100)])
                receiver.receive(Kind.WAVE, 100, deadline_s=5, awaited="a wave")

    timed(talk, count * 0.02, count * 1.2 * 0.02)


def test_frames_follow_each_other_in_flight(pair: Pair) -> None:
    one, two = shaped(pair, Net("far", 0.1, 1e9))

    def talk() -> None:
        began = time.monotonic()
        for wave in range(50):
            one.send(Kind.WAVE, [bytes([wave]) * 100], wave=wave)
        assert time.monotonic() - began < 0.1
        for wave in range(50):
            assert two.receive(Kind.WAVE, 100, wave=wave, deadline_s=5, awaited="a wave") == bytes([wave]) * 100

    timed(talk, 0.1, 0.15)


@pytest.mark.parametrize("frame", [9_000, 3_000_000])
def test_bytes_take_their_time(pair: Pair, frame: int) -> None:
    one, two = shaped(pair, Net("narrow", 0.01, 10e6))
    count = 3_000_000 // frame

    def talk() -> None:
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(lambda: [one.send(Kind.WAVE, [bytes(frame)], wave=wave) for wave in range(count)])
            for wave in range(count):
                two.receive(Kind.WAVE, frame, wave=wave, deadline_s=5, awaited="a wave")
            sent.result()

    wanted = 0.01 + count * on_wire(frame) / 10e6
    timed(talk, 0.999 * wanted, 1.15 * wanted)


def test_bytes_count_as_tls_carries_them(pair: Pair) -> None:
    one, two = shaped(pair, Net("quick", 0.0, 1e9))
    before, _ = one.wire_bytes()
    for size in (1, 16_000, 16_384, 100_000, 300_000):
        one.send(Kind.WAVE, [bytes(size)])
        two.receive(Kind.WAVE, size, deadline_s=5, awaited="a wave")
    header, small, *large = 40, 1 + 40, 16_384, 100_000, 300_000
    wanted = on_wire(small) + on_wire(16_000 + header) + sum(on_wire(header) + on_wire(size) for size in large)
    assert one.wire_bytes()[0] - before == wanted


def test_a_full_window_holds_the_sender_back(pair: Pair) -> None:
    one, two = shaped(pair, Net("narrow", 0.0, 20e6))
    one.send(Kind.WAVE, [bytes(2 * SOCKET_BYTES)])
    with pytest.raises(DeadlineExceeded, match="not taken"):
        one.flush(0.05)
    two.receive(Kind.WAVE, 2 * SOCKET_BYTES, deadline_s=5, awaited="a wave")
    one.flush(1)


def test_channels_to_one_peer_share_its_bandwidth(town: Any) -> None:
    pairs: list[Pair] = [town.pair(session=bytes([number])) for number in range(2)]
    shaper = Shaper(Net("narrow", 0.0, 10e6))
    for one, _ in pairs:
        shaper.wrap(one, "test")

    def talk() -> None:
        for one, _ in pairs:
            one.send(Kind.WAVE, [bytes(1_000_000)])
        for _, two in pairs:
            two.receive(Kind.WAVE, 1_000_000, deadline_s=5, awaited="a wave")

    timed(talk, 0.2, 0.23)


def test_last_words_arrive_before_the_end(pair: Pair) -> None:
    one, two = shaped(pair, Net("far", 0.2, 1e9))
    one.send(Kind.WAVE, [b"word"])
    one.abort("MOI-500", "enough")
    one.close()
    assert two.receive(Kind.WAVE, 4, deadline_s=5, awaited="a wave") == b"word"
    with pytest.raises(PeerAborted, match="enough"):
        two.receive(Kind.WAVE, 4, deadline_s=5, awaited="a wave")


def test_a_peer_that_is_gone_is_noticed(pair: Pair) -> None:
    one, two = shaped(pair, Net("far", 0.01, 1e9))
    two.close()

    def talk() -> None:
        for _ in range(200):
            one.send(Kind.WAVE, [bytes(100_000)])
            time.sleep(0.005)

    with pytest.raises(PeerLost, match="P2"):
        talk()


def test_faults_stand_above(pair: Pair) -> None:
    one, two = shaped(pair, Net("far", 0.02, 1e9))
    faulty = FaultyChannel.once(one, "P1@1:drop")
    for wave in range(3):
        faulty.send(Kind.WAVE, [b"word"], wave=wave)
    two.receive(Kind.WAVE, 4, deadline_s=5, awaited="wave 0")
    with pytest.raises(FrameError, match="missing"):
        two.receive(Kind.WAVE, 4, wave=1, deadline_s=5, awaited="wave 1")


def test_links_by_name_and_by_number() -> None:
    assert net("wan") == Net("wan", 0.02, 12.5e6)
    assert net("20ms,100Mbit") == Net("20ms,100Mbit", 0.02, 12.5e6)
    assert net("500us,1.5Gbit/s") == Net("500us,1.5Gbit/s", 0.0005, 187.5e6)
    for text in ("moon", "20ms", "100Mbit", "20,100Mbit", "20ms,0Mbit", "20ms,100Mbit,", "-1ms,1Gbit"):
        with pytest.raises(ConfigError, match="is no link"):
            net(text)
