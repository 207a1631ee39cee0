"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mixbench.bench import catalogue
from mixbench.bench.cells import Store
from mixbench.bench.lab import Lab
from mixbench.methods._adain import inverse_vgg, vgg


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever weights lie on this machine, tests see none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("empty")))
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests remember is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights for StyleMix, in files as they are published."""
    home = tmp_path_factory.mktemp("torch")
    (checkpoints := home / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(vgg().state_dict(), checkpoints / "vgg_normalised.pth")
    torch.save(inverse_vgg().state_dict(), checkpoints / "decoder.pth")
    return home


@pytest.fixture
def adain(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """StyleMix finds weights."""
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    catalogue._refusal.cache_clear()
    yield
    catalogue._refusal.cache_clear()


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
