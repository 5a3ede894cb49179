"""The floors of the house are checked by import-linter (``make check``); here: what really gets loaded at run time."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

import moiety

PARTY = ("moiety", "moiety.ring", "moiety.net", "moiety.mpc", "moiety.engine.party", "moiety.models.files", "moiety.cli")


def built(module: str) -> bool:
    """Whether the module is there; asked from the root down, for find_spec imports what it looks into."""
    steps = module.split(".")
    return all(find_spec(".".join(steps[:depth])) for depth in range(1, len(steps) + 1))


@pytest.mark.parametrize("module", PARTY)
def test_import_loads_no_torch(module: str) -> None:
    if not built(module):
        pytest.skip(f"{module} is not built yet")
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "transformers"}.intersection(done.stdout.split())


@pytest.mark.parametrize("name", moiety.CONTENTS)
def test_contents_exist(name: str) -> None:
    if not built(moiety.CONTENTS[name]):
        pytest.skip(f"{moiety.CONTENTS[name]} is not built yet")
    assert callable(getattr(moiety, name))


def test_contents_are_the_public_names() -> None:
    assert sorted(moiety.__all__) == sorted(moiety.CONTENTS)
    with pytest.raises(AttributeError, match="it has MoietyError, connect, local"):
        _ = moiety.nothing_of_this_name
