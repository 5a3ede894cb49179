"""What an owner recognises by seals: a weight whose precision changed with it, too."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moiety.compile.later import Later
from moiety.engine import seals
from moiety.engine.messages import Holding
from moiety.engine.seals import PURPOSE, content, covers, difference, seal
from moiety.net import create_identity

BODY, HEAD = np.ones((3, 2), np.float32), np.ones(2, np.float32)
WEIGHTS = {"body@16#packed": BODY, "head@32": HEAD}


def held(secret: bytes) -> Holding:
    sharings = {name: bytes([number]) * 32 for number, name in enumerate(WEIGHTS)}
    return Holding(sharings, (), {name: seal(secret, sharings[name], content(array, secret)) for name, array in WEIGHTS.items()})


def test_difference(tmp_path: Path) -> None:
    secret = create_identity("vendor", tmp_path / "vendor").secret(PURPOSE)
    assert difference(held(secret), (), WEIGHTS, secret) == ""
    assert difference(held(secret), (), {"body@16#packed": BODY, "head@30": HEAD}, secret) == ""  # other ranges, the same model
    assert difference(held(secret), (), {"body@16#packed": BODY, "head@30": 3 * HEAD}, secret) == "the weight 'head@30' differs"
    assert difference(held(secret), (), {"body@16#packed": lambda: BODY.T}, secret) == "the weight 'body@16#packed' differs"
    assert difference(held(secret), (), {"tail@16": HEAD}, secret) == "none of its weights is the same"
    assert difference(Holding({}, ()), (), WEIGHTS, secret) == ""


def test_covers() -> None:
    assert covers(WEIGHTS, {"head@30": b""})
    assert not covers(WEIGHTS, {"head@30/0.5": b""})


def test_a_seal_needs_the_identity_and_the_sharing(tmp_path: Path) -> None:
    one, other = (create_identity(name, tmp_path / name) for name in ("one", "other"))
    digest = content(BODY, bytes(32))
    made = {
        seal(identity.secret(purpose), sharing, digest)
        for identity in (one, other)
        for purpose in (PURPOSE, b"another")
        for sharing in (bytes(32), b"1" * 32)
    }
    assert len(made) == 8
    assert one.secret(PURPOSE) == one.secret(PURPOSE)


def test_what_makes_a_weight_that_is_made_later() -> None:
    """As the commands give them: whoever tells the progress of sharing wraps what folds a gain into a large matrix."""
    later = Later(torch.tensor([2.0, 3.0, 4.0]), torch.ones(3, 2))
    key = bytes(32)
    assert content(lambda: later, key) == content(later, key) == content(later(), key)


def test_a_digest_needs_the_secret_and_tells_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "RUN_BYTES", 32)
    array = np.arange(30, dtype=np.float32)
    swapped = np.concatenate([array[8:16], array[:8], array[16:]])  # whole runs
    last = array.copy()
    last[-1] = 0
    made = [content(array, bytes(32)), content(array, b"1" * 32), content(array.reshape(5, 6), bytes(32))]
    made += [content(other, bytes(32)) for other in (swapped, last, array.astype(np.float64), array[:0])]
    assert len(set(made)) == len(made)
    assert content(array.copy(), bytes(32)) == made[0]
