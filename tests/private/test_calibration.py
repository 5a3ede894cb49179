"""The public texts on which ranges are measured."""

from collections.abc import Callable
from typing import Any

import pytest

from moiety.models import calibration, minilm, smollm2


@pytest.mark.parametrize(("load", "sequences"), [(smollm2.load, calibration.chats), (minilm.load, calibration.sentences)])
def test_equal_lengths(load: Callable[[], tuple[Any, Any]], sequences: Callable[[Any, int], list[Any]]) -> None:
    tokenizer, model = load()
    for length in (3, 96):
        found = sequences(tokenizer, length)
        assert len(found) >= 12
        assert {tuple(tokens.shape) for tokens in found} == {(1, length)}
        assert all(0 <= int(tokens.min()) <= int(tokens.max()) < model.config.vocab_size for tokens in found)
    assert len({tuple(tokens[0].tolist()) for tokens in found}) == len(found)


def test_varied() -> None:
    text = " ".join([*calibration.PASSAGES, *(turn for chat in calibration.CHATS for turn in chat)])
    for part in ("def ", "14 x 3", "largest planet", "Once there was a fox", "$18.6 million"):
        assert part in text
