"""Rule 8: what P1 and P2 receive has exactly the same distribution for all secrets.

All assignments of the draws that the observed party does not hold are counted, with its own draws fixed to random values, in rings of a
few bits; at full width every received word is shown to have a pad to itself. See ``support/mpc_views.py`` and ``support/mpc_reduce.py``.
Nodes 0 and 1 differ in who of P1 and P2 receives each dealt value.
"""

import pytest
from mpc_ops import CASES
from mpc_pads import DIGEST, record
from mpc_reduce import Draw, Shifted, effects, eliminate
from mpc_rings import TINY, WIDE, WIRES, one, several, sign, two_one_hots
from mpc_runs import openings, received, run, told_alike, understood
from mpc_views import alike, views

from moiety.mpc import lockstep
from moiety.mpc.functions import compare
from moiety.mpc.party import Key
from moiety.mpc.rounds import Role

sides = pytest.mark.parametrize(("observer", "node"), [(Role.P1, 0), (Role.P1, 1), (Role.P2, 0), (Role.P2, 1)])


@sides
@pytest.mark.parametrize("name", TINY)
def test_rule_8_views_on_tiny_rings(name, observer, node):
    case = TINY[name]
    for own_seed in (0, 1) if case.most < 20 else (0,):
        found = views(case.op, case.inputs, case.secrets, observer, node=node, own_seed=own_seed, most=case.most)
        assert alike(found)


@sides
@pytest.mark.parametrize("name", WIDE)
def test_rule_8_views_on_rings_of_6_to_8_bits(name, observer, node):
    case = WIDE[name]
    assert alike(views(case.op, case.inputs, case.secrets, observer, node=node, most=case.most))


def test_rule_8_a_comparison_of_6_bits_with_all_that_is_dealt():
    found = views(sign(6), one(6), (12, 44), Role.P1, node=1, most=25)
    assert (found.counted, found.reduced) == (25, 0)
    assert alike(found)


@sides
def test_rule_8_a_comparison_in_a_binary_tree(observer, node, monkeypatch):
    monkeypatch.setattr(compare, "RADIX", 2)
    assert alike(views(sign(6), one(6), range(0, 64, 5), observer, node=node, most=18))


UNKNOWN = {Role.P1: (Key.B, Key.E), Role.P2: (Key.A, Key.D)}


@pytest.mark.parametrize("observer", UNKNOWN)
@pytest.mark.parametrize("name", CASES)
def test_rule_8_every_word_at_full_width_has_a_pad_to_itself(name, observer):
    """So a simulator draws them at random. Left out: a digest of what its receiver holds, what opens the order of a shuffled list, and
    what is told both evaluators alike (``test_points.py``)."""
    case = CASES[name]
    logged = [entry for role in (Role.P0, Role.CLIENT) for entry in record(case.op, *case.inputs(1)).draws[role]]
    draws = {(key, address): Draw(key, address, spec, 2) for _, key, address, spec in logged if key in UNKNOWN[observer]}

    def receive(shift):
        with openings() as opened:
            found = run(case.op, *case.inputs(1), draws=lambda role: Shifted(lockstep.test_draws(role), shift))
        alike = told_alike(found)
        words = [word for word in received(found, observer) if word.spec != DIGEST and id(word.value) not in alike]
        ours.append({i for i, word in enumerate(words) if id(word.value) not in opened})
        return [understood(word, opened) for word in words]

    ours = []
    _, gone = eliminate(effects(receive, list(draws.values())), 1 << len(draws))
    assert gone == ours[0]
    assert all(places == ours[0] for places in ours)


def test_rule_13_one_hots_of_two_wires():
    assert alike(views(two_one_hots, several(3), WIRES, Role.P2, most=22))
