"""Images as a classifier of ImageNet takes them, the names of its classes, and made-up images to measure its ranges on.

Nothing here needs PyTorch: it is also the data owner's side.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moiety.errors import InputError
from moiety.models.files import IMAGENET

SIZE: Final = 224
SHOWN: Final = 0.875
"""Share of the shorter side that the central square keeps."""
MIDDLE, REACH = 127.0, 128.0
"""Pixels become ``(p - 127) / 128``, as EfficientNet-Lite was trained."""

Image = NDArray[np.float32]


def read(file: Path) -> Image:
    """An image file as (1, 3, 224, 224): its central square, upright, in three colours. Raises InputError when it is none."""
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with Pillow.open(file) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError:
        raise InputError(f"there is no file {file}") from None
    except (UnidentifiedImageError, OSError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image: {error}") from None
    scale = SIZE / SHOWN / min(picture.size)
    width, height = (max(SIZE, round(n * scale)) for n in picture.size)
    picture = picture.resize((width, height), Pillow.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    pixels = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    return np.ascontiguousarray(_normalised(pixels.transpose(2, 0, 1)[None]))


def _normalised(pixels: NDArray[np.float32]) -> Image:
    scaled: Image = (pixels - np.float32(MIDDLE)) / np.float32(REACH)
    return scaled


def labels() -> list[str]:
    """What each of the 1,000 classes is called: the first of its names."""
    names = json.loads(IMAGENET.find().read_text(encoding="utf-8"))
    return [names[str(place)].partition(",")[0] for place in range(len(names))]


def made_up(count: int = 16) -> list[Image]:
    """Seeded images (1, 3, 224, 224) of clouds in five sizes and hard-edged shapes, and one all black and one all white.

    They show nobody anything, and their activations reach about as far as those of photographs.
    """
    ends = [np.full((3, SIZE, SIZE), value, np.float32) for value in (0, 255)]
    pictures = [_picture(np.random.default_rng(seed)) for seed in range(count)]
    return [_normalised(picture[None]) for picture in (*ends, *pictures)]


def _picture(chance: np.random.Generator) -> NDArray[np.float32]:
    clouds = sum(_cloud(chance, cells) for cells in (2, 5, 14, 40, 112))
    picture = np.clip(MIDDLE + 80 * clouds, 0, 255)
    down, right = np.mgrid[:SIZE, :SIZE]
    for _ in range(int(chance.integers(14))):
        angle, (x, y) = chance.uniform(0, np.pi), chance.uniform(0, SIZE, 2)
        band = np.abs(np.cos(angle) * (right - x) + np.sin(angle) * (down - y)) < chance.uniform(1, 20)
        disc = np.hypot(right - x, down - y) < chance.uniform(5, 60)
        picture[:, band if chance.random() < 0.5 else disc] = chance.uniform(0, 255, (3, 1))
    return picture.astype(np.float32)


def _cloud(chance: np.random.Generator, cells: int) -> NDArray[np.float64]:
    """Noise (3, 224, 224) of so many cells a side, straight between their centres."""
    near = np.clip((np.arange(SIZE) + 0.5) * cells / SIZE - 0.5, 0, cells - 1)
    mix = np.maximum(0, 1 - np.abs(near[:, None] - np.arange(cells)))
    contrast = chance.uniform(0.2, 1.0) * (4 / cells) ** 0.5
    return np.asarray(contrast * (mix @ chance.normal(size=(3, cells, cells)) @ mix.T + chance.normal(0, 0.5, (3, 1, 1))))
