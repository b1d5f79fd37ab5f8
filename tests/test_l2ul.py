"""L2UL: when it stops, what a step weighs, what it leaves alone, and that it can be resumed."""

import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

from bandstop.edit import l2ul
from bandstop.edit.accuracy import logits
from bandstop.edit.baselines.training import Draws
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import WeightEdit, edited
from bandstop.edit.errors import ArtifactError, DivergedError, InputError, NothingForgottenError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.journal import Journal, State
from bandstop.edit.l2ul import L2UL, PAPER
from bandstop.edit.l2ul_objective import objective, pushed
from bandstop.edit.l2ul_run import Run, look_, rates, slow_down_
from bandstop.edit.l2ul_task import Rest, Task, turn
from bandstop.edit.method import Splits, split
from bandstop.edit.request import ForgetRequest
from bandstop.edit.train import Recipe, train
from bandstop.edit.unlearn import unlearn
from tests.networks import corners, noise, tiny

# ten instances of the bright corners, which a network learns by heart at once
DATA = DataSplits(
    corners(200), corners(40, seed=1), corners(40, seed=2), tiny().class_names, tiny().preprocess
)
CHOSEN = tuple(range(0, 40, 5))
REQUEST = ForgetRequest(instances=CHOSEN)
# close adversaries, which hold less: the toy's pictures of a class are all but alike
QUICK = replace(
    PAPER, adversarial=3, attack_steps=3, eps=1.0, batch=8, lr=0.01, penalty=0.1, max_steps=200
)

SETTLED = replace(QUICK, bn="freeze", push="margin", margin=0.5)

# takes what is left first, beside images that stay, and goes on at falling rates
FOCUSED = replace(
    SETTLED, bn="train", adversarial=0, penalty=0.0, retained=8, focus=True, settle=5, max_steps=400
)


@functools.cache
def learnt() -> Classifier:
    arch = Arch("bandstop:resnet", {"width": 8, "blocks": "1"})
    model = train(arch, DATA, Recipe(epochs=4, batch=20, lr=0.1, shift=0, flip=False))
    assert (logits(model, DATA.test).argmax(1) == DATA.test.labels).all()
    return model


def forget(
    method: L2UL, request: ForgetRequest = REQUEST, journal: Journal | None = None
) -> WeightEdit:
    return method(learnt(), request, split(DATA, request), journal)


def answers(edit: WeightEdit, images: ImageSet) -> Tensor:
    return logits(edited(learnt(), edit), images).argmax(1)


@pytest.mark.parametrize("method", [QUICK, SETTLED])
def test_no_instance_keeps_its_label(method: L2UL) -> None:
    edit = forget(method)
    instances = split(DATA, REQUEST).forget
    assert not (answers(edit, instances) == instances.labels).any()
    assert edit.found["status"] == "forgot"
    assert edit.found["left"] == 0
    assert 0 < int(str(edit.found["steps"])) < 200


def test_our_own_setting_forgets_and_keeps_more() -> None:
    ours = L2UL(adversarial=3, attack_steps=3, batch=8, lr=0.01, max_steps=200)
    kept = {}
    for name, method in {"paper": QUICK, "ours": ours}.items():
        edit = forget(method)
        assert edit.found["left"] == 0
        kept[name] = (answers(edit, DATA.test) == DATA.test.labels).double().mean().item()
    assert kept["ours"] >= kept["paper"]


def test_images_that_stay_hold_their_answers() -> None:
    """Alone, with adversaries that have targets, and with adversaries that have answers."""
    images, model = corners(12, seed=3), learnt()
    rest = Rest(Draws(images, 5, seed=0, augment=False), model)
    image, answer = rest(2)
    torch.testing.assert_close(answer, model(image).softmax(1).detach())
    assert not torch.equal(image, rest(1)[0])
    instances, others = corners(4), corners(6, seed=5)
    assert Task(instances, False, None, None, {}, None).holding(3, 2) is None
    alone = Task(instances, False, None, None, {}, None, rest).holding(3, 2)
    assert alone is not None
    assert torch.equal(alone[1], answer)
    given = noise(6, 4).softmax(1)
    for answers, wanted in ((None, F.one_hot(others.labels[:3], 4)), (given, given[:3])):
        both = Task(instances, False, others, answers, {}, None, rest).holding(3, 2)
        assert both is not None
        assert torch.equal(both[0][3:], image)
        torch.testing.assert_close(both[1], torch.cat((wanted.float(), answer)))


