"""Scores of a model, against scipy; texts, where they are; what to do where they are not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import rankdata, spearmanr

from moiety.claims import tasks

VALUES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, -3.0]), min_size=3, max_size=20)


@given(VALUES)
def test_ranks(values: list[float]) -> None:
    assert np.array_equal(tasks.ranks(np.array(values)), rankdata(values))


def test_spearman() -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 9, 50).astype(float)
    y = x + generator.normal(0, 3, 50)
    assert tasks.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_head_is_the_best_there_is() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(0, 1, (200, 3))
    positive = x @ [1.0, -2.0, 0.5] + generator.normal(0, 1, 200) > 0.3

    def loss(w):
        margin = (x @ w[:3] + w[3]) * np.where(positive, 1, -1)
        return np.logaddexp(0, -margin).sum() + (w[:3] ** 2).sum() / 2

    head = tasks.fit_head(x, positive)
    assert [*head.weights, head.bias] == pytest.approx(minimize(loss, np.zeros(4), tol=1e-10).x, abs=1e-4)
    assert (head.positive(x) == positive).mean() > 0.8


def test_texts(data_folder: Path) -> None:
    pairs, train, dev = tasks.sts_pairs(), tasks.sst2("train"), tasks.sst2("dev")
    assert (len(pairs), len(train), len(dev)) == (1379, 67349, 872)
    assert all(0 <= pair.score <= 5 and pair.first and pair.second for pair in pairs)
    assert {row.positive for row in dev} == {False, True}
    assert dev[0] == tasks.Labelled(False, "one long string of cliches .")


@pytest.mark.parametrize("read", [tasks.sts_pairs, lambda: tasks.sst2("dev")])
def test_missing_texts(read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOIETY_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"(sts-test.csv|sst2-dev.tsv) in .*MOIETY_DATA"):
        read()
