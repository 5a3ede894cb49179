"""Parties on slow links: real processes, whose runs take what delay and bandwidth say."""

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from tests.engine import plans
from tests.engine.conftest import BRISK, as_client, as_owner

import moiety
from moiety.compile.plan import LINKS, Plan
from moiety.engine.effort import measure
from moiety.engine.injection import shaping
from moiety.engine.launch import LocalParties, start
from moiety.engine.timing import predict
from moiety.errors import ConfigError
from moiety.mpc.rounds import Role
from moiety.net import net

LINK = "15ms,40Mbit"
DELAY_S, BYTES_PER_S = 0.015, 5e6


@pytest.fixture(scope="module")
def far() -> Iterator[LocalParties]:
    with start(deadlines=BRISK, link=LINK) as parties:
        yield parties


def test_rounds_and_bytes_take_their_time(far: LocalParties) -> None:
    """30 dependent rounds of next to no bytes; and one wave in which P0 deals and the evaluators say 0.8 MB a link."""
    chain, wide = plans.chain(30), plans.chain(1, (100_000,))
    with as_owner(far) as owner:
        owner.deploy("chain", [chain], {})
        owner.deploy("wide", [wide], {})
    with as_client(far, wrap=shaping(LINK)) as client:
        seconds = min(client.run("chain", chain, plans.words(np.ones(4))).report.seconds for _ in range(2))
        rounds = len(chain.waves)
        assert rounds * DELAY_S <= seconds <= (rounds + 4) * DELAY_S * 1.2
        assert forecast(chain) == pytest.approx(seconds, rel=0.15)
        result = client.run("wide", wide, plans.words(np.ones(100_000)))
        np.testing.assert_allclose(plans.reals(result), 0.5, atol=2.0**-10)
        busiest = sum(max(row[i] for i, link in enumerate(LINKS) if link[0] is not Role.P0) for row in wide.waves) / BYTES_PER_S
        assert busiest <= result.report.seconds <= 1.25 * busiest + 8 * DELAY_S
        assert forecast(wide) == pytest.approx(result.report.seconds, rel=0.15)


def forecast(plan: Plan) -> float:
    """As `moiety plan` makes it, for members that share this machine."""
    return predict(plan, msgspec.structs.replace(net(LINK), shared=True), measure(plan)).seconds


def test_who_sends_slowly_says_so(far: LocalParties) -> None:
    assert all(f"SENDS AS SLOWLY AS THE LINK {LINK}" in far.log(name) for name in far.processes)


def test_no_peer_can_slow_a_party_down(local: LocalParties) -> None:
    """A client on a slow link of its own: what the parties say to each other is as fast as ever."""
    plan = plans.chain(40)
    with as_owner(local) as owner:
        owner.deploy("chain", [plan], {})
    with as_client(local, wrap=shaping("50ms,1Gbit")) as client:
        seconds = min(client.run("chain", plan, plans.words(np.ones(4))).report.seconds for _ in range(3))
    assert 0.05 <= seconds < 40 * 0.05 / 2
    assert "SLOWLY" not in "".join(local.log(name) for name in local.processes)


def test_an_unknown_link_starts_nothing() -> None:
    with pytest.raises(ConfigError, match="'moon' is no link"):
        moiety.local(parties=3, link="moon")
