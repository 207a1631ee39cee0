"""What all tests share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mixbench.bench.cells import Store
from mixbench.bench.runs import Lab, inapplicable
from mixbench.methods._adain import inverse_vgg, vgg


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Whatever weights lie on this machine, tests see none; returns where they would lie."""
    home = tmp_path_factory.mktemp("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        yield home / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def adain(no_weights: Path) -> Iterator[None]:
    """Random weights for StyleMix, in files as they are published."""
    torch.manual_seed(0)
    no_weights.mkdir(parents=True)
    torch.save(vgg().state_dict(), no_weights / "vgg_normalised.pth")
    torch.save(inverse_vgg().state_dict(), no_weights / "decoder.pth")
    inapplicable.cache_clear()
    yield
    shutil.rmtree(no_weights)
    inapplicable.cache_clear()


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
