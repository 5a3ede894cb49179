"""PUMA's approximations: the float forms have the known errors, the protocols follow the float forms."""

import numpy as np
import pytest
from mpc_runs import opened, run, share
from scipy.special import erf, expit
from scipy.special import softmax as true_softmax

from moiety import ring
from moiety.errors import ProtocolMisuse
from moiety.mpc.functions import puma, puma_root
from moiety.mpc.rounds import Role

GRID = np.linspace(-20, 20, 1_000_001)


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def silu(x):
    return x * expit(x)


@pytest.mark.parametrize(
    ("approximate", "exact", "largest", "mean", "span"),
    [(puma.gelu_float, gelu, 0.0199, 0.0029, 5), (puma.silu_float, silu, 0.0719, 0.0058, 12)],
)
def test_activations_in_float_have_the_known_errors(approximate, exact, largest, mean, span):
    error = np.abs(approximate(GRID) - exact(GRID))
    assert error.max() == pytest.approx(largest, abs=1e-4)
    assert error[np.abs(GRID) < span].mean() == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize(("t", "largest", "relative"), [(5, 0.0085, 0.35), (6, 0.0043, 0.19), (8, 0.0011, 0.048)])
def test_exponential_in_float_has_the_known_errors(t, largest, relative):
    x = np.linspace(-20, 0, 200_001)
    error = np.abs(puma.neg_exp_float(x, t) - np.exp(x))
    assert error.max() == pytest.approx(largest, abs=1e-4)
    near = x > -5
    assert (error[near] / np.exp(x[near])).max() == pytest.approx(relative, abs=0.01)


@pytest.mark.parametrize(("spread", "largest"), [(1, 0.057), (3, 0.066), (6, 0.038)])
def test_softmax_in_float_is_as_far_off_as_reported(spread, largest):
    x = np.random.default_rng(0).normal(0, spread, (500, 128))
    error = np.abs(puma.softmax_float(x, 5) - true_softmax(x, -1)).max()
    assert 0.5 * largest < error < 1.7 * largest
    assert np.allclose(puma.softmax_float(x, 5).sum(-1), 1)


def points(fraction, low, high, extra=()):
    generator = np.random.default_rng(fraction)
    x = np.concatenate([generator.uniform(low, high, 2000), np.asarray(extra, float)])
    return np.round(x * 2**fraction) / 2**fraction


@pytest.mark.parametrize("fraction", [14, 18])
@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_activations_follow_their_float_forms(name, fraction):
    x = points(fraction, -9, 9, [-4, -1.95, 3, -8, 4, 0, -1000, 1000, 2000, -2000, 30, -30])
    found = run(getattr(puma, name), share(ring.encode(x, fraction), fraction))
    error = np.abs(opened(found) / 2**fraction - getattr(puma, name + "_float")(x))
    near_cut = np.abs(x + 1.95) < 2.0**-fraction  # not a multiple of the unit
    assert error[~near_cut].max() < (2 if fraction == 14 else 5) * 2.0**-fraction
    assert found.results[Role.P1].fraction == fraction


@pytest.mark.parametrize("fraction", [14, 18])
@pytest.mark.parametrize("t", [5, 8, 12])
def test_exponential_follows_its_float_form(t, fraction):
    x = points(fraction, -20, 0, [0, -14, -13.9, -14.1, -1000, -3000])
    found = run(puma.neg_exp, share(ring.encode(x, fraction), fraction), t=t)
    assert np.abs(opened(found) / 2**fraction - puma.neg_exp_float(x, t)).max() < 2 * 2.0**-fraction + 2.0 ** (t - 28)


@pytest.mark.parametrize("fraction", [14, 18])
@pytest.mark.parametrize("length", [1, 5, 64])
def test_softmax_follows_its_float_form(length, fraction):
    x = np.random.default_rng(length).normal(0, 3, (8, length))
    held = share(ring.encode(x, fraction), fraction)
    expected = puma.softmax_float(x, 8)
    exact = opened(run(puma.softmax, held, inverse=puma.reciprocal_table(length, fraction), bits=30)) / 2**fraction
    assert np.abs(exact - expected).max() < 3 * 2.0**-fraction + 6e-5
    quick = opened(run(puma.softmax, held, inverse=puma.reciprocal_table(length, fraction), max_step_bits=fraction - 2)) / 2**fraction
    assert np.abs(quick - expected).max() < 2e-3  # the limit form is not invariant under a shift of the row


@pytest.mark.parametrize(("coefficients", "largest"), [(puma_root.ROOT, 8.2e-5), (puma_root.ROOT_QUADRATIC, 5.0e-3)])
def test_inverse_root_in_float_has_the_known_errors(coefficients, largest):
    x = np.geomspace(2.0**-40, 2.0**40, 1_000_001)
    error = np.abs(puma_root.rsqrt_float(x, coefficients) * np.sqrt(x) - 1).max()
    assert error == pytest.approx(largest, rel=0.01)


def whole_range(low, high):
    """Integers from 2^low to 2^high evenly by size, and every power of two with its neighbours."""
    spread = np.exp2(np.random.default_rng(high).uniform(low, high, 3000)).astype(np.int64)
    powers = np.int64(1) << np.arange(low, high)
    x = np.concatenate([spread, powers, powers + 1, 2 * powers - 1])
    return x[(x >= 1 << low) & (x < 1 << high) & (x.astype(float).astype(np.int64) == x)]


@pytest.mark.parametrize(("low", "high"), [(0, 61), (0, 2), (0, 18), (3, 40), (20, 61), (59, 61)])
@pytest.mark.parametrize("fraction", [0, 13, 14, 28, 41])
def test_inverse_root_follows_its_float_form_over_its_whole_range(fraction, low, high):
    x = whole_range(low, high)
    found = run(puma_root.rsqrt, share(x, fraction), low=low, high=high)
    assert found.results[Role.P1].fraction == puma_root.root_fraction(fraction, low)
    result = opened(found) / 2.0 ** puma_root.root_fraction(fraction, low)
    error = np.abs(result / puma_root.rsqrt_float(x / 2.0**fraction) - 1)
    assert error.max() < 2.0**-19 + 2.0 ** ((high - low - 80) / 2)
    assert opened(found).max() < 2**60 + 2**47, "the largest result still leaves room for a truncation"


def test_inverse_root_of_what_lies_below_its_range_is_finite():
    found = run(puma_root.rsqrt, share([0, 1, 15], 14), low=4, high=20)
    assert (np.abs(opened(found)) < 2**62).all()


@pytest.mark.parametrize(("low", "high"), [(-1, 8), (5, 6), (0, 62), (9, 8)])
def test_inverse_root_refuses_a_range_it_cannot_serve(low, high):
    with pytest.raises(ProtocolMisuse, match="inverse root"):
        run(puma_root.rsqrt, share([1]), low=low, high=high)
