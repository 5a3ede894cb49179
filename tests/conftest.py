"""What all tests share: the folder of test data, and the promise that no process outlives a test session."""

import contextlib
import importlib.util
import os
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from moiety.models import files

MARK = "MOIETY_TEST_SESSION"  # inherited by every process a test starts, its orphans included
PATIENCE_S = 5.0
OUTLIVED: list[str] = []


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of test data (``MOIETY_DATA``, else ``../shared/data``); the test is skipped where there is none."""
    try:
        return files.data_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of photographs that scikit-image carries, found without importing it; the test is skipped where there is none."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-image is not installed")
    return Path(spec.origin).parent / "data"


def pytest_configure() -> None:
    os.environ[MARK] = uuid.uuid4().hex
    os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the network for a model fails at once


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("dist", "no") == "no" or hasattr(session.config, "workerinput"):  # else workers run the tests
        end_survivors()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["outlived"] = OUTLIVED
    elif OUTLIVED:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What outlived the tests of one of several workers (pytest -n) fails the session as a whole."""
    OUTLIVED.extend(getattr(node, "workeroutput", {}).get("outlived", ()))


def end_survivors() -> None:
    """Wait for what still runs, then kill it and note it."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := survivors()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        OUTLIVED.append(f"{process.pid} ({describe(process)})")
        with contextlib.suppress(psutil.Error):
            process.kill()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for process in OUTLIVED:
        terminalreporter.write_line(f"FAILED: process {process} outlived the test session and was killed", red=True)


def describe(process: psutil.Process) -> str:
    """Its command line, as far as it still has one."""
    try:
        return " ".join(process.cmdline())[:120]
    except psutil.Error:
        return "gone meanwhile"


def survivors() -> list[psutil.Process]:
    """Processes started by this session that still run; Python's own resource tracker ends with the session."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and started_here(process)]


def started_here(process: psutil.Process) -> bool:
    """Whether the process carries this session's mark in its environment."""
    try:
        return (
            process.environ().get(MARK) == os.environ[MARK]
            and process.status() != psutil.STATUS_ZOMBIE
            and "multiprocessing.resource_tracker" not in " ".join(process.cmdline())
        )
    except psutil.Error:
        return False
