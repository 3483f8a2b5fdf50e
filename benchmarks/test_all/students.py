"""One student drawn from a teacher's search space: inherited, exported in fp32 and fp16, and run as it ships.

    python benchmarks/test_all/students.py world-teacher 3 --seed 5

Every gate that needs no GPU must pass, and the boxes of the exported folder, run by the vehicle's pipeline on frames
that the export has not seen, must be those of torch.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import zlib
from pathlib import Path
from typing import Any

from networks import audible, frames, untrained, with_scores

from kd3d.compress.inherit.apply import apply_plan
from kd3d.compress.inherit.dataflow import plan
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.detectors.assets import shipped_teacher
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.export.onnx import export_onnx
from kd3d.export.parity import compare
from kd3d.export.parity_match import FP16_TOLERANCE, Tolerance
from kd3d.export.probes import probe_frames
from kd3d.runtime.pipeline import load_pipeline
from kd3d.spec import DetectorSpec, to_json

SPACE = Space(depth=(0.0, 0.5, 1.0))
RULES = ("l1", "first", "bn", "random")
TOLERANCES = {"fp32": Tolerance(), "fp16": FP16_TOLERANCE}


def main() -> None:
    """Export one student; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="world-teacher, which is trained, or a preset")
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    draw = random.Random(zlib.crc32(f"{options.seed} {options.teacher} {options.number}".encode()))
    trained = options.teacher == "world-teacher"
    teacher = shipped_teacher() if trained else untrained(preset(options.teacher), options.number)
    choice, rule = drawn(teacher.spec, draw), draw.choice(RULES)
    student = inherited(teacher, scaled(teacher.spec, choice), rule)
    told: dict[str, Any] = {"student": student.spec.name, "choice": to_json(choice), "rule": rule}
    problems = []
    with tempfile.TemporaryDirectory(prefix="kd3d-students-") as scratch:
        for precision, tolerance in TOLERANCES.items():
            out = Path(scratch) / precision
            made = export_onnx(student, out, frames=frames(student.spec, 1), precision=precision)
            told[precision] = {gate.name: gate.state for gate in made.gates}
            problems += as_shipped(student, out, tolerance, options.number, told)
    told["outcome"] = "failed" if problems else "passed"
    print(json.dumps({**told, "problem": "; ".join(problems[:4])}))
    raise SystemExit(1 if problems else 0)


def drawn(teacher: DetectorSpec, draw: random.Random) -> Choice:
    """A point of the space; the cell sizes are those that tile the teacher's range."""
    fitting = [choice.cell for choice in SPACE.choices(teacher)]
    cells = sorted(set(fitting))
    layers = tuple(draw.randint(0, count) for count in teacher.backbone.layers)
    widths = (draw.choice(values) for values in (SPACE.encoder, SPACE.backbone, SPACE.neck, SPACE.head))
    return Choice(*widths, layers=layers, cell=draw.choice(cells))


def inherited(teacher: Model, spec: DetectorSpec, rule: str) -> Model:
    """The student with the teacher's weights."""
    module = build(spec)
    made = plan(teacher.spec, spec, rule, teacher.module.state_dict())
    module.load_state_dict(apply_plan(made, module.state_dict(), teacher.module.state_dict()))
    return Model(spec, audible(with_scores(module.eval())))


def as_shipped(student: Model, out: Path, tolerance: Tolerance, seed: int, told: dict[str, Any]) -> list[str]:
    """What differs between torch and the exported folder, on frames of another seed."""
    unseen = [*frames(student.spec, 2, seed=100 + seed), *probe_frames(student.spec, seed=100 + seed)[2:4]]
    with load_pipeline(out) as pipeline:
        report = compare(TorchPipeline(student, padded=True), pipeline, unseen, tolerance=tolerance)
    told[f"{out.name}_boxes"] = [report.boxes, report.matched, report.ties]
    return [f"{out.name}: {one}" for one in report.failures] + ([] if report.boxes else [f"{out.name}: no boxes"])


if __name__ == "__main__":
    main()
