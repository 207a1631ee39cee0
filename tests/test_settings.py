"""Settings: spelled, listed or put together, with the recipes of the papers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixbench.bench import runs
from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.data._streamed import Unreadable
from mixbench.bench.lab import Lab, reproducible
from mixbench.bench.launch import Job, Terms
from mixbench.bench.launch.local import launch
from mixbench.bench.optimizers import factor, optimizer
from mixbench.bench.runs import check, fill
from mixbench.bench.settings import SETTINGS, Recipe, Setting
from mixbench.bench.spec import BadInput
from mixbench.bench.training import Training, train
from mixbench.methods import bce_on_softmax


def recipe(text: str) -> Recipe:
    return Setting.parse(text).recipe


def rates(text: str) -> dict[int, float]:
    """The learning rate from each epoch on in which it changes."""
    chosen = recipe(text)
    all_rates = [chosen.lr * factor(chosen, epoch) for epoch in range(chosen.epochs)]
    changes = zip(range(chosen.epochs), all_rates, [0.0, *all_rates], strict=False)
    return {epoch: round(rate, 9) for epoch, rate, before in changes if rate != before}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_settings_are_read_back(name: str) -> None:
    assert str(Setting.parse(name)) == name
    changed = Setting.parse(f"{name},epochs=7,lr=0.5")
    assert (changed.recipe.epochs, changed.recipe.lr) == (7, 0.5)
    assert Setting.parse(str(changed)) == changed


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("digits/smal", "no network 'smal'; did you mean small"),
        ("digits/small,epoch=3", "no field 'epoch'; did you mean epochs"),
        ("digits/small,epochs=0", "epochs: it should be greater than 0"),
        ("digits/small,schedule=linear", "schedule: it should be 'step' or 'cosine'"),
    ],
)
def test_a_wrong_setting_is_explained(text: str, hint: str) -> None:
    with pytest.raises(BadInput) as error:
        Setting.parse(text)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("text", "data", "net"),
    [
        ("cifar10/wrn28-10", "cifar10", "wrn28-10"),
        ("digits/timm/resnet18", "digits", "timm/resnet18"),
        ("folder:/a/b.c/vit-small", "folder:/a/b.c", "vit-small"),
        ("folder:/timm/x/timm/convnext_tiny", "folder:/timm/x", "timm/convnext_tiny"),
        ("folder:/a/timm/timm/resnet18", "folder:/a/timm", "timm/resnet18"),
    ],
)
def test_any_dataset_goes_with_any_network(text: str, data: str, net: str) -> None:
    setting = Setting.parse(f"{text},epochs=7")
    assert (setting.data, setting.net) == (data, net)
    assert str(setting) == f"{text},epochs=7"
    assert Setting.parse(str(setting)) == setting


def test_a_folder_has_one_name_wherever_it_is_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("photos", "./photos/", "photos/../photos", "link", "~/photos", tmp_path / "link"):
        assert str(Setting.parse(f"folder:{path}/small")) == f"folder:{tmp_path}/photos/small"


def test_a_setting_that_is_not_listed_has_the_recipe_of_its_dataset() -> None:
    assert recipe("cifar10/wrn28-10") == recipe("cifar10/preactresnet18")
    assert recipe("cub/timm/convnext_tiny") == recipe("cub/resnet50")
    assert recipe("folder:mine/resnet50") == recipe("imagenet/resnet50")
    assert recipe("folder:mine/vit-small") == recipe("imagenet/vit-small")


def test_a_folders_results_lie_in_one_folder_below_all_results(tmp_path: Path) -> None:
    run = Run("folder:../a b/../../c/timm/resnet18,epochs=7", "mixup", 0)
    folder = Store(tmp_path).folder(run)
    assert len(folder.relative_to(tmp_path).parts) == 5
    assert folder.resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("digits", "no setting 'digits'; there are: cifar100/preactresnet18, "),
        ("cifer10/preactresnet18", "no dataset 'cifer10'; did you mean cifar10"),
        ("cifar10/preactresnet19", "no network 'preactresnet19'; did you mean preactresnet18"),
        ("cifar10/timm/resnet19", "timm has no model 'resnet19'; did you mean timm/resnet"),
        ("folder:mine", "no setting 'folder:mine'"),
        ("folder:a,b/small", "a path can't have a comma"),
        ("folder:/resnet50", "no setting 'folder:/resnet50'"),
        ("folder:a\udcff/small", "a path should be printable and have no comma, unlike"),
        ("digits/small,momentum=0", "without momentum, nesterov should be False"),
        ("digits/small,milestones=0.5+1.5", "it should be less than 1"),
        ("digits/small,warmup=15", "warmup should be less than the 15 epochs"),
        ("imagenet/vit-small,epochs=5", "warmup should be less than the 5 epochs"),
        ("digits/small,loss=mse", "it should be 'ce' or 'bce'"),
        ("digits/small,smoothing=1", "it should be less than 1"),
        ("digits/small,precision=float16", "it should be 'float32' or 'bfloat16'"),
        ("digits/small,jitter=2", "it should be less than or equal to 1"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_in_one_line(text: str, hint: str) -> None:
    with pytest.raises(BadInput) as error:
        Setting.parse(text)
    assert hint in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cifar100/preactresnet18", {0: 0.1, 500: 0.01, 1000: 1e-3, 1500: 1e-4}),
        ("cifar10/wrn16-8,epochs=200", {0: 0.1, 50: 0.01, 100: 1e-3, 150: 1e-4}),
        ("tinyimagenet/preactresnet18", {0: 0.1, 600: 0.01, 900: 1e-3}),
        ("tinyimagenet/preactresnet18-stride2", {0: 0.2, 600: 0.02, 900: 2e-3}),
        (  # PuzzleMix's for CIFAR-100
            "cifar100/preactresnet18,epochs=1200,milestones=0.3333+0.6667",
            {0: 0.1, 400: 0.01, 800: 1e-3},
        ),
        (  # SaliencyMix's
            "cifar100/preactresnet18,epochs=200,milestones=0.3+0.6+0.8,drop=0.2",
            {0: 0.1, 60: 0.02, 120: 0.004, 160: 8e-4},
        ),
        ("imagenet/resnet50", {0: 0.1, 75: 0.01, 150: 1e-3, 225: 1e-4}),
        ("speechcommands/resnet18", {0: 3e-3, 10: 3e-4, 20: 3e-5}),
    ],
)
def test_learning_rates_fall_where_the_papers_say(text: str, expected: dict[int, float]) -> None:
    assert rates(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cifar10/preactresnet18", "2000 128 sgd 1e-4 False step ce 4 None 0 0"),
        ("cifar100/wrn16-8", "2000 128 sgd 1e-4 False step ce 4 None 0 0"),
        ("tinyimagenet/preactresnet18", "1200 256 sgd 1e-4 False step ce 4 None 0 0"),
        ("tinyimagenet/preactresnet18-stride2", "1200 100 sgd 1e-4 True step bce 4 None 0 0"),
        ("imagenet/resnet50", "300 256 sgd 1e-4 True step ce 0 224 0.4 0.1"),
        ("imagenet/vit-small", "300 512 adamw 0.05 False cosine ce 0 224 0.3 0"),
        ("speechcommands/resnet18", "30 100 adamw 0 False step ce 0 None 0 0"),
    ],
)
def test_recipes_are_those_of_the_sources(text: str, expected: str) -> None:
    chosen = recipe(text)
    epochs, batch, optimizer, decay, nesterov, schedule, loss, crop, size, jitter, light = (
        expected.split()
    )
    assert chosen.smoothing == 0 and chosen.momentum == 0.9
    assert (chosen.epochs, chosen.batch, chosen.crop) == (int(epochs), int(batch), int(crop))
    assert (chosen.optimizer, chosen.schedule, chosen.loss) == (optimizer, schedule, loss)
    assert (chosen.weight_decay, chosen.jitter, chosen.lighting) == pytest.approx(
        (float(decay), float(jitter), float(light))
    )
    assert (str(chosen.nesterov), str(chosen.size)) == (nesterov, size)


def test_a_warmup_rises_to_the_full_rate_and_the_cosine_falls_from_there() -> None:
    seen = rates("imagenet/vit-small,epochs=9,warmup=4,lr=1")
    assert [seen[epoch] for epoch in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    cosine = [(1 + torch.tensor(torch.pi * k / 5).cos().item()) / 2 for k in range(5)]
    assert [seen[epoch] for epoch in range(4, 9)] == pytest.approx(cosine, abs=1e-6)


def test_milestones_are_counted_from_the_first_epoch_of_a_warmup() -> None:
    seen = rates("cifar100/preactresnet18,epochs=8,warmup=1,lr=1")
    assert seen == pytest.approx({0: 0.5, 1: 1.0, 2: 0.1, 4: 0.01, 6: 0.001})


def groups(decay: Any) -> dict[float, int]:
    """How many tensors have which weight decay."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    net.register_parameter("pos_embed", nn.Parameter(torch.zeros(1, 5, 4)))
    steps, _ = optimizer(net, Recipe(epochs=1, decay=decay, weight_decay=0.5))
    return {group["weight_decay"]: len(group["params"]) for group in steps.param_groups}


