"""Types of hyper-parameters that pydantic has no name for; its ``PositiveFloat`` and kin serve too."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat

Probability = Annotated[float, Field(ge=0, le=1)]


def _two_ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != 2 or values[0] > values[1]:
        raise ValueError("it should be two numbers in ascending order, such as 0.5+2")
    return values


Range = Annotated[tuple[PositiveFloat, ...], AfterValidator(_two_ascending)]
