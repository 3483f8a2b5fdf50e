"""The sections of docs/results.md on voxels: sparse convolution beside spconv, and latency against voxels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd3d.report.table import Table, number

Record = Mapping[str, Any]


def sparse_conv(record: Record) -> list[str]:
    """Forward and backward beside spconv, by layout and width."""
    heads = ("voxels", "channels", "kd3d, ms", "spconv, ms", "kd3d / spconv", "without tables")
    table, worst = Table("", heads), 0.0
    for name, layout in record["layouts"].items():
        for item in layout["rows"]:
            times = (f"{item['ms'][side]:.0f}" for side in ("ours", "spconv"))
            ratios = (f"{item[key]:.2f}" for key in ("ratio", "ratio_layers"))
            table.rows.append((f"{layout['voxels']:,}, {name}", str(item["channels"]), *times, *ratios))
            worst = max(worst, *item["difference"].values())
    said = (
        f"Forward and backward of {record['layers']} submanifold layers that share a table, one thread each, in turns, "
        f"best times. Values and gradients differ by {worst:.1e} of the largest value at most."
    )
    return [said, table.markdown()]


def voxel_speed(record: Record) -> list[str]:
    """Each thinned cloud: voxels, tables, network."""
    heads = ("points", "voxels", "voxels, ms", "tables, ms", "network, ms", "tables / network", "int8 network, ms")
    table = Table("", heads)
    for item in record["clouds"]:
        times = (f"{item[key]:.1f}" for key in ("voxels_ms", "tables_ms", "network_ms"))
        cells, eight = (f"{item['points']:,}", f"{item['sites'][0]:,}"), number(item.get("int8_ms"), "{:.1f}")
        table.rows.append((*cells, *times, f"{100 * item['tables_share']:.1f} %", eight))
    said = (
        f"`{record['preset']}` on the real nuScenes key frame, thinned; ONNX Runtime on the CPU, {record['threads']} "
        f"thread(s), medians. Its maps differ from torch's by {record['difference_to_torch']:.1e} of the largest value."
    )
    return [said, table.markdown()]
