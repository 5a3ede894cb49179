"""From shares to shares: the part of a traced run that peers time too, on one machine whose clock all members read.

begins  when the later evaluator holds its share of every input: the words have come, and both have compared what they got
ends    when the later evaluator begins to send its share of the answer to the client

What a party did for other nodes before the interval began is added, as if nothing else had run meanwhile: P0 deals ahead while the
client is still sharing its inputs. The order to run, and that the parties agree on it, lie before.
"""

from collections.abc import Iterator

from moiety.compile import program
from moiety.compile.plan import Plan
from moiety.engine.report import Span, Timeline, What
from moiety.engine.trace import EVALUATORS, Trace
from moiety.mpc.rounds import Role


def seconds(trace: Trace) -> float:
    """Of the interval. The plan takes inputs and reveals something."""
    timelines = {Role[timeline.role]: timeline for timeline in trace.timelines}
    begin = max(_holds(trace.plan, timelines[role]) for role in EVALUATORS)
    end = max(_answers(timelines[role]) for role in EVALUATORS)
    ahead = max(_ahead(trace.plan, timeline, begin) for role, timeline in timelines.items() if role is not Role.CLIENT)
    return end - begin + ahead


def _inputs(plan: Plan) -> set[int]:
    return {i for i, node in enumerate(plan.nodes) if node.op == "input"}


def _holds(plan: Plan, timeline: Timeline) -> float:
    """When this evaluator has heard the last word about an input (Unix time)."""
    inputs = _inputs(plan)
    last = max(number for number, wave in enumerate(program.costs(plan).waves) if inputs & wave.spoken.keys())
    return max(end for span, _, end in _places(timeline) if span.what is What.WAIT and span.wave <= last)


def _answers(timeline: Timeline) -> float:
    return max(begin for span, begin, _ in _places(timeline) if span.what is What.SEND and span.of == Role.CLIENT)


def _ahead(plan: Plan, timeline: Timeline, until: float) -> float:
    """Seconds of what this party computed for nodes that are not inputs, and P0 dealt, before ``until``."""
    inputs, deals = _inputs(plan), timeline.role == Role.P0.name
    return sum(
        min(end, until) - begin
        for span, begin, end in _places(timeline)
        if begin < until and ((span.what is What.COMPUTE and span.of not in inputs) or (span.what is What.SEND and deals))
    )


def _places(timeline: Timeline) -> Iterator[tuple[Span, float, float]]:
    """Every span with its begin and end in Unix time."""
    for span in timeline.spans:
        begin = timeline.began_s + 1e-6 * span.begin_us
        yield span, begin, begin + 1e-6 * span.us
