"""Rule 8 for what models of images use: the observer's exact view is the same for all secrets. See ``test_views.py``."""

import pytest
from mpc_views import alike, views

from moiety.mpc.functions.clamp import clamp
from moiety.mpc.rounds import Role

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
