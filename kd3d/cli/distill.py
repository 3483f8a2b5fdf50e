"""``kd3d distill``"""

from __future__ import annotations

from typing import Annotated

import typer

from kd3d.cli import labelling, teaching
from kd3d.cli.console import emit, say
from kd3d.cli.importing import keep_imported
from kd3d.cli.models import load_model
from kd3d.cli.options import Data, Device, Force, Json, Out, Resume, Seed, Teacher, Workers
from kd3d.cli.train import Batch, Epochs, NormMomentum, Precision, Rate, Steps, open_run, read_spec, training_settings


def distill(
    teacher: Teacher,
    student: Annotated[
        str, typer.Option("--student", help="The student: a preset's name, a spec.json, or a model folder.")
    ],
    data: Data,
    out: Out,
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
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
    json_line: Json = False,
) -> None:
    """Teach one given student: inherit the teacher's weights, distil, and score."""
    from kd3d.cli.pipelines import torch_device
    from kd3d.compress.distilling import distill as run_distill
    from kd3d.report.table import comparison, show

    model, spec = load_model(teacher), read_spec(student)
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
    settings = teaching.settings(
        training,
        inherit=inherit,
        recipe={**recipe, "blend": blend, "pseudo_labels": pseudo_labels},
        control=control,
        base=recipe_file,
        models=(spec, model.spec),
        cache=teaching.cache(teacher_cache, cache_augmentations),
        running=teaching.running(teacher_precision, compiled=compile_teacher),
    )
    labels = labelling.Labelling(labelled, unlabelled, unlabelled_split, unlabelled_share, pseudo_labels)
    source = teaching.frames(data, max(spec.points.sweeps, model.spec.points.sweeps), augment=augment, labels=labels)
    open_run(out, {"command": "distill", "teacher": teacher, "student": student, "data": str(data)}, resume, force)
    keep_imported(model, out)
    with teaching.stages() as update:
        result = run_distill(
            model, spec, source, settings=settings, run=out, device=torch_device(device), progress=update
        )
    rows = {"student": result.metrics, **({"control": result.control} if result.control else {})}
    show(comparison(spec.name, rows))
    say(f"student: {result.model}")
    found = {"model": str(result.model), "mAP": result.metrics.get("mAP"), "NDS": result.metrics.get("NDS")}
    emit({**found, "control": result.control, "teacher_cache": result.cache}, as_json=json_line)
