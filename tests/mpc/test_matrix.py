"""Products with matrices of the model owner against plain integers."""

import numpy as np
import pytest
from mpc_runs import held, opened, run, share

from moiety.errors import ProtocolMisuse
from moiety.mpc import lockstep, matrix
from moiety.mpc.party import Party
from moiety.mpc.rounds import Role
from moiety.mpc.share import Share

GENERATOR = np.random.default_rng(0)


def whole(*shape):
    return GENERATOR.integers(-(2**63), 2**63, shape)


async def packed(party, x, w):
    return await matrix.linear(party, x, matrix.pack(party, w))


def test_products_with_packed_weights():
    x, w = whole(5, 6), whole(6, 3)
    found = run(packed, share(x, 14), share(w, 16))
    assert np.array_equal(opened(found), x @ w)
    assert found.results[Role.P0].fraction == 30
    with pytest.raises(ProtocolMisuse, match="does not fit"):
        run(packed, share(x), share(whole(5, 3)))


def test_what_has_no_words_is_not_packed():
    with pytest.raises(ProtocolMisuse, match="no masked part"):
        matrix.pack(Party(Role.P1, lockstep.test_draws(Role.P1), None), Share((2, 2)))


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_products_with_a_matrix_that_p1_knows(kind):
    x, w = whole(2, 5, 6), GENERATOR.integers(np.iinfo(kind).min, np.iinfo(kind).max, (6, 3), endpoint=True)
    found = run(matrix.linear, share(x, 14), held(w, 16, kind))
    assert np.array_equal(opened(found), x @ w)
    assert found.results[Role.P0].fraction == 30
    told = {role: [word.spec.shape for word in found.dealt if word.receiver is role] for role in (Role.P1, Role.P2)}
    assert told == {Role.P1: [(2, 5, 6), (2, 5, 3)], Role.P2: []}
    with pytest.raises(ProtocolMisuse, match="does not fit"):
        run(matrix.linear, share(x), held(w[:5]))
