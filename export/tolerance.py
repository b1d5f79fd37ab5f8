"""How closely a file must compute what it should, and how closely that is told."""

from bandstop.export.spec import ExportSpec

TOLERANCE = 1e-4  # absolute, on logits
WITH_16_BITS = 1e-3  # the same, where the masks are stored with 16 bits


def allowed(spec: ExportSpec) -> float:
    """Return by how much a logit of the graph of `spec` may differ."""
    return TOLERANCE if spec.table == "float32" else WITH_16_BITS


def two_digits(difference: float) -> float:
    """Return `difference` as a record tells it: the rest is the noise of one processor."""
    return float(f"{difference:.1e}")
