"""Peak memory of an edit of the whole network, each side in a process of its own.

`python -m bandstop.bench.memory SIDE JSON` prints by how many bytes the process grew.
"""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from bandstop.bench.svd_reference import Paper
from bandstop.bench.svd_reference import edit as reference_edit
from bandstop.bench.workload import resnet18, retain_and_forget, smooth_images
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import NothingForgottenError
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest
from bandstop.edit.resources import process_memory

Side = Literal["ours", "reference"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a child does.

    Attributes:
        width: of the ResNet-18.
        size: of the images.
        retain: images to keep.
        forget: images to forget.
        row_cap: rows of a layer that the reference keeps, at most.
        largest: the reference does not decompose layers with more columns (it takes minutes each),
            which makes its peak smaller than it is.
        seed: of weights and images.
    """

    width: int
    size: int
    retain: int
    forget: int
    row_cap: int
    largest: int | None
    seed: int = 0


def peak_growth(side: Side, job: Job) -> int:
    """Return by how many bytes a fresh process grows that makes the edit of `job`."""
    command = [sys.executable, "-m", "bandstop.bench.memory", side, json.dumps(asdict(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def grown(side: Side, job: Job) -> int:
    """Make the edit in this process and return by how many bytes it grew at its peak."""
    model = resnet18(job.width, job.size, job.seed)
    retain, forget = retain_and_forget(job.retain, job.forget, job.size, job.seed)
    validate = smooth_images(torch.arange(20) % 10, job.size, job.seed + 1)
    before = process_memory("VmRSS")
    paper = Paper(row_cap=job.row_cap, largest=job.largest, seed=job.seed)
    if side == "ours":
        _ours(model, Splits(forget, retain, validate), paper)
    else:
        reference_edit(model, retain, forget, paper)
    return process_memory("VmHWM") - before


def _ours(model: Classifier, data: Splits, paper: Paper) -> None:
    setting = paper.as_ours(len(data.retain), len(data.forget))
    # a network of random weights may have nothing to forget, which is found after the edit
    with suppress(NothingForgottenError):
        setting(model, ForgetRequest(classes=(0,)), data)


if __name__ == "__main__":
    name: Side = "ours" if sys.argv[1] == "ours" else "reference"
    sys.stdout.write(f"{grown(name, Job(**json.loads(sys.argv[2])))}\n")
