"""Models of images as they are written, with random weights: a residual network, a vision transformer, a mobile network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from .support import Case, compiled

SHARE = 0.01
"""Largest error, as a share of the deviation of the outputs."""


def settled(model: nn.Module) -> nn.Module:
    """A model whose batch norms have seen data, so that none is the identity."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
    return model.eval()


class Residual(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        short = nn.Conv2d(inside, outside, 1, stride, bias=False)
        self.downsample = nn.Sequential(short, nn.BatchNorm2d(outside)) if stride > 1 or inside != outside else None

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResidualNetwork(nn.Module):
    def __init__(self, widths=(8, 16, 24), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(Residual(a, b, 1 if a == b else 2) for a, b in pairs))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.fc(torch.flatten(self.avgpool(self.blocks(x)), 1))


class Mobile(nn.Module):
    """An inverted residual with squeeze and excitation, as in MobileNetV3 and EfficientNet."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(inplace=True))
        depthwise = nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.ReLU6(inplace=True))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 4, 1), nn.SiLU(), nn.Conv2d(4, wide, 1), nn.Hardsigmoid())
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.depthwise(self.expand(x))
        return x + self.project(y * self.squeeze(y))


class Pyramid(nn.Module):
    """Everything else: grouped convolutions, norm before the activation, upsampling, joined branches, a mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same")
        self.norm, self.grouped = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2)
        self.mobile, self.head = Mobile(8, 16), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        fine = self.mobile(F.relu(self.norm(self.stem(x))))
        coarse = F.interpolate(F.avg_pool2d(self.grouped(fine), 2), scale_factor=4)
        return self.head(torch.cat([fine, coarse], 1)).mean((2, 3))


def share_of_error(case: Case, x: torch.Tensor) -> float:
    assert max(case.of_stated(x)) < 1, "beyond what the plan states"
    return case.error(x) / float(case.expected(x).std())


def test_a_residual_network() -> None:
    torch.manual_seed(1)
    case = compiled(settled(ResidualNetwork()), torch.randn(2, 3, 32, 32), calibration=None)
    assert share_of_error(case, torch.randn(2, 3, 32, 32)) < SHARE
    assert case.ops["convolution"] == 9
    assert case.ops["multiply"] == 0, "all norms are folded"
    assert case.ops["clamp"] + case.ops["relu"] == 7


def test_parts_of_mobile_networks() -> None:
    torch.manual_seed(2)
    case = compiled(settled(Pyramid()), torch.randn(1, 3, 16, 16), calibration=None)
    assert share_of_error(case, torch.randn(1, 3, 16, 16)) < SHARE


def test_a_vision_transformer() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_attention_heads=4, num_labels=10)).eval()
    for layer in model.modules():  # wider than the initialisation, of which hardly anything comes out
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    x = torch.randn(1, 3, 32, 32)
    case = compiled(model, kwargs={"pixel_values": x}, calibration=())
    found, wanted = case.run().logits, case.expected().logits
    assert (found - wanted).abs().max() / wanted.std() < SHARE
    assert max(case.of_stated(pixel_values=torch.randn(1, 3, 32, 32))) < 1
