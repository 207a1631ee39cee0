"""Spellings: what they read, how they are written, and what is said of those that are wrong."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbench.bench.spec import BadInput, canonical, names, parse, spell
from mixbench.methods import Method
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.tasks import Task


def method(text: str) -> Method:
    return parse(text, "mixbench.methods", Method)


def test_a_name_alone_is_the_default() -> None:
    assert method("mixup") == Mixup()


def test_fields_are_read_by_their_types() -> None:
    read = method("multimix,n=10,m=2,alpha=1+1,p=1,at=layer1+pool")
    assert read == MultiMix(n=10, m=2, alpha=(1.0, 1.0), p=1.0, at=("layer1", "pool"))


def test_the_canonical_spelling_orders_fields_and_leaves_defaults_out() -> None:
    text = canonical("multimix,alpha=0.5+2.0,n=10,p=0.50,m=3", "mixbench.methods", Method)
    assert text == "multimix,n=10,m=3"


@given(
    alpha=st.floats(1e-6, 1e6),
    p=st.floats(0, 1),
    at=st.lists(st.sampled_from(["pixels", "layer1"]), min_size=1),
)
@settings(max_examples=50)
def test_what_is_spelled_is_read_back(alpha: float, p: float, at: list[str]) -> None:
    thing = Manifold(alpha=alpha, p=p, at=tuple(at))
    assert method(spell(thing, "manifold")) == thing


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("mixpu", "no method 'mixpu'; did you mean mixup"),
        ("qqqq", "there are: alignmixup, augmix, baseline"),
        ("mixup,alpa=1", "no field 'alpa'; did you mean alpha"),
        ("mixup,alpha=-1", "alpha: it should be greater than 0, not '-1'"),
        ("mixup,alpha=much", "alpha: it should be a valid number"),
        ("mixup,alpha=nan", "alpha: it should be a finite number"),
        ("mixup,alpha=inf", "alpha: it should be a finite number"),
        ("mixup,alpha=", "should have the form field=value"),
        ("mixup,alpha", "should have the form field=value"),
        ("mixup,alpha=1,alpha=2", "alpha is given twice"),
        ("mixup,p=2", "p: it should be less than or equal to 1"),
        ("multimix,n=0", "n: it should be greater than 0"),
        ("multimix,n=2.5", "n: it should be a valid integer"),
        ("multimix,alpha=2+1", "alpha: it should be two numbers in ascending order"),
        ("multimix,alpha=1+2+3", "such as 0.5+2, not '1+2+3'"),
        ("multimix,alpha=1", "alpha: it should be two numbers in ascending order"),
        ("densemultimix,attention=gaap", "attention: it should be 'gap', 'cam' or 'uniform'"),
        ("no.such.module", "no.such.module can't be imported: ModuleNotFoundError"),
    ],
)
def test_a_wrong_spelling_is_explained_in_one_line(text: str, hint: str) -> None:
    with pytest.raises(BadInput) as error:
        method(text)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_may_live_in_a_module_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mylab"
    folder.mkdir()
    (folder / "newmix.py").write_text(
        "from dataclasses import dataclass\n"
        "from mixbench.methods.mixup import Mixup\n"
        "@dataclass(frozen=True)\n"
        "class NewMix(Mixup):\n"
        "    cells: int = 4\n"
    )
    (folder / "two.py").write_text(
        "from mixbench.methods import Method\nclass A(Method): ...\nclass B(Method): ...\n"
    )
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "bare.py").write_text(
        "from pydantic.dataclasses import dataclass\n"
        "from mixbench.methods import Method\n"
        "@dataclass(frozen=True)\n"
        "class Bare(Method):\n"
        "    cells: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert canonical("mylab.newmix,cells=8", "mixbench.methods", Method) == "mylab.newmix,cells=8"
    with pytest.raises(BadInput, match="must define one public Method; it has A, B"):
        method("mylab.two")
    with pytest.raises(BadInput, match="ZeroDivisionError"):
        method("mylab.broken")
    with pytest.raises(BadInput, match="every field needs a default"):
        method("mylab.bare")


def test_every_task_is_found() -> None:
    found = [parse(name, "mixbench.tasks", Task) for name in names("mixbench.tasks")]
    assert len(found) >= 4
