"""Questions to a trained network, one file each."""

from mixbench.tasks._base import Data, Metric, Task, Trained
from mixbench.tasks._measure import Measure, measured

__all__ = ["Data", "Measure", "Metric", "Task", "Trained", "measured"]
