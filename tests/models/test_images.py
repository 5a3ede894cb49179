"""Image files become what the classifier takes, whatever their form."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moiety.errors import InputError
from moiety.models import files, images


def saved(pixels: np.ndarray, file: Path, **options) -> Path:
    Image.fromarray(pixels).save(file, **options)
    return file


@pytest.mark.parametrize("shape", [(224, 224), (30, 600), (900, 256), (1, 1)])
def test_every_size_becomes_a_square(shape: tuple[int, int], tmp_path: Path) -> None:
    read = images.read(saved(np.full((*shape, 3), 255, np.uint8), tmp_path / "white.png"))
    assert (read.shape, read.dtype) == ((1, 3, 224, 224), np.float32)
    assert (read == 1).all()
    assert read.flags.c_contiguous


def test_the_middle_of_a_long_image_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((256, 1024, 3), np.uint8)
    pixels[:, 384:640] = 254
    read = images.read(saved(pixels, tmp_path / "middle.png"))
    assert np.allclose(read, (254 - 127) / 128, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_modes_become_three_colours(mode: str, tmp_path: Path) -> None:
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).convert(mode).save(file)
    assert images.read(file).shape == (1, 3, 224, 224)


def test_a_turned_photograph_stands_upright(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: left is up
    [read] = images.read(saved(pixels, tmp_path / "turned.png", exif=exif))
    assert read[:, :100].min() > 0.9 > -0.9 > read[:, -100:].max()


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = saved(np.zeros((64, 64, 3), np.uint8), tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[:70])
    for name, said in (("text.png", "cannot be read as an image"), ("half.png", "cannot be read as an image"), ("none.png", "no file")):
        with pytest.raises(InputError, match=said):
            images.read(tmp_path / name)


def test_made_up_images_are_the_same_everywhere_and_use_the_whole_range() -> None:
    found, again = images.made_up(3), images.made_up(3)
    assert len(found) == 5
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert {image.shape for image in found} == {(1, 3, 224, 224)}
    assert min(image.min() for image in found) == -127 / 128
    assert max(image.max() for image in found) == 1


def test_labels() -> None:
    try:
        files.IMAGENET.verify()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    names = images.labels()
    assert len(names) == 1000
    assert [names[place] for place in (0, 285, 967)] == ["tench", "Egyptian cat", "espresso"]
