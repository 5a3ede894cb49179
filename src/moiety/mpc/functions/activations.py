"""Real functions behind the tables, defined everywhere a table may touch, in float64."""

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def gelu(x: Values) -> Values:
    """x Phi(x), the form with erf."""
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).ravel()), np.float64, x.size).reshape(x.shape)
    return 0.5 * x * (1 + erf)


def gelu_tanh(x: Values) -> Values:
    """The tanh form of GeLU."""
    inner: Values = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + inner)


def sigmoid(x: Values) -> Values:
    """1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def silu(x: Values) -> Values:
    """x sigmoid(x)."""
    return x * sigmoid(x)


def tanh(x: Values) -> Values:
    """The hyperbolic tangent."""
    return np.tanh(x)


def exp(x: Values) -> Values:
    """exp(x), held constant above 40."""
    return np.exp(np.minimum(x, 40.0))


def reciprocal(x: Values) -> Values:
    """1/x for x > 0; held constant close to zero, where no value may lie."""
    return 1 / np.maximum(x, 1e-9)


def rsqrt(x: Values) -> Values:
    """1/sqrt(x) for x > 0; held constant close to zero."""
    return 1 / np.sqrt(np.maximum(x, 1e-12))


def sqrt(x: Values) -> Values:
    """The root of x >= 0."""
    return np.sqrt(np.maximum(x, 0.0))


def softplus(x: Values) -> Values:
    """log(1 + exp(x))."""
    return np.logaddexp(0.0, x)
