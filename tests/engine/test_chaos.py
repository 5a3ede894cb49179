"""A seeded slice of chaos on real processes; the whole is ``moiety chaos --runs 2000`` (docs/failures.md)."""

from collections.abc import Sequence

import numpy as np
import pytest

from moiety.engine.chaos import EXPECTED, KINDS, RIGHT, SWIFT, Outcome, Subject, chaos, draw
from moiety.engine.launch import CLIENT, PARTIES
from moiety.mpc.rounds import Role
from moiety.net import FaultKind

from . import plans

FAULTS = 30
X = np.linspace(-1, 1, 64).reshape(4, 16)


@pytest.fixture(scope="module")
def subjects() -> Sequence[Subject]:
    """Plans written by hand: no PyTorch, no time to compile."""
    weights, chain = plans.mlp_weights(), np.linspace(-2, 2, 4)
    return [
        Subject("mlp", plans.mlp(), weights, plans.words(X), plans.mlp_float(weights, X), 0.01),
        Subject("chain", plans.chain(12), {}, plans.words(chain), chain * 2.0**-12, 0.01),
    ]


def test_every_run_ends_as_expected(subjects: Sequence[Subject]) -> None:
    outcomes = chaos(subjects, FAULTS, seed=7, jobs=3, deadlines=SWIFT)
    assert [one for one in outcomes if not one.expected] == []
    assert len(outcomes) == FAULTS
    assert sum(one.struck for one in outcomes) > 0.9 * FAULTS
    assert {one.kind for one in outcomes} == set(KINDS)
    assert {one.end for one in outcomes} > {RIGHT, "MOI-302", "MOI-303"}


def test_faults_are_drawn_again(subjects: Sequence[Subject]) -> None:
    one, again, other = (list(draw(subjects, 300, seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert {fault.party for fault, _ in one} == {*PARTIES, CLIENT}
    assert {fault.kind for fault, _ in one} == set(KINDS) == set(EXPECTED)
    assert not any(fault.party == CLIENT and fault.kind is FaultKind.KILL for fault, _ in one)
    for fault, subject in one:
        role = Role(PARTIES.index(fault.party)) if fault.party != CLIENT else Role.CLIENT
        assert fault.frame or fault.wave < subject.waves(role)


@pytest.mark.parametrize(
    ("text", "end", "struck", "halves", "expected"),
    [
        ("party1@1:drop", "MOI-303", True, 0, True),
        ("party1@1:drop", RIGHT, True, 2, False),
        ("party1@1:drop", RIGHT, False, 2, True),
        ("party1@1:drop", "MOI-303", False, 0, False),
        ("party1@1:delay=0.1", RIGHT, True, 1, False),
        ("party1@1:kill", "MOI-500", True, 0, False),
        ("party1@1:kill", "DIED", True, 0, False),
        ("party1@1:partition", "LATE", True, 0, False),
        ("party1@1:delay=0.1", "WRONG", True, 2, False),
    ],
)
def test_what_counts_as_expected(text: str, end: str, struck: bool, halves: int, expected: bool) -> None:
    assert Outcome(text, "mlp", end, struck, halves, 0.1, "").expected is expected
