"""What several parts of the configuration are made of: the base class of sections, types of values, adapters."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
MAX_SEED: Final = 2**32 - 1
"""The largest seed that NumPy's global generator takes, which libraries seed with what they are given."""
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
MAX_PROCESSES: Final = 10_000
"""More processes or threads of one kind are a slip of the pen; planning them would take hours."""
MAX_TRIALS: Final = 100_000
"""More trials of a sweep are a slip of the pen, too."""
Processes = Annotated[int, Field(gt=0, le=MAX_PROCESSES)]
RemoteProcesses = Annotated[int, Field(ge=0, le=MAX_PROCESSES)]
Trials = Annotated[int, Field(gt=0, le=MAX_TRIALS)]
DType = Literal["float32", "bfloat16"]

T = TypeVar("T")
ADJUSTABLE: Final = "adjustable"
"""Where the JSON schema says of a field whether it may be changed when a run is resumed."""

Adjustable = Annotated[T, Field(json_schema_extra={ADJUSTABLE: True})]
"""A field that may have another value from the resume of a run on; of a section, all its fields."""
Fixed = Annotated[T, Field(json_schema_extra={ADJUSTABLE: False})]
"""A field inside an adjustable section that keeps the value with which a run began."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class LoraSection(Section):
    """Low-rank adapters (peft)."""

    rank: Positive = 16
    """Rank of each adapter."""
    alpha: PositiveFloat = 32.0
    """Adapters are scaled by `alpha / rank`."""
