"""What a search tells and writes while it works; the trainings are made up."""

import json
from dataclasses import dataclass, replace

import pytest
from search_fakes import STUDENTS, TEACHER, FakeRunner, accuracy, trained

from kd3d.compress.data import CompressData
from kd3d.compress.distilling import DistillSettings
from kd3d.compress.search import optimise as module
from kd3d.compress.search.grid import shortlist
from kd3d.compress.search.optimise import optimise
from kd3d.compress.search.settings import SearchSettings
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.errors import DataError, NonFiniteError, UsageError
from kd3d.training.settings import TrainSettings

SETTINGS = SearchSettings("grid", trials=4, rungs=(10, 20))
TRAIN = TrainSettings(steps=7, batch_size=2, precision="fp32", workers=0, checkpoint_every=100)
DISTILL = DistillSettings(TRAIN, inherit="l1")  # the rule that looks at no frame: these tests have none


class Frames:
    kind, split, classes = "nuscenes", "train", TEACHER.head.classes
    tokens = tuple("abcdef")

    def __len__(self):
        return len(self.tokens)


@dataclass(frozen=True)
class Runner(FakeRunner):
    """Takes what the real one takes, and tells of two steps of each training."""

    teacher: Model | None = None
    data: CompressData | None = None
    distill: DistillSettings | None = None

    def score_teacher(self):
        return {"mAP": 0.75}

    def __call__(self, candidate, steps, progress=None):
        for step in (steps - 1, steps):
            progress(Told(step))
        return super().__call__(candidate, steps, progress)


@dataclass(frozen=True)
class Told:
    step: int


@pytest.fixture(scope="module")
def teacher():
    return Model(TEACHER, build(TEACHER).eval(), {})


@pytest.fixture
def search(teacher, monkeypatch):
    made = []

    def run(folder, *, settings=SETTINGS, students=STUDENTS, **fake):
        def runner(*given):
            made.append(given)
            teacher, data, distill, run, device, _ = given
            return Runner(run, device=device, teacher=teacher, data=data, distill=distill, **fake)

        monkeypatch.setattr(module, "TrialRunner", runner)
        told, data = [], CompressData(Frames())
        arguments = {"settings": settings, "distill": DISTILL, "run": folder, "progress": told.append}
        folder.mkdir(exist_ok=True)
        return optimise(teacher, data, students, **arguments), told

    run.made = made
    return run


def test_progress_tells_trials_best_so_far_and_remaining_time(search, tmp_path):
    result, told = search(tmp_path / "run")
    assert {(update.stage, update.total) for update in told} == {("search", 4 * 10 + 2 * 10)}
    done = [update.done for update in told]
    assert (done[0], done[-1], done) == (0, 60, sorted(done))
    assert {9, 10, 19, 59} <= set(done)
    notes = [update.note for update in told if update.note]
    assert notes[0].startswith("the training frames are not of several scenes: trials are scored on the last 1 of 6")
    assert len(notes) == 1 + 4 + 2
    best = result.best.candidate.spec.name.removeprefix(f"{TEACHER.name}-")
    assert notes[-1].startswith("trial ") and "/4 " in notes[-1] and " after 20 steps; best so far " in notes[-1]
    assert notes[-1].endswith(f"{best} {result.best.score:.4f}")
    etas = [update.eta_s for update in told]
    assert etas[:2] == [None, None]
    assert etas[-1] == 0
    assert all(eta >= 0 for eta in etas[2:])


def test_a_resumed_search_tells_only_what_is_new_and_estimates_from_its_own_pace(search, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(DataError, match="is damaged"):
        search(run, breaks=shortlist(STUDENTS.found, 3)[2].spec.name)
    _, told = search(run)
    notes = [update.note for update in told if update.note]
    assert notes[1] == "2 trainings (20 steps) were finished before; going on"
    assert [note.split()[1] for note in notes[2:]][:2] == ["3/4", "4/4"]
    assert len(notes) == 2 + 4
    assert told[2].done == 20


def test_the_record_says_how_the_scores_came_about(search, tmp_path):
    result, _ = search(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "search.json").read_text())
    assert record == result.record
    said = {key: record[key] for key in ("strategy", "seed", "rungs", "eta", "steps_spent", "scored_on")}
    assert said == {
        "strategy": "grid", "seed": 0, "rungs": [10, 20], "eta": 2.0, "steps_spent": 60,
        "scored_on": "held-out training frames",
    }  # fmt: skip
    assert record["teacher"]["mAP"] == 0.75
    assert record["chosen"] == record["best"]["name"] == result.best.candidate.spec.name
    assert result.best.score == pytest.approx(accuracy(result.best.candidate) + 20e-5)


def test_trials_get_the_schedule_of_the_last_rung_and_only_training_frames(search, tmp_path):
    search(tmp_path / "run")
    _, data, distill, _, _, known = search.made[0]
    assert known is None  # l1 needs no importance
    assert (distill.train.steps, distill.train.epochs, distill.train.eval_every) == (20, None, 0)
    assert distill.train.checkpoint_every == 10  # a killed worker loses one rung at most
    assert not distill.control
    assert (tuple(data.train.tokens), tuple(data.val.tokens)) == (("a", "b", "c", "d", "e"), ("f",))


def test_a_finished_search_is_read_and_another_request_refused(search, tmp_path):
    first, _ = search(tmp_path / "run")
    again, told = search(tmp_path / "run")
    assert len(trained(tmp_path / "run")) == 6
    assert again.record == first.record
    assert (told[-1].done, told[-1].eta_s) == (60, None)
    assert told[1].note == "6 trainings (60 steps) were finished before; going on"
    with pytest.raises(UsageError, match=r"begun differently: search.eta=2.0 then, 3.0 now. Repeat that request"):
        search(tmp_path / "run", settings=replace(SETTINGS, eta=3.0))
    less = replace(STUDENTS, budgets=replace(STUDENTS.budgets, convention="thop"))
    with pytest.raises(UsageError, match=r"budgets.convention='?physical'? then, '?thop'? now"):
        search(tmp_path / "run", students=less)


def test_a_search_in_which_every_training_diverges_says_what_to_do(search, tmp_path):
    names = tuple(candidate.spec.name for candidate in STUDENTS.found)
    text = r"none of the 4 students could be trained; the first: the loss of .* is nan. Use a lower --lr."
    with pytest.raises(NonFiniteError, match=text):
        search(tmp_path / "run", diverges=names)
    record = json.loads((tmp_path / "run" / "search.json").read_text())
    assert record["chosen"] is None
    assert [row["state"] for row in record["candidates"]].count("failed") == 4


def test_failures_are_told_with_their_reason(search, tmp_path):
    name = STUDENTS.found[0].spec.name
    result, told = search(tmp_path / "run", diverges=(name,))
    assert f"trial 1/4 {name.removeprefix(TEACHER.name + '-')}: failed (the loss of {name} is nan)" in [
        update.note for update in told
    ]
    assert result.record["steps_spent"] == 50
