"""Recurrent layers (GRU, LSTM, RNN) as PyTorch defines them: how their parameters are laid out, and what calibration sees inside."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch


class Direction(NamedTuple):
    """One layer in one direction: its parameters (weights of input and state, their biases if it has any) and whether time runs back."""

    name: str
    parameters: Sequence[Any]
    back: bool


def layers(parameters: Sequence[Any], biases: bool, count: int, both: bool) -> list[list[Direction]]:
    """The directions of every layer."""
    ways = 2 if both else 1
    each = len(parameters) // (count * ways)
    groups = [parameters[i : i + each] for i in range(0, len(parameters), each)]
    return [[Direction(f"{i}{'<' if way else '>'}", groups[ways * i + way], way == 1) for way in range(ways)] for i in range(count)]


Seen = dict[str, torch.Tensor]
Step = Callable[[torch.Tensor, torch.Tensor, list[torch.Tensor], Seen], list[torch.Tensor]]


def gru_step(given: torch.Tensor, kept: torch.Tensor, states: list[torch.Tensor], seen: Seen) -> list[torch.Tensor]:
    """One step from both projections (reset, update, new)."""
    width = states[0].shape[-1]
    gates = given[..., : 2 * width] + kept[..., : 2 * width]
    reset, update = gates.sigmoid().chunk(2, -1)
    new = given[..., 2 * width :] + reset * kept[..., 2 * width :]
    state = new.tanh() + update * (states[0] - new.tanh())
    seen |= {"gates": gates, "kept": kept, "new": new, "state": state}
    return [state]


def lstm_step(given: torch.Tensor, kept: torch.Tensor, states: list[torch.Tensor], seen: Seen) -> list[torch.Tensor]:
    """One step from both projections (input, forget, cell, output)."""
    first, forget, new, out = (given + kept).chunk(4, -1)
    cell = forget.sigmoid() * states[1] + first.sigmoid() * new.tanh()
    state = out.sigmoid() * cell.tanh()
    seen |= {"gates": torch.cat([first, forget, out], -1), "kept": kept, "new": new, "cell": cell, "state": state}
    return [state, cell]


def tanh_step(given: torch.Tensor, kept: torch.Tensor, states: list[torch.Tensor], seen: Seen) -> list[torch.Tensor]:
    """One step of a plain recurrent layer."""
    state = (given + kept).tanh()
    seen |= {"kept": kept, "new": given + kept, "state": state}
    return [state]


def relu_step(given: torch.Tensor, kept: torch.Tensor, states: list[torch.Tensor], seen: Seen) -> list[torch.Tensor]:
    """One step of a plain recurrent layer with a relu."""
    state = (given + kept).relu()
    seen |= {"kept": kept, "new": given + kept, "state": state}
    return [state]


def probe(step: Step) -> Callable[..., Seen]:
    """What the lowering of a recurrent layer needs to know of its inside, over all time steps: see :mod:`.rules_recurrent`."""

    def values(
        x: torch.Tensor,
        initial: torch.Tensor | Sequence[torch.Tensor],
        parameters: Sequence[torch.Tensor],
        biases: bool,
        count: int,
        dropout: float,
        train: bool,
        both: bool,
        batch_first: bool,
    ) -> Seen:
        if len(parameters) // (count * (2 if both else 1)) not in (2, 4):
            return {}  # a projection of the state: it has no rule
        starts = [initial] if isinstance(initial, torch.Tensor) else list(initial)
        inputs, found, place = x.transpose(0, 1) if batch_first else x, Seen(), 0
        for directions in layers(parameters, biases, count, both):
            outs = []
            for name, (w_input, w_state, *shifts), back in directions:
                given = torch.nn.functional.linear(inputs, w_input, *shifts[:1])
                states, rows = [start[place] for start in starts], []
                all_seen: dict[str, list[torch.Tensor]] = {"given": [given], "state": [states[0]], "cell": states[1:]}
                for t in reversed(range(len(inputs))) if back else range(len(inputs)):
                    seen = Seen()
                    states = step(given[t], torch.nn.functional.linear(states[0], w_state, *shifts[1:]), states, seen)
                    rows.append(states[0])
                    for what, value in seen.items():
                        all_seen.setdefault(what, []).append(value)
                outs.append(torch.stack(rows[::-1] if back else rows))
                found |= {f"|{name} {what}": torch.cat([v.flatten() for v in seen_]) for what, seen_ in all_seen.items() if seen_}
                place += 1
            inputs = torch.cat(outs, -1)
        return found

    return values
