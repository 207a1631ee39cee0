"""Table 1 is measured on the methods, and each says in a formula what it does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mixbench.bench.properties import (
    PROPERTIES,
    Published,
    _described,
    markdown,
    properties,
    read_published,
)
from mixbench.bench.spec import BadInput, find, names
from mixbench.methods import Method

METHODS = names("mixbench.methods")
REPORTED = Path(__file__).parents[1] / "results" / "reported" / "multimix-table1.csv"

MODULE = """
from dataclasses import dataclass
import torch
from mixbench.methods import Method

@dataclass(frozen=True)
class Outside(Method):
    copies: int = 3

    def loss(self, net, x, y):
"""

TRIPLES = """
        w = torch.zeros(self.copies * len(x), len(x))
        w[:, :3] = torch.randn(len(w), 3).softmax(1)
        return net.criterion(net(torch.einsum("nb,b...->n...", w, x)), w @ y)
"""
FIXED = """
        return net.criterion((net(x) + net(x).flip(0)) / 2, (y + y.flip(0)) / 2)
"""
LABELS = """
        return net.criterion(net(x.flip(0)), y.flip(0).argmax(1))
"""
HALF = """
        half = len(x) // 2
        return net.criterion(net(x[:half]), y[:half])
"""
SILENT = """
        return net(x).square().mean()
"""
BROKEN = """
        raise RuntimeError("out of ideas")
"""

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a method of the user's own, with the loss that is given: its spelling."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, loss: str) -> str:
        (tmp_path / "ownmethods").mkdir(exist_ok=True)
        (tmp_path / "ownmethods" / f"{name}.py").write_text(MODULE + loss)
        return f"ownmethods.{name}"

    return write


def measured(method: str) -> tuple[str, ...]:
    (row,) = properties([method])[[*PROPERTIES, "why"]].itertuples(index=False, name=None)
    return tuple(row)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_a_short_formula_and_a_source_of_its_own(name: str) -> None:
    kind = find(name, "mixbench.methods", Method)
    assert {"formula", "source"} <= vars(kind).keys()
    lines = kind.formula.splitlines()
    assert 1 <= len(lines) <= 2 and all(5 < len(line) <= 100 for line in lines)
    assert 5 < len(kind.source) <= 60


def test_methods_without_their_own_formula_have_none() -> None:
    assert (Method.formula, Method.source) == ("", "")


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("baseline", ("-", "b", "1", "-", "-")),
        ("mixup", ("input", "b", "2", "1", "Beta")),
        ("mixup,k=3", ("input", "k b", "2", "k", "Beta")),
        ("manifold", ("embedding", "b", "2", "1", "Beta")),
        ("saliencymix", ("input", "b", "2", "≤ b", "Beta")),
        ("zetamixup", ("input", "b", "b", "1", "RandPerm")),
        ("supermix", ("input", "2 b", "1", "-", "Beta")),
        ("supermix,images=3", ("input", "2 b", "1", "-", "Dirichlet")),
        ("multimix", ("embedding", "n", "b", "n", "Dirichlet")),
        ("multimix,n=50,m=4", ("embedding", "n", "m", "n", "Dirichlet")),
        ("densemultimix", ("embedding", "n r", "b", "n r", "Dirichlet")),
    ],
)
def test_what_is_measured_is_what_methods_do(method: str, expected: tuple[str, ...]) -> None:
    assert measured(method) == (*expected, "")


def test_a_method_for_vision_transformers_is_measured_on_one() -> None:
    assert measured("transmix") == ("input", "b", "2", "≤ b", "Beta", "")


def test_a_method_kept_elsewhere_is_measured_too(write: Write) -> None:
    expected = ("input", "copies b", "3", "copies b", "Gaussian", "")
    assert measured(write("triples", TRIPLES)) == expected


def test_mixing_what_leaves_the_network_is_not_mixing_its_input(write: Write) -> None:
    assert measured(write("fixed", FIXED)) == ("embedding", "b", "2", "1", "-", "")


def test_another_order_of_the_same_images_is_no_mixing(write: Write) -> None:
    assert measured(write("labels", LABELS)) == ("-", "b", "1", "-", "-", "")


def test_a_count_may_be_a_part_of_the_batch(write: Write) -> None:
    assert measured(write("half", HALF)) == ("-", "1/2 b", "1", "-", "-", "")


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (SILENT, "it is not seen to compare a prediction with a target"),
        (BROKEN, "RuntimeError: out of ideas"),
    ],
)
def test_what_cannot_be_measured_says_why(write: Write, loss: str, why: str) -> None:
    method = write(f"failing{len(loss)}", loss)
    assert measured(method) == (*["n/a"] * len(PROPERTIES), why)
    assert f"Not measured: `{method}`, {why}." in markdown([method])


def test_a_method_that_lacks_its_weights_says_where_to_get_them() -> None:
    assert measured("stylemix")[-1].startswith("there is no vgg_normalised.pth: take it from")


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(BadInput, match="no method 'mixdown'"):
        properties(["mixdown"])


def test_the_same_methods_give_the_same_table_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = markdown(["manifold"])
    _described.cache_clear()
    assert markdown(["manifold"]) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_what_was_published_stands_beside_what_differs_alone() -> None:
    published = {
        ("mixup", "loss_terms"): Published("b"),
        ("mixup", "max_examples_mixed"): Published("7", "a misprint"),
        ("mixup", "distribution"): Published("Gamma", "a misprint"),
        ("zetamixup", "max_examples_mixed"): Published("25"),
        ("cutmix", "space"): Published("embedding"),
    }
    text = markdown(["mixup", "zetamixup"], published)
    mixup, zeta = (line.split(" | ") for line in text.splitlines()[2:4])
    assert [cell.strip(" |") for cell in mixup] == [
        "mixup",
        "input",
        "b",
        "2 (published: 7)",
        "1",
        "Beta (published: Gamma)",
    ]
    assert zeta[3].strip() == "b (published: 25)"
    assert "`mixup`, most examples mixed, distribution: a misprint." in text
    assert "`zetamixup`, most examples mixed: all weights of a batch are positive" in text


def test_spaces_in_a_product_are_no_difference() -> None:
    published = {("densemultimix", "loss_terms"): Published("nr")}
    assert "published" not in markdown(["densemultimix"], published)


def test_of_the_published_table_all_differences_are_explained() -> None:
    published = read_published(REPORTED)
    assert len(published) == 30
    methods = list(dict.fromkeys(method for method, _ in published))
    text = markdown(methods, published)
    rows = {line.split()[1]: line.count("published") for line in text.splitlines()[2:8]}
    assert rows == dict.fromkeys(methods, 0) | {"zetamixup": 1, "supermix": 4}
    explained = [note for note in text.split("`") if note in rows]
    assert set(explained) == {"zetamixup", "supermix"}
