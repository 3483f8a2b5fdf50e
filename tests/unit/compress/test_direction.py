"""The search for how far a blended step may turn, and gradient blending on the command line."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kd3d.cli import teaching
from kd3d.compress import direction, distilling
from kd3d.compress.blend_option import parse_blend
from kd3d.compress.data import CompressData
from kd3d.compress.direction import LIMITS, Trials, settled, with_limit
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distilling import DistillSettings, distill
from kd3d.compress.recipe import Recipe
from kd3d.compress.recipe_file import load_recipe
from kd3d.compress.search import trial
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset
from kd3d.errors import UsageError
from kd3d.training.settings import TrainSettings

SPEC = preset("world-centerpoint-pillar-tiny")
SEARCH = BlendSettings(direction="search", warmup_steps=0)


class Fake:
    """Scores by limit and steps, and keeps what it was asked."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def __call__(self, settings, folder):
        blend = settings.recipe.blend

        def run(student, steps, progress):
            self.asked.append((blend.psi_max_deg, steps, folder.name, settings.train.steps))
            return {"mAP": self.scores[blend.psi_max_deg][steps]}

        return run


def found(tmp_path, scores, steps=200, notes=None):
    settings = DistillSettings(TrainSettings(steps=steps, batch_size=2), Recipe(blend=SEARCH), control=True)
    fake = Fake(scores)
    trials = Trials(fake, None, tmp_path, (notes if notes is not None else []).append)
    return settled(settings, 100, trials), fake, settings, trials


def test_three_limits_are_halved_within_15_percent_of_the_schedule(tmp_path):
    scores = {30.0: {15: 0.1, 30: 0.9}, 45.0: {15: 0.2, 30: 0.3}, 60.0: {15: 0.3, 30: 0.25}}
    notes = []
    chosen, fake, settings, trials = found(tmp_path, scores, notes=notes)
    blend = chosen.recipe.blend
    assert (blend.psi_max_deg, blend.rho, blend.direction) == (45.0, 0.5, "fixed")
    wanted = ((30, 15), (45, 15), (45, 30), (60, 15), (60, 30))
    assert sorted(fake.asked) == [(float(limit), steps, str(limit), 200) for limit, steps in wanted]
    assert chosen.control  # of the run itself
    assert "up to 45 degrees, of 30, 45, 60" in notes[-1].note
    fake.asked.clear()
    assert settled(settings, 100, trials) == chosen  # a resumed run reads what was found
    assert fake.asked == []


def test_of_equal_scores_45_degrees_are_taken_and_60_raise_the_share_of_the_angle(tmp_path):
    equal = {limit: {1: 0.0} for limit in LIMITS}
    assert found(tmp_path, equal, steps=4)[0].recipe.blend.psi_max_deg == 45
    wide = with_limit(DistillSettings(TrainSettings(steps=1), Recipe(blend=SEARCH)), 60.0).recipe.blend
    assert wide.rho == pytest.approx(2 / 3)  # else orthogonal gradients would turn by 45 degrees all the same
    assert with_limit(DistillSettings(TrainSettings(steps=1), Recipe(blend=SEARCH)), 30.0).recipe.blend.rho == 0.5


