"""Where to compute, as the user says it."""

from bandstop.edit.errors import InputError

HELP = "auto, cpu or cuda."


def device_of(name: str) -> str:
    """Return `cpu` or `cuda`; `auto` takes a GPU where there is one.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU is available here; say --device cpu")
    return name
