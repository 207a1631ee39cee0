"""Types of hyper-parameters that pydantic has no name for; its ``PositiveFloat`` and kin serve too."""

from typing import Annotated

from annotated_types import Interval, Predicate
from pydantic import PositiveFloat

Probability = Annotated[float, Interval(ge=0, le=1)]


def in_ascending_order(values: tuple[float, float]) -> bool:
    return values[0] <= values[1]


Range = Annotated[tuple[PositiveFloat, PositiveFloat], Predicate(in_ascending_order)]
