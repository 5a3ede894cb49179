"""Independent steps may start in any order at any role: results and frames are the same. Misuse is caught early."""

import numpy as np
import pytest
from mpc_ops import CASES
from mpc_runs import BY_ROLE, opened, opened_bits, run, share

from moiety.errors import ProtocolMisuse
from moiety.mpc import lockstep, rep3
from moiety.mpc.cost import drive_on_shapes
from moiety.mpc.functions import compare, maximum, relu, select
from moiety.mpc.functions.bits import BitShare
from moiety.mpc.party import Party, ShapeParty
from moiety.mpc.rounds import Graph, Role, Schedule, Spec, Step, together
from moiety.mpc.share import Share

GENERATOR = np.random.default_rng(0)
VALUES = GENERATOR.integers(-1000, 1000, (2, 6, 5))
X, Y = (share(v, 4, seed=i) for i, v in enumerate(VALUES))


def steps(party: Party) -> list[Step]:
    """Twelve steps in four layers; equal shapes, so that frames in another order would cross unnoticed."""
    return [
        Step(lambda: X[party.role] if party.role is not None else Share((6, 5), 4), ()),
        Step(lambda: Y[party.role] if party.role is not None else Share((6, 5), 4), ()),
        Step(lambda x, y: rep3.product(party, x, y), (0, 1), "product"),
        Step(lambda x: rep3.product(party, x, x), (0,), "square"),
        Step(lambda x, y: compare.sign(party, x - y, 14), (0, 1), "compare"),
        Step(lambda x: relu.relu(party, x, 14), (0,), "relu"),
        Step(lambda y: relu.relu(party, y, 14), (1,), "relu"),
        Step(lambda y: maximum.row_max(party, y, step_bits=4), (1,), "maximum"),
        Step(lambda p, s: rep3.rescale(party, p + s, 4), (2, 3), "rescale"),
        Step(lambda b, x, y: select.choose(party, b, y, x), (4, 0, 1), "maximum of two"),
        Step(lambda r, s: r - s, (5, 6), "local"),
        Step(lambda d, c: rep3.product(party, d, c), (10, 9), "last"),
    ]


KEPT = (2, 3, 4, 7, 8, 9, 11)


def scheduled(order_of):
    def start(party):
        made = steps(party)
        return Schedule(party, made, Graph([step.inputs for step in made], KEPT), order_of(party.role)).run()

    return start


def outline(transcript):
    words = [[(w.sender, w.receiver, w.spec, w.value.tobytes()) for w in wave] for wave in transcript.waves]
    dealt = {role: sorted(w.value.tobytes() for w in transcript.dealt if w.receiver is role) for role in BY_ROLE}
    return words, dealt, transcript.dealt_by


@pytest.fixture(scope="module")
def in_order():
    return lockstep.run(scheduled(lambda role: sorted))


def test_a_schedule_computes_what_its_steps_say(in_order):
    x, y = VALUES
    pick = lambda i: lambda result: result[i]  # noqa: E731
    assert np.array_equal(opened(in_order, pick(2)), x * y)
    assert np.array_equal(opened_bits(in_order, pick(4)), x < y)
    assert np.abs(opened(in_order, pick(8)) - (x * y + x * x) / 16).max() < 1
    assert np.array_equal(opened(in_order, pick(9)), np.maximum(x, y))
    assert np.array_equal(opened(in_order, pick(11)), (np.maximum(x, 0) - np.maximum(y, 0)) * np.maximum(x, y))


@pytest.mark.parametrize("trial", range(60))
def test_any_start_order_gives_the_same_results_and_frames(in_order, trial):
    def shuffled(role):
        generator = np.random.default_rng((trial, int(role)))
        return lambda ready: [ready[i] for i in generator.permutation(len(ready))]

    found = lockstep.run(scheduled(shuffled))
    assert outline(found) == outline(in_order)
    for i in KEPT:
        for role in BY_ROLE:
            for part in ("masked", "mask"):
                assert np.array_equal(getattr(found.results[role][i], part), getattr(in_order.results[role][i], part))


def test_independent_steps_share_their_rounds(in_order):
    _, costs = drive_on_shapes(scheduled(lambda role: sorted))
    assert costs.rounds == len(in_order.waves) == 4
    assert costs.total_bytes == sum(in_order.links.values())


def test_protocols_run_together_give_what_they_give_alone():
    async def side_by_side(party, x, y):
        return await together(party, rep3.product(party, x, y), relu.relu(party, x, 14), rep3.rescale(party, y, 1))

    found = run(side_by_side, X, Y)
    x, y = VALUES
    assert len(found.waves) == 3
    assert np.array_equal(opened(found, lambda r: r[0]), x * y)
    assert np.array_equal(opened(found, lambda r: r[1]), np.maximum(x, 0))


def test_a_wrong_shape_is_caught_where_it_is_spoken():
    async def short(party: Party, x: Share):
        await rep3.reshare(party, party.local(lambda: party.additive(x)[:2]), x.shape, 0)

    async def narrow(party: Party, x: Share):
        await party.swap(party.local(lambda: party.additive(x).astype(np.uint8)), specs=(Spec(x.shape, 64),))

    async def misdealt(party: Party, x: Share):
        party.deal((2,), lambda: x.mask)

    for op in (short, narrow):
        with pytest.raises((ProtocolMisuse, ValueError)):
            run(op, X)
    with pytest.raises(ProtocolMisuse, match="the op announced"):
        run(misdealt, X)


def test_roles_that_disagree_are_caught():
    async def uneven(party: Party, x: Share):
        if not party.leads:
            await rep3.product(party, x, x)

    async def crossed(party: Party, x: Share):
        shape = (6, 5) if party.leads else (5, 6)
        await party.swap(party.local(lambda: np.zeros(shape, np.uint64)), specs=(Spec(shape, 64),))

    with pytest.raises(ProtocolMisuse, match="every role must await equally often"):
        run(uneven, X)
    with pytest.raises(ProtocolMisuse, match="expects"):
        run(crossed, X)


def test_a_forgotten_await_is_an_error(request):
    async def forgetful(party: Party, x: Share):
        rep3.product(party, x, x)
        return x

    with pytest.warns(RuntimeWarning, match="never awaited"):
        run(forgetful, X)
    assert "error" in request.config.getini("filterwarnings")


@pytest.mark.parametrize("name", CASES)
def test_every_op_runs_on_shapes_and_yields_no_parts(name):
    case = CASES[name]
    bare = [BitShare(x[Role.CLIENT].shape) if isinstance(x[Role.CLIENT], BitShare) else x[Role.CLIENT] for x in case.inputs(1)]
    result, costs = drive_on_shapes(lambda party: case.op(party, *bare))
    assert costs.rounds > 0
    for part in result if isinstance(result, list | tuple) else [result]:
        assert part is None or (part.masked is None and part.mask is None)
    assert ShapeParty().role is None


def test_a_failing_step_names_itself():
    async def failing(party: Party):
        broken = [Step(lambda: X[party.role], ()), Step(lambda x: rep3.product(party, x, x, rep3.MATMUL), (0,), "attention.scores")]
        await Schedule(party, broken, Graph([step.inputs for step in broken], (1,))).run()

    with pytest.raises(ProtocolMisuse) as caught:
        run(failing)
    assert any("attention.scores" in note for note in caught.value.__notes__)
