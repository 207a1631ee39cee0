"""What holds for every task there is; and the known answers of classification and cost."""

import copy

import numpy as np
import pytest
import torch
from questions import asked_of, numbers, trained
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixbench.bench.data import Gallery, Held, digits
from mixbench.bench.spec import names, parse
from mixbench.methods import Method
from mixbench.methods.baseline import Baseline
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix
from mixbench.tasks import NoImages, Reader, Task, Trained, outputs
from mixbench.tasks.classification import Classification, errors
from mixbench.tasks.cost import Cost, LossTerms
from mixbench.tasks.detection import Detection

CHEAPER = {
    "corruption": "corruption,corruptions=fog+contrast,severities=2",
    "cost": "cost,steps=2,warmup=1",
    "detection": "detection,data=shapes-voc,detector=faster-rcnn,backend=torchvision,"
    "iterations=2,batch=1,size=32,rois=8",
    "intrusion": "intrusion,batches=2",
    "landscape": "landscape,pairs=50",
    "ood": "ood,sets=photographs+uniform",
    "robustness": "robustness,steps=2",
    "variance": "variance,batches=3",
}
MEASURED = {"speed", "memory"}  # of the machine, not of the network
NAMES = names("mixbench.tasks")


def cheap(name: str) -> Task:
    built: Task = parse(CHEAPER.get(name, name), "mixbench.tasks", Task)
    return built


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """Digits, of which some are held out, and all that tasks look at beside them."""
    root = tmp_path_factory.mktemp("data")
    dataset = digits.read(root).hold_out(0.1)
    return Gallery(Held(dataset, batch=64, crop=1, flip=False, seed=0), "digits", root)


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return cheap(request.param)


@pytest.fixture
def subject(gallery: Gallery) -> Trained:
    return trained(Mixup(), gallery)


@pytest.fixture
def apt(task: Task, gallery: Gallery) -> Trained:
    """A network that the task can be asked of."""
    net = "resnet18" if isinstance(task, Detection) else "small"
    return trained(Mixup(), gallery, net=net)


def test_a_task_answers_with_its_metrics_and_leaves_data_alone(
    task: Task, apt: Trained, gallery: Gallery
) -> None:
    task.check(gallery)
    before = [t.clone() for t in pixels(gallery)]
    read = {name: copy.deepcopy(apt.outputs(name)) for name in ("train", "test")}
    answer = task.evaluate(apt)
    assert set(numbers(answer)) == set(task.answered)
    for name, value in answer.items():
        assert isinstance(value, int | float | list | Tensor | None), name
        told = [part for part in tree_leaves(value) if not isinstance(part, str | None)]
        assert all(np.isfinite(np.asarray(part)).all() for part in told)
    assert all(a.equal(b) for a, b in zip(before, pixels(gallery), strict=True))
    for name, old in read.items():
        assert all(a.equal(b) for a, b in zip(parts(old), parts(apt.outputs(name)), strict=True))


def pixels(gallery: Gallery) -> list[Tensor]:
    dataset = gallery.data.dataset
    return [split.x for split in (dataset.train, dataset.test)]  # type: ignore[union-attr]


def parts(of: object) -> list[Tensor]:
    return list(vars(of).values())


def test_a_task_is_decided_by_the_seed(task: Task, apt: Trained) -> None:
    def once() -> dict[str, object]:
        again = copy.deepcopy(apt)
        torch.manual_seed(5)
        answer = task.evaluate(again)
        told = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in answer.items()}
        return {name: value for name, value in told.items() if name not in MEASURED}

    assert once() == once()


def test_every_metric_prints_and_one_is_in_tables(task: Task) -> None:
    for rule in task.metrics.values():
        assert rule.title and f"{1.5:{rule.form}}"
    assert any(rule.main for rule in task.metrics.values())


