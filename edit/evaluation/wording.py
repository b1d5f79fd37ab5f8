"""Numbers and requests in words, as the reports and the terminal show them."""

from collections.abc import Sequence

from bandstop.edit.evaluation.record_parts import AskedRecord, MetricRecord

SUBJECTS = ("original", "edited", "retrained", "logit-mask")
LABELS = {
    "original": "before",
    "edited": "edited",
    "retrained": "retrained",
    "logit-mask": "logit mask",
}
ABOUT = {
    "original": "the network as it was trained",
    "edited": "the network under evaluation",
    "retrained": "trained anew without what is to be forgotten",
    "logit-mask": "the original with the answer switched off",
}
HIDES = "hides, does not forget"
CLAIM = (
    "Measured unlearning: evidence of procedure and effect on these images. "
    "It does not show that nothing is left."
)
_NAMED = 6  # classes in one sentence


def shown(value: float, unit: str) -> str:
    """Return a value as it is read, such as `93.1 %` of a share 0.931."""
    match unit:
        case "share":
            return f"{100 * value:.1f} %"
        case "epochs":
            return f"{value:g}" if value == int(value) else f"{value:.1f}"
        case "s":
            return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"
        case "MB":
            return f"{value:,.0f} MB".replace(",", " ")
    return f"{value:.3f}"


def difference(value: float, unit: str) -> str:
    """Return a difference of two values; shares differ in points of percent."""
    return f"{100 * value:.1f} points" if unit == "share" else shown(value, unit)


def signed(value: float) -> str:
    """Return a difference of two shares with its sign, in points of percent."""
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}") + " points"


def interval(ci95: tuple[float, float] | None, unit: str) -> str:
    """Return a 95 % interval, such as `92.0 to 94.1 %`; empty where there is none."""
    if ci95 is None:
        return ""
    low, high = (shown(end, unit) for end in ci95)
    return f"{low.removesuffix(' %')} to {high}"


def target(metric: MetricRecord) -> str:
    """Return the target in words; empty where there is none."""
    if metric.target is None or isinstance(metric.target, str):
        return metric.target or ""
    return shown(metric.target, metric.unit)


def chance(metric: MetricRecord) -> str:
    """Return what guessing gives; empty where that says nothing."""
    return "" if metric.chance is None else shown(metric.chance, metric.unit)


def things(request: AskedRecord) -> str:
    """Return what was to be forgotten, as it stands in a sentence."""
    if request.instances:
        return f"{request.instances} training image{'s' if request.instances > 1 else ''}"
    kind = "class" if len(request.classes) == 1 else "classes"
    return f"the {kind} {listed(request.classes)}"


def listed(names: Sequence[str]) -> str:
    """Return names in quotes, joined as in a sentence; of very many the first ones."""
    quoted = [f"\N{LEFT DOUBLE QUOTATION MARK}{n}\N{RIGHT DOUBLE QUOTATION MARK}" for n in names]
    if len(quoted) > _NAMED:
        return f"{', '.join(quoted[:_NAMED])} and {len(quoted) - _NAMED} more"
    return " and ".join(p for p in (", ".join(quoted[:-1]), quoted[-1]) if p)
