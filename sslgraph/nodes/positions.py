"""Fixed positions of places on a grid."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_table(
    rows: int, columns: int, width: int, *, device: torch.device | None = None
) -> Tensor:
    """Sines and cosines of two coordinates (MAE, appendix A.1; MoCo v3, section 4.3).

    The first half of a row is for the column of its place, the second for its row. A coordinate c
    has sin(c w_k) for all k, then cos(c w_k), with w_k = 10000^(-k / n) and k = 0 ... n - 1 where n
    is a quarter of the width. Computed in float64.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        width: Length of a row of the table, a multiple of 4.
        device: Where to make it.

    Returns:
        rows x columns of width numbers, float32, places in raster order.
    """
    n = width // 4
    steps = torch.arange(n, dtype=torch.float64, device=device)
    speeds = 10000.0 ** (-steps / n)

    def along(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64, device=device)[:, None] * speeds
        return torch.cat([angles.sin(), angles.cos()], 1)

    across = along(columns).expand(rows, columns, 2 * n)
    down = along(rows)[:, None].expand(rows, columns, 2 * n)
    return torch.cat([across, down], 2).flatten(0, 1).float()
