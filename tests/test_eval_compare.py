"""Evaluations side by side: what is merged, how it is sorted, and what is refused."""

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.compare import Comparison, Line, compare, over_runs
from bandstop.edit.evaluation.compare_page import plain, render_compare, table
from bandstop.edit.evaluation.distance import counted, distance
from bandstop.edit.evaluation.record_parts import AskedRecord, MeasureRecord
from bandstop.edit.evaluation.records import Evaluation
from tests.browser import Browser, browser
from tests.evaluations import FIGURES, instances, svd, wf_net

Change = Callable[[Evaluation], dict[str, object]]


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def changed(e: Evaluation, **parts: object) -> Evaluation:
    return Evaluation.model_validate(e.model_copy(update=parts).model_dump())


def several() -> Comparison:
    """Return three seeds of SVD and one run of WF-Net, which is nearer."""
    near = {
        key: FIGURES["retrained"][key] for key in ("probe_acc", "prototype_acc", "cka_original")
    }
    return compare(
        [
            ("svd/0", svd(0, probe_acc=0.7)),
            ("svd/1", svd(1, probe_acc=0.8)),
            ("svd/2", svd(2, probe_acc=0.9)),
            ("wf", wf_net(0, **near)),
        ]
    )


def line(found: Comparison, name: str) -> Line:
    return next(one for one in found.lines if one.name == name)


def printed(found: Comparison) -> list[str]:
    """Return the lines of the table on a terminal of 200 columns."""
    text = io.StringIO()
    Console(file=text, width=200).print(table(found))
    return text.getvalue().splitlines()


