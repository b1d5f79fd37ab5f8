"""What a server says of a model that Bandstop exported, as one value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bandstop.client.errors import NotFound

VERSION = re.compile(r"[1-9][0-9]{0,17}")


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
    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid", "strict": True}

    size: tuple[int, int]
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None
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
        forget_sets: names for several classes together, which a request may name instead.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess
    allow_none: bool
    # Not compared: equal specs mean that a request for one version suits the other.
    digest: str = field(compare=False)
    forget_sets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


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
