"""The client's part of a plan: it gives inputs and hears what is opened. In between it says nothing and hears nothing, so it need not
follow the protocols of the others, only count their waves."""

from collections.abc import Callable
from typing import Any

from moiety.compile.plan import Plan
from moiety.compile.program import Begin, Driven, Prepared, Sources, prepare
from moiety.mpc.ops import OPS
from moiety.mpc.party import Party
from moiety.mpc.rounds import SILENCE, Graph, exchange
from moiety.mpc.share import Share


def prepare_client(plan: Plan, found: Driven, waves: int) -> Prepared:
    """As :func:`~moiety.compile.program.prepare`, for the client of a plan that was driven on shapes; in so many waves anybody speaks.

    Nodes keep their numbers, which are part of addresses; those that neither take an input nor open anything do nothing. A plan that
    opens nothing, or something of no elements, is followed whole.
    """
    whole = prepare(plan)
    spoken = {i: number for number, wave in enumerate(found.costs.waves) for i in found.opened if wave.spoken.get(i)}
    if not spoken or spoken.keys() != found.opened.keys():
        return whole

    def begin(i: int) -> Begin:
        if i in spoken:
            return _opening(found.opened[i], spoken[i], waves, plan.nodes[i].params)
        return whole.begin[i] if plan.nodes[i].op == "input" else _idle

    inputs = ((),) * len(plan.nodes)
    return whole._replace(begin=tuple(map(begin, range(len(plan.nodes)))), inputs=inputs, graph=Graph(inputs, spoken))


def _idle(party: Party, sources: Sources) -> Callable[[], None]:
    return _nothing


def _nothing() -> None: ...


def _opening(x: Share, number: int, waves: int, params: dict[str, Any]) -> Begin:
    """Opens what has the shape of x in wave ``number``, silent in all others."""

    async def opened(party: Party) -> Any:
        for _ in range(number):
            await exchange(SILENCE)
        result = await OPS["reveal"](party, x, **params)
        for _ in range(number + 1, waves):
            await exchange(SILENCE)
        return result

    return lambda party, sources: lambda: opened(party)
