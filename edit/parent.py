"""What an edit changed of a network, told by digests: nothing of it may come back unseen."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bandstop.edit.storage import tensor_sha256


def parent_tensors(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the digest in the state dict `before` of every tensor that differs in `after`.

    Args:
        before: of the network that was edited, BatchNorm folded.
        after: of the edited one; the same names.
    """
    pairs = (
        (name, value.detach().cpu(), after[name].detach().cpu()) for name, value in before.items()
    )
    return {name: tensor_sha256(old) for name, old, new in pairs if not torch.equal(old, new)}
