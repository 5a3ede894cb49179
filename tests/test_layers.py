"""The floors of the house are checked by import-linter (``make check``); here: what really gets loaded at run time."""

import importlib.util
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers")


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after the statement."""
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["moiety", "moiety.ring", "moiety.net", "moiety.mpc", "moiety.engine.party", "moiety.models.files", "moiety.cli"]
)
def test_import_loads_no_torch(module: str) -> None:
    if module.count(".") > 1 or importlib.util.find_spec(module) is None:
        parent = module.rpartition(".")[0]
        if importlib.util.find_spec(parent) is None or importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not built yet")
    assert not loaded_by(f"import {module}").intersection(HEAVY)


def test_contents_exist() -> None:
    import moiety

    assert set(moiety.__all__) == set(moiety.CONTENTS)
    assert issubclass(moiety.MoietyError, Exception)
    with pytest.raises(AttributeError, match="it has MoietyError"):
        moiety.nothing_of_this_name  # noqa: B018
