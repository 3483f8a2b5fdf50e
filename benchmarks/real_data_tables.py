"""Write the measured tables of docs/real-data.md, from ``kitti_overfit.json``, ``kitti_labelfree.json`` and
``nuscenes_keyframe.json``.

    python benchmarks/real_data_tables.py

A result that was not recorded is said to be absent.
"""

from __future__ import annotations

import math
from pathlib import Path

from readme_sections import Record, Section, kitti_overfit, provenance
from readme_table import between

from kd3d.report.table import Table, bench_table, kitti_table, number
from kd3d.runs.atomic import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "real-data.md"


def kitti(record: Record) -> list[str]:
    """Both models: summary, latency, and AP on the frames learnt and on the others."""
    parts = [kitti_overfit(record)[0], bench_table(record["bench"]).markdown()]
    for name, model in record["models"].items():
        for split, said in (("train", "the 20 frames it was trained on"), ("val", "7 other frames")):
            table = kitti_table(model["scores"][split]).markdown()
            parts += [f"AP R40 in % (and labels) of the {name} on {said}:", table]
    differences = "; ".join(
        f"{name} {worst['center_m'] * 1000:.3f} mm, {math.degrees(worst['yaw_rad']):.4f} degrees, "
        f"score {worst['score']:.1e}"
        for name, model in record["models"].items()
        for worst in (model["parity_on_27_real_frames"]["worst"],)
    )
    steps = record["steps"]
    return [
        *parts,
        f"Largest difference between ONNX Runtime and torch over all boxes of the 27 frames: {differences}. "
        f"Trained for {steps['teacher']} (teacher) and {steps['student']} steps (student), seed {record['seed']}.",
    ]


def labelfree(record: Record) -> list[str]:
    """How far the student agrees with the teacher, before and after."""
    columns = ("frames", "teacher's boxes", "recall before", "recall after", "student's boxes", "precision after")
    table = Table("", columns)
    for split, said in (("train", "the 20 it was distilled on"), ("val", "7 others")):
        before, after = (record["agreement"][when][split] for when in ("before", "after"))
        table.rows.append(
            (
                said,
                str(after["teacher_boxes"]),
                _percent(before["recall"]),
                _percent(after["recall"]),
                str(after["student_boxes"]),
                _percent(after["precision"]),
            )
        )
    steps = record["steps"]
    return [
        table.markdown(),
        f"Boxes above {record['score']:g}, of the same class, centres within {record['reach_m']:g} m. Before: the "
        f"student with what it inherited. {steps['student']} steps with the recipe `{record['recipe']}`, teacher "
        f"{steps['teacher']} steps, seed {record['seed']}.",
    ]


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def nuscenes(record: Record) -> list[str]:
    """The two exports on the key frame."""
    title = f"boxes above {record['shown_score']}"
    table = Table("", ("model", "weights", "parameters", title, "boxes as in torch", "p50", "p99", "FPS"))
    for name, model in record["models"].items():
        (timed,), parity = model["bench"]["models"], model["parity"]
        ties = f" ({parity['ties']} lost a tie)" if parity["ties"] else ""
        table.rows.append(
            (
                name,
                model["weights"],
                f"{model['params']:,}",
                str(model["boxes"]),
                f"{parity['matched']} of {parity['boxes']}{ties}",
                number(timed["e2e_ms"].get("p50"), "{:.1f} ms"),
                number(timed["e2e_ms"].get("p99"), "{:.1f} ms"),
                number(timed["fps"], "{:.1f}"),
            )
        )
    return [table.markdown(), "A random network's boxes mean nothing; it is here for parity and latency."]


SECTIONS = (
    Section("kitti_overfit", "kitti", kitti),
    Section("kitti_labelfree", "labelfree", labelfree),
    Section("nuscenes_keyframe", "nuscenes", nuscenes),
)


def rendered(page: str, folder: Path) -> str:
    """The text of the page with the results of ``folder`` in it."""
    for section in SECTIONS:
        path = folder / f"{section.name}.json"
        parts = [f"Not recorded yet (`benchmarks/{section.name}.py`)."]
        if path.exists():
            record = read_json(path)
            parts = [*section.render(record), f"<sub>{provenance(record)}</sub>"]
        page = between(page, section.title, "\n\n".join(parts))
    return page


def main() -> None:
    """Rewrite the page."""
    write_text(PAGE, rendered(PAGE.read_text(), ROOT / "benchmarks" / "results"))


if __name__ == "__main__":
    main()
