from collections.abc import Iterator

import pytest

from moiety import ring


@pytest.fixture(params=ring.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test once for every implementation that this build and processor have."""
    with ring.use(request.param):
        yield request.param
