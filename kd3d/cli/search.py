"""``kd3d search``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import TerminalProgress, emit
from kd3d.cli.models import load_model
from kd3d.cli.options import BudgetFlops, BudgetParams, Convention, Data, Json, Teacher


def search(
    teacher: Teacher,
    data: Data,
    budget_flops: BudgetFlops = None,
    budget_params: BudgetParams = None,
    flops_convention: Convention = "physical",
    out: Annotated[
        Path | None, typer.Option("--out", "--work-dir", help="Write search.json and the specs here.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Candidates listed.")] = 10,
    json_line: Json = False,
) -> None:
    """List students within the budget, best first, by analytic cost and a plain prior; nothing is trained."""
    from kd3d.compress.search.budget import Budgets
    from kd3d.compress.search.cost import StatsTable
    from kd3d.compress.search.grid import grid_search, pareto
    from kd3d.compress.search.space import Space
    from kd3d.datasets.open import open_dataset
    from kd3d.report.table import show, students_table

    model = load_model(teacher, presets=True)
    budgets = Budgets.parse(flops=budget_flops, params=budget_params, convention=flops_convention)  # type: ignore[arg-type]
    dataset = open_dataset(data, split="train", sweeps=model.spec.points.sweeps)
    with TerminalProgress().phase("search"):
        found = grid_search(model.spec, Space(), budgets, stats=StatsTable(dataset))
    rows = [_row(candidate) for candidate in found]
    front = [_row(candidate) for candidate in pareto(found, lambda candidate: candidate.prior)]
    if out is not None:
        _write(out, found[:top], rows, front)
    show(students_table(f"{len(rows)} students within the budget", rows[:top]))
    emit({"candidates": rows[:top], "count": len(rows), "pareto": front, "best": rows[0]}, as_json=json_line)


def _row(candidate: Any) -> dict[str, Any]:
    price = candidate.cost
    return {
        "name": candidate.spec.name,
        "score": candidate.prior,
        "macs": price.macs,
        "macs_thop": price.macs_thop,
        "params": price.params,
        "choice": vars(candidate.choice),
    }


def _write(out: Path, best: list[Any], rows: list[dict[str, Any]], front: list[dict[str, Any]]) -> None:
    from kd3d.runs.atomic import write_json
    from kd3d.spec.codec import to_json

    for rank, candidate in enumerate(best):
        write_json(out / "specs" / f"{rank:02d}.json", to_json(candidate.spec))
    write_json(out / "search.json", {"candidates": rows, "pareto": front, "best": rows[0]})
