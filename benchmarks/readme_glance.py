"""The README's results in brief: one line per question, with the section of docs/results.md that has the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from comparing import verdict
from readme_sections import SECTIONS

from kd3d.report.table import Table
from kd3d.runs.atomic import read_json

Record = Mapping[str, Any]


def glance(folder: Path) -> str:
    """The table as Markdown, from the records in ``folder``."""
    table = Table("", ("question", "answer"))
    titles = {section.name: section.title for section in SECTIONS}
    for name, question, answer in QUESTIONS:
        path = folder / f"{name}.json"
        told = answer(read_json(path)) if path.exists() else "Not recorded yet"
        table.rows.append((question, f"{told} ([more](docs/results.md#{anchor(titles[name])}))"))
    lines = table.markdown().splitlines()
    return "\n".join([lines[0], "| --- | --- |", *lines[2:]])


def anchor(title: str) -> str:
    """The fragment by which GitHub links to a heading."""
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter == "-")


def student(record: Record) -> str:
    """Speed, share of the MACs and accuracy."""
    scores = {name: 100 * record[name]["mAP"] for name in ("teacher", "student")}
    return (
        f"{record['ratio_p50']:.2f} times as fast on a CPU, end to end, with {100 * record['macs_share']:.0f} % of the "
        f"MACs; mAP {scores['student']:.1f}, teacher {scores['teacher']:.1f}"
    )


def taught(record: Record) -> str:
    """Every recipe that has run against labels alone, by student."""
    plain = [item for item in record["compared"] if item["control"].endswith("-plain") and item["differences"]]
    told = []
    for item in plain:
        axis, _, recipe = item["row"].split("-")
        told.append(f"{axis}, `{RECIPES.get(recipe, recipe)}`: {difference(item)}")
    return "; ".join(told) or "Not recorded yet"


RECIPES = {"kd": "sparsekd", "fleet": "auto --unlabelled"}


def difference(item: Record) -> str:
    """Mean difference with its standard error and verdict, or what the seeds so far say."""
    if item.get("beats") is None:
        return f"{mean(item['differences']):+.1f} ({len(item['differences'])} of 3 seeds)"
    told = verdict(item)
    judged = {"yes": "beats", "on average": "beats on average"}.get(told, told.removeprefix("no: "))
    return f"{item['mean']:+.1f} ± {item['standard_error']:.1f} ({judged})"


def scratch(record: Record) -> str:
    """The whole of what the teacher brings."""
    found = next(item for item in record["comparisons"] if item["arm"] == "kd")
    return f"{difference(found)} mAP over the same student from the labels alone, as many steps"


def unlabelled(record: Record) -> str:
    """Shares of the gap between some labels and all."""
    told = [
        f"`{line['row']}` recovers {100 * line['gap']['recovered']:.0f} %"
        + ("" if len(line["seeds"]) > 2 else f" ({len(line['seeds'])} of 3 seeds)")
        for line in record["rows"]
        if line["row"] in ("ssad", "auto") and line["gap"]
    ]
    return "; ".join(told) + " of what the other 90 % of the labels would bring"


def searched(record: Record) -> str:
    """The search against students that nobody searched for."""
    others = (("uniform widths", "searched_over_uniform"), ("random students", "searched_over_random_mean"))
    told = [f"{difference(record[key])} mAP over {name}" for name, key in others if record[key]["differences"]]
    return "; ".join(told) + ", its trials paid for"


def predicted(record: Record) -> str:
    """How far predictions were off."""
    (one, *_) = record["teachers"].values()
    return f"median error {100 * one['error_median']:.1f} %, rank correlation {one['rank_correlation']:.3f}"


def eight_bits(record: Record) -> str:
    """What 8 bits save and lose."""
    lost = 100 * (record["int8_cpu"]["mAP"] - record["fp32"]["mAP"])
    return f"{record['speed']['end_to_end']:.2f} times as fast on a CPU, {lost:+.2f} mAP"


def half_precision(record: Record) -> str:
    """What float16 loses."""
    lost = 100 * (record["fp32"]["mAP"] - record["fp16_rounded"]["mAP"])
    return f"{lost:.2f} mAP lost with every tensor rounded to float16; not timed, that takes a GPU"


def imported(record: Record) -> str:
    """The accuracy before and after."""
    scores = [100 * record[name]["mAP"] for name in ("imported", "native")]
    return f"mAP {scores[0]:.2f} after the import, {scores[1]:.2f} as itself"


def step(record: Record) -> str:
    """Its time beside a step without a teacher."""
    return f"{record['ratios']['cached / own']:.2f} times a step without a teacher, its answers cached"


def endured(record: Record) -> str:
    """What survived."""
    kills, inputs = record["parts"]["kills"], record["parts"]["mutations"]
    groups = inputs["passed"] + inputs["failed"]
    return (
        f"{kills['passed']} of {kills['passed'] + kills['failed']} killed commands went on as if nothing had been; "
        f"{inputs['inputs']:,} damaged inputs, {inputs['failed']} of {groups} groups failed"
    )


Question = tuple[str, str, Callable[[Record], str]]
QUESTIONS: Sequence[Question] = (
    ("student_speed", "What does a quarter of the teacher give?", student),
    ("kd_three_seeds", "Weights and answers of the teacher, or labels alone?", scratch),
    ("kd_gain_long", "Its answers alone, when both students start from its weights?", taught),
    ("labelfree_gain", "One scene in ten labelled: what do the others bring?", unlabelled),
    ("search_gain_six_tasks", "Search, on a teacher with the six heads of nuScenes", searched),
    ("search_gain", "Search, on a teacher with one head", searched),
    ("latency_prediction", "Latency predicted from measured blocks", predicted),
    ("kd_step", "What does a step of distillation cost?", step),
    ("int8", "8 bits", eight_bits),
    ("precision", "Float16", half_precision),
    ("imported_teacher", "A teacher from OpenPCDet", imported),
    ("test_all", "Killed at random moments, fed damaged files", endured),
)
