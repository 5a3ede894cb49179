"""How far PUMA's published formulas are from the functions they stand for, in floating point: no protocol, no fixed point."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import numpy as np

from moiety.claims.registry import Row
from moiety.compile.tables import Function
from moiety.mpc.functions import activations, puma, puma_root
from moiety.mpc.functions.puma import Reals

EXPONENTIAL: Final = {5: ("0.0085", "0.35"), 6: ("0.0043", "0.19"), 8: ("0.0011", "0.048")}
"""By the number of squarings: the known largest error, and the largest relative one for x > -5."""
SOFTMAX: Final = {1: ("0.057", "0.044"), 3: ("0.066", "0.074"), 6: ("0.038", "0.033")}
"""By the deviation of the logits, with 5 squarings: the largest error of a probability, and the mean sum of errors over a row."""
ROWS, LOGITS = 2000, 128


def rows() -> Iterator[Row]:
    """The error of every formula beside its known figure; a row holds if they agree to the last digit that is known."""
    yield from _activation("GeLU", puma.gelu_float, activations.gelu, 5, ("0.0199", "0.0029"))
    yield from _activation("SiLU", puma.silu_float, activations.silu, 12, ("0.0719", "0.0058"))
    yield from _exponential()
    yield from _softmax()
    x = np.geomspace(2.0**-40, 2.0**40, 1_000_001)
    for degree, coefficients, known in ((4, puma_root.ROOT, "8.2e-5"), (2, puma_root.ROOT_QUADRATIC, "5.0e-3")):
        relative = np.abs(puma_root.rsqrt_float(x, coefficients) * np.sqrt(x) - 1)
        yield _row(f"rSqrt, degree {degree}, largest relative error", relative.max(), known)


def _activation(name: str, formula: Function, exact: Function, reach: float, known: tuple[str, str]) -> Iterator[Row]:
    x = np.linspace(-20, 20, 1_000_001)
    error = np.abs(formula(x) - exact(x))
    yield _row(f"{name}, largest error", error.max(), known[0])
    yield _row(f"{name}, mean error for |x| < {reach}", error[np.abs(x) < reach].mean(), known[1])


def _exponential() -> Iterator[Row]:
    x = np.linspace(-20, 0, 200_001)
    for t, (largest, relative) in EXPONENTIAL.items():
        error = np.abs(puma.neg_exp_float(x, t) - np.exp(x))
        yield _row(f"exponential, t = {t}, largest error", error.max(), largest)
        yield _row(f"exponential, t = {t}, largest relative error for x > -5", (error / np.exp(x))[x > -5].max(), relative)


def _softmax() -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for deviation, (largest, total) in SOFTMAX.items():
        x = generator.normal(0, deviation, (ROWS, LOGITS))
        error = np.abs(puma.softmax_float(x, 5) - _softmax_of(x))
        name = f"softmax, t = 5, {LOGITS} logits of deviation {deviation}"
        yield _row(f"{name}, largest error", error.max(), largest)
        yield _row(f"{name}, mean sum of errors", error.sum(-1).mean(), total)


def _softmax_of(x: Reals) -> Reals:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _row(quantity: str, measured: float, known: str) -> Row:
    figure, found = Decimal(known), float(measured)
    half = 0.5 * 10.0 ** int(figure.as_tuple().exponent)  # of a unit of its last digit
    return Row(quantity, None, found, float(figure), "", abs(found - float(figure)) <= half)
