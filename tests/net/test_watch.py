"""Who waits for one peer hears at once that another ended the run, and a slow peer holds its sender back."""

import threading
import time
from typing import Any

import pytest

from moiety.errors import ChannelError, DeadlineExceeded, FrameError, PeerLost
from moiety.net import AbortReceived, Channel, FaultyChannel, Kind, Watch
from moiety.net.writer import QUEUE_BYTES

Pair = tuple[Channel, Channel]
LONG = 30.0


@pytest.fixture
def pairs(town: Any) -> list[Pair]:
    """Three channels; the first end of each is served by one thread."""
    return [town.pair() for _ in range(3)]


def together(pairs: list[Pair], strict: bool = False) -> Watch:
    watch = Watch(strict=strict)
    for mine, _ in pairs:
        mine.watched(watch)
    return watch


def hear(mine: Channel, wave: int = 0, deadline_s: float = LONG) -> bytes:
    return bytes(mine.receive(Kind.WAVE, 3, wave=wave, deadline_s=deadline_s, awaited="the first"))


def test_an_abort_elsewhere_ends_the_wait(pairs: list[Pair]) -> None:
    together(pairs)
    [(first, _), (_, second), _] = pairs
    began = time.monotonic()
    threading.Timer(0.1, second.abort, ("MOI-303", "it was altered")).start()
    with pytest.raises(AbortReceived, match=r"^it was altered .*MOI-303") as caught:
        hear(first)
    assert caught.value.peer_code == "MOI-303"
    assert time.monotonic() - began < LONG / 3


def test_an_abort_elsewhere_is_heard_between_short_waits(pairs: list[Pair]) -> None:
    """Each ends by its own link before it would look at others."""
    together(pairs)
    [(first, theirs), (_, second), _] = pairs
    waves, over = range(2000), threading.Event()

    def speak() -> None:
        for wave in waves:
            theirs.send(Kind.WAVE, [b"abc"], wave=wave)
            if over.wait(0.002):
                return

    def listen() -> None:
        for wave in waves:
            hear(first, wave)

    second.abort("MOI-303", "it was altered")
    speaker = threading.Thread(target=speak)
    speaker.start()
    with pytest.raises(AbortReceived, match=r"^it was altered"):
        listen()
    over.set()
    speaker.join()


def test_frames_elsewhere_stay_where_they_are(pairs: list[Pair]) -> None:
    together(pairs)
    for _, theirs in pairs[1:]:
        for wave in range(2):
            theirs.send(Kind.WAVE, [b"abc"], wave=wave)
    pairs[2][1].abort("MOI-303", "behind them")
    threading.Timer(0.1, pairs[0][1].send, (Kind.WAVE, [b"xyz"])).start()
    assert hear(pairs[0][0]) == b"xyz"
    for mine, _ in pairs[1:]:
        for wave in range(2):
            assert hear(mine, wave) == b"abc"
    with pytest.raises(AbortReceived):
        hear(pairs[0][0], 1)


@pytest.mark.parametrize("strict", [False, True])
def test_a_peer_that_leaves_without_a_word(pairs: list[Pair], strict: bool) -> None:
    together(pairs, strict)
    pairs[1][1].close()
    with pytest.raises(PeerLost if strict else DeadlineExceeded):
        hear(pairs[0][0], deadline_s=0.3)


@pytest.mark.parametrize("strict", [False, True])
def test_altered_bytes_elsewhere(pairs: list[Pair], strict: bool) -> None:
    together(pairs, strict)
    FaultyChannel.once(pairs[1][1], "any@0:alter").send(Kind.WAVE, [b"abc"])
    with pytest.raises(FrameError, match="altered on the way"):
        hear(pairs[0][0])
    with pytest.raises(FrameError, match="altered on the way"):
        hear(pairs[1][0])


def test_who_is_inattentive_hears_one_link_alone(pairs: list[Pair]) -> None:
    watch = together(pairs)
    pairs[1][1].abort("MOI-303", "first")
    with watch.inattentive():
        with pytest.raises(DeadlineExceeded):
            hear(pairs[0][0], deadline_s=0.3)
        pairs[0][1].send(Kind.WAVE, [b"abc"])
        assert hear(pairs[0][0]) == b"abc"
    with pytest.raises(AbortReceived, match="first"):
        hear(pairs[0][0], 1)


def test_what_a_glance_found_is_told_to_who_waits(pairs: list[Pair]) -> None:
    together(pairs)
    pairs[1][1].close()
    with pytest.raises(DeadlineExceeded):
        hear(pairs[0][0], deadline_s=0.3)
    with pytest.raises(PeerLost):
        hear(pairs[1][0])


def test_look(pairs: list[Pair]) -> None:
    watch = together(pairs)
    watch.look()
    pairs[2][1].abort("MOI-500", "enough")

    def look_on() -> None:
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:  # it is on its way
            watch.look()

    with pytest.raises(AbortReceived):
        look_on()


def test_a_sender_waits_for_room(pairs: list[Pair]) -> None:
    """Of what a slow peer does not take, so much is kept and no more; then its sender waits, and hears meanwhile of an end."""
    together(pairs)
    mine, other, frame = pairs[0][0], pairs[1][1], bytes(QUEUE_BYTES // 4)
    sent = 0

    def fill() -> None:
        nonlocal sent
        while True:
            mine.send(Kind.WAVE, [frame])
            sent += 1
            assert mine.queued_bytes <= QUEUE_BYTES + len(frame)
            if mine.queued_bytes > QUEUE_BYTES - len(frame):
                threading.Timer(0.1, other.abort, ("MOI-302", "no longer")).start()

    with pytest.raises(AbortReceived, match="no longer"):
        fill()
    assert sent <= 6


def test_small_frames_queue_too(pairs: list[Pair]) -> None:
    """A sender does not stick in the kernel's buffers: what does not fit is kept, and comes in order."""
    mine, theirs = pairs[0]
    for wave in range(400):
        mine.send(Kind.WAVE, [wave.to_bytes(2), bytes(100_000)], wave=wave)
    assert mine.queued_bytes > 0
    for wave in range(400):
        assert theirs.receive(Kind.WAVE, 100_002, wave=wave, deadline_s=LONG, awaited="it")[:2] == wave.to_bytes(2)
    mine.flush(LONG)
    assert mine.queued_bytes == 0


def test_closing_frees_who_waits_for_room(pairs: list[Pair]) -> None:
    mine = pairs[0][0]
    failed: list[BaseException] = []

    def fill() -> None:
        try:
            while True:
                mine.send(Kind.WAVE, [bytes(QUEUE_BYTES // 4)])
        except ChannelError as error:
            failed.append(error)

    thread = threading.Thread(target=fill)
    thread.start()
    while mine.queued_bytes < QUEUE_BYTES // 2:
        time.sleep(0.005)
    mine.close()
    thread.join(LONG)
    assert "was closed here" in str(failed[0])
