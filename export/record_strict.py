"""What every part of a record is (no torch in here)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# as large as they may be in config.pbtxt, and in any reader of JSON
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
Microseconds = Annotated[int, Field(ge=0, le=2**53 - 1)]
Size = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """A part of release.json: no field too many, none missing, no conversion of types, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
