"""Random numbers that depend on what they are for, not on what was drawn before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

MAX_SEED: Final = 2**63 - 1  # what every generator takes


def seeded(seed: int, *numbers: int) -> torch.Generator:
    """Return a generator of its own for every list of numbers."""
    mixed = seed
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(mixed)


@contextmanager
def global_draws(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let PyTorch's global generators, which dropout draws from, follow `generator` for a while."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