def test_students_interval_is_the_known_one() -> None:
    found = over_runs([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.n == 3
    assert found.ci95 is not None
    # t of 97.5 % with 2 degrees of freedom is 4.302653; the standard deviation is 1
    half = 4.302653 / math.sqrt(3)
    assert found.ci95 == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert over_runs([0.5]).ci95 is None


def test_seeds_of_one_method_become_one_line() -> None:
    found = line(several(), "svd")
    assert found.seeds == (0, 1, 2)
    assert found.runs == ("svd/0", "svd/1", "svd/2")
    probe = found.measures["probe_acc"]
    assert probe.value == pytest.approx(0.8, abs=1e-12)
    assert probe.n == 3
    assert probe.ci95 == pytest.approx((0.8 - 0.248414, 0.8 + 0.248414), abs=1e-5)
    assert "probe_acc" in found.repeated


def test_a_single_run_keeps_its_own_interval() -> None:
    found = line(several(), "wf-net")
    own = wf_net().subjects["edited"]["test_forget_acc"]
    assert found.measures["test_forget_acc"].ci95 == own.ci95
    assert found.measures["test_forget_acc"].n == 1000
    assert found.repeated == ()
    assert found.distance is not None
    assert found.distance.ci95 is None


def test_a_note_of_any_run_is_kept() -> None:
    runs = []
    for seed, note in ((0, ""), (1, "not relearned within 20 epochs")):
        e = svd(seed)
        measures = {
            **e.subjects["edited"],
            "relearn_epochs": MeasureRecord(value=9, n=1, note=note),
        }
        runs.append((f"r{seed}", changed(e, subjects={**e.subjects, "edited": measures})))
    found = line(compare(runs), "svd").measures["relearn_epochs"]
    assert found.note == "not relearned within 20 epochs"


def test_the_nearest_to_the_retrained_network_comes_first() -> None:
    found = several()
    assert [one.name for one in found.lines] == [
        "retrained",
        "wf-net",
        "svd",
        "logit-mask",
        "original",
    ]
    away = [one.distance.value for one in found.lines if one.distance]
    assert away == sorted(away)
    assert away[0] == 0
    assert away[-1] == pytest.approx(distance(svd(), "original", found.counted), abs=1e-12)


def test_the_distance_of_several_runs_is_the_mean_of_theirs() -> None:
    found = several()
    own = [distance(svd(probe_acc=v), "edited", found.counted) for v in (0.7, 0.8, 0.9)]
    far = line(found, "svd").distance
    assert far is not None
    assert far.value == pytest.approx(sum(v for v in own if v) / 3, abs=1e-12)
    assert far.n == 3


def test_all_distances_are_of_the_same_metrics() -> None:
    poor = svd(1)
    subjects = {
        name: {key: m for key, m in measures.items() if key != "probe_acc"}
        for name, measures in poor.subjects.items()
    }
    found = compare([("rich", wf_net()), ("poor", changed(poor, subjects=subjects))])
    assert "probe_acc" not in found.counted
    assert set(found.counted) == set(counted([svd()])) - {"probe_acc"}


def test_a_reference_seen_in_every_evaluation_is_one_network() -> None:
    found = line(several(), "retrained")
    assert found.measures["probe_acc"].n == 1000
    assert found.repeated == ()
    e = svd(1)
    other = {**e.subjects["retrained"], "probe_acc": MeasureRecord(value=0.761, n=1000)}
    second = changed(e, subjects={**e.subjects, "retrained": other})
    two = line(compare([("one", svd(0)), ("two", second)]), "retrained")
    assert two.measures["probe_acc"].value == pytest.approx((0.661 + 0.761) / 2, abs=1e-12)
    assert two.measures["probe_acc"].n == 2


def test_settings_that_differ_name_the_lines() -> None:
    artifact = svd(0).artifact
    other = artifact.model_copy(update={"params": {**artifact.params, "alpha_forget": 30}})
    found = compare([("a", svd(0)), ("b", changed(svd(0), artifact=other))])
    names = {one.name for one in found.lines if one.subject == "edited"}
    assert names == {"svd (alpha_forget=3)", "svd (alpha_forget=30)"}


def test_the_logit_mask_is_flagged_wherever_it_is_shown() -> None:
    found = several()
    assert [one.name for one in found.lines if one.flag] == ["logit-mask"]
    (shown,) = [row for row in printed(found) if "logit-mask" in row]
    assert "logit-mask *" in shown
    assert [row.strip() for row in printed(found) if "hides" in row] == ["* hides, does not forget"]
    assert not [row for row in printed(found) if "svd *" in row]
    page = render_compare(found)
    rows = re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    (flagged,) = [row for row in rows if 'class="masked"' in row and "<details>" not in row]
    assert "hides, does not forget" in flagged


def test_the_table_has_runs_and_the_distance_with_its_interval() -> None:
    row = next(row for row in printed(several()) if row.strip().startswith("svd"))
    far = line(several(), "svd").distance
    assert far is not None
    assert far.ci95 is not None
    assert row.split()[:5] == [
        "svd",
        "3",
        f"{far.value:.3f}",
        f"({far.ci95[0]:.3f}",
        "to",
    ]


def test_the_comparison_is_plain_json() -> None:
    content = json.loads(json.dumps(plain(several()), allow_nan=False))
    assert content["forget"] == {"classes": ["cat"], "instances": 0}
    assert content["lines"][1]["name"] == "wf-net"
    assert content["lines"][2]["measures"]["probe_acc"]["n"] == 3


def of(**parts: object) -> Change:
    return lambda e: {"artifact": e.artifact.model_copy(update=parts)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (of(request=AskedRecord(classes=["dog"])), "different request"),
        (of(parent_sha256="b2" * 32), "different original"),
        (  # another class has another number of images
            lambda e: {
                **of(request=AskedRecord(classes=["dog"]))(e),
                "data": e.data.model_copy(update={"forget": 4499}),
            },
            "different request",
        ),
        (lambda e: {"data": e.data.model_copy(update={"spec": "digits"})}, "different data"),
        (lambda e: {"data": e.data.model_copy(update={"test": 9999})}, "different data"),
        (
            lambda e: {"class_names": [*e.class_names[:-1], "lorry"]},
            "different class names",
        ),
        (
            lambda e: {
                "metrics": {
                    **e.metrics,
                    "probe_acc": e.metrics["probe_acc"].model_copy(update={"scale": 2.0}),
                }
            },
            "define probe_acc differently",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_naming_both(change: Change, told: str) -> None:
    other = svd(1)
    with pytest.raises(InputError, match=told) as refused:
        compare([("fine", svd(0)), ("also fine", svd(2)), ("odd", changed(other, **change(other)))])
    assert "fine and odd" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_artifact_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="here and there are of the same artifact"):
        compare([("here", svd(0)), ("there", svd(0))])


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError, match="at least one evaluation"):
        compare([])


def test_without_a_retrained_network_there_is_no_distance() -> None:
    found = compare([("a", instances())])
    assert found.counted == ()
    assert all(one.distance is None for one in found.lines)
    assert "nothing says which of them is nearest" in re.sub(r"\s+", " ", render_compare(found))


@pytest.mark.parametrize("width", [360, 1280])
def test_a_comparison_fits_the_screen(width: int, chrome: Browser, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    page.write_text(render_compare(several()))
    seen = chrome.look(page, width)
    assert seen.inner == width
    assert (seen.over, seen.clipped) == (0, 0)
    assert seen.errors == seen.loaded == ()
    assert seen.charts == seen.marks == 1
    assert seen.smallest >= 8


def test_a_comparison_needs_nothing_but_itself() -> None:
    page = render_compare(several())
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert not re.search(r"""(src|href)\s*=|@import|url\(|https?://|<script|<link""", page)
