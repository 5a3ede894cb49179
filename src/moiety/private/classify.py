"""Classification by the data owner: an image goes in as a secret, the logits of all classes come out, to the caller alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moiety.compile import signature
from moiety.engine.deployed import Private
from moiety.engine.owner import Progress
from moiety.engine.report import RunReport
from moiety.errors import InputError


@dataclass(frozen=True, slots=True)
class Classification:
    """The logits of an image's classes, and what its run cost."""

    logits: NDArray[np.float32]
    report: RunReport

    def top(self, count: int) -> list[tuple[int, float]]:
        """The likeliest classes with their probabilities, which are computed here, in the clear."""
        return top(self.logits, count)

    def __repr__(self) -> str:  # the logits are the caller's secret
        return f"<Classification among {self.logits.size} classes, {self.report.seconds:.3g} s>"


def classify(private: Private, image: NDArray[np.float32], *, on_progress: Progress | None = None) -> Classification:
    """Classify one image (1, 3, height, width). Raises InputError when no plan takes one of this shape."""
    plan = next((plan for plan in private.plans if signature.fits(plan, (image,), {})), None)
    if plan is None:
        known = ", ".join(str(given.shape) for plan in private.plans for given in plan.inputs[:1])
        raise InputError(f"the image has the shape {image.shape}; {private.name!r} is deployed for {known}. Ask its owner for another one")
    result = private.run(plan, signature.encode_inputs(plan, (image,), {}), on_progress=on_progress)
    [logits] = np.asarray(signature.decode_outputs(plan, result.outputs, bool(result.flag)), np.float32)
    return Classification(logits, result.report)


def top(logits: NDArray[np.float32], count: int) -> list[tuple[int, float]]:
    """The places of the largest logits, and their probabilities."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = powers / powers.sum()
    return [(int(place), float(probabilities[place])) for place in np.argsort(-logits, kind="stable")[:count]]
