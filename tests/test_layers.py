"""The floors of the house are checked by import-linter (``make check``); here: what really gets loaded at run time."""

import subprocess
import sys

import pytest

import moiety

PARTY = ("moiety", "moiety.ring", "moiety.net", "moiety.mpc", "moiety.engine.party", "moiety.models.files", "moiety.cli")


@pytest.mark.parametrize("module", PARTY)
def test_import_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "transformers"}.intersection(done.stdout.split())


@pytest.mark.parametrize("name", moiety.CONTENTS)
def test_contents_exist(name: str) -> None:
    assert callable(getattr(moiety, name))


def test_contents_are_the_public_names() -> None:
    assert sorted(moiety.__all__) == sorted(moiety.CONTENTS)
    with pytest.raises(AttributeError, match="it has MoietyError, connect, local"):
        _ = moiety.nothing_of_this_name
