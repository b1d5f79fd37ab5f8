"""What a change of a repository asks of the server that serves it."""

from collections.abc import Mapping
from typing import Protocol

from bandstop.export.record import ReleaseRecord


class Server(Protocol):
    """A running server on the repository that is changed; raises nothing but NotServed."""

    def reach(self) -> None:
        """Refuse unless the server answers and lets us load; called before a file is changed."""
        ...

    def load(self, model: str) -> None:
        """Make the server take up what the repository now says of `model`."""
        ...

    def unload(self, model: str) -> None:
        """Make the server let go of `model`, which is about to be removed."""
        ...

    def prove(self, model: str, served: Mapping[int, ReleaseRecord]) -> None:
        """Refuse unless exactly the versions `served` are ready, and answer as they should."""
        ...

    def prove_images(self, model: str, version: int, record: ReleaseRecord, top_k: int) -> None:
        """Refuse unless the ensemble of `model` answers with `version`, as that should."""
        ...
