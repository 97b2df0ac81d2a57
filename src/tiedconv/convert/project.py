"""The tied weight that is nearest to an ordinary one, by its numbers or by what it computes."""

import math

import torch
from torch import Tensor

from ..ops import layout


def project_weight(weight: Tensor, *, groups: int = 1, blocks: int) -> Tensor:
    r"""Weight :math:`(C_o,\; C_i / G, *)` → the tied one :math:`(C_o / B,\; C_i / (BG), *)` nearest in squares.

    The untied form of a tied weight :math:`W'` has it :math:`B` times on the diagonal of each group, zeros elsewhere.
    :math:`\lVert W - T(W') \rVert^2` is smallest where :math:`W'` is the mean of the diagonal blocks of :math:`W`.

    Example:
        >>> project_weight(torch.tensor([[1.0, 9.0], [9.0, 3.0]]), blocks=2)
        tensor([[2.]])
    """
    tied = layout.diagonal_blocks(weight, groups=groups, blocks=blocks).mean(1).flatten(0, 1)
    return layout.match_format(tied, like=weight)


def project_bias(bias: Tensor, *, groups: int = 1, blocks: int) -> Tensor:
    """Return the tied bias (C_o/B) nearest to ``bias`` (C_o): the mean over each group's blocks."""
    return bias.unflatten(0, (groups, blocks, -1)).mean(1).flatten()


def projection_error(weight: Tensor, tied: Tensor, *, blocks: int) -> float | None:
    r"""Return :math:`\lVert W - T(W') \rVert / \lVert W \rVert` for a projection ``tied`` of ``weight``; 0 for zeros.

    A projection is orthogonal to its residue, so that only the two norms are needed. None on the meta device.
    """
    if weight.is_meta:
        return None
    whole, kept = (w.detach().abs().double().square().sum().item() for w in (weight, tied))
    kept *= blocks
    return math.sqrt(max(0.0, 1 - kept / whole)) if whole > 0 else 0.0


class OutputFit:
    r"""The tied weight whose output is nearest to given outputs, from sums over any number of batches.

    Minimises :math:`\sum \lVert Y_b - W' X_b - v \rVert^2` over samples, positions and blocks :math:`b` of each group:
    ordinary least squares on patches :math:`X_b`, to which every block adds its own. The sums are those of the normal
    equations, so that memory does not grow with the samples. A ridge of a thousandth of the mean input energy draws the
    solution to where it starts, which decides what few samples leave open.

    Args:
        weight: where to start, :math:`(C_o / B,\; C_i / (BG), *)`.
        bias: likewise, :math:`(C_o / B)`, or None.
        groups, blocks: of the tied layer.
    """

    RIDGE = 1e-3

    def __init__(self, weight: Tensor, bias: Tensor | None, *, groups: int, blocks: int) -> None:
        self.shape, self.groups, self.blocks, self.bias = weight.shape, groups, blocks, bias
        start = weight.detach().flatten(1)
        start = start if bias is None else torch.cat([start, bias.detach()[:, None]], dim=1)
        self.dtype = torch.promote_types(weight.dtype, torch.float64)
        self.start = start.to("cpu", self.dtype).unflatten(0, (groups, -1))
        self.cross = torch.zeros_like(self.start)
        self.gram = torch.zeros(groups, start.shape[1], start.shape[1], dtype=self.dtype)
        self.energy = 0.0

    def add(self, patches: Tensor, y: Tensor) -> None:
        """Take a batch: patches (N, C_i·k, L), a channel's ``k`` side by side, and the wanted outputs (N, C_o, L)."""
        seen = patches.unflatten(1, (self.groups, self.blocks, -1))
        if self.bias is not None:
            seen = torch.cat([seen, seen.new_ones(*seen.shape[:3], 1, seen.shape[-1])], dim=3)
        wanted = y.unflatten(1, (self.groups, self.blocks, -1))
        precise = torch.promote_types(seen.dtype, torch.float32)
        seen, wanted = (t.permute(1, 3, 0, 2, 4).flatten(2).to(precise) for t in (seen, wanted))  # (G, rows, N·B·L)
        self.gram += (seen @ seen.mH).to("cpu", self.dtype)
        self.cross += (wanted @ seen.mH).to("cpu", self.dtype)
        self.energy += wanted.abs().square().sum().item()

    @property
    def finite(self) -> bool:
        """Whether everything that was added is finite."""
        return math.isfinite(self.energy) and bool(self.gram.isfinite().all())

    def solve(self) -> tuple[Tensor, Tensor | None, float]:
        r"""Return weight, bias and the relative error :math:`\lVert Y - \hat Y \rVert / \lVert Y \rVert`."""
        ridge = self.RIDGE * self.gram.diagonal(dim1=1, dim2=2).real.mean(1).clamp_min(1e-30)[:, None, None]
        regular = self.gram + ridge * torch.eye(self.gram.shape[-1], dtype=self.dtype)
        solution = torch.linalg.solve(regular, self.cross + ridge * self.start, left=False)
        residue = self.energy + ((solution @ self.gram - 2 * self.cross) * solution.conj()).sum().real
        error = math.sqrt(max(0.0, residue.item()) / self.energy) if self.energy > 0 else 0.0
        rows = solution.flatten(0, 1)
        if self.bias is None:
            return rows.reshape(self.shape), None, error
        return rows[:, :-1].reshape(self.shape), rows[:, -1].clone(), error
