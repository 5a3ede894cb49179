"""Frames between two connected parties: what is announced arrives, everything else is an error that says enough."""

import contextlib
import re
import threading
import time
from typing import Any

import numpy as np
import pytest

from moiety.errors import ChannelError, DeadlineExceeded, FrameError, PeerAborted, PeerLost, ProtocolMisuse
from moiety.net import Channel, Kind

Pair = tuple[Channel, Channel]
BIG = 64 << 20
MUL = "op attention/mul, wave 12"


def receive(channel: Channel, nbytes: int, *, kind: Kind = Kind.WAVE, wave: int = 0, layout: int = 0, deadline_s: float = 5.0) -> bytes:
    return bytes(channel.receive(kind, nbytes, wave=wave, layout=layout, deadline_s=deadline_s, awaited=MUL))


def test_hello_and_nonces(pair: Pair) -> None:
    one, two = pair
    assert (one.peer, two.peer) == ("P2", "P1")
    assert (two.hello.sender, two.hello.receiver, two.hello.purpose, two.hello.session) == ("P1", "P2", "test", b"run 1")
    assert one.nonce == (two.nonce.theirs, two.nonce.mine)
    assert one.nonce.mine != one.nonce.theirs
    assert len(one.nonce.mine) == 32


@pytest.mark.parametrize("sizes", [[], [0], [1], [64], [3, 0, 5], [16_344], [16_345], [20_000, 3, 40_000, 7], [300_000], [2_000_000, 1, 1]])
def test_parts_arrive(pair: Pair, sizes: list[int]) -> None:
    one, two = pair
    rng = np.random.default_rng(1)
    for wave in range(3):
        parts = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
        one.send(Kind.WAVE, parts, wave=wave, layout=99)
        whole = b"".join(part.tobytes() for part in parts)
        assert receive(two, len(whole), wave=wave, layout=99) == whole
        two.send(Kind.DEALT, parts)
        buffers = [np.empty_like(part) for part in parts]
        one.receive_into(Kind.DEALT, buffers, deadline_s=5, awaited=MUL)
        assert all(np.array_equal(a, b) for a, b in zip(parts, buffers, strict=True))


def test_arrays_of_words(pair: Pair) -> None:
    one, two = pair
    words = np.arange(6, dtype=np.uint64).reshape(2, 3)
    one.send(Kind.WAVE, [words, np.empty((0, 4), np.uint64)])
    into = np.empty((3, 2), np.uint64)
    two.receive_into(Kind.WAVE, [into, np.empty((0,), np.uint64)], deadline_s=5, awaited=MUL)
    assert np.array_equal(into.reshape(2, 3), words)


def test_buffers_that_cannot_be_used(pair: Pair) -> None:
    one, two = pair
    with pytest.raises(ProtocolMisuse, match="contiguous"):
        one.send(Kind.WAVE, [np.arange(10)[::2]])
    with pytest.raises(ProtocolMisuse, match="read-only"):
        two.receive_into(Kind.WAVE, [b"1234"], deadline_s=5, awaited=MUL)
    one.send(Kind.WAVE, [b"fine"])
    assert receive(two, 4) == b"fine"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"kind": Kind.DEALT}, "kind WAVE came where kind DEALT"),
        ({"wave": 4}, "wave 3 came where wave 4"),
        ({"layout": 8}, "layout 0x7 came where layout 0x8"),
        ({"nbytes": 65}, "size 64 came where size 65"),
    ],
)
def test_a_frame_that_was_not_announced(pair: Pair, wanted: dict[str, int], text: str) -> None:
    one, two = pair
    one.send(Kind.WAVE, [bytes(64)], wave=3, layout=7)
    for _ in range(2):  # the channel stays unusable
        with pytest.raises(FrameError, match=f"from P1, awaiting {MUL}: {text}"):
            receive(two, **{"nbytes": 64, "kind": Kind.WAVE, "wave": 3, "layout": 7, **wanted})  # type: ignore[arg-type]