def test_without_labels_there_is_no_direction_to_search(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "training")
    from training_frames import memory_dataset

    torch.manual_seed(0)
    teacher = Model(SPEC, build(SPEC).eval(), {})
    settings = DistillSettings(TrainSettings(steps=1), Recipe(label_threshold=None, supervised=False, blend=SEARCH))
    with pytest.raises(UsageError, match="no gradient of the task to turn from"):
        distill(teacher, SPEC, CompressData(memory_dataset(1)), settings=settings, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_searches_trains_with_what_it_found_and_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "training")
    from training_frames import memory_dataset

    torch.manual_seed(0)
    teacher = Model(SPEC, build(SPEC).eval(), {})
    frames = memory_dataset(4)
    seen, tried = [], []

    def score(module, dataset, out, progress=None, **options):
        tried.append(len(dataset))
        return {"mAP": 0.9 if "/direction/60/" in str(out) else 0.1, "NDS": 0.2}

    monkeypatch.setattr(distilling, "score", score)
    monkeypatch.setattr(trial, "score", score)
    training = TrainSettings(steps=8, batch_size=1, precision="fp32", workers=0, log_every=1)
    settings = DistillSettings(training, Recipe(blend=SEARCH))
    data = CompressData(frames, frames)

    def run():
        return distill(teacher, SPEC, data, settings=settings, run=tmp_path, progress=lambda u: seen.append(u.stage))

    result = run()
    assert json.loads((tmp_path / "direction.json").read_text())["psi_max_deg"] == 60
    assert tried == [1, 1, 1, 1, 1, 4]  # one of four training frames is held out, and the validation frames come last
    assert {"direction 30", "direction 45", "direction 60", "distil"} <= set(seen)
    kept = json.loads((tmp_path / "student" / "meta.json").read_text())["settings"]["recipe"]["blend"]
    assert kept["psi_max_deg"] == 60
    lines = [json.loads(line) for line in (tmp_path / "distil" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["blend"]["psi_deg"] for line in lines if "blend" in line) > 45.0
    monkeypatch.setattr(direction.TrialRunner, "__call__", lambda *a, **k: pytest.fail("trained again"))
    assert run().metrics == result.metrics


# On the command line


def test_the_option_blend_is_a_mode_and_settings():
    assert parse_blend("off") is None
    assert parse_blend("auto") == BlendSettings()
    assert parse_blend("params, granularity=block,warmup_steps=50, smooth=0.9") == BlendSettings(
        mode="params", granularity="block", warmup_steps=50, smooth=0.9
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("some", "mode cannot be 'some'"),
        ("params,psi=3", r"--blend has no setting 'psi=3'. It takes off, or a mode and FIELD=VALUE .*rho, psi_max_deg"),
        ("params,rho", "--blend has no setting 'rho'"),
        ("params,rho=much", "--blend rho must be a number, not 'much'"),
        ("off,rho=0.5", "mode cannot be 'off'"),
    ],
)
def test_a_wrong_option_says_what_there_is(text, said):
    with pytest.raises(UsageError, match=said):
        parse_blend(text)


def test_rates_of_parts_come_from_the_command_line():
    assert teaching.lr_scales(["encoder=0.1", " head =2"]) == (("encoder", 0.1), ("head", 2.0))
    assert teaching.lr_scales(None) == ()
    with pytest.raises(UsageError, match=r"--lr-scale takes PART=FACTOR, such as encoder=0.1, not 'encoder'"):
        teaching.lr_scales(["encoder"])


def test_options_that_are_given_override_those_of_a_recipe_and_no_others():
    import typer

    app, made = typer.Typer(), {}

    @app.command()
    def run(
        recipe: str = "ssad", logit_weight: teaching.Logits = None, label_threshold: teaching.Labels = None,
        mask: teaching.Mask = None, feature_weight: teaching.Features = None, blend: teaching.Blend = None,
    ) -> None:  # fmt: skip
        given = {"logits": logit_weight, "mask": mask, "features": feature_weight, "label_threshold": label_threshold}
        made["recipe"] = teaching.settings(
            TrainSettings(steps=1), inherit="l1", recipe={**given, "blend": blend}, control=False, base=recipe or None
        ).recipe

    def recipe(*options):
        result = CliRunner().invoke(app, list(options))
        assert result.exit_code == 0, result.exception
        return made["recipe"]

    assert recipe() == load_recipe("ssad")
    assert recipe("--blend", "params,terms=joint") == replace(
        load_recipe("ssad"), blend=BlendSettings(mode="params", terms="joint")
    )
    assert recipe("--blend", "off").blend is None
    assert recipe("--logit-weight", "3", "--mask", "rank") == replace(load_recipe("ssad"), logits=3.0, mask="rank")
    usual = load_recipe("auto")
    assert recipe("--recipe", "", "--label-threshold", "1") == replace(usual, label_threshold=None)
    assert recipe("--recipe", "") == usual


def test_a_run_from_before_the_variants_of_blending_can_be_resumed():
    settings = DistillSettings(TrainSettings(steps=1), Recipe(blend=BlendSettings()))
    assert not set(settings.identity()["recipe"]["blend"]) & {"granularity", "metric", "smooth", "direction"}
    assert re.search("smooth", str(replace(settings, recipe=Recipe(blend=SEARCH)).identity())) is None
