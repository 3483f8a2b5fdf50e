"""``kd3d compress``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli import labelling, latency, searching, teaching
from kd3d.cli.console import emit, say
from kd3d.cli.importing import keep_imported
from kd3d.cli.models import load_model
from kd3d.cli.options import (
    BudgetFlops,
    BudgetParams,
    Convention,
    Data,
    Device,
    Force,
    Json,
    Out,
    Resume,
    Seed,
    Teacher,
    Workers,
)
from kd3d.cli.train import Batch, Epochs, NormMomentum, Precision, Rate, Steps, open_run, training_settings


def compress(
    teacher: Teacher,
    data: Data,
    out: Out,
    budget_flops: BudgetFlops = None,
    budget_params: BudgetParams = None,
    budget_latency: latency.BudgetLatency = None,
    latency_table: latency.Table = None,
    runtime: latency.Runtime = None,
    latency_device: latency.TableDevice = None,
    latency_precision: latency.TablePrecision = "fp32",
    flops_convention: Convention = "physical",
    widths: searching.Widths = None,
    depths: searching.Depths = None,
    cells: searching.Cells = None,
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, help="Students tried shortly before one is chosen.")
    ] = 1,
    short_steps: Annotated[int, typer.Option("--short-steps", min=1, help="Steps of each such trial.")] = 200,
    strategy: searching.Strategy = None,
    trials: searching.Trials = 24,
    rungs: searching.Rungs = "100,200,400",
    eta: searching.Eta = 2.0,
    storage: searching.Storage = None,
    study: searching.Study = "kd3d",
    search_workers: Annotated[int, typer.Option("--search-workers", min=1, help="Processes that train trials.")] = 1,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: Batch = 4,
    lr: Rate = 3e-3,
    seed: Seed = 0,
    workers: Workers = 1,
    precision: Precision = "fp32",
    norm_momentum: NormMomentum = None,
    inherit: teaching.Rule = "auto",
    logit_weight: teaching.Logits = None,
    mask: teaching.Mask = None,
    feature_weight: teaching.Features = None,
    label_threshold: teaching.Labels = None,
    pseudo_labels: teaching.PseudoLabels = None,
    recipe_file: teaching.RecipeFile = None,
    blend: teaching.Blend = None,
    lr_scale: teaching.LrScales = None,
    control: teaching.Control = False,
    labelled: labelling.Labelled = None,
    unlabelled: labelling.Unlabelled = None,
    unlabelled_split: labelling.UnlabelledSplit = None,
    unlabelled_share: labelling.UnlabelledShare = 0.5,
    teacher_cache: teaching.Cache = None,
    cache_augmentations: teaching.CacheDraws = 4,
    teacher_precision: teaching.TeacherPrecision = "auto",
    compile_teacher: teaching.CompileTeacher = False,
    augment: Annotated[bool, typer.Option("--augment/--no-augment", help="Random flips, rotation and scaling.")] = True,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench", help="Then export teacher and student to ONNX (RUN/export), and time both (RUN/bench)."
        ),
    ] = False,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
    json_line: Json = False,
) -> None:
    """Find a student within the budget, give it the teacher's weights, distil into it, and score both."""
    budgets = _budgets(budget_flops, budget_params, budget_latency, convention=flops_convention)
    table = latency.open_table(latency_table, (runtime, latency_device, latency_precision), budget_latency)
    space = searching.space(widths, depths, cells)
    asked = searching.settings(
        strategy,
        rungs=rungs,
        trials=trials,
        seed=seed,
        eta=eta,
        storage=storage,
        study_name=study,
        workers=search_workers,
    )
    model = load_model(teacher)
    training = training_settings(
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        workers=workers,
        precision=precision,
        norm_momentum=norm_momentum,
        lr_scales=teaching.lr_scales(lr_scale),
    )
    recipe = {"logits": logit_weight, "mask": mask, "features": feature_weight, "label_threshold": label_threshold}
    taught = teaching.settings(
        training,
        inherit=inherit,
        recipe={**recipe, "blend": blend, "pseudo_labels": pseudo_labels},
        control=control,
        base=recipe_file,
        models=(model.spec, model.spec),
        cache=teaching.cache(teacher_cache, cache_augmentations),
        running=teaching.running(teacher_precision, compiled=compile_teacher),
    )
    labels = labelling.Labelling(labelled, unlabelled, unlabelled_split, unlabelled_share, pseudo_labels)
    source = teaching.frames(data, model.spec.points.sweeps, augment=augment, labels=labels)
    open_run(out, {"command": "compress", "teacher": teacher, "data": str(data)}, resume, force)
    keep_imported(model, out)
    plan = _settings(taught, space, candidates=candidates, short_steps=short_steps, search=asked)
    predictor = latency.of_frames(table, source.train, plan.stats_frames)
    result = _compress(model, source, budgets, settings=plan, out=out, device=device, predictor=predictor)
    delivered = _deliver(model, result, source, out) if bench else {}
    found = {**latency.of_the_student(predictor, result.student, out), **delivered}
    emit({**result.metrics, **found, **_report(out), "model": str(result.model)}, as_json=json_line)


def _budgets(flops: str | None, params: str | None, latency_ms: str | None, *, convention: Any) -> Any:
    from kd3d.compress.search.budget import Budgets

    return Budgets.parse(flops=flops, params=params, convention=convention, latency=latency_ms)


def _settings(distill: Any, space: Any, **rest: Any) -> Any:
    from kd3d.compress.pipeline import CompressSettings

    return CompressSettings(distill, space, **rest)


def _compress(model: Any, source: Any, budgets: Any, *, settings: Any, out: Path, device: str, predictor: Any) -> Any:
    from kd3d.cli.pipelines import torch_device
    from kd3d.compress.pipeline import compress

    with teaching.stages() as update:
        result = compress(
            model,
            source,
            budgets=budgets,
            settings=settings,
            run=out,
            device=torch_device(device),
            latency=predictor,
            progress=update,
        )
    _show(result)
    return result


def _deliver(teacher: Any, result: Any, source: Any, out: Path) -> dict[str, Any]:
    """Exports and latencies; teacher and student get theirs beside their metrics."""
    from kd3d.cli.console import TerminalProgress
    from kd3d.compress.deliver import DeliverSettings, export_and_bench, latencies
    from kd3d.report.table import comparison, show

    models = {"teacher": teacher, "student": result.student}
    data = source.train if source.val is None else source.val
    made = export_and_bench(models, data, out, settings=DeliverSettings(), progress=TerminalProgress())
    timed = latencies(made)
    both = {name: {**result.metrics[name], **timed[name]} for name in models}
    show(comparison("exported: ONNX Runtime on the CPU", both))
    return {**made, **both}


def _show(result: Any) -> None:
    from kd3d.report.table import comparison, show

    found = {name: result.metrics[name] for name in ("teacher", "student", "control") if result.metrics[name]}
    show(comparison("teacher and student", found))
    say(f"student: {result.model}")


def _report(out: Path) -> dict[str, str]:
    """The page of the run; hours of training are not lost where it cannot be drawn."""
    from kd3d.errors import BackendError
    from kd3d.report.pareto import write_report

    try:
        made = write_report(out)
    except BackendError as error:
        say(f"no report: {error}")
        return {}
    say(f"report: {made.html}")
    return {"report": str(made.html)}
