import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd3d.compress import distilling
from kd3d.compress import pipeline as verbs
from kd3d.compress.data import CompressData, predictor
from kd3d.compress.distill.cache import CacheSettings
from kd3d.compress.pipeline import CompressSettings, DistillSettings, Recipe, compress, distill
from kd3d.compress.search import trial
from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.datasets.augment import Augmentation
from kd3d.datasets.sample import Sample
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model, load_model
from kd3d.detectors.presets import preset
from kd3d.errors import BudgetError, UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.training.settings import TrainSettings

SPEC = preset("world-centerpoint-pillar-tiny")
NARROW = replace(SPEC, backbone=replace(SPEC.backbone, channels=(8, 16), up_channels=(8, 8)))
SPACE = Space(encoder=(1.0,), backbone=(0.5, 1.0), neck=(0.5, 1.0), head=(0.5,), cell=(1.0, 2.0))


class Frames:
    """Boxes as clouds of points, in memory."""

    classes = SPEC.head.classes
    kind, split = "nuscenes", "train"

    def __init__(self, count=6):
        self.count = count
        self.tokens = [f"t{index}" for index in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        array = np.concatenate([rng.uniform(-40, 40, (5, 2)), np.tile([0, 4, 2, 1.5, 0.3, 1, 0], (5, 1))], 1)
        near = np.repeat(array[:, :2], 40, 0) + rng.normal(0, 0.7, (200, 2))
        points = np.concatenate([near, rng.uniform(-1, 1, (200, 3))], 1).astype(np.float32)
        boxes = Boxes3D(array, rng.integers(0, 3, 5))
        return Sample(self.tokens[index], points, ("x", "y", "z", "intensity", "time_lag"), boxes, self.classes)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(77)
    return Model(SPEC, build(SPEC).eval(), {})


TRAIN = TrainSettings(steps=3, batch_size=2, precision="fp32", workers=0, checkpoint_every=1)


def fake_score(module, dataset, out, progress=None, *, max_range_m=None):
    """Prefers larger cells; runs the network so that a broken one fails."""
    boxes = predictor(module)(dataset[0])
    return {"mAP": module.spec.grid.cell_m / 10, "NDS": 0.5, "boxes": len(boxes)}


def test_distil_makes_a_plain_student_and_a_control_and_resumes_without_work(teacher, tmp_path, monkeypatch):
    student = scaled(SPEC, Choice(backbone=0.5, cell=2.0))
    settings = DistillSettings(TRAIN, Recipe(features=1.0), control=True)
    monkeypatch.setattr(distilling, "score", fake_score)
    before = {name: tensor.clone() for name, tensor in teacher.module.state_dict().items()}
    stages = []
    data = CompressData(Frames(), Frames(2))
    result = distill(teacher, student, data, settings=settings, run=tmp_path, progress=lambda u: stages.append(u.stage))
    assert set(stages) == {"distil", "control"}
    assert result.student.spec == student
    assert set(load_model(result.model).module.state_dict()) == set(build(student).state_dict())
    assert result.metrics["mAP"] == result.control["mAP"] == 0.32
    assert result.inheritance["inherited"] > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.module.state_dict().items())
    terms = [json.loads(line) for line in (tmp_path / "distil" / "metrics.jsonl").read_text().splitlines()]
    text = json.dumps(terms)
    assert "kd.logits" in text
    assert "kd.features.neck" in text
    assert "kd.boxes" not in text  # the output grids differ
    assert "kd." not in (tmp_path / "control" / "metrics.jsonl").read_text()

    def no_training(*arguments, **named):
        raise AssertionError("trained again")

    monkeypatch.setattr(distilling, "train", no_training)
    again = distill(teacher, student, data, settings=settings, run=tmp_path)
    assert again.metrics == result.metrics
    with pytest.raises(UsageError, match=r"begun differently: settings.inherit=auto then, None now. Repeat that run's"):
        distill(teacher, student, data, settings=replace(settings, inherit=None), run=tmp_path)
    other = replace(data, train=Frames(7))
    with pytest.raises(UsageError, match=r"data.train.frames=6 then, 7 now; data.train.tokens=\w+ then, \w+ now. Rep"):
        distill(teacher, student, other, settings=settings, run=tmp_path)
    flipped = replace(data, augmentation=Augmentation(flip_x=True))
    with pytest.raises(UsageError, match=r"data.augmentation.*. Repeat that run's settings and data"):
        distill(teacher, student, flipped, settings=settings, run=tmp_path)
    patient = replace(settings, train=replace(TRAIN, workers=2, checkpoint_every=7))
    assert distill(teacher, student, data, settings=patient, run=tmp_path).metrics == result.metrics


