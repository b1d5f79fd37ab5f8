"""`bandstop evaluate` and `bandstop compare`: from artifacts on disk to evidence on disk."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bandstop.cli.main import main
from bandstop.edit.arch import build
from bandstop.edit.artifact import load_artifact
from bandstop.edit.checkpoint import load_checkpoint, save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.edit.evaluation import evaluate as engine
from bandstop.edit.evaluation.records import Evaluation, read_metrics
from bandstop.edit.train import Recipe, train, without_classes
from bandstop.export.record_files import load_release

DATA = load_data("digits", seed=3)
ARCH = Arch("bandstop:resnet", {"width": 12, "blocks": "1-1"})
RECIPE = Recipe(epochs=6, batch=32, lr=0.1, shift=1, flip=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints with and without a class, and an artifact of each kind."""
    root = tmp_path_factory.mktemp("made")
    save_checkpoint(
        root / "base.safetensors", train(ARCH, DATA, RECIPE, seed=3), seed=3, recipe=RECIPE
    )
    never = train(ARCH, without_classes(DATA, (5,)), RECIPE, seed=3)
    save_checkpoint(root / "never.safetensors", never, seed=3, without=(5,))
    numbers = "\n".join(map(str, DATA.train.index[:8].tolist()))
    (root / "list.txt").write_text(numbers)
    quick = ("adversarial=4", "attack_steps=5", "eps=1.0", "batch=16", "lr=0.01")
    for name, method, asked in (
        ("mask", "logit-mask", ["--forget", "5"]),
        ("svd", "svd", ["--forget", "5"]),
        ("svd-1", "svd", ["--forget", "5", "--seed", "1"]),
        ("head", "svd-head", ["--forget", "5"]),
        ("both", "logit-mask", ["--forget", "5,6"]),
        ("gates", "wf-net", ["--set", "steps=20"]),
        ("images", "l2ul", [*quick_options(quick), "--instances", str(root / "list.txt")]),
    ):
        argv = ["unlearn", method, "--model", str(root / "base.safetensors"), "--data", "digits"]
        assert main([*argv, "--out", str(root / name), *asked]) == 0
    return root


