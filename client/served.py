"""What a server says of a model that Bandstop exported: read, checked, and kept as one value."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from bandstop.client.errors import NotFound, ProtocolError
from bandstop.client.wire import Config, Metadata, TensorSpec

VERSION = re.compile(r"[1-9][0-9]{0,17}")
Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image file becomes the tensor `image`.

    Attributes:
        size: height and width in pixels.
        channels: 3 for RGB, 1 for grey.
        mean: per channel; applied inside the graph, never by the client.
        std: per channel; applied inside the graph, never by the client.
        resize: the shorter side is resized to this and the centre cropped to `size`;
            None stretches the whole image to `size`.
        interpolation: of the resize.
        input: float32 is (n, c, h, w) in [0, 1], uint8 is (n, h, w, c).
    """

    # A key that we do not know could change what the pixels mean.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    size: tuple[Positive, Positive]
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Positive | None
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    input: Literal["float32", "uint8"]

    @property
    def tensor(self) -> tuple[str, tuple[int, ...]]:
        """The datatype and the shape, batch first as -1, of the input `image`."""
        if self.input == "uint8":
            return "UINT8", (-1, *self.size, self.channels)
        return "FP32", (-1, self.channels, *self.size)


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """What one version of the model knows and wants.

    Attributes:
        labels: the class names, by index; two classes may share a name.
        preprocess: how its images are prepared.
        allow_none: whether index `len(labels)` means "forget nothing".
        digest: sha256 of its model.onnx, in hex.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess
    allow_none: bool
    # Not compared: equal specs mean that a request for one version suits the other.
    digest: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its server describes it.

    Attributes:
        name: of the model.
        versions: what the server offers now, by version number, ascending.
        slots: K, classes that a request can name for one image; 0 for a baked model.
        max_batch_size: images in one request.
    """

    name: str
    versions: Mapping[str, VersionSpec]
    slots: int
    max_batch_size: int

    def spec(self, pinned: str = "") -> VersionSpec:
        """Return the spec of version `pinned`, or of the one served when none is named."""
        if pinned and pinned not in self.versions:
            offered = ", ".join(self.versions)
            raise NotFound(f"model {self.name} version {pinned}: not served; offered: {offered}")
        return self.versions[pinned or list(self.versions)[-1]]


def read_model(name: str, metadata: Metadata, config: Config) -> ServedModel:
    """Return what the server says of model `name`.

    Raises:
        ProtocolError: it is not a model that Bandstop exported; every misfit is named.
    """
    inputs = {spec.name: spec for spec in metadata.inputs}
    outputs = {spec.name: spec for spec in metadata.outputs}
    misfits = [f"version {v!r} is no number" for v in metadata.versions if not VERSION.fullmatch(v)]
    if not metadata.versions:
        misfits.append("the server offers no version")
    if config.max_batch_size < 1:
        misfits.append(f"max_batch_size must be at least 1, got {config.max_batch_size}")
    misfits += _signature_misfits(inputs, outputs)
    versions: dict[str, VersionSpec] = {}
    for version in sorted(metadata.versions, key=lambda v: (len(v), v)):
        try:
            versions[version] = _read_version(version, config.parameters)
        except ProtocolError as error:
            misfits.append(str(error))
        else:
            misfits += _version_misfits(version, versions[version], {**outputs, **inputs})
    if misfits:
        raise ProtocolError(
            f"model {name} is not one that `bandstop export` wrote: {'; '.join(misfits)}"
        )
    return ServedModel(name, versions, _slots(inputs), config.max_batch_size)


def _slots(inputs: Mapping[str, TensorSpec]) -> int:
    forget = inputs.get("forget_class")
    return forget.shape[-1] if forget is not None and forget.shape else 0


def _signature_misfits(
    inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> list[str]:
    gated = "forget_class" in inputs
    expected_in = ["forget_class", "image"] if gated else ["image"]
    expected_out = ["applied_forget_class", "logits"] if gated else ["logits"]
    misfits = [
        f"{kind} must be {', '.join(expected)}, got {', '.join(sorted(found)) or 'none'}"
        for kind, found, expected in (
            ("inputs", inputs, expected_in),
            ("outputs", outputs, expected_out),
        )
        if sorted(found) != expected
    ]
    slots = _slots(inputs)
    for spec in (inputs.get("forget_class"), outputs.get("applied_forget_class")):
        if spec and (slots < 1 or (spec.datatype, spec.shape) != ("INT64", (-1, slots))):
            misfits.append(f"{spec.name} must be INT64 [-1, K], got {_declared(spec)}")
    return misfits


def _version_misfits(version: str, spec: VersionSpec, found: Mapping[str, TensorSpec]) -> list[str]:
    wanted = {"image": spec.preprocess.tensor, "logits": ("FP32", (-1, len(spec.labels)))}
    return [
        f"{name} must be {datatype} {list(shape)} for version {version}, "
        f"got {_declared(found[name])}"
        for name, (datatype, shape) in wanted.items()
        if name in found and (found[name].datatype, found[name].shape) != (datatype, shape)
    ]


def _declared(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _read_version(version: str, parameters: Mapping[str, str]) -> VersionSpec:
    keys = [f"{key}.{version}" for key in ("labels", "preprocess", "allow_none", "digest")]
    if missing := [key for key in keys if key not in parameters]:
        raise ProtocolError(f"config has no parameter {', '.join(missing)}")
    labels, preprocess, allow_none, digest = (parameters[key] for key in keys)
    if allow_none not in ("true", "false"):
        raise ProtocolError(f"allow_none.{version} must be true or false, got {allow_none!r}")
    if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise ProtocolError(f"digest.{version} must be 64 hex digits, got {digest[:80]!r}")
    return VersionSpec(
        _read_labels(labels, version),
        _read_preprocess(preprocess, version),
        allow_none == "true",
        digest,
    )


def _read_labels(text: str, version: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ProtocolError(f"labels.{version} must be a JSON list of names, got {text[:40]!r}")
    return tuple(names)


def _read_preprocess(text: str, version: str) -> Preprocess:
    try:
        preprocess = TypeAdapter(Preprocess).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (f"preprocess.{version}", *first["loc"]))
        raise ProtocolError(f"{where}: {first['msg']}") from None
    # A crop larger than the picture would have to invent pixels.
    if preprocess.resize is not None and preprocess.resize < max(preprocess.size):
        raise ProtocolError(
            f"preprocess.{version}: resize {preprocess.resize} is smaller than the crop "
            f"{list(preprocess.size)}"
        )
    return preprocess
