"""What each task costs, beside what all of them share: to put sets of images through the network.

Images are random, as many as CIFAR-100 has, in as many classes; the network is not trained. Sets
are read first, each on a line of its own; what a task takes after that is its own. Time is the
process's own on a CPU, and that of the clock on a GPU; that of imports is not in it.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import click
import torch

from mixbench.bench import nets
from mixbench.bench.data import Dataset, Gallery, Held, Images
from mixbench.bench.data import held as on_device
from mixbench.bench.formats.markdown import grid
from mixbench.bench.provenance import device_name
from mixbench.bench.spec import parse
from mixbench.methods.mixup import Mixup
from mixbench.tasks import Reader, Task, Trained, measured

CLASSES, SIZE, BATCH = 100, 32, 128
SETS = ("train", "test", "uniform", "gaussian")
EPOCH = {"top1": 99.0, "top5": 95.0, "loss": 4.6, "seconds": 1.0}
TASKS = (
    "classification",
    "calibration",
    "ood,sets=uniform+gaussian",
    "ood,score=knn,sets=uniform+gaussian",
    "embedding",
    "intrusion",
    "landscape",
    "robustness,attacks=fgsm",
    "robustness,attacks=pgd",
    "corruption,corruptions=contrast",
    "variance",
)


def dataset(images: int) -> Dataset:
    """So many test images, and five times as many to train on."""
    return Dataset(_images(5 * images), _images(images), CLASSES)


def _images(n: int) -> Images:
    x = torch.randint(256, (n, 3, SIZE, SIZE), dtype=torch.uint8)
    return Images(x, torch.arange(n) % CLASSES)


def subject(name: str, gallery: Gallery, device: torch.device) -> Trained:
    """A network that was to be trained with mixup."""
    net = nets.build(name, CLASSES, SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).to(device)
    objective = Mixup().objective(net.to(memory_format=torch.channels_last)).eval()
    return Trained(net, objective, gallery, [EPOCH], Reader(net, gallery.batches))


def ask(name: str, trained: Trained) -> None:
    """As a run does, of a copy."""
    objective = copy.deepcopy(trained.objective)
    task: Task = parse(name, "mixbench.tasks", Task)
    seen = trained.data, trained.epochs, trained.outputs
    task.evaluate(Trained(objective.net, objective, *seen))  # type: ignore[arg-type]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = process_time()
    with measured(device) as measure:
        work()
    return process_time() - start if device.type == "cpu" else measure.seconds


def timed(trained: Trained, tasks: tuple[str, ...], device: torch.device) -> Iterator[list[str]]:
    """What was done, and the seconds that it took."""
    for name in SETS:
        taken = seconds(lambda name=name: trained.outputs(name), device)  # type: ignore[misc]
        yield [f"{name}, {len(trained.outputs(name)):,} images", f"{taken:.2f}"]
    for name in tasks:
        taken = seconds(lambda name=name: ask(name, trained), device)  # type: ignore[misc]
        yield [name, f"{taken:.2f}"]


def gallery(images: int, device: torch.device, folder: str) -> Gallery:
    data = Held(on_device(dataset(images), device), batch=BATCH, crop=4, flip=True, seed=0)
    return Gallery(data, "random", Path(folder))


@click.command(help=__doc__)
@click.argument("tasks", nargs=-1)
@click.option("--net", default="preactresnet18-narrow", show_default=True)
@click.option("--images", default=10_000, show_default=True, help="In the test set.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--threads", default=1, show_default=True, help="On a CPU.")
def main(tasks: tuple[str, ...], net: str, images: int, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    there = torch.device(device)
    with TemporaryDirectory() as folder:
        trained = subject(net, gallery(images, there, folder), there)
        small = subject(net, gallery(CLASSES * 2, there, folder), there)
        for name in tasks or TASKS:  # to import and warm up
            ask(name, small)
        rows = [*timed(trained, tasks or TASKS, there)]
    click.echo(f"{net}, {images:,} test images, torch {torch.__version__}")
    click.echo(f"{device_name(there)}, {threads} threads\n")
    click.echo(grid([["set of images, or task", "seconds"], *rows]))


if __name__ == "__main__":
    main()
