"""Real functions behind the tables, defined everywhere a table may touch, in float64."""

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Function = Callable[[Values], Values]


def _each(f: Callable[[float], float], x: Values) -> Values:
    """A function of Python's own, element by element."""
    return np.fromiter(map(f, x.ravel()), np.float64, x.size).reshape(x.shape)


def erf(x: Values) -> Values:
    """The error function."""
    return _each(math.erf, x)


def erfc(x: Values) -> Values:
    """1 - erf(x)."""
    return _each(math.erfc, x)


def gelu(x: Values) -> Values:
    """x Phi(x), the form with erf."""
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


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


def decay(x: Values) -> Values:
    """exp(-x), held constant below -40."""
    return np.exp(-np.maximum(x, -40.0))


def expm1(x: Values) -> Values:
    """exp(x) - 1, held constant above 40."""
    return np.expm1(np.minimum(x, 40.0))


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


def log(x: Values) -> Values:
    """The natural logarithm of x > 0; held constant close to zero."""
    return np.log(np.maximum(x, 1e-12))


def log1p(x: Values) -> Values:
    """log(1 + x) for x > -1; held constant close to -1."""
    return np.log1p(np.maximum(x, -1 + 1e-12))


def log_sigmoid(x: Values) -> Values:
    """log(1 / (1 + exp(-x)))."""
    return -np.logaddexp(0.0, -x)


def mish(x: Values) -> Values:
    """x tanh(softplus(x))."""
    return x * np.tanh(softplus(x))


def elu(x: Values) -> Values:
    """x above zero, exp(x) - 1 below."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def sine(turns: Values) -> Values:
    """The sine of an angle in turns."""
    return np.sin(2 * math.pi * turns)


def cosine(turns: Values) -> Values:
    """The cosine of an angle in turns."""
    return np.cos(2 * math.pi * turns)


@functools.cache
def power(exponent: float) -> Function:
    """x^exponent for x > 0; held constant close to zero."""
    return _named(f"power {exponent}", lambda x: np.maximum(x, 1e-9) ** exponent)


@functools.cache
def base(number: float) -> Function:
    """number^x; held constant beyond what exp(40) reaches."""
    logarithm = math.log(number)
    return _named(f"{number}^x", lambda x: np.exp(np.minimum(x * logarithm, 40.0)))


@functools.cache
def softplus_of(beta: float) -> Function:
    """log(1 + exp(beta x)) / beta."""
    return _named(f"softplus {beta}", lambda x: softplus(beta * x) / beta)


@functools.cache
def celu(alpha: float) -> Function:
    """x above zero, alpha (exp(x / alpha) - 1) below."""
    return _named(f"celu {alpha}", lambda x: np.where(x > 0, x, alpha * elu(x / alpha)))


def _named(name: str, f: Function) -> Function:
    f.__name__ = name
    return f
