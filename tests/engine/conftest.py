from collections.abc import Iterator

import pytest

from moiety.engine.launch import LocalParties, start
from moiety.engine.session import Deadlines

BRISK = Deadlines(open_s=20.0, wave_s=10.0, result_s=20.0, idle_s=60.0, stall_s=20.0)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalParties]:
    """Three parties that the tests of a module share: most tests also show that what came before left them well."""
    with start(deadlines=BRISK) as parties:
        yield parties
