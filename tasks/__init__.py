"""Questions to a trained network, one file each."""

from mixbench.tasks._base import Answer, Data, Inapplicable, Metric, Task, Trained
from mixbench.tasks._measure import Measure, measured
from mixbench.tasks._ops import Watching, distinct, endless
from mixbench.tasks._outputs import NoImages, Outputs, Reader, outputs

__all__ = ["Answer", "Data", "Inapplicable", "Measure", "Metric", "NoImages", "Outputs", "Reader"]
__all__ += ["Task", "Trained", "Watching", "distinct", "endless", "measured", "outputs"]