def test_an_announced_size_is_not_allocated(pair: Pair) -> None:
    one, two = pair
    one.send(Kind.CONTROL, [bytes(2000)])
    with pytest.raises(FrameError, match="2000 bytes came, above the limit of 1000"):
        two.receive_message(Kind.CONTROL, deadline_s=5, awaited="the plan", limit_bytes=1000)


def test_message_of_unknown_size(pair: Pair) -> None:
    one, two = pair
    for text in (b"", b"x", bytes(60_000)):
        one.send(Kind.CONTROL, [text])
        assert two.receive_message(Kind.CONTROL, deadline_s=5, awaited="the plan") == text


def test_deadline_names_peer_op_wave_and_age_and_can_be_repeated(pair: Pair) -> None:
    one, two = pair
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        receive(two, 8, deadline_s=0.2)
    assert 0.15 < time.monotonic() - started < 2
    assert re.search(rf"P1 within 0\.2 s while {MUL} was awaited \(its last frame came 0\.\d s ago\)", str(caught.value))
    one.send(Kind.WAVE, [bytes(8)])
    assert receive(two, 8) == bytes(8)


def test_deadline_zero_takes_what_is_there(pair: Pair) -> None:
    one, two = pair
    one.send(Kind.WAVE, [b"here"])
    time.sleep(0.1)
    assert receive(two, 4, deadline_s=0) == b"here"


def test_deadline_in_mid_frame_is_final(pair: Pair) -> None:
    one, two = pair
    frame = b"".join(one.encode(Kind.WAVE, [bytes(1000)], 0, 0))
    one.transmit([frame[:500]])
    with pytest.raises(DeadlineExceeded, match="only 460 of 1000 bytes came from P1"):
        receive(two, 1000, deadline_s=0.2)
    one.transmit([frame[500:]])
    with pytest.raises(DeadlineExceeded, match="only 460 of 1000"):
        receive(two, 1000, deadline_s=0.2)


def test_trickled_bytes_do_not_extend_a_deadline(pair: Pair) -> None:
    one, two = pair
    frame = b"".join(one.encode(Kind.WAVE, [bytes(1000)], 0, 0))
    stop = threading.Event()

    def trickle() -> None:
        for byte in frame:
            if stop.wait(0.02):
                return
            one.transmit([bytes([byte])])

    thread = threading.Thread(target=trickle)
    thread.start()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        receive(two, 1000, deadline_s=1.5)
    assert time.monotonic() - started < 3
    stop.set()
    thread.join()


def test_abort_reaches_the_peer_with_its_reason(pair: Pair) -> None:
    one, two = pair
    two.send(Kind.WAVE, [bytes(100)])  # unread bytes at the aborting side must not cost the notice
    one.abort("MOI-402", "plans differ\nFAKE LOG LINE")
    one.close()
    for _ in range(2):
        with pytest.raises(PeerAborted, match=rf"^plans differ FAKE.* \(P1 ended the run with MOI-402 while {MUL} was awaited\)") as caught:
            receive(two, 8)
        assert "\n" not in str(caught.value)
        assert caught.value.peer_code == "MOI-402"  # type: ignore[attr-defined]


def test_abort_with_a_code_that_is_none(pair: Pair) -> None:
    one, two = pair
    one.abort("rm -rf", "x" * 5000)
    with pytest.raises(PeerAborted, match="MOI-000") as caught:
        receive(two, 8)
    assert len(str(caught.value)) < 1300


def test_peer_gone(pair: Pair) -> None:
    one, two = pair
    one.close()
    with pytest.raises(PeerLost, match=f"P1 closed the connection while {MUL} was awaited"):
        receive(two, 8)

    def send_until_noticed() -> None:
        for _ in range(50):
            two.send(Kind.WAVE, [bytes(1000)])
            time.sleep(0.01)

    with pytest.raises(PeerLost, match="P1"):
        send_until_noticed()


def test_goodbye(pair: Pair) -> None:
    one, two = pair
    one.send(Kind.BYE, [])
    two.send(Kind.BYE, [])
    assert two.receive_message(Kind.BYE, deadline_s=5, awaited="goodbye") == b""
    with pytest.raises(PeerLost, match="in good order"):
        receive(one, 8)


