"""Several processes on one job, as `torchrun` starts them; one process alone is a team of one.

Every process holds the whole model and draws the same random numbers. It computes its share of each
batch, and what is summed over the team is what one process alone would have computed, up to
rounding. So the losses, and with them every decision, are the same in all processes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """Make this process part of the team that `torchrun` started; without it do nothing."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(count: int) -> slice:
    """Return which of `count` things are this process's: every `size()`-th."""
    return slice(rank(), count, size())


def summed(value: Tensor) -> Tensor:
    """Return the sum of `value` over the team; `value` is left as it was, and no gradient flows."""
    if size() == 1:
        return value.detach()
    total = value.detach().clone().contiguous()
    dist.all_reduce(total)
    return total


def of_all(own: Tensor, count: int) -> Tensor:
    """Return what the team has of `count` things, one value each (count, ...).

    Gradients flow into this process's share alone; summed over the team they are those of one
    process (`sum_gradients_`).

    Args:
        own: this process's `share(count)`, (len of it, ...).
        count: in all.
    """
    if size() == 1:
        return own
    whole = own.new_zeros((count, *own.shape[1:]))
    whole[share(count)] = own.detach()
    whole = summed(whole)
    live = own.new_zeros(whole.shape)
    live[share(count)] = own - own.detach()  # zero, and carries the gradient
    return whole + live


def sum_gradients_(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its sum over the team; one that is missing counts as zero."""
    if size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
