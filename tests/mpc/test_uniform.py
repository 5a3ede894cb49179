"""Runs on 64-bit rings: what an evaluator receives looks uniform, alone and against every other frame.

Necessary, not sufficient (the exact statement is in ``test_views.py``), but on full-size words and with real keys. All seeds are
fixed; the threshold is 1e-6.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from mpc_ops import CASES, F
from mpc_runs import frame, run, share
from scipy.stats import chi2

from moiety.mpc import rep3
from moiety.mpc.functions.bits import BitShare
from moiety.mpc.party import Party
from moiety.mpc.rounds import Role, Spec
from moiety.mpc.share import Share

LEAST_P = 1e-6
GROW = 1000
LONGEST = 1 << 17
OPS = [name for name in CASES if name not in ("reveal", "input")]


def p_value(octets):
    """Probability of a chi-square statistic at least this large if all octets are independent and uniform."""
    assert octets.size >= 2560
    counts = np.bincount(octets, minlength=256)
    expected = octets.size / 256
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), 255)


def received(name, seed):
    case = CASES[name]
    transcript = run(case.op, *case.inputs(1, GROW), seed=seed)
    return {role: frame(transcript, role)[:LONGEST] for role in (Role.P1, Role.P2)}


@pytest.fixture(scope="module")
def frames():
    return {(name, seed): received(name, seed) for name in OPS for seed in (OPS.index(name), 100 + OPS.index(name))}


def together(one, other):
    size = min(one.size, other.size)
    return one[:size] ^ other[:size], one[:size] - other[:size]


@pytest.mark.parametrize("role", [Role.P1, Role.P2])
def test_frames_are_uniform(frames, role):
    for key, found in frames.items():
        assert p_value(found[role]) > LEAST_P, key


@pytest.mark.parametrize("role", [Role.P1, Role.P2])
def test_every_bit_of_a_frame_is_balanced(frames, role):
    for key, found in frames.items():
        bits = np.unpackbits(found[role][: found[role].size // 8 * 8].reshape(-1, 8), axis=1)
        off = np.abs(bits.mean(0) - 0.5) * 2 * len(bits) ** 0.5
        assert off.max() < 6.5, key


@pytest.mark.parametrize("role", [Role.P1, Role.P2])
def test_differences_of_the_frames_of_any_two_ops_and_runs_are_uniform(frames, role):
    for one, other in itertools.combinations(frames, 2):
        for mixed in together(frames[one][role], frames[other][role]):
            assert p_value(mixed) > LEAST_P, (one, other)


@pytest.mark.parametrize("role", [Role.P1, Role.P2])
def test_one_op_shifted_against_itself_is_uniform(frames, role):
    for key, found in frames.items():
        size = found[role].size // 2 // 8 * 8
        if size >= 2560:
            for mixed in together(found[role][:size], found[role][size:]):
                assert p_value(mixed) > LEAST_P, key


def test_a_planted_unmasked_value_is_noticed():
    async def planted(party: Party, x: Share):
        plain = np.random.default_rng(0).integers(-(2**F), 2**F, x.shape).view(np.uint64)
        await party.swap(party.local(lambda: plain), specs=(Spec(x.shape, 64),))
        return await rep3.reshare(party, party.local(lambda: party.additive(x)), x.shape, 0)

    found = run(planted, share(np.zeros(2000)))
    assert p_value(frame(found, Role.P1)) < LEAST_P


@pytest.mark.parametrize("name", ["rescale", "select", "row_max", "lookup", "sign64"])
def test_masks_used_in_two_runs_are_noticed(name):
    """The same run keys, input masks included, with other secrets: each frame is uniform, their difference is not."""
    case = CASES[name]
    first, second = case.inputs(1, GROW), case.inputs(2, GROW)
    again = [under_the_masks_of(old, new) for old, new in zip(first, second, strict=True)]
    one, other = (run(case.op, *inputs, seed=3) for inputs in (first, again))
    for role in (Role.P1, Role.P2):
        assert p_value(frame(other, role)) > LEAST_P
        assert min(p_value(mixed) for mixed in together(frame(one, role), frame(other, role))) < LEAST_P


def under_the_masks_of(old, new):
    """The secrets of one sharing under the masks of another."""
    if isinstance(old[Role.P0], BitShare):
        masked = new[Role.P1].masked ^ new[Role.P0].mask ^ old[Role.P0].mask
    else:
        masked = new[Role.P1].masked - new[Role.P0].mask + old[Role.P0].mask
    evaluators = {role: replace(old[role], masked=masked) for role in (Role.P1, Role.P2)}
    return old | evaluators