def test_the_student_begins_with_the_teachers_weights_and_the_control_does_not(teacher, tmp_path, monkeypatch):
    seen = {}

    def spy(module, dataset, *, run, **named):
        seen[run.name] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        raise KeyboardInterrupt

    monkeypatch.setattr(distilling, "train", spy)
    for place, rule in (("a", "first"), ("b", None)):
        with pytest.raises(KeyboardInterrupt):
            distill(
                teacher,
                SPEC,
                CompressData(Frames()),
                settings=DistillSettings(TRAIN, inherit=rule),
                run=tmp_path / place,
            )
        equal = [
            torch.equal(seen["distil"][name], tensor)
            for name, tensor in teacher.module.state_dict().items()
            if name.endswith("conv.weight")
        ]
        assert all(equal) if rule else not any(equal)


def test_compress_chooses_the_best_candidate_and_records_everything(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(distilling, "score", fake_score)
    monkeypatch.setattr(verbs, "score", fake_score)
    monkeypatch.setattr(trial, "score", fake_score)
    settings = CompressSettings(DistillSettings(TRAIN), SPACE, candidates=2, short_steps=2, stats_frames=3)
    data = CompressData(Frames(), Frames(2))
    budgets = Budgets.parse(flops="60%")
    result = compress(teacher, data, budgets=budgets, settings=settings, run=tmp_path)
    assert result.student.spec.grid.cell_m == 3.2  # what the score prefers
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == result.metrics
    assert written["student"]["macs"] <= 0.6 * written["teacher"]["macs"] == written["budget"]["flops"]["limit"]
    assert written["student"]["mAP"] == 0.32
    rows = [json.loads(line) for line in (tmp_path / "candidates.jsonl").read_text().splitlines()]
    assert len(rows) == len(result.candidates)
    assert sorted(row["score"] for row in rows if row["score"] is not None) == [0.16, 0.32]
    meta = load_model(tmp_path / "student").meta
    assert meta["parent"] == SPEC.name
    assert meta["pillar_stats"]["pillars"] > 0
    monkeypatch.setattr(distilling, "train", None)
    assert compress(teacher, data, budgets=budgets, settings=settings, run=tmp_path).metrics == written


def test_candidates_are_compared_on_held_out_training_frames_and_never_on_validation(teacher, tmp_path, monkeypatch):
    scored = []

    def spy(module, dataset, out, progress=None, *, max_range_m=None):
        scored.append(tuple(dataset.tokens))
        return fake_score(module, dataset, out)

    monkeypatch.setattr(trial, "score", spy)
    data, budgets = CompressData(Frames()), Budgets.parse(params="60%")
    settings = CompressSettings(DistillSettings(TRAIN), SPACE, candidates=2, short_steps=2)
    result = compress(teacher, data, budgets=budgets, settings=settings, run=tmp_path / "a")
    assert result.student.spec.grid.cell_m == 3.2
    assert set(scored) == {("t5",)}
    trained = json.loads((tmp_path / "a" / "trials" / result.student.spec.name / "request.json").read_text())
    assert trained["data"]["train"]["frames"] == 5
    settings = CompressSettings(DistillSettings(TRAIN), SPACE, candidates=1)
    result = compress(teacher, data, budgets=budgets, settings=settings, run=tmp_path / "b")
    assert result.student.spec == result.candidates[0].spec


def test_an_impossible_budget_leaves_no_run_behind(teacher, tmp_path):
    settings = CompressSettings(DistillSettings(TRAIN), SPACE, candidates=1)
    with pytest.raises(BudgetError, match="no student meets the budget"):
        compress(
            teacher, CompressData(Frames()), budgets=Budgets.parse(flops="1K"), settings=settings, run=tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("values", "text"), [({"logits": -1.0}, "logits weight must be 0 or more"), ({"mask": "sobel"}, "no mask 'sobel'")]
)
def test_recipes_refuse_nonsense(values, text):
    with pytest.raises(UsageError, match=text):
        Recipe(**values)


def test_settings_refuse_nonsense():
    with pytest.raises(UsageError, match="short_steps must be at least 1, not 0"):
        CompressSettings(DistillSettings(TRAIN), short_steps=0)


def test_a_distillation_with_a_teacher_cache_asks_the_teacher_once_and_says_what_it_cost(
    teacher, tmp_path, monkeypatch
):
    data = CompressData(Frames(), Frames(2), Augmentation(flip_y=True, rotation_rad=0.3))
    monkeypatch.setattr(distilling, "score", fake_score)
    settings = DistillSettings(replace(TRAIN, steps=9), control=True, cache=CacheSettings(None, 2))
    news = []
    result = distill(teacher, NARROW, data, settings=settings, run=tmp_path, progress=news.append)
    assert result.cache["hit_rate"] == 1
    assert result.cache["records"] == result.cache["made"] == 12
    assert result.cache["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("teacher-cache/*.kdt"))
    notes = [update.note for update in news if update.stage == "teacher cache" and update.note]
    assert re.fullmatch(r"12 answers, 12 of them new, \d+ s, \d+\.\d MB", notes[0])
    again = distill(teacher, NARROW, data, settings=settings, run=tmp_path)
    assert again.cache == result.cache  # read, not made again
    with pytest.raises(UsageError, match="recorded_augmentations"):
        distill(teacher, NARROW, data, settings=replace(settings, cache=None), run=tmp_path)
    other = Model(SPEC, build(SPEC).eval(), {})
    shared = replace(settings, cache=CacheSettings(tmp_path / "teacher-cache", 2), control=False)
    with pytest.raises(UsageError, match=r"answers of another teacher.*teacher\.weights"):
        distill(other, NARROW, data, settings=shared, run=tmp_path / "b")
    with pytest.raises(UsageError, match=r"other frames or signals.*seed=0 then, 1 now"):
        seeded = replace(shared, train=replace(shared.train, seed=1))
        distill(teacher, NARROW, data, settings=seeded, run=tmp_path / "c")


def test_a_cache_in_a_folder_of_its_own_is_shared_and_the_student_says_where_it_was(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(distilling, "score", fake_score)
    data = CompressData(Frames(), Frames(2), Augmentation(flip_y=True))
    settings = DistillSettings(replace(TRAIN, steps=4), cache=CacheSettings(tmp_path / "answers", 1))
    made = distill(teacher, NARROW, data, settings=settings, run=tmp_path / "a")
    assert made.student.meta["settings"]["cache"] == {"augmentations": 1, "folder": str(tmp_path / "answers")}
    assert distill(teacher, NARROW, data, settings=settings, run=tmp_path / "b").cache["made"] == 0


def test_a_cache_that_costs_more_answers_than_it_gives_is_warned_about(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(distilling, "score", fake_score)
    data = CompressData(Frames(), Frames(2), Augmentation(flip_y=True))
    settings = DistillSettings(TRAIN, cache=CacheSettings(None, 4))
    with pytest.warns(UserWarning, match="asked 24 times for a cache that a training on 6 frames uses"):
        distill(teacher, NARROW, data, settings=settings, run=tmp_path)


def test_the_teachers_channels_are_chosen_by_importance_unless_no_label_may_be_read():
    def rule(inherit=None, **recipe):
        given = {} if inherit is None else {"inherit": inherit}
        return DistillSettings(TRAIN, Recipe(**recipe), **given).rule

    assert rule() == "taylor"
    assert rule(supervised=False) == "l1"
    assert rule("bn", supervised=False) == "bn"
    assert DistillSettings(TRAIN, inherit=None).rule is None


def test_what_a_search_has_measured_of_the_teacher_is_not_measured_again(teacher, monkeypatch):
    data, settings, student = CompressData(Frames()), DistillSettings(TRAIN), scaled(SPEC, Choice(backbone=0.5))
    known = distilling.measured(teacher, settings, data=data, device="cpu")
    _, wanted = distilling.untaught(teacher, student, settings, data=data, device="cpu")
    monkeypatch.setattr(distilling, "taylor", None)
    _, made = distilling.untaught(teacher, student, settings, data=data, device="cpu", known=known)
    assert made == wanted
    assert distilling.measured(teacher, replace(settings, inherit="l1"), data=data, device="cpu") is None


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"importance": 3}', '{"importance": {"x": ["a"]}}'])
def test_importance_stays_in_the_run_folder_and_a_damaged_file_of_it_is_made_again(
    teacher, tmp_path, monkeypatch, content
):
    data, settings = CompressData(Frames()), DistillSettings(TRAIN)
    passes, whole = [], distilling.taylor
    monkeypatch.setattr(distilling, "taylor", lambda *given: passes.append(given) or whole(*given))
    where = {"data": data, "device": "cpu", "run": tmp_path}
    first = distilling.measured(teacher, settings, **where)
    if content is not None:
        (tmp_path / "importance.json").write_text(content)
    again = distilling.measured(teacher, settings, **where)
    assert len(passes) == (1 if content is None else 2)
    assert first.importance.keys() == again.importance.keys()
    assert all(torch.equal(first.importance[name], scores) for name, scores in again.importance.items())


def test_importance_of_another_teacher_is_not_taken(teacher, tmp_path, monkeypatch):
    data, settings = CompressData(Frames()), DistillSettings(TRAIN)
    where = {"data": data, "device": "cpu", "run": tmp_path}
    distilling.measured(teacher, settings, **where)
    other = Model(teacher.spec, build(teacher.spec).eval(), {})
    found = distilling.measured(other, settings, **where)
    wanted = distilling.taylor(other.module, data.train)
    assert all(torch.equal(found.importance[name], scores) for name, scores in wanted.importance.items())
