"""The search for garbage pauses while a model is compiled, and goes on afterwards."""

import gc
import threading

import pytest
import torch

from moiety.compile.garbage import uncollected
from moiety.compile.model import compile_model
from moiety.errors import UnsupportedOp


def test_no_search_within_and_one_afterwards_even_after_an_error() -> None:
    assert gc.isenabled()
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outer one goes on"
    assert gc.isenabled()
    with pytest.raises(UnsupportedOp):
        compile_model(torch.nn.ConvTranspose1d(1, 1, 2), (torch.zeros(1, 1, 4),))
    assert gc.isenabled()


def test_threads_that_overlap_leave_it_as_it_was() -> None:
    within, leave = threading.Event(), threading.Event()

    def longer() -> None:
        with uncollected():
            within.set()
            leave.wait(10)

    thread = threading.Thread(target=longer)
    with uncollected():
        thread.start()
        assert within.wait(10)
    assert not gc.isenabled(), "the other thread goes on"
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_a_model_is_compiled_without_it() -> None:
    seen: list[bool] = []

    class Looking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(gc.isenabled())
            return x + 1

    compile_model(Looking(), (torch.zeros(2),))
    assert seen
    assert not any(seen)
    assert gc.isenabled()
