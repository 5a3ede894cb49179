"""Docstrings name other objects as ``:func:`name```; on the pages of ``make docs`` that becomes a link, where the object has an entry."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`(~?)([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites the roles of every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = ROLE.sub(lambda match: link(obj, *match.groups()), obj.docstring.value)


def link(scope: griffe.Object, short: str, name: str) -> str:
    """The name in the font of code; ``~`` shows its last part alone. A name is looked up where the docstring stands."""
    try:
        path = scope.resolve(name)
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'
