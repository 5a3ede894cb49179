"""Makes ``support`` importable, and every test of this folder reproducible."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
