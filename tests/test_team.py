"""Two processes on one job against one process alone."""

import copy
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F

from bandstop.edit import team
from bandstop.edit.arch import build
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import EditError
from bandstop.edit.gates import Gated, gateable
from bandstop.edit.journal import Journal
from bandstop.edit.l2ul import L2UL
from bandstop.edit.method import Splits
from bandstop.edit.moments import second_moments
from bandstop.edit.projection import Rows
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import WFNet
from bandstop.edit.wf_objective import objective
from bandstop.edit.wf_start import class_means, initial_alphas
from bandstop.edit.wf_training import optimizer_of
from tests.networks import classifier, corners, tiny, trained

PROCESSES = 2
TIMEOUT_S = 120.0
MASKS = WFNet(steps=10, batch=50, validate_every=1)
Networks = dict[str, Classifier]
Found = dict[str, Any]  # tensors and numbers by name, as a process found them


def small_vit() -> Classifier:
    network = build(Arch("bandstop:vit", {"dim": 24, "depth": 2, "heads": 2}), 4, 1, (8, 8))
    model = classifier(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        image, label = next(corners(seed=1).batches(64, generator))
        loss = F.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return fold_batchnorm(model)


class Uneven(nn.Module):
    """A layer called twice, windows, and a layer that reads a table and no image."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 3, padding=1)
        self.windows = nn.Linear(4, 4)
        self.table = nn.Linear(2, 16)
        self.fc = nn.Linear(64, 4)
        self.places = torch.arange(46.0).reshape(1, 23, 2) / 46

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x).relu())
        x = self.windows(x.reshape(len(x) * 4, 4, 4)).reshape(len(x), 64).relu()
        bias = self.table(self.places.to(x)).mean((0, 1)).repeat(4)
        logits: Tensor = self.fc(x + bias)
        return logits


class Twice(nn.Linear):
    """Multiplies with something other than its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 2 * self.weight, self.bias)


