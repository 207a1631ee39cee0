"""Questions to a trained network, one file each."""

from mixbench.tasks._base import Data, Metric, Task, Trained

__all__ = ["Data", "Metric", "Task", "Trained"]