def test_a_step_takes_its_instances_from_those_that_are_still_pushed() -> None:
    task = Task(corners(10), False, None, None, {}, None)
    among = torch.tensor([1, 4, 5, 9])
    labels = [task.instances(3, step, among)[1].tolist() for step in range(3)]
    assert labels == [[1, 0, 1], [1], [1, 0, 1]]  # a class is its number modulo 4
    assert len(task.instances(3, 0, among[:0])[1]) == 3  # nothing is pushed: all have their turn


def test_with_focus_the_last_few_have_every_turn() -> None:
    one_by_one = replace(SETTLED, forget_batch=1, adversarial=0, penalty=0.0)
    steps = [
        int(str(forget(replace(one_by_one, focus=focus)).found["steps"])) for focus in (False, True)
    ]
    assert steps[1] < steps[0]


def test_with_images_that_stay_batchnorm_sees_all_at_once() -> None:
    """Else what is forgotten under the statistics of instances alone is known again in use."""
    model, instances = learnt(), corners(4)
    rest = Rest(Draws(corners(12, seed=3), 5, seed=0, augment=False), model)
    task = Task(instances, False, None, None, {}, None, rest)
    parts = task.instances(4, 0), task.holding(8, 0)
    assert parts[1] is not None
    _, apart = objective(copy.deepcopy(model).train(), replace(task, rest=None), *parts)
    _, joint = objective(copy.deepcopy(model).train(), task, *parts)
    with torch.no_grad():
        answers = copy.deepcopy(model).train()(torch.cat((parts[0][0], parts[1][0])))
    own = -F.cross_entropy(answers[:4], instances.labels, reduction="sum")
    held = F.cross_entropy(answers[4:], parts[1][1], reduction="sum")
    assert joint == pytest.approx(float(own + held) / 9, rel=1e-5)
    assert joint != pytest.approx(apart, rel=1e-2)


def test_an_instance_may_weigh_more_than_an_image_that_holds() -> None:
    task = Task(corners(4), False, corners(8, seed=5), None, {}, None)
    model = learnt()
    parts = task.instances(4, 0), task.holding(8, 0)
    alone, both, heavy = (
        objective(copy.deepcopy(model), task, parts[0], hold, push="climb", weight=weight)[1]
        for hold, weight in ((None, 1.0), (parts[1], 1.0), (parts[1], 3.0))
    )
    held = (both * 12 - alone * 4) / 8
    assert heavy == pytest.approx((3 * 4 * alone + 8 * held) / (3 * 4 + 8), rel=1e-4)


def test_after_all_is_forgotten_it_settles_at_falling_rates() -> None:
    at_once = forget(replace(SETTLED, retained=4, max_steps=400))
    later = forget(replace(SETTLED, retained=4, max_steps=400, settle=10))
    for edit in (at_once, later):
        assert (edit.found["status"], edit.found["left"]) == ("forgot", 0)
    assert int(str(later.found["steps"])) == int(str(at_once.found["steps"])) + 10
    instances = split(DATA, REQUEST).forget
    assert not (answers(later, instances) == instances.labels).any()


def test_rates_do_not_fall_below_zero_where_the_last_look_comes_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares = list[float]()
    monkeypatch.setattr(l2ul, "slow_down_", lambda _, share: shares.append(share))
    late = replace(FOCUSED, settle=2, check_every=5)
    assert forget(late).found["status"] == "forgot"
    assert shares == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_every_rate_falls_by_the_same_share() -> None:
    mover = SGD(rates(learnt().network, 0.1, depth=2.0), 0.1)
    before = [group["lr"] for group in mover.param_groups]
    for share in (0.5, 0.25):  # of the first rates, not of the last
        slow_down_(mover, share)
        assert [g["lr"] for g in mover.param_groups] == pytest.approx([share * lr for lr in before])


