"""The running sum of a second moment, as a matrix or, of few rows, as the rows themselves."""

import torch
from torch import Tensor

from bandstop.edit import team
from bandstop.edit.projection import DOUBLE_UP_TO, Rows, Space, column_blocks


class MomentSum:
    """The second moment of rows that come in parts, over all processes of a team."""

    def __init__(self, like: Tensor, groups: int, d: int, *, keep_rows: bool) -> None:
        """Start at zero.

        Args:
            like: tells the type and device of the rows.
            groups: of channels; each has a moment of its own.
            d: features of a row.
            keep_rows: whether the rows are kept and no (d, d) matrix is made; the same in all
                processes.
        """
        self.none = like.new_zeros(groups, 0, d)
        self.rows: list[Tensor] = []
        self.total = None if keep_rows else zeros(like, groups, d)

    def add_(self, rows: Tensor) -> None:
        """Add `rows` (groups, n, d)."""
        if self.total is None:
            self.rows.append(rows.clone())
        else:
            add_gram_(self.total, rows)

    def space(self) -> Space:
        """Return what the team summed; nothing can be added any more."""
        if self.total is None:
            own = torch.cat(self.rows or [self.none], dim=1)
            return Rows(team.together(own.transpose(0, 1)).transpose(0, 1))
        mirror_(team.sum_(self.total))
        return self.total


def zeros(like: Tensor, groups: int, d: int) -> Tensor:
    """Return a second moment (groups, d, d) of no rows; narrow ones are summed in float64."""
    dtype = torch.float64 if d <= DOUBLE_UP_TO else like.dtype
    return like.new_zeros(groups, d, d, dtype=dtype)


def add_gram_(total: Tensor, rows: Tensor, scale: float = 1) -> None:
    """Add `scale rows^T rows` to `total` (groups, d, d), blocks on and below the diagonal only."""
    for start, stop in column_blocks(total.shape[-1]):
        part = rows[:, :, start:].mT @ rows[:, :, start:stop]
        total[:, start:, start:stop].add_(part, alpha=scale)


def mirror_(total: Tensor) -> None:
    """Write the blocks below the diagonal of `total` (groups, d, d) above it too."""
    for start, stop in column_blocks(total.shape[-1]):
        total[:, start:stop, stop:] = total[:, stop:, start:stop].mT
