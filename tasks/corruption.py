"""Error on corrupted test images (Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261)."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import AfterValidator, PositiveInt
from pydantic.dataclasses import dataclass

from mixbench.tasks import Answer, Data, Metric, Task, Trained, distinct, outputs
from mixbench.tasks.classification import errors_of

T = TypeVar("T")

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 of the paper; four more, which its files hold too, were made to choose models by."""


Some = Annotated[T, AfterValidator(distinct)]


@dataclass(frozen=True)
class Corruption(Task):
    """Top-1 error, the mean over corruptions and severities, of which all weigh the same.

    Not their mCE, in which each corruption is measured against AlexNet's error.

    source: of the images: "published", as there are of CIFAR-10 and CIFAR-100; or "generated",
        made as those were of any test images that are held in memory, but with drawn frost.
    """

    source: Literal["generated", "published"] = "generated"
    corruptions: Some[tuple[str, ...]] = CORRUPTIONS
    severities: Some[tuple[PositiveInt, ...]] = (1, 2, 3, 4, 5)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        each = {
            f"error_{name}": Metric(f"error, %, {name}", "lower", main=False)
            for name in self.corruptions
        }
        return {"error": Metric(f"error on corrupted images ({self.source}), %", "lower")} | each

    def check(self, data: Data) -> None:
        for corruption in self.corruptions:
            for severity in self.severities:
                data.require(self._set(corruption, severity))

    def evaluate(self, trained: Trained) -> Answer:
        """Besides, of each severity the mean over corruptions, ``by_severity``."""
        found = torch.tensor(
            [
                [self._error(trained, corruption, severity) for severity in self.severities]
                for corruption in self.corruptions
            ],
            dtype=torch.float64,
        )
        each = {
            f"error_{corruption}": row.mean().item()
            for corruption, row in zip(self.corruptions, found, strict=True)
        }
        return {"error": found.mean().item(), **each, "by_severity": found.mean(0).tolist()}

    def _set(self, corruption: str, severity: int) -> str:
        return f"{self.source}/{corruption}/{severity}"

    def _error(self, trained: Trained, corruption: str, severity: int) -> float:
        """Of one set, which is read for this alone: all of them would fill the memory."""
        name = self._set(corruption, severity)
        return errors_of(outputs(trained.net, trained.data.batches(name), name))["top1"]
