"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mixbench.bench.cells import Store
from mixbench.bench.runs import Lab


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def float64() -> Iterator[None]:
    """Draws and networks in double precision, for this test alone."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(Store(tmp_path / "results"))
