"""``kd3d search``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli import latency, searching, teaching
from kd3d.cli.console import TerminalProgress, emit, say
from kd3d.cli.models import load_model
from kd3d.cli.options import BudgetFlops, BudgetParams, Convention, Device, Force, Json, Resume, Seed, Teacher
from kd3d.cli.train import Batch, NormMomentum, Precision, Rate, open_run, training_settings
from kd3d.errors import UsageError


def search(
    teacher: Teacher,
    data: latency.OptionalData = None,
    budget_flops: BudgetFlops = None,
    budget_params: BudgetParams = None,
    budget_latency: latency.BudgetLatency = None,
    latency_table: latency.Table = None,
    runtime: latency.Runtime = None,
    latency_device: latency.TableDevice = None,
    latency_precision: latency.TablePrecision = "fp32",
    write_blocks: latency.WriteBlocks = None,
    roofline: latency.RooflineText = None,
    flops_convention: Convention = "physical",
    widths: searching.Widths = None,
    depths: searching.Depths = None,
    cells: searching.Cells = None,
    out: Annotated[
        Path | None, typer.Option("--out", "--work-dir", help="Write search.json and the specs here.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Candidates listed.")] = 10,
    strategy: searching.Strategy = None,
    trials: searching.Trials = 24,
    rungs: searching.Rungs = "100,200,400",
    eta: searching.Eta = 2.0,
    storage: searching.Storage = None,
    study: searching.Study = "kd3d",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that train students.")] = 1,
    data_workers: Annotated[int, typer.Option("--data-workers", min=0, help="Processes that read data, each.")] = 1,
    batch_size: Batch = 4,
    lr: Rate = 3e-3,
    seed: Seed = 0,
    precision: Precision = "fp32",
    norm_momentum: NormMomentum = None,
    inherit: teaching.Rule = "auto",
    logit_weight: teaching.Logits = None,
    mask: teaching.Mask = None,
    feature_weight: teaching.Features = None,
    label_threshold: teaching.Labels = None,
    recipe_file: teaching.RecipeFile = None,
    augment: Annotated[bool, typer.Option("--augment/--no-augment", help="Random flips, rotation and scaling.")] = True,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
    json_line: Json = False,
) -> None:
    """Find students within the budget, best first.

    Without --strategy nothing is trained: all students are listed by analytic cost and a plain prior. With it, some are
    taught shortly, the best of them longer, and the score is their mAP on held-out training frames.
    """
    from kd3d.compress.search.budget import Budgets

    model = load_model(teacher, presets=strategy is None)
    space = searching.space(widths, depths, cells)
    if write_blocks is not None:
        stats = None if data is None else _stats(model, data)
        latency.write_blocks(write_blocks, model, space, stats, of=(latency_precision, precision), as_json=json_line)
        return
    if data is None:
        raise UsageError("--data is missing: pillars per frame are counted on it. Only --write-blocks goes without.")
    budgets = Budgets.parse(
        flops=budget_flops,
        params=budget_params,
        convention=flops_convention,  # type: ignore[arg-type]
        latency=budget_latency,
    )
    table = latency.open_table(latency_table, (runtime, latency_device, latency_precision), budget_latency)
    ceiling = latency.parse_roofline(roofline)
    asked = searching.settings(
        strategy, rungs=rungs, trials=trials, seed=seed, eta=eta, storage=storage, study_name=study, workers=workers
    )
    stats = _stats(model, data)
    predictor = latency.latency_model(table, stats)
    students = _students(model, budgets, space, stats, predictor)
    if asked is None:
        record = _listing(model, students, out, {"command": "search", "teacher": teacher, "data": str(data)})
    else:
        training = training_settings(
            steps=asked.rungs[-1],
            epochs=None,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            workers=data_workers,
            precision=precision,
            norm_momentum=norm_momentum,
        )
        recipe = {"logits": logit_weight, "mask": mask, "features": feature_weight, "label_threshold": label_threshold}
        taught = teaching.settings(training, inherit=inherit, recipe=recipe, base=recipe_file, models=(model.spec,) * 2)
        if out is None:
            raise UsageError("--strategy trains students and keeps them; add --out RUN.")
        open_run(out, {"command": "search", "teacher": teacher, "data": str(data)}, resume, force)
        source = teaching.frames(data, model.spec.points.sweeps, augment=augment, val=False)
        record = _trained(model, source, students, settings=asked, distill=taught, out=out, device=device)
    _show(record, top, out)
    added = latency.of_the_best(predictor, students.found, record, ceiling)
    record |= added
    if out is not None and added:
        _write(out, record)
    emit({**record, "candidates": record["candidates"][:top]}, as_json=json_line)


def _stats(model: Any, data: Path) -> Any:
    from kd3d.compress.search.cost import StatsTable
    from kd3d.datasets.open import open_dataset

    return StatsTable(open_dataset(data, split="train", sweeps=model.spec.points.sweeps))


def _students(model: Any, budgets: Any, space: Any, stats: Any, predictor: Any) -> Any:
    from kd3d.compress.search.students import find_students

    with TerminalProgress().phase("cost of every student"):
        return find_students(model.spec, budgets, space, stats=stats, latency=predictor)


def _listing(model: Any, students: Any, out: Path | None, request: dict[str, str]) -> dict[str, Any]:
    from kd3d.compress.search.record import search_record, write_search
    from kd3d.runs.atomic import write_json
    from kd3d.runs.folder import SETTINGS

    about = students.about(model.spec.name)
    if out is None:
        return search_record(students.found, [], about=about)
    write_json(out / SETTINGS, request)  # the commands on the page of `kd3d report` name teacher and data
    return write_search(out, students.found, [], about=about)


def _write(out: Path, record: dict[str, Any]) -> None:
    """Bring search.json up to what is known of the best student's latency."""
    from kd3d.runs.atomic import write_json

    write_json(out / "search.json", record)


def _trained(
    model: Any, source: Any, students: Any, *, settings: Any, distill: Any, out: Path, device: str
) -> dict[str, Any]:
    from kd3d.cli.pipelines import torch_device
    from kd3d.compress.search.optimise import optimise

    with teaching.stages() as update:
        result = optimise(
            model,
            source,
            students,
            settings=settings,
            distill=distill,
            run=out,
            device=torch_device(device),
            progress=update,
        )
    return result.record


def _show(record: dict[str, Any], top: int, out: Path | None) -> None:
    from kd3d.report.table import show, students_table

    show(students_table(f"{record['count']} students within the budget", record["candidates"][:top]))
    best = record["best"]
    if best["score"] is not None:
        say(f"best: {best['name']}, mAP {best['score']:.4f} on held-out training frames after {best['steps']} steps")
        say(f"all trials took {record['steps_spent']} training steps")
    if out is not None:
        say(f"specification: {out / best['spec']}")