def test_the_last_step_at_which_nothing_is_left_is_kept() -> None:
    student = learnt()
    run = Run(copy.deepcopy(student), SGD(student.network.parameters(), 0.1))
    weight = next(iter(run.student.network.parameters()))

    def look(step: int, left: float, value: float) -> tuple[str | None, float]:
        run.step = step
        with torch.no_grad():
            weight.fill_(value)
        ended = look_(run, left, settle=2)
        return ended, float(next(iter(run.best.values())).flatten()[0])

    assert look(1, 0.5, 1.0) == (None, 1.0)
    assert look(2, 0.5, 2.0) == (None, 1.0)  # no better, and nothing settles yet
    assert look(3, 0.0, 3.0) == (None, 3.0)
    assert look(4, 0.25, 4.0) == (None, 3.0)  # one came back
    assert look(5, 0.0, 5.0) == ("forgot", 5.0)
    assert run.forgot_at == 3


def test_relabelled_instances_are_taken_for_what_was_asked() -> None:
    own = DATA.train.take(torch.tensor(CHOSEN)).labels
    wanted = tuple(((own + 2) % 4).tolist())
    request = ForgetRequest(instances=CHOSEN, labels=wanted)
    edit = forget(replace(QUICK, goal="relabel"), request)
    assert answers(edit, split(DATA, request).forget).tolist() == list(wanted)


def test_random_new_labels_are_reached_and_are_not_the_old_ones() -> None:
    edit = forget(replace(QUICK, goal="relabel"))
    instances = split(DATA, REQUEST).forget
    assert edit.found["status"] == "forgot"
    assert not (answers(edit, instances) == instances.labels).any()


def test_what_is_not_known_anyhow_takes_no_step() -> None:
    wrong = tuple(((DATA.train.labels + 1) % 4).tolist())
    data = Splits(
        ImageSet(DATA.train.images, DATA.train.index[:8], torch.tensor(wrong[:8])),
        DATA.train,
        DATA.validate,
    )
    edit = QUICK(learnt(), ForgetRequest(instances=tuple(range(8))), data)
    assert edit.weights == {}
    assert (edit.found["status"], edit.found["steps"]) == ("forgot", 0)


def test_the_cap_is_kept_and_told(caplog: pytest.LogCaptureFixture) -> None:
    full = int(str(forget(QUICK).found["steps"]))
    slow = replace(QUICK, max_steps=full - 1)
    edit = forget(slow)
    assert (edit.found["status"], edit.found["steps"]) == ("cap", full - 1)
    assert 0 < float(str(edit.found["left"])) < 1
    assert "are not forgotten (cap" in caplog.text


def test_a_run_that_gets_nowhere_gives_no_edit() -> None:
    with pytest.raises(NothingForgottenError, match="no instance was forgotten in 2 steps"):
        forget(replace(QUICK, max_steps=2, lr=1e-9))
    with pytest.raises(DivergedError, match="lower lr"):
        forget(replace(QUICK, lr=1e30, penalty=0.0))


def test_without_its_terms_it_is_the_ascent_alone() -> None:
    edit = forget(replace(QUICK, adversarial=0, penalty=0.0))
    image, label = next(split(DATA, REQUEST).forget.batches(32))
    with torch.no_grad():
        first = -F.cross_entropy(copy.deepcopy(learnt()).train()(image), label).item()
    losses = edit.found["losses"]
    assert isinstance(losses, list)
    assert losses[0] == pytest.approx(first, rel=1e-5)


def slopes(held: float | None, strength: float, *, hold: bool = True) -> list[Tensor]:
    """Return the gradient of one step's loss where every weight has moved by 0.1."""
    model = tiny(norm=False)
    weights = dict(model.network.named_parameters())
    start = {name: w.detach() + 0.1 for name, w in weights.items()}
    factor = None if held is None else {n: torch.full_like(w, held) for n, w in weights.items()}
    what = Task(corners(4), False, corners(12, seed=3), None, start, factor)
    other = what.holding(12, 0) if hold else None
    value, _ = objective(model, what, what.instances(4, 0), other, strength=strength)
    value.backward()
    return [w.grad for w in weights.values() if w.grad is not None]


