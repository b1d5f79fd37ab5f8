"""One thing that is wrong in a model repository."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A hazard: where in the repository, what, and how it is mended."""

    where: str
    what: str
    mend: str
