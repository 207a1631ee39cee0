"""The task of corrupted test images: what it is a mean of, what it asks for, what it refuses."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import torch
from questions import EPOCHS, Sets, numbers, trained
from torch import Tensor, nn

from mixbench.bench.data import Gallery, Held, digits
from mixbench.bench.data._corruptions import CORRUPTIONS, SEVERITIES
from mixbench.bench.spec import BadInput, parse, spell
from mixbench.tasks import Reader, Task, Trained
from mixbench.tasks.classification import errors
from mixbench.tasks.corruption import Corruption

FEW = Corruption(corruptions=("fog", "contrast"), severities=(1, 3, 5))
SHARES = {"fog": (0.1, 0.2, 0.6), "contrast": (0.0, 0.5, 1.0)}


def wrong(share: float) -> tuple[Tensor, Tensor]:
    """Logits of ten images, of which a share is classified wrong."""
    y = torch.arange(10)
    return torch.eye(10)[(y + (y < 10 * share)) % 10], y


def asked() -> Trained:
    net = nn.Sequential(nn.Identity())
    data = Sets(
        {
            f"published/{name}/{severity}": wrong(share)
            for name, shares in SHARES.items()
            for severity, share in zip(FEW.severities, shares, strict=True)
        }
    )
    return Trained(net, net, data, EPOCHS, Reader(net, data.batches))


def gallery(root: Path) -> Gallery:
    return Gallery(Held(digits.read(Path()), batch=64, crop=0, flip=False, seed=0), "digits", root)


def test_it_is_the_mean_over_corruptions_and_severities() -> None:
    task = Corruption("published", FEW.corruptions, FEW.severities)
    answer = task.evaluate(asked())
    assert numbers(answer) == pytest.approx({"error": 40, "error_fog": 30, "error_contrast": 50})
    assert answer["by_severity"] == pytest.approx([5, 35, 80])


def test_it_asks_for_no_other_sets() -> None:
    task = Corruption("published", ("contrast",), (5, 1))
    answer = task.evaluate(asked())
    assert numbers(answer) == pytest.approx({"error": 50, "error_contrast": 50})
    assert answer["by_severity"] == pytest.approx([100, 0])


def test_no_outputs_are_kept() -> None:
    subject = asked()
    Corruption("published", FEW.corruptions, FEW.severities).evaluate(subject)
    assert not subject.outputs.seconds


def test_it_asks_for_all_fifteen_at_all_five_in_the_published_order() -> None:
    assert Corruption().corruptions == tuple(CORRUPTIONS)
    assert Corruption().severities == SEVERITIES
    assert list(Corruption().metrics) == ["error", *(f"error_{name}" for name in CORRUPTIONS)]


def test_only_the_mean_is_a_main_metric() -> None:
    assert [name for name, rule in Corruption().metrics.items() if rule.main] == ["error"]
    assert all(rule.better == "lower" for rule in Corruption().metrics.values())
    assert len({rule.title for rule in Corruption().metrics.values()}) == 16


def test_a_network_s_answer_is_that_of_its_errors_on_each_set(tmp_path: Path) -> None:
    data = gallery(tmp_path)
    subject = trained(data=data)
    each = {
        name: [
            errors(subject.net, data.batches(f"generated/{name}/{s}"))["top1"] for s in (1, 3, 5)
        ]
        for name in FEW.corruptions
    }
    answer = FEW.evaluate(subject)
    assert set(numbers(answer)) == set(FEW.metrics)
    assert answer["error_fog"] == pytest.approx(fmean(each["fog"]))
    assert answer["error"] == pytest.approx(fmean(fmean(row) for row in each.values()))
    assert min(map(min, each.values())) < max(map(max, each.values()))


@pytest.mark.parametrize(
    ("spelling", "why"),
    [
        ("corruption,corruptions=frog", "did you mean fog or frost"),
        ("corruption,corruptions=fog+snwo", "did you mean snow"),
        ("corruption,severities=1+6", "no severity 6; there are: 1, 2, 3, 4, 5"),
    ],
)
def test_a_set_that_is_not_there_is_named_before_anything_is_trained(
    tmp_path: Path, spelling: str, why: str
) -> None:
    task = parse(spelling, "mixbench.tasks", Task)
    with pytest.raises(BadInput, match=why) as error:
        task.check(gallery(tmp_path))
    assert "\n" not in str(error.value)


def test_what_can_be_made_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(self: Gallery, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(Gallery, "batches", unread)
    Corruption().check(gallery(tmp_path))


@pytest.mark.parametrize(
    ("spelling", "why"),
    [
        ("corruption,corruptions=fog+snow+fog", "it should be one or more, none of them twice"),
        ("corruption,severities=1+1", "it should be one or more, none of them twice"),
        ("corruption,severities=high", "integer"),
        ("corruption,severities=0", "greater than 0"),
        ("corruption,source=cifar-c", "it should be 'generated' or 'published'"),
    ],
)
def test_what_can_t_be_meant_is_refused(spelling: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        parse(spelling, "mixbench.tasks", Task)


def test_a_mean_of_nothing_is_refused() -> None:
    for nothing in ({"corruptions": ()}, {"severities": ()}):
        with pytest.raises(ValueError, match="one or more"):
            Corruption(**nothing)  # type: ignore[arg-type]


def test_it_is_spelled_as_it_is_read() -> None:
    text = "corruption,source=published,corruptions=fog+snow,severities=2+5"
    task = parse(text, "mixbench.tasks", Task)
    assert task == Corruption("published", ("fog", "snow"), (2, 5))
    assert spell(task, "corruption") == text
