"""moiety: private AI inference between parties that do not trust each other.

Names load at first use, so that a compute party, which needs none of PyTorch, never pays for it.
"""

from importlib import import_module
from typing import Any

CONTENTS = {
    "connect": "moiety.engine.federation",
    "local": "moiety.engine.federation",
    "MoietyError": "moiety.errors",
}

__all__ = ["MoietyError", "connect", "local"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in CONTENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(CONTENTS))}")
    value = globals()[name] = getattr(import_module(CONTENTS[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *CONTENTS})


def _version() -> str:
    """Of the installed package, else of the checkout that it runs from."""
    import importlib.metadata
    import tomllib
    from pathlib import Path

    try:
        return importlib.metadata.version("moiety")
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