def quick_options(settings: tuple[str, ...]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def evaluate(made: Path, artifact: str, out: Path, *more: str) -> int:
    named = ["evaluate", str(made / artifact), "--data", "digits", "--out", str(out)]
    return main([*named, "--device", "cpu", *more])


def compared(made: Path) -> list[str]:
    original, never = made / "base.safetensors", made / "never.safetensors"
    return ["--original", str(original), "--retrained", str(never)]


@pytest.fixture(scope="module")
def svd(made: Path) -> Path:
    """The evaluation of an SVD edit by everything there is."""
    out = made / "evidence-svd"
    run = made / "run.json"
    run.write_text('{"unlearn_seconds": 2.5, "peak_memory_mb": 300.0}')
    (made / "retrain.json").write_text('{"unlearn_seconds": 25.0, "peak_memory_mb": 1.0}')
    more = ("--pack", "full", "--relearn-cap", "2", "--run", str(run))
    instead = ("--retrain-run", str(made / "retrain.json"))
    assert evaluate(made, "svd", out, *compared(made), *more, *instead) == 0
    return out


def values(evaluation: Evaluation, subject: str) -> dict[str, float]:
    return {key: m.value for key, m in evaluation.subjects[subject].items()}


def test_every_network_is_measured_and_the_folder_is_whole(svd: Path) -> None:
    found = read_metrics(svd)
    assert list(found.subjects) == ["original", "retrained", "edited", "logit-mask"]
    edited, mask = values(found, "edited"), values(found, "logit-mask")
    assert values(found, "original")["test_forget_acc"] > 0.9
    assert edited["test_forget_acc"] <= 0.1
    assert mask["test_forget_acc"] == 0
    assert mask["probe_acc"] == values(found, "original")["probe_acc"]  # it only hides
    assert mask["cka_original"] == pytest.approx(1, abs=1e-6)
    assert edited["unlearn_seconds"] == 2.5
    original = values(found, "original")
    assert original["relearn_epochs"] == original["retain_drop"] == 0  # its own measure
    assert original["cka_original"] == pytest.approx(1, abs=1e-6)
    assert values(found, "retrained").keys() >= {"probe_acc", "relearn_epochs", "cka_original"}
    assert {m for m in edited if m not in found.metrics} == set()
    assert edited["peak_memory_mb"] == 300
    page = (svd / "report.html").read_text()
    assert re.search(r"Times faster\W.{0,20}?10\.0", page, re.DOTALL)
    kept = sorted(str(p.relative_to(svd)) for p in svd.rglob("*") if p.is_file())
    assert {"metrics.json", "params.yaml", "report.html", "plots/per_class.json"} <= set(kept)
    assert not (svd.parent / "evidence-svd.partial").exists()


def test_all_metrics_of_the_packs_come_out(svd: Path) -> None:
    assert values(read_metrics(svd), "edited").keys() == {
        *("forget_acc", "retain_acc", "test_forget_acc", "test_retain_acc"),
        *("retain_drop", "worst_class_drop", "probe_acc", "probe_auc", "prototype_acc"),
        *("cka_original", "cka_retrained", "bn_reestimate_acc", "mia_svc", "mia_svc_balanced"),
        *("mia_entropy", "cmia_auc", "neighbour_tv", "neighbour_auc", "zrf", "js_div"),
        *("activation_distance", "tow", "tow_mia", "relearn_epochs", "retain_tune_acc"),
        *("unlearn_seconds", "peak_memory_mb"),
    }


def test_masks_are_folded_and_their_curves_drawn(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    more = ("--forget", "5", "--metrics", "accuracy,insertion")
    assert evaluate(made, "gates", out, *more) == 0
    found = read_metrics(out)
    assert list(found.subjects) == ["original", "edited", "logit-mask"]  # it holds the original
    assert found.curves.insertion is not None
    assert {"insertion_auc", "insertion_random_auc"} <= values(found, "edited").keys()
    masks = load_artifact(made / "gates").gates
    assert masks is not None
    assert found.filters.keys() == masks.masks.keys()
    assert any("retrained" in warning for warning in found.warnings)


def test_single_images_are_evaluated(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    assert evaluate(made, "images", out, "--original", str(made / "base.safetensors")) == 0
    found = read_metrics(out)
    assert found.artifact.request.instances == 8
    assert values(found, "edited")["forget_acc"] == 0
    assert values(found, "original")["forget_acc"] > 0.8
    assert "logit-mask" not in found.subjects  # it hides classes
    assert "mia_entropy" in values(found, "edited")


def test_a_class_whose_images_were_forgotten_one_by_one_is_evaluated_as_a_class(
    made: Path, tmp_path: Path
) -> None:
    images = DATA.train.of_classes((5,)).index.tolist()
    (tmp_path / "class.txt").write_text("\n".join(map(str, images)))
    quick = ("adversarial=1", "attack_steps=1", "max_steps=3", "lr=0.01")
    argv = ["unlearn", "l2ul", "--model", str(made / "base.safetensors"), "--data", "digits"]
    named = ["--instances", str(tmp_path / "class.txt"), "--out", str(tmp_path / "one-by-one")]
    assert main([*argv, *quick_options(quick), *named]) == 0
    out = tmp_path / "evidence"
    assert evaluate(tmp_path, "one-by-one", out, "--forget", "5", *compared(made)) == 0
    found = read_metrics(out)
    assert found.subjects.keys() == {"original", "edited", "retrained", "logit-mask"}
    assert "test_forget_acc" in values(found, "edited")


def test_an_interrupted_evaluation_goes_on(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, more = tmp_path / "evidence", ["--metrics", "accuracy,zrf,probe", *compared(made)]
    done, interrupted = list[str](), 5
    written = engine.Notes.write_

    def write(self: engine.Notes, name: str, state: object) -> None:
        written(self, name, state)  # type: ignore[arg-type]  # as it came
        done.append(name)
        if len(done) == interrupted:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.Notes, "write_", write)
        assert evaluate(made, "svd", out, *more) == 130
    assert not out.exists()
    assert evaluate(made, "svd", out, *more) == 2  # it must be said
    assert evaluate(made, "svd", out, *more, "--seed", "1", "--resume") == 2  # another evaluation
    before = len(done)
    with monkeypatch.context() as patch:
        patch.setattr(engine.Notes, "write_", write)
        assert evaluate(made, "svd", out, *more, "--resume") == 0
    assert not set(done[:before]) & set(done[before:])  # nothing was measured twice
    assert read_metrics(out).subjects.keys() == {"original", "retrained", "edited", "logit-mask"}


def test_with_a_cache_each_network_is_measured_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()
    written = engine.Notes.write_

    def write(self: engine.Notes, name: str, state: object) -> None:
        written(self, name, state)  # type: ignore[arg-type]  # as it came
        done.append(name)

    monkeypatch.setattr(engine.Notes, "write_", write)
    more = ["--metrics", "accuracy,zrf", *compared(made), "--cache", str(tmp_path / "cache")]
    found = []
    for artifact in ("svd", "svd-1"):
        out = tmp_path / artifact
        assert evaluate(made, artifact, out, *more) == 0
        found.append(read_metrics(out))
        assert not out.with_name(out.name + ".partial").exists()
    kinds = [name.partition("-")[0] for name in done]
    assert {kind: kinds.count(kind) for kind in ("original", "retrained", "edited")} == {
        "original": 3,  # its answers and two tasks
        "retrained": 3,
        "edited": 6,
    }
    assert values(found[0], "retrained") == values(found[1], "retrained")
    assert values(found[0], "edited") != values(found[1], "edited")
    before = len(done)
    assert evaluate(made, "svd", tmp_path / "other", *more, "--seed", "1") == 0
    assert len(done) == before + 4 * 3  # another seed draws other images: nothing is known of them


def test_the_retrained_network_is_made_once_as_the_original_was(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, cache = str(made / "base.safetensors"), tmp_path / "retrained"
    for artifact in ("svd", "svd-1"):
        out = tmp_path / artifact
        more = ["--original", base, "--retrain", str(cache), "--metrics", "accuracy,divergence"]
        assert evaluate(made, artifact, out, *more) == 0
        found = read_metrics(out)
        assert values(found, "retrained")["test_forget_acc"] == 0
        assert values(found, "edited")["js_div"] > 0
        assert f"--retrain {cache}" in found.command
    (file,) = cache.iterdir()
    never = load_checkpoint(made / "never.safetensors").network.state_dict()
    again = load_checkpoint(file).network.state_dict()
    assert all(torch.equal(value, never[name]) for name, value in again.items())
    assert "does not say how" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("artifact", "more", "told"),
    [
        ("svd", ["--retrain", "cache"], "--retrain needs --original"),
        ("svd", ["--retrain", "cache", "--retrained", "never.safetensors"], "give one of them"),
        ("gates", [], "--forget NAME|INDEX"),
        ("gates", ["--forget", "eleven"], "no class 'eleven'"),
        ("svd", ["--forget", "5"], "leave --forget out"),
        ("images", ["--forget", "5"], "images of --forget 5 are not among them"),
        ("svd", ["--pack", "huge"], "expected cheap or full"),
        ("svd", ["--metrics", "accuracy,magic"], "no magic; expected some of accuracy"),
        ("svd", ["--metrics", ""], "no ''; expected some of accuracy"),
        ("svd", ["--metrics", "accuracy,relearn"], "relearn needs the original network (see"),
        (
            "svd",
            ["--metrics", "loss,divergence"],
            "loss needs the original network; divergence needs the retrained network",
        ),
        ("svd", ["--metrics", "cka"], "cka needs the original or the retrained network"),
        ("svd", ["--metrics", "insertion"], "insertion needs masks"),
        ("images", ["--metrics", "probe"], "probe needs forgotten classes"),
        ("svd", ["--retrained", "base.safetensors"], "trained without no class"),
        ("svd", ["--retrained", "wide.safetensors"], "not of the artifact's kind: network is"),
        ("svd", ["--retrained", "mask"], "expected an artifact of retrain"),
        ("svd", ["--retrained", "other-split.safetensors"], "divided by seed 4"),
        ("svd", ["--original", "never.safetensors"], "made of another network"),
        ("svd", ["--original", "nothing.safetensors"], "no such file"),
        ("svd", ["--cache", "list.txt"], "not a folder that can be written"),
        ("svd", ["--run", "list.txt"], "--run list.txt: expected the JSON that bandstop unlearn"),
        ("svd", ["--run", "deep.json"], "that bandstop unlearn --json prints"),
        ("svd", ["--run", "array.json"], "that bandstop unlearn --json prints"),
        ("svd", ["--run", "other.json"], "that bandstop unlearn --json prints"),
        ("svd", ["--retrain-run", "array.json"], "--retrain-run array.json: expected"),
        ("svd", ["--release", "nothing"], "--release nothing: expected the folder that bandstop"),
        ("base.safetensors", [], "expected the folder that bandstop unlearn wrote"),
        ("svd", ["--data", "imagefolder:nowhere"], "nowhere"),
        ("svd", ["--device", "abacus"], "expected auto, cpu or cuda"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    artifact: str,
    more: list[str],
    told: str,
) -> None:
    others(made)
    monkeypatch.chdir(made)
    before = sorted(made.iterdir())
    assert evaluate(made, artifact, tmp_path / "evidence", *more) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert told in error
    assert list(tmp_path.iterdir()) == []
    assert sorted(made.iterdir()) == before


def others(made: Path) -> None:
    """Write checkpoints that do not belong to the artifacts, once."""
    if (made / "wide.safetensors").exists():
        return
    (made / "deep.json").write_text("[" * 100_000)
    (made / "array.json").write_text("[1]")
    (made / "other.json").write_text('{"method": "svd"}')
    wide = Arch("bandstop:resnet", {"width": 16, "blocks": "1-1"})
    seen, prep = without_classes(DATA, (5,)), DATA.preprocess
    for name, arch, seed in (("wide", wide, 3), ("other-split", ARCH, 4)):
        model = Classifier(build(arch, 10, 1, prep.size), arch, prep, seen.class_names)
        save_checkpoint(made / f"{name}.safetensors", model, seed=seed, without=(5,))


def test_a_class_without_images_is_told(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    for split in ("train", "test"):
        for c in range(10):
            (pictures / split / str(c)).mkdir(parents=True)
            for i in range(0 if (split, c) == ("test", 5) else 12):
                Image.new("L", (8, 8), 20 * c + i).save(pictures / split / str(c) / f"{i}.png")
    out = tmp_path / "evidence"
    argv = ["evaluate", str(made / "svd"), "--data", f"imagefolder:{pictures}", "--out", str(out)]
    assert main(argv) == 2
    assert "no test image of 5" in capsys.readouterr().err
    assert not out.exists()


def test_seeds_of_a_method_become_one_line_of_a_comparison(
    made: Path, svd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name in ("svd", "svd-1", "mask"):
        folders.append(str(tmp_path / name))
        metrics = "accuracy,probe,cka,divergence"
        more = (*compared(made), "--metrics", metrics)
        assert evaluate(made, name, tmp_path / name, *more) == 0
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert main(["compare", *folders, "--out", str(page), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["lines"]
    assert [line["seeds"] for line in lines if line["name"] == "svd"] == [[0, 1]]
    hidden = [line for line in lines if "mask" in line["name"]]
    assert hidden
    assert all("hides" in line["flag"] for line in hidden)
    assert "<html" in page.read_text()
    both = tmp_path / "both"
    assert evaluate(made, "both", both, "--metrics", "accuracy") == 0
    assert main(["compare", folders[0], str(both)]) == 2
    assert "are of different" in capsys.readouterr().err


def test_a_folder_in_the_way_of_the_notes_is_told_as_the_output(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evidence.partial").write_text("")
    assert evaluate(made, "svd", tmp_path / "evidence", "--resume") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: --out: {tmp_path}/evidence.partial: not a folder that can be")


def test_the_parity_of_a_release_is_among_the_figures_of_its_artifact(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    releases = {name: tmp_path / f"release-{name}" for name in ("mask", "gates")}
    export = ["--mode", "baked", "--out"]
    assert main(["export", str(made / "mask"), *export, str(releases["mask"])]) == 0
    only = ["--forget", "6", *export, str(releases["gates"])]
    assert main(["export", str(made / "gates"), *only]) == 0
    capsys.readouterr()
    accuracy = ("--metrics", "accuracy", "--release")
    out = tmp_path / "evidence"
    assert evaluate(made, "mask", out, *accuracy, str(releases["mask"])) == 0
    found = read_metrics(out)
    parity = load_release(releases["mask"]).record.parity
    own = found.subjects["edited"]["parity_max_abs"]
    assert (own.value, own.n) == (parity.max_abs, parity.compared)
    assert 0 < own.value < 1e-3
    for artifact, asked, release, told in (
        ("svd", [], "mask", "exported from another artifact"),
        ("gates", ["--forget", "5"], "gates", "forgets other classes than --forget"),
    ):
        capsys.readouterr()
        more = (*asked, *accuracy, str(releases[release]))
        assert evaluate(made, artifact, tmp_path / "none", *more) == 2
        assert told in capsys.readouterr().err
    more = ("--forget", "6", *accuracy, str(releases["gates"]))
    assert evaluate(made, "gates", tmp_path / "row", *more) == 0
    (releases["mask"] / "labels.txt").write_text("")
    assert evaluate(made, "mask", tmp_path / "none", *accuracy, str(releases["mask"])) == 5
    assert not (tmp_path / "none").exists()


def test_the_gate_stops_an_edit_of_the_head_alone(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evidence"
    measured = "accuracy,loss,probe,cka,bn-reestimate,relearn"
    more = ("--metrics", measured, "--relearn-cap", "2", *compared(made))
    assert evaluate(made, "head", out, *more) == 0
    assert values(read_metrics(out), "edited")["test_forget_acc"] <= 0.1  # or so it seems
    capsys.readouterr()
    assert main(["gate", str(out)]) == 3
    told = capsys.readouterr()
    assert "cka_original 1, at most" in told.err
    assert "not measured" not in told.err


def test_the_gate_stops_what_only_hides(
    made: Path, svd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", str(svd), "--subject", "logit-mask"]) == 3
    assert "cka_original 1, at most" in capsys.readouterr().err
    assert main(["gate", str(svd), "--subject", "retrained"]) == 0


def test_a_tracker_that_is_missing_costs_no_evaluation(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out, logs = tmp_path / "evidence", tmp_path / "logs"
    assert evaluate(made, "mask", out, "--metrics", "accuracy", "--tensorboard", str(logs)) == 1
    assert "pip install tensorboard" in capsys.readouterr().err
    assert read_metrics(out).subjects["edited"]["test_forget_acc"].value == 0
    assert not logs.exists()
