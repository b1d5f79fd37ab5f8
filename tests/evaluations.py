"""Made-up evaluations with figures as they really come, for reports, comparisons and gates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bandstop.edit.evaluation.catalogue import metrics
from bandstop.edit.evaluation.measure import share
from bandstop.edit.evaluation.record_parts import (
    ArtifactRecord,
    AskedRecord,
    CurvesRecord,
    DataRecord,
    FilterRecord,
    InsertionRecord,
    MeasureRecord,
    MetricRecord,
    RuntimeRecord,
    record_of,
)
from bandstop.edit.evaluation.records import Evaluation

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FORGOTTEN = 3
LAYERS = tuple(
    f"stages.{stage}.{block}.conv{k}" for stage in (0, 1, 2) for block in (0, 1) for k in (1, 2)
)

# subject -> metric -> value, of one class of ten
FIGURES: Mapping[str, Mapping[str, float]] = {
    "original": {
        "test_forget_acc": 0.862,
        "test_retain_acc": 0.931,
        "forget_acc": 0.991,
        "retain_acc": 0.994,
        "retain_drop": 0.0,
        "worst_class_drop": 0.0,
        "probe_acc": 0.868,
        "prototype_acc": 0.851,
        "cka_original": 1.0,
        "relearn_epochs": 0,
        "retain_tune_acc": 0.859,
        "bn_reestimate_acc": 0.861,
        "mia_svc": 0.122,
        "mia_svc_balanced": 0.188,
        "mia_entropy": 0.731,
        "cmia_auc": 0.588,
        "zrf": 0.483,
        "js_div": 0.622,
        "tow": 0.069,
    },
    "edited": {
        "test_forget_acc": 0.004,
        "test_retain_acc": 0.924,
        "forget_acc": 0.002,
        "retain_acc": 0.989,
        "retain_drop": 0.007,
        "worst_class_drop": 0.031,
        "probe_acc": 0.744,
        "prototype_acc": 0.652,
        "cka_original": 0.612,
        "relearn_epochs": 4,
        "retain_tune_acc": 0.041,
        "bn_reestimate_acc": 0.004,
        "mia_svc": 1.0,
        "mia_svc_balanced": 0.987,
        "mia_entropy": 0.241,
        "cmia_auc": 0.531,
        "zrf": 0.561,
        "js_div": 0.122,
        "tow": 0.951,
        "insertion_auc": 0.871,
        "deletion_auc": 0.102,
        "unlearn_seconds": 41.7,
        "peak_memory_mb": 1240.0,
    },
    "retrained": {
        "test_forget_acc": 0.0,
        "test_retain_acc": 0.938,
        "forget_acc": 0.0,
        "retain_acc": 0.996,
        "retain_drop": -0.007,
        "worst_class_drop": 0.009,
        "probe_acc": 0.661,
        "prototype_acc": 0.583,
        "cka_original": 0.548,
        "relearn_epochs": 7,
        "retain_tune_acc": 0.0,
        "bn_reestimate_acc": 0.0,
        "mia_svc": 1.0,
        "mia_svc_balanced": 1.0,
        "mia_entropy": 0.212,
        "cmia_auc": 0.502,
        "zrf": 0.574,
        "js_div": 0.0,
        "tow": 1.0,
    },
    "logit-mask": {
        "test_forget_acc": 0.0,
        "test_retain_acc": 0.934,
        "forget_acc": 0.0,
        "retain_acc": 0.995,
        "retain_drop": -0.003,
        "worst_class_drop": 0.0,
        "probe_acc": 0.868,
        "prototype_acc": 0.851,
        "cka_original": 1.0,
        "relearn_epochs": 1,
        "retain_tune_acc": 0.012,
        "bn_reestimate_acc": 0.0,
        "mia_svc": 1.0,
        "mia_svc_balanced": 1.0,
        "mia_entropy": 0.389,
        "cmia_auc": 0.583,
        "zrf": 0.552,
        "js_div": 0.183,
        "tow": 0.97,
    },
}
PER_CLASS: Mapping[str, list[float | None]] = {
    "original": [0.94, 0.97, 0.91, 0.862, 0.93, 0.89, 0.96, 0.95, 0.96, 0.95],
    "edited": [0.935, 0.968, 0.889, 0.004, 0.921, 0.92, 0.931, 0.944, 0.958, 0.949],
    "retrained": [0.944, 0.971, 0.921, 0.0, 0.939, 0.938, 0.961, 0.952, 0.962, 0.954],
    "logit-mask": [0.942, 0.97, 0.914, 0.0, 0.934, 0.92, 0.963, 0.952, 0.961, 0.951],
}
DESTINATIONS = {
    "original": [0.01, 0.005, 0.03, 0.862, 0.025, 0.045, 0.012, 0.006, 0.003, 0.002],
    "edited": [0.04, 0.02, 0.19, 0.004, 0.16, 0.38, 0.12, 0.06, 0.016, 0.01],
    "retrained": [0.03, 0.01, 0.14, 0.0, 0.11, 0.53, 0.13, 0.04, 0.006, 0.004],
    "logit-mask": [0.05, 0.02, 0.16, 0.0, 0.12, 0.46, 0.13, 0.04, 0.012, 0.008],
}


def svd(seed: int = 0, **figures: float) -> Evaluation:
    """Return an evaluation of a class that SVD took out; `figures` are others of `edited`."""
    return _evaluation("svd", seed, {**FIGURES["edited"], **figures}, insertion=False)


def wf_net(seed: int = 0, **figures: float) -> Evaluation:
    """Return an evaluation of a row of WF-Net, with its masks."""
    plain = _evaluation("wf-net", seed, {**FIGURES["edited"], **figures}, insertion=True)
    artifact = plain.artifact.model_copy(update={"kind": "gates"})
    curves = plain.curves.model_copy(update={"insertion": opened()})
    update = {"artifact": artifact, "curves": curves, "filters": filters()}
    return Evaluation.model_validate_json(plain.model_copy(update=update).model_dump_json())


def instances() -> Evaluation:
    """Return an evaluation of 40 images that L2UL took out, without a retrained network."""
    plain = svd()
    asked = AskedRecord(instances=40)
    artifact = plain.artifact.model_copy(update={"method": "l2ul", "request": asked})
    kept = ("forget_acc", "test_retain_acc", "retain_acc", "relearn_epochs")
    subjects = {
        name: {key: plain.subjects[name][key] for key in kept} for name in ("original", "edited")
    }
    return Evaluation(
        artifact=artifact,
        data=plain.data.model_copy(update={"forget": 40}),
        versions=plain.versions,
        command="bandstop evaluate out/l2ul --data cifar10 --out out/l2ul-evaluation",
        class_names=list(NAMES),
        subjects=subjects,
        metrics=plain.metrics,
        per_class={name: list(PER_CLASS[name]) for name in subjects},
        destinations={"edited": DESTINATIONS["edited"]},
    )


def opened() -> InsertionRecord:
    """Return curves of opening and closing the masks in 5 % steps."""
    fractions = [k / 20 for k in range(21)]
    return InsertionRecord(
        fractions=fractions,
        insertion=[1 - math.exp(-6 * f) * (1 - f) for f in fractions],
        deletion=[math.exp(-9 * f) * (1 - f) for f in fractions],
        insertion_random=[f**1.6 for f in fractions],
        deletion_random=[(1 - f) ** 1.6 for f in fractions],
    )


def filters(names: Sequence[str] = NAMES, top: int = 5) -> dict[str, dict[str, list[FilterRecord]]]:
    """Return a map of `top` filters a class; neighbouring classes share some of them."""
    return {
        layer: {
            name: [
                FilterRecord(channel=(7 * c // 2 * 2 + 5 * k * (1 + c % 3)) % 64, closed=1 - k / 8)
                for k in range(top)
            ]
            for c, name in enumerate(names)
        }
        for layer in LAYERS
    }


def _evaluation(
    method: str, seed: int, edited: Mapping[str, float], *, insertion: bool
) -> Evaluation:
    described = {key: MetricRecord(**asdict(metric)) for key, metric in metrics(10).items()}
    kept = {k: v for k, v in edited.items() if insertion or not k.startswith(("inser", "delet"))}
    return Evaluation(
        artifact=ArtifactRecord(
            method=method,
            params={
                "alpha_retain": [10, 100, 300],
                "alpha_forget": 3,
                "layers": "all",
                "eps": 1e-6,
            },
            seed=seed,
            kind="weights",
            request=AskedRecord(classes=[NAMES[FORGOTTEN]]),
            parent_sha256="a1" * 32,
            files={"model.safetensors": f"{seed:02x}" * 32},
        ),
        data=DataRecord(spec="cifar10:data/cifar10", test=10000, forget=4500, retain=5000),
        versions={"bandstop": "0.1.0", "python": "3.11.7", "torch": "2.10.0"},
        command=(
            f"bandstop evaluate out/{method} --data cifar10:data/cifar10 "
            "--original out/base.safetensors --retrained out/retrained.safetensors "
            f"--out out/{method}-evaluation"
        ),
        class_names=list(NAMES),
        subjects={
            name: {k: _measured(k, value) for k, value in figures.items()}
            for name, figures in {**FIGURES, "edited": kept}.items()
        },
        metrics=described,
        per_class={k: list(v) for k, v in PER_CLASS.items()},
        destinations={k: list(v) for k, v in DESTINATIONS.items()},
        curves=_curves(),
        runtime=RuntimeRecord(
            unlearn_seconds=41.7,
            retrain_seconds=2310.0,
            evaluate_seconds=212.0,
            peak_memory_mb=1240.0,
            device="cpu, 2 threads",
        ),
        warnings=["frog lost 2.9 points of test accuracy, more than any other class that stays"],
    )


def _curves() -> CurvesRecord:
    depth = range(len(LAYERS))
    return CurvesRecord(
        relearn={
            "original": [0.862],
            "edited": [0.004, 0.22, 0.56, 0.79, 0.87],
            "retrained": [0.0, 0.11, 0.32, 0.55, 0.68, 0.77, 0.83, 0.865],
            "logit-mask": [0.0, 0.871],
        },
        cka={
            "original": {
                "edited": {LAYERS[k]: 1 - 0.032 * k for k in depth},
                "retrained": {LAYERS[k]: 0.97 - 0.038 * k for k in depth},
                "logit-mask": dict.fromkeys(LAYERS, 1.0),
            },
            "retrained": {
                "original": {LAYERS[k]: 0.97 - 0.038 * k for k in depth},
                "edited": {LAYERS[k]: 0.965 - 0.03 * k for k in depth},
                "logit-mask": {LAYERS[k]: 0.97 - 0.038 * k for k in depth},
            },
        },
    )


def _measured(key: str, value: float) -> MeasureRecord:
    if key.endswith("_seconds") or key.endswith("_mb") or key == "relearn_epochs":
        return MeasureRecord(value=value, n=1)
    if key.endswith("_acc") or key.startswith("mia"):
        n = 9000 if "retain_acc" in key else 1000
        return record_of(share(round(value * n), n))
    return MeasureRecord(value=value, ci95=(value - 0.012, value + 0.012), n=1000)