def test_closed_here(pair: Pair) -> None:
    two = pair[1]
    thread = threading.Timer(0.2, two.close)
    thread.start()
    with pytest.raises(ChannelError, match="closed here"):
        receive(two, 8)
    thread.join()
    with pytest.raises(ChannelError, match="closed here"):
        two.send(Kind.WAVE, [b"x"])
    two.close()
    two.abort("MOI-000", "too late")
    assert repr(two) == "<Channel to P1 closed>"


@pytest.mark.parametrize("into", [False, True])
def test_both_send_much_at_once(town: Any, into: bool) -> None:
    one, two = town.pair()

    def work(channel: Channel, mine: int, theirs: int) -> bool:
        data = np.full(BIG // 2, mine, np.uint8)
        channel.send(Kind.WAVE, [data], wave=1)
        channel.send(Kind.WAVE, [b"after"], wave=2)  # small, but must not overtake
        if into:
            got = np.empty(BIG // 2, np.uint8)
            channel.receive_into(Kind.WAVE, [got], wave=1, deadline_s=30, awaited=MUL)
        else:
            got = np.frombuffer(channel.receive(Kind.WAVE, BIG // 2, wave=1, deadline_s=30, awaited=MUL), np.uint8)
        assert receive(channel, 5, wave=2) == b"after"
        channel.flush(30)
        return bool((got == theirs).all())

    jobs = [town.pool.submit(work, one, 1, 2), town.pool.submit(work, two, 2, 1)]
    assert all(job.result(60) for job in jobs)
    one.send(Kind.WAVE, [b"inline again"])
    assert receive(two, 12) == b"inline again"


def test_error_of_the_sender_thread_is_raised_by_the_next_call(pair: Pair) -> None:
    one, two = pair
    one.send(Kind.WAVE, [bytes(BIG)])
    two.close()
    with pytest.raises(PeerLost, match="P2"):
        one.flush(10)
    with pytest.raises(PeerLost, match="P2"):
        one.send(Kind.WAVE, [b"x"])
    with pytest.raises(PeerLost, match="P2"):
        receive(one, 8)


def test_reason_of_a_peer_that_stopped_reading_is_found(pair: Pair) -> None:
    one, two = pair
    two.abort("MOI-501", "inconsistent input")
    one.send(Kind.WAVE, [bytes(BIG)])
    two.close()
    with contextlib.suppress(PeerLost):  # the aborting side reads on for a moment, so sending may or may not fail
        one.flush(10)
    with pytest.raises(PeerAborted, match=r"^inconsistent input .*MOI-501"):
        receive(one, 8)


def test_a_peer_that_takes_no_bytes(town: Any) -> None:
    one, _ = town.pair(stall_s=0.3)
    one.send(Kind.WAVE, [bytes(BIG)])
    with pytest.raises(DeadlineExceeded, match=r"not taken within 0\.1 s"):
        one.flush(0.1)
    with pytest.raises(DeadlineExceeded, match=r"P2 took no bytes for 0\.3 s"):
        one.flush(10)


def test_counters_and_wire_bytes(pair: Pair) -> None:
    one, two = pair
    before = two.counters.payload_received
    for _ in range(10):
        one.send(Kind.WAVE, [bytes(1000)])
        receive(two, 1000)
    assert two.counters.payload_received - before == 10_000
    assert (one.counters.frames_sent, two.counters.frames_received) == (11, 11)
    sent, received = one.wire_bytes()
    assert 10_000 < sent < 14_000
    assert 0 < received < 3000
    assert two.wire_bytes() == (received, sent)
    one.close()
    assert one.wire_bytes()[0] >= sent


def test_sender_threads_end(town: Any) -> None:
    one, two = town.pair()
    one.send(Kind.WAVE, [bytes(1 << 20)])
    receive(two, 1 << 20)
    assert any(thread.name == "moiety-send-P2" for thread in threading.enumerate())
    one.close()
    assert not any(thread.name == "moiety-send-P2" for thread in threading.enumerate())
