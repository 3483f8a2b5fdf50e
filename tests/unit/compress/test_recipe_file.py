"""Recipes as data."""

import json
from dataclasses import replace

import pytest

from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distilling import DistillSettings, plain
from kd3d.compress.recipe import Recipe
from kd3d.compress.recipe_file import DEFAULT, FOLDER, load_recipe, recipe_names
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import UsageError
from kd3d.training.settings import TrainSettings
from kd3d.training.state import differences

SPEC = preset("world-centerpoint-pillar-tiny")
COARSE = replace(SPEC, grid=replace(SPEC.grid, cell_m=3.2))


def test_there_is_one_file_per_published_recipe():
    published = ("crossscale", "labelfree", "sparsekd", "sparsekd-anchor", "ssad", "unidistill")
    assert recipe_names() == ("auto", "auto-anchor", *published)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_makes_an_objective_for_equal_and_for_coarser_cells(name):
    teacher = build(SPEC)
    for student in (SPEC, COARSE):
        objective = load_recipe(name).objective(teacher, student)
        assert objective.signals
        assert objective.supervised is (name != "labelfree")
        assert (objective.blend is not None) is (name in ("crossscale", "labelfree", "ssad"))
        json.dumps(objective.identity())


def test_the_recipe_sparsekd_is_what_the_library_defaults_to_and_auto_the_command_line():
    assert load_recipe("sparsekd") == Recipe()
    assert DEFAULT == "auto"


def test_auto_is_sparsekd_with_a_lower_threshold_also_where_frames_have_no_labels():
    assert load_recipe("auto") == replace(load_recipe("sparsekd"), label_threshold=0.35, pseudo_labels=0.35)
    assert load_recipe("auto-anchor") == replace(load_recipe("sparsekd-anchor"), pseudo_labels=0.35)


def test_a_copy_of_a_recipe_can_be_edited(tmp_path):
    content = json.loads((FOLDER / "labelfree.json").read_text())
    content["blend"]["rho"] = 0.25
    content["signals"] = [{"signal": "mimic", "weight": 0.5}]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    recipe = load_recipe(str(path))
    assert recipe.blend == BlendSettings(rho=0.25)
    assert [signal.name for signal in recipe.signals(SPEC, SPEC)] == ["kd.mimic.neck"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "cannot be read as a recipe"),
        ("[]", 'must be a JSON object with "format": 1'),
        ('{"format": 1, "frames": {"gama": 1}}', "frames has no field gama; it has beta, decay, eta, gamma"),
        ('{"format": 1, "frames": {"mix": 2}}', "mix of the frame weights must be in 0..1, not 2"),
        ('{"format": 2}', 'must be a JSON object with "format": 1'),
        ('{"format": 1, "logit": 7}', "a recipe has no field logit; it has blend, boxes"),
        ('{"format": 1, "signals": {}}', "signals must be a list of objects, not {}"),
        ('{"format": 1, "signals": [{"signal": "magic"}]}', "no signal 'magic'"),
        ('{"format": 1, "blend": {"rho": 2}}', "rho must be above 0 and at most 1, not 2"),
        ('{"format": 1, "blend": {"psi": 2}}', "blend has no field psi; it has direction, granularity"),
        ('{"format": 1, "blend": []}', r"blend must be an object, not \[\]"),
        ('{"format": 1, "logits": "7"}', "a value is of the wrong type"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, content, text):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=text) as caught:
        load_recipe(str(path))
    assert "bad.json" in str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UsageError,
        match=r"no recipe 'best'. Use auto, auto-anchor, crossscale, labelfree, sparsekd, sparsekd-anchor, ssad, uni",
    ):
        load_recipe("best")


def test_runs_from_before_recipes_can_go_on():
    settings = DistillSettings(TrainSettings(steps=1))
    now = settings.identity()
    begun = json.loads(json.dumps(now))
    for name in ("more", "blend", "supervised"):
        del begun["recipe"][name]
    assert differences(begun, json.loads(json.dumps(now))) == []
    changed = plain(replace(settings, recipe=load_recipe("ssad")).identity())
    assert differences(begun, changed)
    identity = Recipe().objective(build(SPEC), SPEC).identity()
    assert set(identity) == {"kind", "teacher", "signals", "label_kd", "weights", "teacher_norm"}
    before = "LabelKD(threshold=0.6, per_class={}, order='gt_first', suppress=True)"
    assert identity["label_kd"] == before
    pseudo = Recipe(pseudo_labels=0.3).objective(build(SPEC), SPEC).identity()
    assert pseudo == {**identity, "pseudo_labels": 0.3}


def test_without_labels_there_is_no_label_distillation():
    with pytest.raises(UsageError, match="without labels a student needs distillation signals and no label"):
        Recipe(supervised=False).objective(build(SPEC), SPEC)