class Idle(nn.Module):
    """Has a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1))
        return logits


@contextmanager
def in_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def refused(action: Callable[[], object]) -> str:
    try:
        action()
    except EditError as error:
        return str(error)
    return ""


def svd_edits(networks: Networks) -> Found:
    """Return edited weights; 450 images to retain are five batches, 150 to forget are two."""
    images = corners(600)
    data = Splits(images.of_classes([2]), images.without_classes([2]), corners(61, seed=5))
    small = Splits(data.forget.take(torch.arange(9)), data.retain, data.validate)
    settings = {
        "default": (SVD(), data),
        "some rows": (SVD(max_rows=900), data),
        "few rows": (SVD(max_rows=300), data),
        "one batch": (SVD(), small),
        "crops": (SVD(crops=3, max_rows=900), small),
    }
    return {
        f"{kind} {name}": setting(model, ForgetRequest((2,)), parts).weights
        for kind, model in networks.items()
        for name, (setting, parts) in settings.items()
    }


def moments() -> Found:
    """Return second moments of layers that are called in unusual ways."""
    torch.manual_seed(0)
    uneven, found = classifier(Uneven()).double(), {}
    # the last batch may be small, or one image; with 7 images there is one batch
    for count, batch, max_rows in ((60, 7, 300), (57, 7, None), (57, 8, 300), (7, 10, 14)):
        read = second_moments(uneven, corners(count), batch=batch, max_rows=max_rows)
        found[f"{count} {batch} {max_rows}"] = {
            name: m.rows.mT @ m.rows if isinstance(m, Rows) else m for name, m in read.items()
        }
    kept = second_moments(tiny().double(), corners(9), batch=2, max_rows=36)["conv3"]
    assert isinstance(kept, Rows)
    found["kept rows"] = {"conv3": kept.rows.mT @ kept.rows, "count": torch.tensor(kept.rows.shape)}
    return found


def mask_trainings(networks: Networks) -> Found:
    """Return loss curves of ten steps with masks, in float64."""
    data = Splits(corners(201), corners(1).of_classes([]), corners(61, seed=5))
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "sets": {"set_size": 2},
        "sgd": {"optimizer": "sgd", "lr": 1.0, "warm": 0.0},
        "two images": {"batch": 2, "chi": 1, "warm": 0.0},
    }
    found = {}
    with in_float64():
        for kind, model in networks.items():
            for name, option in options.items():
                setting = replace(MASKS, **option)
                edit = setting(copy.deepcopy(model).double(), every_class(model), data)
                curve = [edit.found["start_loss"], *edit.found["validation_losses"]]  # type: ignore[misc]  # a list
                found[f"{kind} {name}"] = {"losses": torch.tensor(curve), **edit.masks}
    return found


def image_trainings(networks: Networks) -> Found:
    """Return loss curves of ten steps in float64, and final weights."""
    images = corners(201)
    forget = images.take(torch.arange(0, 201, 9))  # 23: neither batch divides by two
    parts = Splits(forget, images, images)
    request = ForgetRequest(instances=tuple(forget.index.tolist()))
    ours = L2UL(adversarial=3, attack_steps=4, eps=1.0, batch=25, forget_batch=9, lr=0.01)
    as_published = replace(ours, push="climb", hold="target")
    results: Found = {}
    with in_float64():
        for kind, model in networks.items():
            double = copy.deepcopy(model).double()
            for name, setting in {"ours": ours, "paper": as_published}.items():
                made = setting._adversaries(double, forget, Journal())
                assert made is not None  # it makes three of each
                task = setting._task(double, request, parts, made.images)
                run = setting._start(double)
                for _ in range(10):  # step by step: the whole run stops where all are forgotten
                    setting._step_(run, task)
                weights = dict(run.student.network.state_dict())
                results[f"{kind} {name}"] = {"losses": torch.tensor(run.losses), **weights}
    return results


def steps(model: Classifier) -> Found:
    """Return the loss and gradients of training steps, one of them on two images."""
    found: Found = {}
    with in_float64():
        model = copy.deepcopy(model).double()
        alphas = initial_alphas(model, 1.0)
        gated = Gated(model.network, tuple(gateable(model.network)))
        optimizer = optimizer_of(alphas, "adam", 0.1)
        generator = torch.Generator().manual_seed(0)
        for count in (40, 33, 2, 40):
            image, label = next(corners(40).batches(count))
            optimizer.zero_grad()
            loss = objective(WFNet(), model, gated, alphas, image, label, generator)
            loss.backward()
            team.sum_gradients_(alphas.values())
            grads = {n: a.grad.clone() for n, a in alphas.items() if a.grad is not None}
            found[f"step {len(found)}"] = {"loss": loss.detach(), **grads}
            optimizer.step()
    return found


def small_sums() -> Found:
    """Return what the helpers make of known numbers."""
    values = torch.arange(5.0, dtype=torch.float64).requires_grad_()
    unused = torch.ones(3, requires_grad=True)
    own = values[team.share(5)].square()
    whole = team.of_all(own, 5)
    loss = (whole * torch.arange(5.0)).sum() + team.once(values.sum())
    loss.backward()
    team.sum_gradients_(iter([values, unused]))
    one = team.of_all(torch.full((1 if team.rank() == 0 else 0,), 7.0), 1)
    numbers = [number for number, _, _ in team.batches(corners(10), 3)]
    return {
        "whole": whole.detach(),
        "gradient": values.grad,
        "unused": torch.zeros(3) if unused.grad is None else unused.grad,
        "one": one,
        "numbers": team.together(torch.tensor(numbers, dtype=torch.int64)).sort().values,
        "nothing": team.together(torch.zeros(0, 2)),
        "loss": loss.detach(),
    }


def refusals(networks: Networks) -> Found:
    """Return what is said where all processes have to refuse, even one without a batch."""
    data = Splits(corners(40), corners(1).of_classes([]), corners(40, seed=5))
    odd = classifier(nn.Sequential(nn.Flatten(), Twice(64, 4)))
    setting, adapting = WFNet(bn="adapt", steps=1), tiny()
    unseen = classifier(Idle())
    wild = tiny()
    nn.init.constant_(wild.network.conv1.weight, torch.nan)  # type: ignore[union-attr,arg-type]  # a Conv2d
    return {
        "odd": refused(lambda: second_moments(odd, corners(8))),
        "idle": refused(lambda: second_moments(unseen, corners(8))),
        "wild": refused(lambda: second_moments(wild, corners(8))),
        "adapt": refused(lambda: setting(adapting, every_class(adapting), data)),
    }


class Stops(Journal):
    """Ends the run as Ctrl-C does when it is asked to note for the `after`-th time."""

    left = 4

    def note_(self, state: Callable[[], Any]) -> None:
        super().note_(state)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def resumed(model: Classifier, folder: Path) -> Found:
    """Return the masks of a run that was stopped, and what is said without the common file."""
    data = Splits(corners(201), corners(1).of_classes([]), corners(61, seed=5))
    own = folder / str(team.rank())
    own.mkdir()

    def run(journal: Journal | None) -> Mapping[str, Tensor]:
        return MASKS(model, every_class(model), data, journal).masks

    def stopped(file: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(Stops(file, every=0.0))

    stopped(folder / "common")
    stopped(own / "state")
    return {
        "whole": run(None),
        "resumed": run(Journal(folder / "common")),
        "wrote": (own / "state").exists(),
        "apart": refused(lambda: run(Journal(own / "state"))),
    }


def everything(networks: Networks, folder: Path) -> Found:
    return {
        "svd": svd_edits(networks),
        "moments": moments(),
        "steps": steps(networks["cnn"]),
        "small": small_sums(),
        "means": class_means(networks["cnn"], ["conv1", "conv2"], corners(230)),
        "few means": class_means(networks["vit"], ["blocks.0.attn.qkv"], corners(8)),
        "refusals": refusals(networks),
        "resumed": resumed(networks["cnn"], folder),
        "masks": mask_trainings(networks),
        "images": image_trainings(networks),
    }


def work(rank: int, networks: Networks, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    found = everything(networks, folder)
    torch.save(found, folder / f"found {rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def networks() -> Networks:
    return {"cnn": fold_batchnorm(trained()), "vit": small_vit()}


@pytest.fixture(scope="module")
def found(networks: Networks, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """Return what one process alone found, then what each of a team did."""
    folder, alone = tmp_path_factory.mktemp("team"), tmp_path_factory.mktemp("alone")
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(rank, networks, folder)) for rank in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    try:
        one = everything(networks, alone)
        end = time.monotonic() + TIMEOUT_S
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return [one] + [torch.load(folder / f"found {rank}") for rank in range(PROCESSES)]


def gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    assert one.shape == other.shape
    largest = float(one.abs().max()) if one.numel() else 0.0
    return float((one - other).abs().max()) / (largest or 1.0) if one.numel() else 0.0


def gaps(found: list[Found], part: str) -> dict[str, float]:
    """Return by name the gap of each tensor to that of one process, over the team."""
    one, *others = (flat(each[part]) for each in found)
    assert all(other.keys() == one.keys() for other in others)
    return {name: max(gap(v, other[name]) for other in others) for name, v in one.items()}


def flat(found: Found) -> dict[str, Tensor]:
    tensors = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            tensors |= {f"{name}: {inner}": tensor for inner, tensor in value.items()}
    return tensors


def test_an_svd_edit_is_that_of_one_process(found: list[Found]) -> None:
    assert max(gaps(found, "svd").values()) <= 1e-5


def test_moments_of_layers_called_in_any_way_are_those_of_one_process(found: list[Found]) -> None:
    assert max(gaps(found, "moments").values()) <= 1e-6


def test_every_process_has_the_same_bytes(found: list[Found]) -> None:
    for part in ("svd", "moments", "steps", "masks", "images", "means", "few means"):
        one, two = (flat(each[part]) for each in found[1:])
        assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_where_masks_start_is_that_of_one_process(found: list[Found]) -> None:
    assert max((gaps(found, "means") | gaps(found, "few means")).values()) <= 1e-5


def test_ten_steps_with_masks_have_the_losses_of_one_process(found: list[Found]) -> None:
    curves = {name: gap for name, gap in gaps(found, "masks").items() if name.endswith("losses")}
    assert len(curves) == 8
    assert len(found[0]["masks"]["cnn default"]["losses"]) == 11
    assert max(curves.values()) <= 1e-4
    assert max(gaps(found, "masks").values()) <= 1e-4


def test_ten_steps_on_images_have_the_losses_of_one_process(found: list[Found]) -> None:
    curves = {name: gap for name, gap in gaps(found, "images").items() if name.endswith("losses")}
    assert len(curves) == 4
    assert all(len(one["losses"]) == 10 for one in found[0]["images"].values())
    assert max(curves.values()) <= 1e-4
    assert max(gaps(found, "images").values()) <= 1e-4


def test_losses_and_summed_gradients_are_those_of_one_process(found: list[Found]) -> None:
    assert max(gaps(found, "steps").values()) <= 1e-9


def test_helpers_of_a_team_give_what_one_process_has(found: list[Found]) -> None:
    for each in found:
        assert each["small"]["whole"].tolist() == [0, 1, 4, 9, 16]
        assert each["small"]["gradient"].tolist() == [1, 3, 9, 19, 33]
        assert each["small"]["unused"].tolist() == [0, 0, 0]
        assert each["small"]["one"].tolist() == [7]
        assert each["small"]["numbers"].tolist() == [0, 1, 2, 3]
        assert each["small"]["nothing"].shape == (0, 2)
        assert float(each["small"]["loss"]) == 100 + 10


def test_all_processes_refuse_alike(found: list[Found]) -> None:
    one, *others = (each["refusals"] for each in found)
    for other in others:
        assert {name: text for name, text in other.items() if name != "adapt"} == {
            name: text for name, text in one.items() if name != "adapt"
        }
        assert other["adapt"] == (
            "wf-net: bn=adapt takes the statistics of whole batches, which a team of 2 processes "
            "divides; run one process"
        )
    assert one["odd"].startswith("1 is a Twice")
    assert "never calls idle" in one["idle"]
    assert "conv2 reads is not finite" in one["wild"]
    assert "team" not in one["adapt"]


def test_one_process_notes_and_all_go_on(found: list[Found]) -> None:
    for each in found:
        whole, resumed = each["resumed"]["whole"], each["resumed"]["resumed"]
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert [each["resumed"]["wrote"] for each in found] == [True, True, False]
    assert not found[0]["resumed"]["apart"]
    for each in found[1:]:
        assert "has to be the same file for all processes" in each["resumed"]["apart"]


def test_a_team_of_one_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    value = torch.ones(3, requires_grad=True)
    with team.joined():
        assert not distributed.is_initialized()
        assert (team.rank(), team.size(), team.share(5)) == (0, 1, slice(0, 5, 1))
        assert team.of_all(value, 3) is value
        assert team.together(value) is value
        assert team.once(value) is value
        assert torch.equal(team.summed(value), value)
        team.sum_gradients_([value])
        assert value.grad is None


def test_a_process_joins_by_torchruns_variables_and_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    with team.joined():
        assert distributed.is_initialized()
        assert (team.rank(), team.size()) == (0, 1)
    assert not distributed.is_initialized()
