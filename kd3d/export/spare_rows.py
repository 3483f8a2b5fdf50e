"""Network inputs with rows that stand for nothing, as a runtime of fixed sizes feeds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.spec import DetectorSpec, VoxelEncoderSpec

Arrays = Mapping[str, NDArray[Any]]


def padded_feeds(feeds: Arrays, spec: DetectorSpec, *, rows: int) -> dict[str, NDArray[Any]]:
    """``feeds`` with ``rows`` more rows everywhere; their features are ones, and their cell is the spare one.

    Pillars of such rows hold no points. Tables of voxels have no neighbour there, and their number for none grows with
    the rows of what they read.
    """
    encoder, grid = spec.encoder, spec.grid
    found = {"features": _more(feeds["features"], rows, 1)}
    if not isinstance(encoder, VoxelEncoderSpec):
        counts, cells = feeds["counts"], feeds["cells"]
        return {**found, "counts": _more(counts, rows, 0), "cells": _more(cells, rows, grid.nx * grid.ny)}
    sites = len(feeds["features"])
    for name in encoder.tables:
        table = feeds[name]
        shifted = np.where(table == sites, np.int32(sites + rows), table)
        found[name] = _more(shifted, rows, sites + rows)
        sites = len(table)
    spare = grid.nx * grid.ny // encoder.stride**2 * encoder.z_sizes(grid)[-1]
    return {**found, "cells": _more(feeds["cells"], rows, spare)}


def _more(array: NDArray[Any], rows: int, value: float) -> NDArray[Any]:
    return np.concatenate([array, np.full((rows, *array.shape[1:]), value, array.dtype)])
