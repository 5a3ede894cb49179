"""What is read off a module: who owns what, what is refused, and that the module is left as it was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moiety.compile.calibrate import calibrate, sites
from moiety.compile.capture import capture
from moiety.compile.lower import RULES
from moiety.errors import PlanError, UnsupportedOp

from .support import compiled


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("kept", torch.ones(4))
        self.register_buffer("codes", torch.ones(4, dtype=torch.int8))
        self.register_buffer("derived", torch.ones(4), persistent=False)

    def forward(self, x):
        return self.layer(x) * self.kept * self.codes.float() + self.derived


def test_the_state_dict_is_the_owners_and_the_rest_is_public() -> None:
    captured = capture(Mixed(), (torch.ones(2, 4),))
    assert sorted(name for name, _ in captured.owned.values()) == ["codes", "kept", "layer.bias", "layer.weight"]
    assert len(captured.public) == 1
    assert captured.inputs == ("x",)


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 4))
    module[2].eval()
    capture(module, (torch.ones(2, 4),))
    assert [part.training for part in module] == [True, True, False]


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(2, 4))

    def forward(self, x):
        self.last.copy_(x)
        return x * 2


def test_what_a_run_would_leave_behind_is_refused() -> None:
    with pytest.raises(PlanError, match="changes last"):
        capture(Remembers(), (torch.ones(2, 4),))


def test_what_cannot_be_exported_is_refused_with_the_reason() -> None:
    class Branches(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(PlanError, match=r"cannot capture Branches: .*data-dependent"):
        capture(Branches(), (torch.ones(2, 4),))


def test_in_place_operations_are_functionalised() -> None:
    def model(x):
        y = x * 2
        y += 1
        y[:, 0] *= 3
        return y.relu_()

    def plain(x):
        y = x * 2
        y += 1
        return y.relu_()

    assert compiled(model, torch.randn(2, 4)).error() < 1e-3
    assert compiled(plain, torch.randn(2, 4)).error() < 1e-3


def test_composite_operations_are_taken_apart() -> None:
    """Those without a rule of their own."""

    def model(x, y):
        return x.T.movedim(0, 1).square() + y.swapaxes(0, 1).mT

    assert compiled(model, torch.randn(2, 4), torch.randn(2, 4)).error() < 2e-3


def test_a_module_may_switch_gradients_off() -> None:
    def model(x):
        with torch.no_grad():
            places = torch.arange(4.0).cos()
        return x * places

    assert compiled(model, torch.randn(2, 4)).error() < 1e-3


class Rounded(nn.Module):
    def forward(self, x):
        return torch.floor(x).round()


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), Rounded())

    def forward(self, x):
        return torch.sort(self.inner(x)).values


def test_all_unsupported_operations_are_listed_with_module_and_line() -> None:
    with pytest.raises(UnsupportedOp) as caught:
        compiled(Strange(), torch.randn(2, 4))
    lines = str(caught.value).splitlines()[1:]
    assert [line.split()[0].split(".")[1] for line in lines] == ["floor", "round", "sort"]
    assert " in inner.1 " in lines[0]
    assert "in the model itself" in lines[2]
    assert all("test_capture.py" in line for line in lines)


def test_names_of_what_the_owner_evaluates_stay_short() -> None:
    """An encoder over a public text is the owner's alone; each residual doubled the name of its result."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.layer = nn.Parameter(torch.randn(2, 4)), nn.Linear(4, 4)

        def forward(self, x):
            owned = self.start
            for _ in range(40):
                owned = owned + torch.tanh(self.layer(owned))
            return x * owned

    case = compiled(Deep(), torch.randn(2, 4))
    assert case.error() < 2e-2
    assert all(len(weight.name) < 300 for weight in case.plan.weights)


def test_ranges_are_found_again_in_another_shape_of_the_model() -> None:
    """Sites are named by module, operation and ordinal, so that other shapes share them."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            return x + self.down(F.gelu(self.up(self.norm(x))))

    model = nn.Sequential(Block(), Block())
    long, short = (capture(model, (torch.randn(1, rows, 8),), whole=RULES) for rows in (7, 1))
    assert set(sites(long).values()) == set(sites(short).values())
    ranges = calibrate(long, [(torch.randn(1, 7, 8),) for _ in range(3)])
    case = compiled(model, torch.randn(1, 1, 8), ranges=ranges)
    assert case.error() < 2e-3


def test_ranges_of_several_examples_join() -> None:
    captured = capture(nn.Linear(4, 4), (torch.ones(2, 4),))
    ranges = calibrate(captured, [(torch.full((2, 4), -3.0),), (torch.full((2, 4), 5.0),)])
    [name] = captured.inputs
    assert (ranges[name].low, ranges[name].high) == (-3.0, 5.0)
    assert not any(name in ranges for name in captured.owned), "weights need no range"
