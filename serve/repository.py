"""Which models a repository holds, and whether a server may be started on it."""

from pathlib import Path

from bandstop.serve.errors import ServeInputError, UnsafeRepository
from bandstop.serve.hazard import CONFIG
from bandstop.serve.hazards import hazards


def check_repository(root: Path) -> list[str]:
    """Return the names of the models in `root`.

    Raises:
        ServeInputError: `root` is no folder, or holds no model.
        UnsafeRepository: it holds code that the server would run, or what makes the server stop;
            everything that was found in one message.
    """
    if not root.is_dir():
        what = "a file" if root.exists() else "missing"
        raise ServeInputError(f"repository {root} is {what}; expected a folder with models")
    if (root / CONFIG).is_file():
        raise ServeInputError(
            f"repository {root} is a model's own folder; name the folder around it"
        )
    if found := [str(hazard) for hazard in hazards(root) if hazard.stops]:
        raise UnsafeRepository(f"repository {root} is not safe to serve: {'; '.join(found)}")
    models = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not models:
        raise ServeInputError(f"repository {root} holds no model; publish a release into it first")
    return models
