"""Large arrays of a party's process are made again without page faults."""

import platform
import subprocess
import sys

import pytest

from moiety.ring import keep_freed

DRAWS = """
import resource, threading
from moiety.ring import Prg, keep_freed
{first}
def draws():
    for i in range(6):
        Prg(bytes(16)).words(i.to_bytes(12, "big"), 1 << 23)  # 64 MiB
        if i == 1:
            before.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
before = []
thread = threading.Thread(target=draws)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before[0])
"""


def faults(first: str) -> int:
    """Page faults of four large draws in a thread, after two of the same size."""
    return int(subprocess.run([sys.executable, "-c", DRAWS.format(first=first)], check=True, capture_output=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_kept_buffers_cost_no_page_faults() -> None:
    kept, fresh = faults("assert keep_freed()"), faults("")
    assert kept < 40 < fresh


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed()
