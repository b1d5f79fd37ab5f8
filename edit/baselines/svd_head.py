"""The control for methods that hide a class in the head: SVD on the last layer alone."""

from dataclasses import dataclass
from typing import ClassVar

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.errors import InputError
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD


@dataclass(frozen=True, slots=True)
class SVDHead:
    """Run `SVD` on the last layer; every feature of the class stays in the layers before it.

    What a method does better than this, it does by more than editing the head. The algorithm is of
    arXiv 2312.00761; its restriction to the head is a control of ours.

    Attributes:
        alpha_r: scalings of the retain space to try; see `SVD`.
        alpha_f: scalings of the forget space to try.
        head: by what the change of the layer is multiplied.
        seed: draws the images and the rows.
    """

    name: ClassVar[str] = "svd-head"
    alpha_r: tuple[float, ...] = SVD().alpha_r
    alpha_f: tuple[float, ...] = SVD().alpha_f
    head: float = SVD().head
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that no edit can be made with."""
        self._svd()

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit of the last layer's weight; `model` is left as it was.

        Raises:
            InputError: instances; or no images to forget, to retain or to validate with.
            NothingForgottenError: no grid point is better than the unedited network.
            DivergedError: an edited weight is not finite.
        """
        if not request.classes:
            raise InputError("svd-head forgets classes, not instances")
        return self._svd()(model, request, data, journal)

    def _svd(self) -> SVD:
        return SVD(
            alpha_r=self.alpha_r, alpha_f=self.alpha_f, head=self.head, last=1, seed=self.seed
        )
