"""What stands between a model and its private run is found at once, each with its place and what to do."""

import torch
from torch import nn

from moiety.compile.check import BRANCH, EXPORT, OPERATION, PUBLIC, Checked, check
from moiety.compile.model import draft


def checked(module: nn.Module, *args: torch.Tensor, **options: object) -> Checked:
    return check(lambda: draft(module.eval(), args, **options))


class Rounded(nn.Module):
    def forward(self, x):
        return x.round()


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), Rounded())

    def forward(self, x):
        y = torch.fft.rfft(self.inner(x)).real
        y = torch.pow(y, y)  # a rule that refuses, between operations without any
        return torch.lgamma(y)


def test_all_obstacles_are_found_each_in_its_place() -> None:
    found = checked(Strange(), torch.randn(2, 4)).findings
    names = [finding.what.split(".")[1] for finding in found]
    assert [names[0], names[1], names[-2], names[-1]] == ["round", "_fft_r2c", "pow", "lgamma"]
    assert {finding.kind for finding in found} == {OPERATION}
    assert [finding.module for finding in found] == ["inner.1", *[""] * (len(found) - 1)]
    assert found[-1].code == "return torch.lgamma(y)"
    assert found[-2].line == found[-1].line - 1
    assert found[-1].file.endswith("test_check.py")
    assert "a product with a public matrix" in found[1].advice
    assert "whose exponent is a tensor" in found[-2].why


def test_a_model_that_runs_has_no_findings() -> None:
    found = checked(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)), torch.randn(3, 4))
    assert found.ok
    assert (found.operations, found.secret_operations) == (3, 3)
    assert [(given.name, given.shape, given.form) for given in found.inputs] == [("input", (3, 4), "secret")]


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 4)

    def forward(self, ids, mask):
        return self.words(ids) * mask[..., None].float()


def test_an_input_that_must_be_public_is_named() -> None:
    ids, mask = torch.tensor([[1, 2]]), torch.tensor([[1, 0]])
    [finding] = checked(Weighted(), ids, mask).findings
    assert (finding.kind, finding.advice) == (PUBLIC, "name mask public, if all parties may know it")
    assert finding.code == "return self.words(ids) * mask[..., None].float()"
    mended = checked(Weighted(), ids, mask, public=("mask",))
    assert mended.ok
    assert [given.form for given in mended.inputs] == ["looked up", "public"]


class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Selects(nn.Module):
    def forward(self, x):
        return (x[x.abs().argmax(-1) > 0] * 2).sum(0)


class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("not today")


def test_branches_on_secrets_are_found_in_the_source(capfd) -> None:
    [finding] = checked(Branches(), torch.randn(3)).findings
    assert (finding.kind, finding.code) == (BRANCH, "if x.sum() > 0:")
    assert finding.file.endswith("test_check.py")
    assert capfd.readouterr() == ("", "")


def test_sizes_that_depend_on_secrets_are_branches() -> None:
    found = checked(Selects(), torch.randn(3, 4)).findings
    [branch] = [finding for finding in found if finding.kind == BRANCH]
    assert "depends on a secret" in branch.why
    assert branch.code.startswith("return (x[")


def test_why_a_model_cannot_be_captured() -> None:
    [finding] = checked(Fails(), torch.randn(3)).findings
    assert (finding.kind, finding.code) == (EXPORT, 'raise ValueError("not today")')
    assert finding.why == "torch.export stopped: not today"
