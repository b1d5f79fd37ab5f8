"""Triton backend `bandstop_names`: logits become the names of the most probable classes.

Runs inside the server's own environment (NumPy) and imports nothing of ours. A row that the model
refused, whose logits are no numbers, never gets a name: its request ends with an error.
"""

import json

import numpy as np
import triton_python_backend_utils as pb

REFUSED = -1  # in applied_forget_class


class Refused(Exception):  # noqa: N818  # the event: these rows were refused
    """Which rows have no answer."""


class TritonPythonModel:
    """One instance of one version."""

    def initialize(self, args):
        """Read the names of this version."""
        config = json.loads(args["model_config"])
        self.labels = read_labels(config, args["model_version"])
        self.gated = any(entry["name"] == "applied_forget_class" for entry in config["input"])
        dims = {entry["name"]: int(entry["dims"][0]) for entry in config["output"]}
        self.top_k = dims["names"]
        if not 1 <= self.top_k <= len(self.labels):
            raise pb.TritonModelException(
                f"output names: expected 1 to {len(self.labels)} of them, got {self.top_k}"
            )

    def execute(self, requests):
        """Answer each request by itself; one with a refused row is refused alone."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            logits = pb.get_input_tensor_by_name(request, "logits").as_numpy()
            applied = None
            if self.gated:
                applied = pb.get_input_tensor_by_name(request, "applied_forget_class").as_numpy()
            check_rows(logits, applied)
        except Refused as error:
            return refusal(error, pb.TritonError.INVALID_ARG)
        except Exception as error:
            return refusal(f"{type(error).__name__}: {error}", pb.TritonError.INTERNAL)
        values = named(logits, self.labels, self.top_k)
        wanted = set(request.requested_output_names())
        return pb.InferenceResponse(
            output_tensors=[pb.Tensor(name, v) for name, v in values.items() if name in wanted]
        )


def refusal(reason, code):
    """Return the response that refuses a request."""
    return pb.InferenceResponse(error=pb.TritonError(str(reason), code))


def read_labels(config, version):
    """Return the class names of `version`; a class without a name is called by its number.

    Raises:
        TritonModelException: the configuration does not say them.
    """
    key = f"labels.{version}"
    text = config.get("parameters", {}).get(key, {}).get("string_value", "")
    try:
        found = json.loads(text)
        fits = isinstance(found, list) and all(isinstance(name, str) for name in found)
    except ValueError:
        fits = False
    if not fits:
        raise pb.TritonModelException(f"parameter {key}: not what bandstop publishes: {text[:200]}")
    return [(name or f"#{index}").encode() for index, name in enumerate(found)]


def check_rows(logits, applied):
    """Refuse a request of which the model has refused a row.

    Args:
        logits: (n, classes).
        applied: (n, slots), what was forgotten; None where requests have no say.

    Raises:
        Refused: the request asked for a class that is none.
        ValueError: logits that are no numbers for another reason.
    """
    bad = np.zeros(len(logits), bool) if applied is None else (applied == REFUSED).any(axis=1)
    if bad.any():
        rows = ", ".join(map(str, np.flatnonzero(bad)[:8]))
        raise Refused(f"image {rows}: forget_class is no class of this model; it was refused")
    if not np.isfinite(logits).all():
        rows = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        raise ValueError(f"image {', '.join(map(str, rows[:8]))}: logits that are no numbers")


def named(logits, labels, top_k):
    """Return name -> array (n, top_k): names, probabilities and indices, most probable first.

    Of equals the lower index comes first. The probabilities of all classes sum to 1.
    """
    scaled = logits.astype(np.float64)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    names = np.array(labels, dtype=object)[best]
    return {
        "names": names,
        "probabilities": np.take_along_axis(probabilities, best, axis=1).astype(np.float32),
        "indices": best.astype(np.int64),
    }