@pytest.mark.parametrize(("held", "strength"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_penalty_of_nothing_changes_no_bit(held: float, strength: float) -> None:
    without, with_ = slopes(None, 1.0), slopes(held, strength)
    assert all(torch.equal(a, b) for a, b in zip(without, with_, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(without, slopes(1.0, 1.0), strict=True))


@pytest.mark.parametrize(
    ("instances", "adversaries", "relabel"), [(32, 256, False), (32, 256, True), (4, 0, False)]
)
def test_batches_count_by_their_sizes(instances: int, adversaries: int, relabel: bool) -> None:
    model, images, others = tiny(norm=False), corners(instances), corners(adversaries, seed=3)
    what = Task(images, relabel, others, None, {}, None)
    hold = next(others.batches(adversaries)) if adversaries else None
    _, total = objective(model, what, next(images.batches(instances)), hold)
    share = instances / (instances + adversaries)  # 1/9 for 32 and 256
    own = F.cross_entropy(logits(model, images), images.labels).item()
    expected = share * own * (1 if relabel else -1)
    if adversaries:
        expected += (1 - share) * F.cross_entropy(logits(model, others), others.labels).item()
    assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("relabel", "margin", "expected"),
    [
        (False, 0.0, [2.0, 0.0]),  # the label 0 leads by 2; the other leads by 1
        (False, 0.5, [2.5, 0.0]),
        (False, 1.5, [3.5, 0.5]),
        (True, 0.0, [0.0, 1.0]),
        (True, 3.0, [1.0, 4.0]),
    ],
)
def test_a_margin_pushes_until_the_other_side_leads(
    relabel: bool, margin: float, expected: list[float]
) -> None:
    answers = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    losses = pushed(answers, torch.tensor([0, 0]), relabel=relabel, push="margin", margin=margin)
    assert losses.tolist() == expected


def test_adversaries_can_keep_their_answers() -> None:
    model, others = tiny(norm=False), corners(12, seed=3)
    answers = logits(model, others).softmax(1)
    what = Task(corners(4), False, others, answers, {}, None)
    image, wanted = what.holding(8, 1) or (torch.empty(0), torch.empty(0))
    assert torch.equal(wanted, answers[8:])
    assert torch.equal(image, next(others.take(torch.arange(8, 12)).batches(4))[0])
    none = next(corners(0).batches(1), (torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.int64)))
    value, total = objective(model, what, none, what.holding(12, 0))
    value.backward()
    entropy = -(answers * answers.log()).sum(1).mean().item()
    assert total == pytest.approx(entropy, rel=1e-5)
    slopes_ = [p.grad for p in model.network.parameters() if p.grad is not None]
    assert max(slope.abs().max().item() for slope in slopes_) < 1e-6  # they are kept already


@pytest.mark.parametrize("goal", ["misclassify", "relabel"])
def test_instances_of_earlier_requests_do_not_come_back(goal: str) -> None:
    earlier, method = (
        DATA.train.take(torch.tensor([3, 9, 14])),
        L2UL(
            goal=goal,  # type: ignore[arg-type]  # one of its two values
            adversarial=3,
            attack_steps=3,
            batch=8,
            lr=0.01,
            depth=0.0,
            penalty=0.1,
            max_steps=400,
        ),
    )
    # the network knows them, as if an edit had brought them back
    assert (logits(learnt(), earlier).argmax(1) == earlier.labels).all()
    parts = replace(split(DATA, REQUEST), gone=earlier)
    edit = method(learnt(), REQUEST, parts)
    assert edit.found["left"] == 0
    assert not (answers(edit, earlier) == earlier.labels).any()
    assert not (answers(edit, parts.forget) == parts.forget.labels).any()


def test_later_layers_learn_faster() -> None:
    network = tiny(norm=False).network
    layers = ["conv1", "conv2", "conv3", "fc"]
    groups = {id(w): group["lr"] for group in rates(network, 0.4, 2.0) for w in group["params"]}  # type: ignore[attr-defined]  # a list
    for i, layer in enumerate(layers, 1):
        for weight in network.get_submodule(layer).parameters():
            assert groups[id(weight)] == pytest.approx(0.4 * (i / 4) ** 2)
    assert {group["lr"] for group in rates(network, 0.4, 0.0)} == {0.4}


def test_batches_take_turns_in_their_order() -> None:
    turns = [turn(5, 2, step).tolist() for step in range(4)]
    assert turns == [[0, 1], [2, 3], [4], [0, 1]]


@pytest.mark.parametrize(
    ("bn", "adversarial", "passes"), [("train", 3, 2), ("train", 0, 1), ("freeze", 3, 0)]
)
def test_batchnorm_follows_or_is_left(bn: str, adversarial: int, passes: int) -> None:
    method = replace(QUICK, bn=bn, adversarial=adversarial)  # type: ignore[arg-type]  # one of its two values
    edit = forget(method)
    counted = [v for name, v in edit.weights.items() if name.endswith("num_batches_tracked")]
    before = learnt().network.state_dict()
    counters = [name for name in before if name.endswith("num_batches_tracked")]
    steps = int(str(edit.found["steps"]))
    assert len(counted) == (len(counters) if passes else 0)
    for name in counters:
        if passes:
            assert int(edit.weights[name] - before[name]) == passes * steps
    moved = [name for name in edit.weights if "running" in name]
    assert bool(moved) == bool(passes)


def test_one_seed_gives_one_edit_and_the_model_stays() -> None:
    before = {name: v.clone() for name, v in learnt().state_dict().items()}
    one, two = forget(QUICK), forget(QUICK)
    assert all(torch.equal(v, two.weights[name]) for name, v in one.weights.items())
    assert all(torch.equal(v, before[name]) for name, v in learnt().state_dict().items())
    other = forget(replace(QUICK, seed=1))
    assert any(not torch.equal(v, other.weights[name]) for name, v in one.weights.items())


class Killed(Journal):
    """Notes every step, and ends the run after so many."""

    def __init__(self, file: Path, after: int) -> None:
        super().__init__(file=file, settings="s", every=0)
        self.after = after

    def note_(self, state: Callable[[], State]) -> None:
        super().note_(state)
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("method", "from_end"), [(QUICK, None), (QUICK, 2), (FOCUSED, None), (FOCUSED, 2)]
)
def test_a_killed_run_ends_with_the_same_bytes(
    tmp_path: Path, method: L2UL, from_end: int | None
) -> None:
    whole, file = forget(method), tmp_path / "state"
    after = int(str(whole.found["steps"])) - from_end if from_end else 1  # while it settles, or not
    with pytest.raises(KeyboardInterrupt):
        forget(method, journal=Killed(file, after))
    resumed = forget(method, journal=Journal(file=file, settings="s", every=0))
    assert resumed.found == whole.found
    assert resumed.weights.keys() == whole.weights.keys()
    assert all(torch.equal(v, whole.weights[name]) for name, v in resumed.weights.items())


