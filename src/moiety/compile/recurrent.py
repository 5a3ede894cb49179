"""Recurrent layers (GRU, LSTM, RNN) as PyTorch defines them: how their parameters are laid out, and what calibration sees inside."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

aten = torch.ops.aten


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
Look = Callable[[str, torch.Tensor], torch.Tensor]
"""How an activation is computed, by its name in torch."""
Step = Callable[[torch.Tensor, torch.Tensor, list[torch.Tensor], Look, Seen], list[torch.Tensor]]


def exactly(name: str, x: torch.Tensor) -> torch.Tensor:
    """The activation itself."""
    found: torch.Tensor = getattr(torch, name)(x)
    return found


def gru_step(given: torch.Tensor, kept: torch.Tensor, states: list[torch.Tensor], look: Look, seen: Seen) -> list[torch.Tensor]:
    """One step from both projections (reset, update, new)."""
    width = states[0].shape[-1]
    gates = given[..., : 2 * width] + kept[..., : 2 * width]
    reset, update = look("sigmoid", gates).chunk(2, -1)
    new = given[..., 2 * width :] + reset * kept[..., 2 * width :]
    shown = look("tanh", new)
    state = shown + update * (states[0] - shown)
    seen |= {"gates": gates, "kept": kept, "new": new, "state": state}
    return [state]


def lstm_step(given: torch.Tensor, kept: torch.Tensor, states: list[torch.Tensor], look: Look, seen: Seen) -> list[torch.Tensor]:
    """One step from both projections (input, forget, cell, output)."""
    first, forget, new, out = (given + kept).chunk(4, -1)
    gates = torch.cat([first, forget, out], -1)
    entering, staying, leaving = look("sigmoid", gates).chunk(3, -1)
    cell = staying * states[1] + entering * look("tanh", new)
    state = leaving * look("tanh", cell)
    seen |= {"gates": gates, "kept": kept, "new": new, "cell": cell, "state": state}
    return [state, cell]


def tanh_step(given: torch.Tensor, kept: torch.Tensor, states: list[torch.Tensor], look: Look, seen: Seen) -> list[torch.Tensor]:
    """One step of a plain recurrent layer."""
    state = look("tanh", given + kept)
    seen |= {"kept": kept, "new": given + kept, "state": state}
    return [state]


def relu_step(given: torch.Tensor, kept: torch.Tensor, states: list[torch.Tensor], look: Look, seen: Seen) -> list[torch.Tensor]:
    """One step of a plain recurrent layer with a relu."""
    state = look("relu", given + kept)
    seen |= {"kept": kept, "new": given + kept, "state": state}
    return [state]


STEPS: dict[Any, Step] = {
    aten.gru.input: gru_step,
    aten.lstm.input: lstm_step,
    aten.rnn_tanh.input: tanh_step,
    aten.rnn_relu.input: relu_step,
}
"""One time step of every kind of layer."""


def evaluate(
    step: Step,
    x: torch.Tensor,
    initial: torch.Tensor | Sequence[torch.Tensor],
    parameters: Sequence[torch.Tensor],
    biases: bool,
    count: int,
    dropout: float,
    train: bool,
    both: bool,
    batch_first: bool,
    *,
    found: Seen,
    look: Look = exactly,
) -> tuple[torch.Tensor, ...]:
    """A recurrent layer time step by time step: its output and last states, as the operation itself yields them.

    ``found`` takes everything that was seen inside, by name.
    """
    starts = [initial] if isinstance(initial, torch.Tensor) else list(initial)
    inputs, last, place = x.transpose(0, 1) if batch_first else x, [list[torch.Tensor]() for _ in starts], 0
    for directions in layers(parameters, biases, count, both):
        outs = []
        for name, (w_input, w_state, *shifts), back in directions:
            given = torch.nn.functional.linear(inputs, w_input, *shifts[:1])
            states, rows = [start[place] for start in starts], []
            all_seen: dict[str, list[torch.Tensor]] = {"given": [given], "state": [states[0]], "cell": states[1:]}
            for t in reversed(range(len(inputs))) if back else range(len(inputs)):
                seen = Seen()
                states = step(given[t], torch.nn.functional.linear(states[0], w_state, *shifts[1:]), states, look, seen)
                rows.append(states[0])
                for what, value in seen.items():
                    all_seen.setdefault(what, []).append(value)
            outs.append(torch.stack(rows[::-1] if back else rows))
            found |= {f"|{name} {what}": torch.cat([v.flatten() for v in seen_]) for what, seen_ in all_seen.items() if seen_}
            for kept, state in zip(last, states, strict=True):
                kept.append(state)
            place += 1
        inputs = torch.cat(outs, -1)
    return inputs.transpose(0, 1) if batch_first else inputs, *map(torch.stack, last)


def probe(step: Step) -> Callable[..., Seen]:
    """What the lowering of a recurrent layer needs to know of its inside, over all time steps: see :mod:`.rules_recurrent`."""

    def values(x: torch.Tensor, initial: Any, parameters: Sequence[torch.Tensor], biases: bool, count: int, *settings: Any) -> Seen:
        found = Seen()
        if len(parameters) // (count * (2 if settings[2] else 1)) in (2, 4):  # else it projects its state: that has no rule
            evaluate(step, x, initial, parameters, biases, count, *settings, found=found)
        return found

    return values
