"""metrics.json and the files beside it, the words and charts of a report, and the page itself."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import yaml

from bandstop.edit.errors import ArtifactError, EditError, InputError
from bandstop.edit.evaluation import plots
from bandstop.edit.evaluation.axes import Curve, bars, lines
from bandstop.edit.evaluation.distance import counted, distance, gap
from bandstop.edit.evaluation.filter_map import most_closed, shared
from bandstop.edit.evaluation.folder import files
from bandstop.edit.evaluation.record_parts import AskedRecord, CurvesRecord, MeasureRecord
from bandstop.edit.evaluation.records import Evaluation, metrics_json, read_metrics, write_metrics
from bandstop.edit.evaluation.report import render
from bandstop.edit.evaluation.verdict import headlines, question, sentences
from bandstop.edit.evaluation.wording import interval, listed, shown, signed
from tests.browser import Browser, browser
from tests.evaluations import (
    DESTINATIONS,
    FIGURES,
    LAYERS,
    NAMES,
    PER_CLASS,
    instances,
    svd,
    wf_net,
)

ALL = {"svd": svd, "wf-net": wf_net, "instances": instances}
A4 = 703  # pixels between the margins of 12 mm
CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def changed(e: Evaluation, **parts: object) -> Evaluation:
    """Return `e` with other parts, checked anew."""
    return Evaluation.model_validate(e.model_copy(update=parts).model_dump())


def text_of(page: str) -> str:
    """Return the words of a page as they are read."""
    plain = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", plain)


# metrics.json and the folder


@pytest.mark.parametrize("name", ALL)
def test_an_evaluation_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    written = ALL[name]()
    write_metrics(tmp_path / "metrics.json", written)
    for path in (tmp_path, tmp_path / "metrics.json"):
        again = read_metrics(path)
        assert again == written
        # an equal mapping may still be in another order, and the order is the report's
        assert metrics_json(again) == metrics_json(written)
        assert render(again) == render(written)


def put(content: Mapping[str, object], path: str, value: object) -> str:
    """Return `content` as JSON with another value at `path`."""
    whole = json.loads(json.dumps(content))
    *way, last = path.split(".")
    part = whole
    for name in way:
        part = part[name]
    part[last] = value
    return json.dumps(whole)


@pytest.mark.parametrize(
    ("path", "value", "error", "told"),
    [
        ("format", "other/1", InputError, "expected format 'bandstop-metrics/1', got 'other/1'"),
        ("data.test", 0, ArtifactError, "data.test"),
        ("novel", 1, ArtifactError, "novel"),
        ("artifact.parent_sha256", "abc", ArtifactError, "artifact.parent_sha256"),
        ("subjects.edited.probe_acc.value", "0.5", ArtifactError, "probe_acc.value"),
        ("subjects.edited.probe_acc.value", float("nan"), ArtifactError, "probe_acc.value"),
        ("subjects.edited.probe_acc.ci95", [0.9, 0.1], ArtifactError, "ci95 must be (low, high)"),
        ("subjects.edited.unheard_of", {"value": 1, "n": 1}, ArtifactError, "about unheard_of"),
        ("subjects.someone", {}, ArtifactError, "someone"),
        ("per_class.edited", [0.5], ArtifactError, "per_class.edited: expected 10 values, got 1"),
        ("destinations.edited", [1.5] * 10, ArtifactError, "destinations.edited"),
        ("artifact.request.classes", ["yeti"], ArtifactError, "no 'yeti'"),
        ("artifact.request.instances", 3, ArtifactError, "either classes or a number"),
        ("curves.insertion.deletion", [1.0], ArtifactError, "21 values a curve: deletion has 1"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    path: str, value: object, error: type[EditError], told: str, tmp_path: Path
) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(put(json.loads(metrics_json(wf_net())), path, value))
    with pytest.raises(error) as refused:
        read_metrics(file)
    assert told in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (None, InputError, "no such file"),
        (b"", ArtifactError, "not JSON"),
        (metrics_json(svd())[:-40], ArtifactError, "not JSON"),
        (b"\xff\xfe", ArtifactError, "not JSON"),
        (b"[" * 100_000, ArtifactError, "not JSON"),
        (
            metrics_json(svd()).replace(b'"seed": 0', b'"seed": 0, "seed": 1', 1),
            ArtifactError,
            "seed twice",
        ),
        (b'{"format": "x", "format": "bandstop-metrics/1"}', ArtifactError, "names format twice"),
        (b"[1, 2]", InputError, "got None"),
        (b'{"seconds": 1.0}', InputError, "got None"),
    ],
    ids=["missing", "empty", "cut", "binary", "deep", "twice", "format", "list", "foreign"],
)
def test_what_is_no_evaluation_is_refused_in_one_line(
    content: bytes | None, error: type[EditError], told: str, tmp_path: Path
) -> None:
    file = tmp_path / "metrics.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(error) as refused:
        read_metrics(file)
    assert told in str(refused.value)
    assert "bandstop evaluate" in str(refused.value) or "evaluate again" in str(refused.value)
    assert "\n" not in str(refused.value)


def numbers(content: object, path: str = "") -> dict[str, float]:
    """Return what `dvc metrics show` finds: numbers inside nested mappings, nothing in lists."""
    if isinstance(content, dict):
        parts = [numbers(v, f"{path}.{k}" if path else k) for k, v in content.items()]
        return {k: v for part in parts for k, v in part.items()}
    return {path: content} if isinstance(content, int | float) else {}


def test_dvc_finds_every_measured_value() -> None:
    found = numbers(json.loads(files(svd())["metrics.json"]))
    for subject, measures in svd().subjects.items():
        for key, measure in measures.items():
            assert found[f"subjects.{subject}.{key}.value"] == measure.value
            assert found[f"subjects.{subject}.{key}.n"] == measure.n


def test_the_folder_has_settings_and_flat_lists_for_charts() -> None:
    made = files(wf_net())
    assert set(made) == {
        "metrics.json",
        "params.yaml",
        "report.html",
        *(
            f"plots/{name}.json"
            for name in ("per_class", "destinations", "relearn", "cka", "insertion", "filters")
        ),
    }
    settings = yaml.safe_load(made["params.yaml"])
    assert settings["method"] == "wf-net"
    assert settings["settings"]["alpha_forget"] == 3
    assert settings["forget"] == {"classes": ["cat"], "instances": 0}
    for name, content in made.items():
        if name.startswith("plots/"):
            records = json.loads(content)
            assert records
            assert all(set(record) == set(records[0]) for record in records)
            assert all(isinstance(v, str | int | float) for r in records for v in r.values())
    per_class = json.loads(made["plots/per_class.json"])
    assert {"subject": "edited", "class": "cat", "accuracy": 0.004} in per_class
    assert len(per_class) == 40
    relearn = json.loads(made["plots/relearn.json"])
    assert {"subject": "edited", "epoch": 2, "accuracy": 0.56} in relearn


def test_charts_without_data_have_no_file() -> None:
    made = files(changed(instances(), per_class={}))
    assert [name for name in made if name.startswith("plots/")] == ["plots/destinations.json"]


def test_a_class_without_images_has_no_record() -> None:
    accuracy = [None, *PER_CLASS["edited"][1:]]
    e = changed(svd(), per_class={"edited": accuracy})
    assert len(json.loads(files(e)["plots/per_class.json"])) == 9
    assert "airplane, edited: no image" in render(e)


# distance to the retrained network


def simple(values: Mapping[str, Mapping[str, float]]) -> Evaluation:
    """Return an evaluation of shares and epochs alone."""
    subjects = {
        name: {key: MeasureRecord(value=value, n=10) for key, value in figures.items()}
        for name, figures in values.items()
    }
    return changed(svd(), subjects=subjects, per_class={}, destinations={}, curves=CurvesRecord())


def test_the_distance_is_the_mean_of_scaled_gaps() -> None:
    e = simple(
        {
            "edited": {"probe_acc": 0.7, "relearn_epochs": 3, "retain_acc": 0.1},
            "retrained": {"probe_acc": 0.9, "relearn_epochs": 8, "retain_acc": 0.9},
        }
    )
    # retain_acc aims at the original; 5 epochs count as 5 / 20
    assert counted([e]) == ("probe_acc", "relearn_epochs")
    assert distance(e, "edited", counted([e])) == pytest.approx((0.2 + 5 / 20) / 2, abs=1e-12)
    assert distance(e, "retrained", counted([e])) == 0
    assert distance(e, "original", counted([e])) is None
    assert gap(e, "edited", "relearn_epochs") == 5


def test_only_what_was_measured_of_every_network_counts() -> None:
    whole = {"probe_acc": 0.7, "relearn_epochs": 3}
    e = simple({"edited": whole, "retrained": whole, "logit-mask": {"probe_acc": 0.8}})
    assert counted([e]) == ("probe_acc",)
    alone = simple({"edited": whole, "original": whole})
    assert counted([alone]) == counted([e, alone]) == ()
    assert distance(alone, "edited", ()) is None


# words


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.9312, "share", "93.1 %"),
        (0.0, "share", "0.0 %"),
        (0.47441, "score", "0.474"),
        (7.0, "epochs", "7"),
        (7.25, "epochs", "7.2"),
        (41.66, "s", "41.7 s"),
        (2310.0, "s", "38.5 min"),
        (12400.0, "MB", "12 400 MB"),
    ],
)
def test_values_are_shown_in_their_unit(value: float, unit: str, words: str) -> None:
    assert shown(value, unit) == words


def test_intervals_differences_and_names_read_well() -> None:
    assert interval((0.92, 0.941), "share") == "92.0 to 94.1 %"
    assert interval((0.4, 0.5), "score") == "0.400 to 0.500"
    assert interval(None, "share") == ""
    assert signed(-0.007) == "\N{MINUS SIGN}0.7 points"
    assert signed(0.01) == "+1.0 points"
    assert listed(["a"]) == "“a”"
    assert listed(["a", "b", "c"]) == "“a”, “b” and “c”"
    assert listed(list("abcdefgh")).endswith("“f” and 2 more")


def test_the_three_figures_of_a_class() -> None:
    forgotten, rest, near = headlines(svd())
    assert forgotten.value == "0.4 %"
    assert forgotten.label == "right on the test images of “cat”"
    assert forgotten.detail.startswith("Before 86.2 %; retrained 0.0 %; 95 % interval 0.2 to 1.0")
    assert rest.value == "\N{MINUS SIGN}0.7 points"
    assert rest.detail == "92.4 % after, 93.1 % before"
    keys = counted([svd()])
    assert near.value == f"{distance(svd(), 'edited', keys):.3f}"
    assert f"over {len(keys)} metrics" in near.detail


def test_instances_are_judged_on_the_training_images() -> None:
    forgotten, rest = headlines(instances())
    assert forgotten.label == "right on the training images to forget"
    assert forgotten.value == "0.2 %"
    assert rest.value == "\N{MINUS SIGN}0.7 points"
    assert "40 training images" in question(instances())
    assert any("No retrained network" in line for line in sentences(instances()))


def test_the_verdict_names_what_is_furthest_from_the_retrained_network() -> None:
    said = next(line for line in sentences(svd(probe_acc=0.2)) if "differs most" in line)
    assert said.index("linear probe (46.1 points)") < said.index("epochs to relearn (3)")


@pytest.mark.parametrize(("epochs", "told"), [(4.0, False), (60.0, True)])
def test_an_edit_no_nearer_than_the_logit_mask_is_told(epochs: float, told: bool) -> None:
    said = any(
        "do not show that anything was forgotten" in s
        for s in sentences(svd(relearn_epochs=epochs))
    )
    assert said == told


# charts


def widths(svg: str) -> list[float]:
    return [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]


def test_bars_are_as_long_as_their_shares() -> None:
    groups = [("a", False, [("before", "#000000", 1.0), ("after", "#111111", 0.25)])]
    svg = str(bars("t", groups))
    full, quarter = widths(svg)
    assert quarter == pytest.approx(full / 4, abs=0.1)
    assert 'aria-label="t: a before 100 %, after 25 %"' in svg


def test_lines_run_from_corner_to_corner() -> None:
    svg = str(lines("t", [Curve("up", "#123456", "", [(0, 0.0), (2, 1.0)])], "x"))
    (points,) = re.findall(r'points="([^"]*)"[^>]*stroke="#123456"', svg)
    assert points == "40.0,192.0 350.0,12.0"


@pytest.mark.parametrize("points", [[(0, 0.3)], [(0, 0.0), (1, 0.0)], [(5, -0.2), (6, 3.0)]])
def test_odd_curves_are_drawn(points: list[tuple[float, float]]) -> None:
    svg = str(lines("t", [Curve("c", "#123456", "", points)], "x"))
    assert "nan" not in svg


def many(count: int) -> Evaluation:
    """Return an evaluation of `count` classes, the last one to be forgotten."""
    names = [f"class {c}" for c in range(count)]
    accuracy = {name: [0.9] * count for name in ("original", "edited")}
    accuracy["edited"][7] = 0.1
    artifact = svd().artifact.model_copy(update={"request": AskedRecord(classes=names[-1:])})
    spread = {"edited": [1 / count] * count}
    return changed(
        svd(), artifact=artifact, class_names=names, per_class=accuracy, destinations=spread
    )


def test_of_very_many_classes_those_that_matter_are_drawn() -> None:
    plot = plots.per_class(many(1000))
    assert plot is not None
    drawn = re.findall(r"<title>(class \d+), edited", plot.svg)
    assert len(drawn) == 24
    assert {"class 999", "class 7"} <= set(drawn)
    assert "Of 1000 classes" in plot.caption


def test_every_network_has_its_bar_where_forgotten_images_went() -> None:
    plot = plots.destinations(svd())
    assert plot is not None
    assert f"dog, retrained: {100 * DESTINATIONS['retrained'][5]:.0f}" in plot.svg
    assert "dog, logit mask: 46" in plot.svg
    assert "truck" not in plot.svg  # at most 1 %
    assert "Rare answers are left out" in plot.caption


def test_lines_differ_in_more_than_their_colour() -> None:
    plot = plots.relearn(svd())
    assert plot is not None
    drawn = re.findall(r"<polyline [^>]*stroke-width=\"2\"[^>]*>", plot.svg)
    dashes = [re.findall(r'dasharray="([^"]*)"', line) for line in drawn]
    assert dashes == [[], [], ["6 3"], ["2 3"]]  # original, edited, retrained, logit mask
    assert [dashed for _, _, dashed in plot.legend] == [False, False, True, True]


def test_the_filters_that_masks_close_most_are_found() -> None:
    masks = {"conv": torch.tensor([[1.0, 0.25, 0.0, 0.5], [1.0, 1.0, 0.75, 0.0]])}
    found = most_closed(masks, ("a", "b"), top=2)
    assert [(f.channel, f.closed) for f in found["conv"]["a"]] == [(2, 1.0), (1, 0.75)]
    assert [(f.channel, f.closed) for f in found["conv"]["b"]] == [(3, 1.0), (2, 0.25)]
    assert shared(found, ("a", "b")) == [[2, 1], [1, 2]]
    assert most_closed({"conv": torch.ones(1, 3)}, ("a",)) == {"conv": {"a": []}}


def test_the_same_channel_of_two_layers_is_not_shared() -> None:
    first, second = [0.0, 1.0], [1.0, 0.0]
    masks = {"one": torch.tensor([first, second]), "two": torch.tensor([second, first])}
    assert shared(most_closed(masks, ("a", "b"), top=1), ("a", "b"))[0][1] == 0


# the page


def test_a_report_tells_in_order_what_was_asked_found_and_done() -> None:
    words = text_of(render(wf_net()))
    parts = [
        "was to forget the class “cat”",
        "0.4 %",
        "frog lost 2.9 points",
        "The edited network is right on",
        "What was done",
        "alpha_forget",
        "a1" * 32,
        "Before, edited, retrained and masked",
        "hides, does not forget",
        "Test accuracy of each class",
        "Where the forgotten images went",
        "Relearning",
        "Similarity to the original network",
        "Opening the masks (insertion)",
        "Filters that two classes share",
        "What it cost",
        "Unlearning 41.7 s",
        "How to reproduce",
        "bandstop evaluate out/wf-net",
    ]
    assert [words.index(part) for part in parts] == sorted(words.index(part) for part in parts)


def test_the_table_has_every_metric_of_every_network() -> None:
    page = render(svd())
    table = page[page.index('class="wide"') : page.index("</tbody>")]
    rows = {re.findall(r"<code>(\w+)</code>", row)[0]: row for row in table.split("<tr>")[2:]}
    e = svd()
    assert set(rows) == {key for measures in e.subjects.values() for key in measures}
    for key, row in rows.items():
        metric = e.metrics[key]
        cells = re.findall(r"<td.*?</td>", row, re.DOTALL)
        for name, cell in zip(FIGURES, cells, strict=False):
            measure = e.subjects[name].get(key)
            assert ("<b>" in cell) == (measure is not None)
            if measure is not None:
                assert f"<b>{shown(measure.value, metric.unit)}</b>" in cell
                assert interval(measure.ci95, metric.unit) in cell
                assert f"n = {measure.n}<" in cell
        assert ("weak attack" in row) == metric.weak
        assert metric.direction in cells[-3]
    assert "8.3 points" in rows["probe_acc"]  # edited 0.744 to retrained 0.661


def test_a_note_is_shown_beside_its_value() -> None:
    e = svd()
    measures = dict(e.subjects["edited"])
    measures["relearn_epochs"] = MeasureRecord(value=20, n=1, note="not relearned within 20 epochs")
    assert "not relearned within 20 epochs" in render(
        changed(e, subjects={**e.subjects, "edited": measures})
    )


@pytest.mark.parametrize("name", ALL)
def test_no_report_claims_more_than_was_measured(name: str) -> None:
    words = text_of(render(ALL[name]())).lower()
    assert "measured unlearning" in words
    for claim in ("certif", "complian", "proof of deletion", "guarantee", "gdpr", "proven"):
        assert claim not in words


def test_names_are_text_and_never_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    names = [evil, *NAMES[1:]]
    e = wf_net()
    filters = {
        layer: {evil if name == NAMES[0] else name: found for name, found in of.items()}
        for layer, of in e.filters.items()
    }
    page = render(changed(e, class_names=names, filters=filters, warnings=[evil], command=evil))
    assert "<img" not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize("name", ALL)
def test_a_page_needs_nothing_but_itself(name: str) -> None:
    page = render(ALL[name]())
    assert f'<meta http-equiv="Content-Security-Policy" content="{CSP}">' in page
    assert not re.search(r"""(src|href)\s*=|@import|url\(|https?://|<script|<link""", page)


# in a real browser


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", [360, 1280])
def test_a_report_fits_the_screen(name: str, width: int, chrome: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(ALL[name]()))
    seen = chrome.look(page, width)
    assert seen.inner == width
    assert (seen.over, seen.clipped) == (0, 0)
    assert seen.errors == seen.loaded == ()
    assert seen.charts == seen.marks == {"svd": 5, "wf-net": 11, "instances": 2}[name]
    assert seen.unlabelled == 0
    assert seen.smallest >= 8


def test_long_names_and_settings_do_not_widen_the_page(chrome: Browser, tmp_path: Path) -> None:
    long = "a_very_long_name_without_any_break" * 6
    names = [long if name == "cat" else name for name in NAMES]
    e = svd()
    artifact = e.artifact.model_copy(
        update={"params": {long: [1] * 200}, "request": AskedRecord(classes=[long])}
    )
    page = tmp_path / "report.html"
    wide = changed(e, class_names=names, artifact=artifact, command=long, warnings=[long])
    page.write_text(render(wide))
    seen = chrome.look(page, 360)
    assert (seen.over, seen.clipped) == (0, 0)


def test_a_thousand_classes_fit_as_well(chrome: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(many(1000)))
    assert page.stat().st_size < 1_000_000
    seen = chrome.look(page, 360)
    assert (seen.over, seen.clipped, seen.errors) == (0, 0, ())


def test_on_paper_what_was_folded_in_is_there(chrome: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(wf_net()))
    folded = len(LAYERS) - 3
    paper = chrome.look(page, A4, media="print")
    assert paper.charts == chrome.look(page, A4).charts + folded
    assert (paper.over, paper.clipped) == (0, 0)
    printed = chrome.print_(page)
    assert printed.startswith(b"%PDF")
    assert len(printed) > 100_000


def body(content: str) -> str:
    return f'<!doctype html><html><head><meta charset="utf-8"></head><body>{content}</body></html>'


@pytest.mark.parametrize(
    ("content", "attribute", "value"),
    [
        ('<div style="width: 900px; height: 9px"></div>', "over", 540),
        ("<script>console.error('broken')</script>", "errors", ("broken",)),
        ("<script>undefined_function()</script>", "errors", ("Uncaught",)),
        ('<img src="http://127.0.0.1:9/x.png">', "loaded", ("http://127.0.0.1:9/x.png",)),
        ('<svg style="display: none"><rect width="9" height="9"/></svg>', "charts", 0),
        ('<svg viewBox="0 0 9 9"></svg>', "marks", 0),
        ('<svg viewBox="0 0 9 9"></svg>', "unlabelled", 1),
    ],
)
def test_the_browser_sees_what_is_wrong(
    content: str, attribute: str, value: object, chrome: Browser, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(body(content))
    found = getattr(chrome.look(page, 360), attribute)
    if attribute == "over":
        assert found >= 540
    else:
        assert found == value


def test_the_policy_of_a_page_is_in_force(chrome: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    broken = "<script>document.body.style.width = '9000px'</script></body>"
    page.write_text(render(svd()).replace("</body>", broken))
    seen = chrome.look(page, 360)
    assert seen.over == 0
    assert "Content Security Policy" in seen.errors[0]


def test_without_a_browser_the_test_says_what_was_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="was not checked"), browser(tmp_path):
        pass
