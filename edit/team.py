"""Several processes on one job, as `torchrun` starts them; one process alone is a team of one.

Every process holds the whole model and draws the same random numbers. It computes its share of each
batch, and what is summed over the team is what one process alone would have computed, up to
rounding. So the losses, and with them every decision, are the same in all processes.

All processes must call what speaks to the team equally often and in the same order; so what one of
them refuses, all of them have to refuse.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

from bandstop.edit.images import ImageSet


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """Make this process part of the team that `torchrun` started; without it do nothing."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:  # "cuda" is then a GPU of its own for each process of a machine
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
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


def batches(images: ImageSet, batch: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield number, images and labels of this process's share of the batches of `images`.

    They are those of `images.batches(batch)`; the images of the others are not read.
    """
    starts = range(0, len(images), batch)
    for start in starts[share(len(starts))]:
        part = images.take(torch.arange(start, min(start + batch, len(images))))
        image, label = next(part.batches(batch))
        yield start // batch, image, label


def sum_(value: Tensor) -> Tensor:
    """Replace a contiguous `value` by its sum over the team, and return it; no gradient flows."""
    if size() > 1:
        dist.all_reduce(value)
    return value


def summed(value: Tensor) -> Tensor:
    """Return the sum of `value` over the team; `value` is left as it was, and no gradient flows."""
    if size() == 1:
        return value.detach()
    return sum_(value.detach().clone(memory_format=torch.contiguous_format))


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
    sum_(whole)
    whole[share(count)] = own  # the same values, which carry the gradient
    return whole


def once(value: Tensor) -> Tensor:
    """Return `value`, which all processes have alike; its gradient counts in the first alone."""
    if rank() == 0:
        return value
    return value.detach() + 0 * value  # still has a graph: there may be nothing else to go back


def together(own: Tensor) -> Tensor:
    """Return what all processes have, one after the other along the first dimension.

    Args:
        own: (n, ...), of any n, also 0, but all else alike in all processes.
    """
    if size() == 1:
        return own
    counts = of_all(torch.tensor([len(own)], device=own.device), size()).tolist()
    whole = own.new_zeros((sum(counts), *own.shape[1:]))
    start = sum(counts[: rank()])
    whole[start : start + len(own)] = own.detach()
    return sum_(whole)


def sum_gradients_(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its sum over the team; one that is missing counts as zero."""
    if size() == 1:
        return
    grads = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        grads.append(parameter.grad)
    if not grads:
        return
    flat = sum_(torch.cat([grad.flatten() for grad in grads]))  # in one go: each has its delay
    parts = flat.split([grad.numel() for grad in grads])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))
