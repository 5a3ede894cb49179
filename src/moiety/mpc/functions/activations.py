"""Real functions behind the tables, defined everywhere a table may touch, in float64."""

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
_erf = np.frompyfunc(math.erf, 1, 1)


def gelu(x: Values) -> Values:
    """x Phi(x), the form with erf."""
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)).astype(np.float64))  # type: ignore[no-any-return]


def gelu_tanh(x: Values) -> Values:
    """The tanh form of GeLU."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))  # type: ignore[no-any-return]


def sigmoid(x: Values) -> Values:
    return 0.5 * (1 + np.tanh(0.5 * x))  # type: ignore[no-any-return]


def silu(x: Values) -> Values:
    return x * sigmoid(x)


def tanh(x: Values) -> Values:
    return np.tanh(x)  # type: ignore[no-any-return]


def exp(x: Values) -> Values:
    return np.exp(np.minimum(x, 40.0))  # type: ignore[no-any-return]


def reciprocal(x: Values) -> Values:
    """1/x for x > 0; held constant close to zero, where no value may lie."""
    return 1 / np.maximum(x, 1e-9)  # type: ignore[no-any-return]


def rsqrt(x: Values) -> Values:
    """1/sqrt(x) for x > 0; held constant close to zero."""
    return 1 / np.sqrt(np.maximum(x, 1e-12))  # type: ignore[no-any-return]


def sqrt(x: Values) -> Values:
    return np.sqrt(np.maximum(x, 0.0))  # type: ignore[no-any-return]


def log(x: Values) -> Values:
    return np.log(np.maximum(x, 1e-9))  # type: ignore[no-any-return]


def softplus(x: Values) -> Values:
    return np.logaddexp(0.0, x)  # type: ignore[no-any-return]
