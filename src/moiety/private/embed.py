"""Sentence embedding by the data owner: tokens go in as secrets, the mean of the last states comes out, to the caller alone.

The mean is taken inside the private computation; it is scaled to length one here, in the clear, by the owner of the sentence.
What the others learn is the number of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moiety.compile import signature
from moiety.engine.deployed import Private
from moiety.engine.owner import Progress
from moiety.engine.report import RunReport
from moiety.errors import InputError


@dataclass(frozen=True, slots=True)
class Embedding:
    """A sentence's vector of length one, and what its run cost."""

    vector: NDArray[np.float32]
    report: RunReport

    def __repr__(self) -> str:  # the vector is the caller's secret
        return f"<Embedding of {self.vector.size} numbers, {self.report.seconds:.3g} s>"


def lengths(private: Private) -> list[int]:
    """Numbers of tokens that the deployed plans take."""
    return sorted(plan.inputs[0].shape[1] for plan in private.plans)


def embed(private: Private, tokens: Sequence[int], *, on_progress: Progress | None = None) -> Embedding:
    """Embed one sentence, given as token ids with its marks of begin and end. Raises InputError when no plan takes so many."""
    ids = np.asarray([tokens], np.int64)
    given: tuple[Any, ...] = (ids, np.ones_like(ids), np.zeros_like(ids))
    plan = next((plan for plan in private.plans if signature.fits(plan, given, {})), None)
    if plan is None:
        known = ", ".join(map(str, lengths(private)))
        raise InputError(f"the sentence has {ids.size} tokens; {private.name!r} is deployed for {known}. Ask its owner for another length")
    result = private.run(plan, signature.encode_inputs(plan, given, {}), on_progress=on_progress)
    mean = np.asarray(signature.decode_outputs(plan, result.outputs, bool(result.flag)), np.float32)[0]
    return Embedding(normalised(mean), result.report)


def normalised(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector, scaled to length one."""
    scaled: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled
