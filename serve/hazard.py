"""A finding about a model repository."""

from dataclasses import dataclass

CONFIG = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class Hazard:
    """Something in a repository that an operator should mend.

    Attributes:
        where: the file or folder, seen from the repository.
        what: is wrong with it, as the rest of a sentence.
        mend: what to do.
        stops: whether a server must not be started on it; the others are warnings.
    """

    where: str
    what: str
    mend: str
    stops: bool = True

    def __str__(self) -> str:
        """Return it as one line."""
        colon = ":" if self.where.endswith(CONFIG) else ""
        return f"{self.where}{colon} {self.what}, {self.mend}"