@pytest.mark.parametrize(
    "name", sorted(set(NAMES) - {"cost", "detection", "intrusion", "variance"})
)
def test_a_task_names_logits_that_are_not_finite(name: str, subject: Trained) -> None:
    broken = copy.deepcopy(subject)
    net = broken.net
    net.head.bias.data[0] = torch.nan  # type: ignore[operator, union-attr]
    broken = Trained(
        net, broken.objective, subject.data, subject.epochs, Reader(net, subject.data.batches)
    )
    with pytest.raises(ArithmeticError, match="not finite"):
        cheap(name).evaluate(broken)


def test_outputs_are_what_enters_and_what_leaves_the_head(subject: Trained) -> None:
    batches = list(subject.data.batches("test"))
    of = outputs(subject.net, batches, "test")
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        torch.testing.assert_close(of.logits, subject.net(x))
        torch.testing.assert_close(subject.net[-1](of.embeddings), of.logits)
    assert of.labels.equal(torch.cat([y for _, y in batches]))
    assert len(of) == len(x) and not of.logits.requires_grad
    assert not subject.net[-1]._forward_pre_hooks


def test_what_passes_while_batches_are_made_is_no_output(subject: Trained) -> None:
    """As when images are attacked."""
    net, batches = subject.net, list(subject.data.batches("test"))
    made = ((x, y) for x, y in batches if net(x).isfinite().all())
    of = outputs(net, made, "test")
    assert len(of.embeddings) == len(of.logits) == len(of) == 500


def test_a_set_is_read_once_and_timed(subject: Trained) -> None:
    asked = list[str]()

    def batches(name: str) -> object:
        asked.append(name)
        return subject.data.batches(name)

    reader = Reader(subject.net, batches)  # type: ignore[arg-type]
    assert reader("test").logits is reader("test").logits and asked == ["test"]
    assert list(reader.seconds) == ["test"] and reader.seconds["test"] > 0


def test_a_set_without_images_is_none(subject: Trained) -> None:
    with pytest.raises(NoImages, match="held_out has no images"):
        Reader(subject.net, lambda name: [])("held_out")


def random_logits(n: int = 200, c: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, c, generator=draw), torch.randint(c, (n,), generator=draw)


def test_errors_agree_with_scikit_learn() -> None:
    logits, y = random_logits()
    scores = errors(nn.Identity(), [(logits, y)])
    for k in (1, 5):
        right = top_k_accuracy_score(y, logits, k=k, labels=range(8))
        assert scores[f"top{k}"] == pytest.approx(100 * (1 - right))


def test_errors_by_hand() -> None:
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2], [3, 2, 1, 0, -1, -2], [0, 0, 0, 0, 0, 9]])
    scores = errors(nn.Identity(), [(logits, torch.tensor([0, 5, 4]))])
    assert scores == pytest.approx({"top1": 200 / 3, "top5": 200 / 3})
    nan = torch.full((1, 6), torch.nan)
    assert errors(nn.Identity(), [(nan, torch.tensor([0]))]) == {"top1": 100, "top5": 100}


def test_classification_tells_last_best_and_median_of_ten() -> None:
    logits, y = random_logits()
    scores = Classification().evaluate(asked_of(logits, y))
    assert scores["top1"] == errors(nn.Identity(), [(logits, y)])["top1"]
    assert (scores["top1_best"], scores["top5_best"]) == (9, 0)
    assert (scores["top1_median"], scores["top5_median"]) == (13.5, 6.5)


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        (Baseline(), 64),
        (Mixup(), 64),
        (MultiMix(n=100), 100),
        (DenseMultiMix(n=100), 400),
    ],
)
def test_cost_counts_the_loss_terms(method: Method, terms: int, gallery: Gallery) -> None:
    scores = Cost(steps=2).evaluate(trained(method, gallery))
    assert scores["terms"] == terms
    assert scores["speed"] > 0
    assert scores["memory"] > 50  # torch alone takes more


def test_both_criteria_count_as_loss_terms() -> None:
    logits = torch.randn(6, 5)
    with LossTerms() as terms:
        nn.functional.cross_entropy(logits, logits.softmax(1))
        nn.functional.binary_cross_entropy_with_logits(logits[:2], logits[:2].sigmoid())
    assert terms.count == 8
