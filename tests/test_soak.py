"""A short soak: many clients, models and sessions at once; the long one (``python tools/soak``) also holds memory to its bound."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOAK = Path(__file__).parents[1] / "tools" / "soak"


@pytest.mark.slow
@pytest.mark.timeout(300)  # five processes and four clients, on whatever the machine has left
def test_a_slice() -> None:
    command = [sys.executable, str(SOAK), "--seconds", "4", "--clients", "4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert (found["wrong"], found["failed"]) == ([], [])
    assert all(logged == {"done": found["runs"]} for logged in found["logged"].values())
    assert all(one["answers"] >= 4 for one in found["models"].values())
    assert all(one["holds"] is None for one in found["memory"].values())  # too short to tell
    assert (found["holds"], done.returncode) == (True, 0)


@pytest.fixture(scope="module")
def memory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak_memory", SOAK / "memory.py")
    assert spec is not None
    assert spec.loader is not None
    out = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = out  # dataclasses look their module up
    spec.loader.exec_module(out)
    return out


@pytest.mark.parametrize(("leak", "holds"), [(0, True), (100, True), (1000, False)])
def test_growth_is_told_from_noise(memory: ModuleType, leak: int, holds: bool) -> None:
    warm_up = [(float(t), 600_000 + 4_000 * t) for t in range(100)]
    flat = [(float(t), 1_000_000 + leak * (t - 100) + 20_000 * (t % 2)) for t in range(100, 300)]
    found = memory.growth(warm_up + flat)
    assert found["holds"] is holds
    assert abs(found["slope_bytes_per_s"] - leak) < 50
    assert memory.growth(warm_up[:50])["holds"] is None
