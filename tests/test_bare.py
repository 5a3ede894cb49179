"""An installation of the five packages that a compute party needs, and nothing else, works: imports, kernels, commands.

``make wheels`` shows the same on the built wheel in an environment of its own.
"""

import subprocess
import sys
from pathlib import Path

BARE = Path(__file__).parents[1] / "tools" / "bare.py"
# Nothing beyond those packages, and what they themselves import, can be imported in the child.
BLOCKER = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "tokenizers", "safetensors", "gguf", "accelerate", "scipy", "psutil"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def child(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_works_with_the_packages_of_a_compute_party_alone(tmp_path: Path) -> None:
    assert "party modules load" in child(BLOCKER + "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')", str(BARE))


def test_import_is_quick() -> None:
    """Counted, not timed: the package alone, no module of another package that Python had not loaded itself."""
    loaded = child("import sys; before = set(sys.modules); import moiety; print(*(set(sys.modules) - before))").split()
    assert {"moiety"} == {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
