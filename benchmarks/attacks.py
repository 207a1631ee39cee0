"""What PGD-20 costs, beside 20 plain forward and backward passes on the same images.

All are timed in turn, batch after batch, in one process, so that other load meets them alike.
Time is the process's own on a CPU, and that of the clock on a GPU.
"""

from collections.abc import Callable, Iterator
from statistics import median
from time import process_time

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench import nets
from mixbench.tasks import Reader, Trained, measured
from mixbench.tasks.robustness import Robustness

STEPS = 20


class Batch:
    """Random images (b, 3, 32, 32) with random labels of ten classes, as the only set there is."""

    def __init__(self, images: int, device: torch.device) -> None:
        self.x = torch.rand(images, 3, 32, 32, device=device)
        self.y = torch.randint(10, (images,), device=device)

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.x, self.y

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def require(self, name: str) -> None:
        """Any name will do."""


Way = Callable[[nn.Sequential, Batch], None]


def pgd(net: nn.Sequential, data: Batch) -> None:
    """The task itself, with the error on what it made."""
    task = Robustness(attacks=("pgd",), steps=STEPS)
    task.evaluate(Trained(net, net, data, [], Reader(net, data.batches)))


def at_images(net: nn.Sequential, data: Batch) -> None:
    """The gradient at the images; the parameters are frozen."""
    net.requires_grad_(False)
    z = data.x.clone().requires_grad_()
    for _ in range(STEPS):
        torch.autograd.grad(F.cross_entropy(net(z), data.y), z)


def at_weights(net: nn.Sequential, data: Batch) -> None:
    """The gradient at the parameters, as in training."""
    parameters = list(net.requires_grad_(True).parameters())
    for _ in range(STEPS):
        torch.autograd.grad(F.cross_entropy(net(data.x), data.y), parameters)


WAYS: dict[str, Way] = {
    f"PGD-{STEPS}, and the error after it": pgd,
    f"{STEPS} x forward + backward, at images": at_images,
    f"{STEPS} x forward + backward, at weights": at_weights,
}


def seconds(way: Way, net: nn.Sequential, data: Batch) -> float:
    start = process_time()
    with measured(data.x.device) as measure:
        way(net, data)
    return process_time() - start if data.x.device.type == "cpu" else measure.seconds


@click.command(help=__doc__)
@click.option("--net", "name", default="preactresnet18", show_default=True)
@click.option("--images", default=10_000, show_default=True)
@click.option("--batch", default=250, show_default=True, help="That divides the images.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--threads", default=torch.get_num_threads(), show_default=True, help="On a CPU.")
def main(name: str, images: int, batch: int, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    there = torch.device(device)
    net = nets.build(name, 10, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval()
    net.to(there).to(memory_format=torch.channels_last)
    for way in WAYS.values():  # to warm up
        way(net, Batch(batch, there))
    rows = []
    for _ in range(images // batch):
        data = Batch(batch, there)
        rows.append([seconds(way, net, data) for way in WAYS.values()])
    click.echo(f"{name}, {len(rows) * batch:,} images in batches of {batch}")
    click.echo(f"torch {torch.__version__}, {device}, {threads} threads")
    for label, *taken in zip(WAYS, *rows, strict=True):
        ratio = median(row[0] / mine for row, mine in zip(rows, taken, strict=True))
        click.echo(f"{label:36} {sum(taken):8.2f} s   PGD takes {ratio:.3f} times that, in median")


if __name__ == "__main__":
    main()
