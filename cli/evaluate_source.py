"""What `bandstop evaluate` looks at: an artifact's network, and those to compare it with."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bandstop.edit.artifact import Artifact, load_artifact
from bandstop.edit.baselines.logit_mask import LogitMask
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.checkpoint import describe_checkpoint, load_checkpoint
from bandstop.edit.classifier import Classifier
from bandstop.edit.data import load_data
from bandstop.edit.edits import edited
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.oracle import retrained
from bandstop.edit.evaluation.record_parts import SubjectName
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.method import split
from bandstop.edit.origin import forgotten_by, instances_of, is_artifact
from bandstop.edit.request import ForgetRequest, parse_forget
from bandstop.edit.storage import state_sha256
from bandstop.edit.train import recipe_for
from bandstop.edit.unlearn import check_agree

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Named:
    """What the user names.

    Attributes:
        artifact: of `bandstop unlearn`.
        data: see `load_data`.
        forget: classes, for masks; an edit of weights has its own, but one of single images may
            be asked for a class all of whose training images are among them.
        original: the checkpoint that the artifact was made of; None: unknown, but for masks, whose
            artifact holds it.
        retrained: a checkpoint of `bandstop train --without`, or an artifact of the method retrain.
        retrain: a folder of networks retrained as the original was trained; the one that is needed
            is trained unless it is there.
        seed: divides the data where the artifact does not say how it was.
        trust_factory: see `build`.
    """

    artifact: Path
    data: str
    forget: str | None = None
    original: Path | None = None
    retrained: Path | None = None
    retrain: Path | None = None
    seed: int = 0
    trust_factory: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """What is evaluated.

    Attributes:
        artifact: the artifact.
        request: all that its network is to have forgotten, by earlier edits too.
        data: with the images of that.
        networks: the edited one, and what is there to compare it with.
    """

    artifact: Artifact
    request: ForgetRequest
    data: DataSplits
    networks: Mapping[SubjectName, Classifier]


def load_compared(named: Named, device: str = "cpu") -> Compared:
    """Return what `named` names; what has to be trained is trained on `device`.

    Raises:
        InputError: something is missing, or does not belong to the artifact.
        ArtifactError: a file is corrupt.
    """
    if not is_artifact(str(named.artifact)):
        raise InputError(f"{named.artifact}: expected the folder that bandstop unlearn wrote")
    artifact = load_artifact(named.artifact, trust_factory=named.trust_factory)
    manifest = artifact.manifest
    if named.retrained is not None and named.retrain is not None:
        raise InputError("--retrained names a network, --retrain has it made; give one of them")
    own = named.seed if manifest.split_seed is None else manifest.split_seed
    data = load_data(named.data, seed=own, preprocess=manifest.preprocess.preprocess())
    check_agree(artifact.model, data)
    request = _request(named, artifact, data)
    _check_images(request, data)
    networks: dict[SubjectName, Classifier] = {}
    original = _original(named, artifact)
    if original is not None:
        networks["original"] = original
    if named.retrained is not None:
        networks["retrained"] = _retrained(named, artifact, request, own)
    elif named.retrain is not None:
        networks["retrained"] = _retrain(named, artifact, request, data, device)
    edit = artifact.gates
    model = artifact.model if edit is None else edited(artifact.model, edit, request.classes)
    networks["edited"] = model
    if original is not None and request.classes:
        folded = original if original.bn_folded else fold_batchnorm(original)
        mask = LogitMask()(folded, request, split(data, request))
        networks["logit-mask"] = edited(folded, mask)
    return Compared(artifact, request, data, networks)


def _request(named: Named, artifact: Artifact, data: DataSplits) -> ForgetRequest:
    manifest = artifact.manifest
    names = manifest.class_names
    classes, instances = forgotten_by(manifest), instances_of(manifest)
    if manifest.kind == "gates":
        if named.forget is None:
            raise InputError(
                f"{named.artifact} holds masks for every class; say which to look at: "
                "--forget NAME|INDEX[,..]"
            )
        return parse_forget(named.forget, names)
    if named.forget is not None and (classes or not instances):
        raise InputError(f"{named.artifact} has its classes built in, so leave --forget out")
    if named.forget is not None:
        whole = parse_forget(named.forget, names)
        _check_whole(named, instances, data.train.of_classes(whole.classes))
        return whole
    if classes and instances:
        raise InputError(
            f"{named.artifact} forgot classes and single images one after the other; "
            "evaluate the artifact of each step"
        )
    return ForgetRequest(classes=classes, instances=instances)


def _check_whole(named: Named, instances: tuple[int, ...], images: ImageSet) -> None:
    """Refuse to call classes forgotten of which some training images were not."""
    left = len(images) - int(torch.isin(images.index, torch.tensor(instances)).sum())
    if left:
        raise InputError(
            f"{named.artifact} forgot {len(instances)} single images; {left} of the "
            f"{len(images)} training images of --forget {named.forget} are not among them"
        )


def _check_images(request: ForgetRequest, data: DataSplits) -> None:
    names = data.class_names
    sets = {"training": data.train, "test": data.test}
    missing = [
        f"no {what} image of {names[c]}"
        for c in request.classes
        for what, images in sets.items()
        if not len(images.of_classes([c]))
    ]
    if not len(data.test):
        missing.append("no test image at all")
    if missing:
        raise InputError(
            f"the data has {', '.join(missing)}; what was forgotten can only be evaluated with "
            "images of it"
        )


def _original(named: Named, artifact: Artifact) -> Classifier | None:
    manifest = artifact.manifest
    if named.original is None:
        return artifact.model if manifest.kind == "gates" else None
    original = load_checkpoint(named.original, trust_factory=named.trust_factory)
    _check_same_network(named.original, original, artifact, "--original")
    first = not (manifest.forgotten_before or manifest.instances_before)
    if first and state_sha256(original.network.state_dict()) != manifest.parent_sha256:
        raise InputError(
            f"--original {named.original}: the artifact was made of another network "
            "(their digests differ); give the checkpoint that bandstop unlearn was given"
        )
    return original


def _retrained(
    named: Named, artifact: Artifact, request: ForgetRequest, split_seed: int
) -> Classifier:
    path = named.retrained
    assert path is not None  # asked by the caller
    if is_artifact(str(path)):
        reference = load_artifact(path, trust_factory=named.trust_factory)
        if reference.manifest.method != "retrain":
            raise InputError(
                f"--retrained {path}: expected an artifact of retrain, got one of "
                f"{reference.manifest.method}"
            )
        model, seed = reference.model, reference.manifest.split_seed
        asked = reference.manifest.request
        never = (tuple(asked.classes), tuple(asked.instances))
    else:
        model = load_checkpoint(path, trust_factory=named.trust_factory)
        described = describe_checkpoint(path)
        seed, never = described.seed, (tuple(sorted(described.without)), ())
    _check_same_network(path, model, artifact, "--retrained")
    _check_same_request(path, never, request, artifact)
    if seed != split_seed:
        raise InputError(
            f"--retrained {path}: its data was divided by seed {seed}, the artifact's by "
            f"{split_seed}, so that images it learnt would count as unseen; retrain with the other"
        )
    return model


def _retrain(
    named: Named, artifact: Artifact, request: ForgetRequest, data: DataSplits, device: str
) -> Classifier:
    """Return the network retrained without `request` by the recipe and seed of the original."""
    if named.original is None or named.retrain is None:
        raise InputError("--retrain needs --original, which tells how to train")
    described = describe_checkpoint(named.original)
    arch = artifact.model.arch
    if described.recipe is None:
        log.warning("%s does not say how it was trained; taking the default", named.original)
    network = retrained(
        named.retrain,
        arch,
        data,
        described.recipe or recipe_for(arch, data),
        request,
        described.seed,
        device,
        split_seed=artifact.manifest.split_seed,
        trust_factory=named.trust_factory,
    )
    return network.to("cpu")


def _check_same_request(
    path: Path,
    never: tuple[tuple[int, ...], tuple[int, ...]],
    request: ForgetRequest,
    artifact: Artifact,
) -> None:
    if never == (request.classes, request.instances):
        return
    names = artifact.manifest.class_names
    classes = ", ".join(names[c] for c in never[0] if c < len(names)) or "no class"
    wanted = ", ".join(names[c] for c in request.classes) or f"{len(request.instances)} images"
    raise InputError(
        f"--retrained {path}: trained without {classes} and {len(never[1])} single images, "
        f"expected without {wanted}"
    )


def _check_same_network(path: Path, model: Classifier, artifact: Artifact, option: str) -> None:
    manifest = artifact.manifest
    sides = [
        ("network", model.arch, manifest.arch.arch()),
        ("class names", model.class_names, tuple(manifest.class_names)),
        ("preprocessing", model.preprocess, manifest.preprocess.preprocess()),
    ]
    misfits = [f"{what} is {a}, expected {b}" for what, a, b in sides if a != b]
    if misfits:
        raise InputError(f"{option} {path}: not of the artifact's kind: {'; '.join(misfits)}")


def on_device(
    networks: Mapping[SubjectName, Classifier], device: str
) -> dict[SubjectName, Classifier]:
    """Return the networks on `device`."""
    with torch.no_grad():
        return {name: model.to(device) for name, model in networks.items()}
