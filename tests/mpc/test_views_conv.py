"""Rule 8 for what models of images use: the observer's exact view is the same for all secrets. See ``test_views.py``."""

import itertools

import numpy as np
import pytest
from mpc_views import alike, views

from moiety.mpc.functions.clamp import clamp
from moiety.mpc.functions.convolve import Windows, convolution
from moiety.mpc.party import Party
from moiety.mpc.rounds import Role
from moiety.mpc.share import Share

sides = pytest.mark.parametrize(("observer", "node"), [(Role.P1, 0), (Role.P2, 1)])


@sides
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, None), (None, 1)])
def test_rule_8_clamp(observer, node, low, high):
    found = views(
        lambda party, x: clamp(party, x, low, high, 3),
        lambda book, secret: [book.share(secret, 3)],
        range(8),
        observer,
        node=node,
        most=24,
    )
    assert alike(found)


async def one_window(party: Party, *x: Share) -> Share:
    """A convolution in as many groups as there are assignments: each has two elements and its own two weights."""
    first, last = (x[i].zip(x[i + 1], lambda a, b: np.stack([a, b], -1)).map(lambda part: part[:, None]) for i in (0, 2))
    return await convolution(party, first.map(lambda part: part.transpose(1, 0, 2)), last, Windows((2,), (1,), (1,)))


@sides
def test_rule_8_convolution(observer, node):
    secrets = list(itertools.product(range(2), (0, 3), (1, 2), (0, 3)))
    found = views(one_window, lambda book, secret: [book.share(value, 2) for value in secret], secrets, observer, node=node)
    assert alike(found)
