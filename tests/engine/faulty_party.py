"""A compute party that misbehaves as the file ``fault.json`` beside the federation file says when a channel or a wave comes.

{"action": ..., "frame": n, "at": n, "seconds": s, "peer": name, "purpose": p}   a fault in what goes to a peer
{"kill": role, "wave": n}                                                        SIGKILL itself when that wave starts
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from moiety.engine.party_main import main, parser
from moiety.net import Action, Fault, FaultyChannel


class Trouble:
    """Both seams, directed by one file."""

    def __init__(self, place: Path, name: str) -> None:
        self._place, self._name = place, name

    def wanted(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._place.read_text())
        except (OSError, ValueError):
            return {}
        return found if found.get("party") == self._name else {}

    def wrap(self, link: Any, purpose: str) -> Any:
        fault = self.wanted()
        if "action" not in fault or (link.peer, purpose) != (fault["peer"], fault["purpose"]):
            return link
        return FaultyChannel(link, Fault(Action(fault["action"]), fault["frame"], fault.get("at", 0), fault.get("seconds", 0.0)))

    def wave_started(self, wave: int, label: str) -> None:
        if self.wanted().get("kill") == wave:
            os.kill(os.getpid(), signal.SIGKILL)

    def wave_ended(self, wave: int, label: str) -> None: ...
    def run_failed(self, wave: int, error: BaseException) -> None: ...


if __name__ == "__main__":
    options = parser().parse_args()
    trouble = Trouble(options.federation.parent / "fault.json", options.name)
    sys.exit(main(wrap=trouble.wrap, watcher=trouble))
