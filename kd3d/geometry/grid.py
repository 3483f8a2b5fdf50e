"""A rectangle of the ground cut into square cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kd3d.errors import SpecError

_MOST_CELLS = 1 << 13  # along a side: four times as many as any published grid
_WHOLE = 1e-4  # ranges such as 74.24 / 0.32 are not exact in binary


@dataclass(frozen=True)
class BevGrid:
    """A rectangle of the ground cut into square cells; lengths in metres. Maps over it are ``[..., ny, nx]``.

    ``z_min_m`` and ``z_max_m`` bound the points that are kept.
    """

    x_min_m: float
    y_min_m: float
    z_min_m: float
    x_max_m: float
    y_max_m: float
    z_max_m: float
    cell_m: float
    frame: Literal["lidar", "ego"] = "lidar"

    def __post_init__(self) -> None:
        if not self.cell_m > 0:
            raise SpecError(f"cell_m must be positive, not {self.cell_m:g}.")
        for axis in "xyz":
            low, high = getattr(self, f"{axis}_min_m"), getattr(self, f"{axis}_max_m")
            if not low < high:
                raise SpecError(f"{axis}_min_m ({low:g}) must be below {axis}_max_m ({high:g}).")
            if axis != "z" and not (high - low) / self.cell_m <= _MOST_CELLS:
                raise SpecError(
                    f"the {axis} range of {high - low:g} m has more than {_MOST_CELLS:,} cells of {self.cell_m:g} m. "
                    "Use larger cells or a smaller range."
                )
            if axis != "z" and abs((high - low) / self.cell_m - round((high - low) / self.cell_m)) > _WHOLE:
                cells = (high - low) / self.cell_m
                better = low + round(cells) * self.cell_m
                raise SpecError(
                    f"the {axis} range of {high - low:g} m is {cells:.3f} cells of {self.cell_m:g} m; "
                    f"it must be a whole number. Use {axis}_max_m={better:g}."
                )

    @property
    def nx(self) -> int:
        """Cells along x (columns)."""
        return round((self.x_max_m - self.x_min_m) / self.cell_m)

    @property
    def ny(self) -> int:
        """Cells along y (rows)."""
        return round((self.y_max_m - self.y_min_m) / self.cell_m)

    @property
    def height_m(self) -> float:
        """Vertical extent."""
        return self.z_max_m - self.z_min_m

    def coarsened(self, stride: int) -> BevGrid:
        """The grid of a feature map with ``stride`` cells of this grid per feature cell.

        Raises:
            SpecError: ``stride`` does not divide the grid.
        """
        if self.nx % stride or self.ny % stride:
            raise SpecError(f"a grid of {self.ny} x {self.nx} cells cannot be coarsened by {stride}.")
        return replace(self, cell_m=self.cell_m * stride)
