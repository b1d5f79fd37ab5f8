"""What every part of a record is (no torch in here)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """A part of release.json: no field too many, none missing, no conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
