"""Whatever bytes are a file of weights, they give exactly the expected tensors or are refused."""

import torch

from bandstop.edit import tensors
from bandstop.edit.errors import ArtifactError

EXPECTED = {
    "conv.weight": torch.zeros(2, 1, 3, 3),
    "bn.running_var": torch.ones(2),
    "bn.num_batches_tracked": torch.tensor(0),
}


def seeds() -> list[bytes]:
    generator = torch.Generator().manual_seed(0)
    lively = {**EXPECTED, "conv.weight": torch.randn(2, 1, 3, 3, generator=generator)}
    return [tensors.dump(EXPECTED), tensors.dump(lively, {"bandstop": '{"format": "x"}'})]


def check(data: bytes) -> bool:
    """Return whether `data` holds the expected tensors."""
    try:
        found = tensors.load(data, EXPECTED, "file")
    except ArtifactError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            raise AssertionError(str(error)) from error
        return False
    assert found.keys() == EXPECTED.keys()
    for name, value in found.items():
        assert (value.shape, value.dtype) == (EXPECTED[name].shape, EXPECTED[name].dtype)
        assert bool(torch.isfinite(value).all())
    assert bool((found["bn.running_var"] >= 0).all())
    return True
