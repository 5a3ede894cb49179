"""Recurrent layers against torch: layers, directions, initial states, and what a step costs."""

import pytest
import torch
from torch import fx, nn

from moiety.compile import recurrent
from moiety.compile.capture import evaluate
from moiety.compile.model import draft
from moiety.compile.noise import leaves
from moiety.errors import UnsupportedOp

from .support import compiled

LAYERS = {
    "gru": nn.GRU(6, 5),
    "gru of two layers in both directions": nn.GRU(6, 5, 2, bidirectional=True),
    "gru without bias, batch first": nn.GRU(6, 5, bias=False, batch_first=True),
    "lstm": nn.LSTM(6, 5),
    "lstm of two layers in both directions": nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True),
    "lstm without bias": nn.LSTM(6, 5, bias=False),
    "rnn": nn.RNN(6, 5, 2),
    "rnn with relu": nn.RNN(6, 5, nonlinearity="relu"),
}


class Whole(nn.Module):
    """All that a layer yields."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, state=None, cell=None):
        initial = state if cell is None else (state, cell)
        out, last = self.layer(x, initial) if initial is not None else self.layer(x)
        return (out, *last) if isinstance(last, tuple) else (out, last)


def errors(case) -> list[float]:
    return [float((found - wanted).abs().max()) for found, wanted in zip(case.run(), case.expected(), strict=True)]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers(layer: nn.Module) -> None:
    case = compiled(Whole(layer), 2 * torch.randn(4, 3, 6))
    assert max(errors(case)) < 2e-3


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_step_by_step_a_layer_is_what_torch_makes_of_it(layer: nn.Module) -> None:
    """Calibration and the forecast of errors look inside."""
    made = draft(Whole(layer), (torch.randn(4, 3, 6),), calibration=())

    def applied(node, values):
        if node.target not in recurrent.STEPS:
            return evaluate(node, values)
        step, given = recurrent.STEPS[node.target], fx.map_arg(node.args, lambda n: values[n])
        return recurrent.evaluate(step, *given, found={})

    with torch.no_grad():
        found, wanted = (leaves(made.captured, made.inputs, applied=way) for way in (applied, evaluate))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("secret", [False, True])
def test_initial_states(kind, secret: bool) -> None:
    state, cell = torch.randn(2, 3, 5), 3 * torch.randn(2, 3, 5)
    given = (torch.randn(4, 3, 6), state) if kind is nn.GRU else (torch.randn(4, 3, 6), state, cell)
    names = ("x", "state", "cell")[: len(given)]
    case = compiled(Whole(kind(6, 5, 2)), *given, public=() if secret else names[1:])
    assert len(case.plan.inputs) == (len(given) if secret else 1)
    assert max(errors(case)) < 2e-3


@pytest.mark.parametrize(("kind", "width"), [(nn.GRU, 64), (nn.LSTM, 64)])
def test_errors_do_not_grow_with_time(kind, width: int) -> None:
    layer = kind(8, width)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert max(errors(compiled(Whole(layer), 2 * torch.randn(16, 1, 8)))) < 5e-3


@pytest.mark.parametrize(("kind", "rounds"), [(nn.GRU, 8), (nn.LSTM, 7), (nn.RNN, 4)])
def test_rounds_and_tables_of_a_step(kind, rounds: int) -> None:
    layer = kind(4, 4)
    short, long = (compiled(Whole(layer), torch.randn(steps, 1, 4)).plan for steps in (2, 3))
    assert len(long.waves) - len(short.waves) == rounds
    assert len(long.constants) == len(short.constants)
    assert len(long.weights) == len(short.weights)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_cells(kind) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(4, 4)

        def forward(self, x):
            state = self.cell(x)
            state = self.cell(x, state)
            return state[0] if isinstance(state, tuple) else state

    assert compiled(Twice(), torch.randn(3, 4)).error() < 2e-3


def test_a_projected_state_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match="projects its state"):
        compiled(Whole(nn.LSTM(6, 5, proj_size=3)), torch.randn(4, 3, 6))
