"""One preset through every gate of ``kd3d export onnx`` that needs no GPU, TensorRT-RTX builds among them.

    python benchmarks/test_all/presets.py kitti-pointpillars fp16

The weights are random. What kd3d does not offer for a detector is a refusal, with its reason; it is no failure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from networks import frames, untrained

from kd3d.detectors.presets import preset
from kd3d.errors import LayoutError, UsageError
from kd3d.export.int8 import Int8Settings
from kd3d.export.onnx import PRECISIONS, export_onnx


def main() -> None:
    """Export one preset; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("precision", choices=PRECISIONS)
    options = parser.parse_args()
    spec = preset(options.preset)
    int8 = Int8Settings() if options.precision == "int8" else None
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kd3d-presets-") as scratch:
        try:
            shown = frames(spec, 1)
            made = export_onnx(
                untrained(spec), Path(scratch) / "out", frames=shown, precision=options.precision, int8=int8
            )
        except (UsageError, LayoutError) as error:
            print(json.dumps({"outcome": "refused", "reason": str(error)}))
            return
        gates = {gate.name: gate.state for gate in made.gates}
        built = next((gate.details for gate in made.gates if gate.name == "trt-rtx"), {}) or {}
        about = {"boxes": made.parity.boxes, "matched": made.parity.matched, "ties": made.parity.ties}
        size = made.artifact.stat().st_size
    seconds = round(time.monotonic() - began, 1)
    told = {"gates": gates, **about, "bytes": size, "seconds": seconds, "rtx": built.get("engine_bytes", {})}
    problem = "no box was compared" if not made.parity.boxes else ""
    print(json.dumps({"outcome": "failed" if problem else "passed", "problem": problem, **told}))
    raise SystemExit(1 if problem else 0)


if __name__ == "__main__":
    main()