def test_the_state_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        forget(QUICK, journal=Killed(file, 1))
    with pytest.raises(InputError, match="other settings or data"):
        forget(QUICK, journal=Journal(file=file, settings="other"))
    file.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="not the state of a run"):
        forget(QUICK, journal=Journal(file=file, settings="s"))


@pytest.mark.parametrize(
    ("setting", "request_", "message"),
    [
        ({}, ForgetRequest(classes=(1,)), "forgets single images"),
        ({}, ForgetRequest(instances=(3,), labels=(1,)), "need goal=relabel"),
        ({"goal": "relabel"}, ForgetRequest(instances=(3,), labels=(9,)), r"must be 0\.\.3"),
        ({"goal": "relabel"}, ForgetRequest(instances=(3,), labels=(3,)), "have the label already"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    setting: Mapping[str, str], request_: ForgetRequest, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        forget(replace(QUICK, adversarial=0, **setting), request_)  # type: ignore[arg-type]  # one of its values


@pytest.mark.parametrize("setting", [{"lr": 0}, {"eps": -1}, {"batch": 0}, {"penalty": math.nan}])
def test_settings_out_of_range_are_refused(setting: Mapping[str, float]) -> None:
    with pytest.raises(InputError, match=f"l2ul: {next(iter(setting))} must be a number"):
        replace(QUICK, **setting)  # type: ignore[arg-type]  # the wrong ones


def test_the_whole_stage_folds_what_was_trained() -> None:
    folded, edit = unlearn(learnt(), QUICK, REQUEST, DATA)
    assert folded.bn_folded
    assert isinstance(edit, WeightEdit)
    instances = split(DATA, REQUEST).forget
    now = edited(folded, edit)
    assert not (logits(now, instances).argmax(1) == instances.labels).any()
    plain = forget(QUICK)
    torch.testing.assert_close(
        logits(now, DATA.test), logits(edited(learnt(), plain), DATA.test), rtol=1e-3, atol=1e-3
    )
    assert edit.found["held_out"]["n"] == 40  # type: ignore[index]  # a mapping