def test_weight_decay_is_on_all_or_on_the_weights_of_layers_only() -> None:
    assert groups("all") == {0.5: 7}
    assert groups("weights") == {0.5: 2, 0.0: 5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of images of the user's own, one bright and one dark."""
    draw = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 5)):
        for name, level in (("dark", 0), ("bright", 128)):
            (where := tmp_path / "mine" / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = level + draw.integers(0, 128, (20 + i, 30, 3), np.uint8)
                Image.fromarray(pixels).save(where / f"{i}.png")
    return tmp_path / "mine"


def seen(run: Run, lab: Lab, epochs: int) -> list[Tensor]:
    """The images and targets that a method is given in its first epochs."""
    training, batches = Training(run, lab), list[Tensor]()
    training.objective.register_forward_pre_hook(lambda _, batch: batches.extend(batch))
    with reproducible(run.seed, lab.device):
        for _ in range(epochs):
            training.epoch()
    return batches


@pytest.mark.parametrize("name", ["digits/small", "folder:{}/small,size=16,batch=8"])
def test_all_methods_see_the_same_batches(name: str, folder: Path, lab: Lab) -> None:
    name = f"{name.format(folder)},precision=float32"
    expected = seen(Run(name, "baseline", 1), lab, 2)
    for method in ("mixup", "puzzlemix", "multimix,n=20"):
        batches = seen(Run(name, method, 1), lab, 2)
        assert len(batches) == len(expected)
        assert all(a.equal(b) for a, b in zip(batches, expected, strict=True))
    assert not seen(Run(name, "baseline", 2), lab, 1)[0].equal(expected[0])


def test_a_training_on_files_resumes_to_the_bit(folder: Path, lab: Lab) -> None:
    name = f"folder:{folder}/small,size=16,batch=8,epochs=4,lr=0.01"
    whole = train(Run(name, "mixup", 0), lab)

    def report(doing: str, done: float, total: int, images: int = 0) -> None:
        if done == 2:
            raise InterruptedError

    elsewhere = replace(lab, store=Store(lab.store.root / "elsewhere"))
    with pytest.raises(InterruptedError):
        train(Run(name, "mixup", 0), elsewhere, report)
    resumed = train(Run(name, "mixup", 0), replace(elsewhere, workers=2))
    for a, b in zip(tree_leaves(weights(whole)), tree_leaves(weights(resumed)), strict=True):
        assert a.equal(b)


def weights(training: Training) -> dict[str, Any]:
    return training.objective.state_dict()


def test_a_training_on_files_learns_in_bfloat16(folder: Path, lab: Lab) -> None:
    name = f"folder:{folder}/small,size=16,batch=8,epochs=8,lr=0.05"
    training = train(Run(name, "baseline", 0), lab)
    assert training.objective.net.dtype == torch.bfloat16
    assert training.epochs[-1]["top1"] == 0


def test_files_that_cant_be_read_are_counted_in_the_record(folder: Path, lab: Lab) -> None:
    (folder / "train" / "dark" / "3.png").write_bytes(b"no image")
    run = Run(f"folder:{folder}/small,size=16,batch=8,epochs=1", "baseline", 0)
    with pytest.warns(Unreadable, match=r"3\.png can't be read"):
        fill(run, ["classification"], lab)
    record = lab.store.read(Cell(run, "classification"))
    assert record and record["made"]["training"]["unreadable_images"] == 1
    strict = replace(run, setting=f"{run.setting},strict=True")
    with pytest.raises(BadInput, match=r"3\.png can't be read"):
        train(strict, lab)


def test_workers_of_a_run_in_a_process_of_its_own_change_nothing(folder: Path, lab: Lab) -> None:
    run = Run(f"folder:{folder}/small,size=16,batch=8,epochs=2", "mixup", 0)
    fill(run, ["calibration"], lab)
    elsewhere = Terms(lab.store.root / "elsewhere", workers=2)
    assert launch([Job(run, ("calibration",))], elsewhere, at_once=1) == {}
    here, there = (each.store.read(Cell(run, "calibration")) for each in (lab, elsewhere))
    assert here and there and here["metrics"] == there["metrics"]
    assert there["made"]["training"]["images"] == {"train": 24, "test": 10}


def test_the_recipe_reaches_network_and_targets(lab: Lab) -> None:
    name = "digits/small,loss=bce,smoothing=0.1,precision=bfloat16"
    training = Training(Run(name, "mixup", 0), lab)
    assert training.objective.net.criterion is bce_on_softmax
    assert training.objective.net.dtype == torch.bfloat16
    _, y = next(training.data.epoch(0))
    torch.testing.assert_close(y.max(1).values, torch.full((64,), 0.91))
    plain = Training(Run("digits/small", "mixup", 0), lab)
    assert plain.objective.net.criterion is torch.nn.functional.cross_entropy
    assert plain.objective.net.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("folder:{}/small,crop=4", "images are read from files: give size=224"),
        ("folder:{}/small,size=None", "images are read from files: give size=224"),
        ("folder:{}/vit-small,size=8,warmup=0", "can't be had as stages: .* on 8 x 8 pixels"),
        ("digits/small,size=16", "size, jitter and lighting are for images that are read"),
        ("digits/small,jitter=0.4", "size, jitter and lighting are for images that are read"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_before_anything_starts(
    name: str, why: str, folder: Path, lab: Lab
) -> None:
    with pytest.raises(BadInput, match=why):
        check({f"{name.format(folder)},batch=8": []}, lab)


def test_a_device_without_bfloat16_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "has_bfloat16", lambda device: False)
    with pytest.raises(BadInput, match=r"cpu has no bfloat16; add precision=float32"):
        check({"digits/small,precision=bfloat16": []}, lab)
    check({"digits/small": []}, lab)
