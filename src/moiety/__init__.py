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
    if name not in CONTENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(CONTENTS))}")
    value = globals()[name] = getattr(import_module(CONTENTS[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *CONTENTS})
