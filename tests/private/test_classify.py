"""An image by a small network over three party processes; EfficientNet-Lite0 does it in ``tests/cli/test_runs.py``."""

import numpy as np
import pytest
import torch
from torch import nn

from moiety.engine.federation import Federation
from moiety.errors import InputError
from moiety.private.classify import classify, top


def test_classify(owner: Federation, client: Federation) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7)
    )
    image = torch.randn(1, 3, 9, 9)
    owner.deploy(model, image, name="small")
    private = client.model("small")
    found = classify(private, image.numpy())
    with torch.no_grad():
        wanted = model.eval()(image)[0].numpy()
    assert np.abs(found.logits - wanted).max() < 1e-3
    assert [place for place, _ in found.top(7)] == [place for place, _ in top(wanted, 7)]
    assert repr(found).startswith("<Classification among 7 classes, ")
    with pytest.raises(InputError, match=r"deployed for \(1, 3, 9, 9\)"):
        classify(private, image.numpy()[:, :, ::2])


def test_probabilities_of_the_likeliest() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32)) + np.float32(700)
    places, shares = zip(*top(logits, 3), strict=True)
    assert places == (1, 3, 2)
    assert shares == pytest.approx((0.5, 0.25, 0.15), abs=1e-4)
