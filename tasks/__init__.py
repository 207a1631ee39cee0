"""Questions to a trained network, one file each."""

from mixbench.tasks._base import (
    Answer,
    Data,
    Inapplicable,
    Metric,
    Task,
    Trained,
    Workplace,
)
from mixbench.tasks._measure import Measure, measured
from mixbench.tasks._ops import Watching, distinct, endless, located
from mixbench.tasks._outputs import NoImages, Outputs, Reader, outputs
from mixbench.tasks._scenes import Scene, Scenes

__all__ = ["Answer", "Data", "Inapplicable", "Measure", "Metric", "NoImages", "Outputs", "Reader"]
__all__ += ["Scene", "Scenes", "Task", "Trained", "Watching", "Workplace", "distinct"]
__all__ += ["endless", "located", "measured", "outputs"]
