"""The sweep against gradient blending: which runs there are, what is chosen, and what counts as good."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def sweep():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import blend_sweep as module

    yield module
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in ("blend_sweep", "readme_blend", "kd_gain", "study_width_depth_resolution", "near", "fitting", "worlds"):
        sys.modules.pop(name, None)


def finished(sweep, combination, *, best, blend, chosen, plain):
    """Runs by name: the sweep is best at the place ``best``; the others as given for both seeds."""
    found = {}
    for run in sweep.runs(combination):
        if run.given.startswith("sweep"):
            place = int(run.given.rpartition("-")[2])
            found[run.name] = {"mAP": 40.0 - abs(place - best), "step_s": 0.1}
        else:
            values = {"blend": blend, "chosen": chosen, "plain": plain}[run.given]
            found[run.name] = {"mAP": values[sweep.JUDGED.index(run.seed)], "step_s": 0.14}
    return found


def test_fourteen_weights_half_a_decade_apart_around_the_default(sweep):
    weights = [sweep.weight("logits", place) for place in range(len(sweep.FACTORS))]
    assert len(weights) == 14 and weights[7] == 7.0
    assert [weights[place + 2] / weights[place] for place in range(12)] == pytest.approx([10] * 12)


def test_the_students_without_distillation_are_trained_once_per_axis(sweep):
    names = [run.name for combination in sweep.COMBINATIONS for run in sweep.runs(combination)]
    assert len(names) == 4 * 20
    assert len(set(names)) == 4 * 18 + 2 * 2
    assert names.index("width-logits-chosen-2") > names.index("width-logits-sweep-13-1")


def test_the_chosen_weight_is_the_best_of_the_sweep(sweep, monkeypatch):
    found = finished(sweep, "width-logits", best=4, blend=(1, 1), chosen=(1, 1), plain=(1, 1))
    monkeypatch.setattr(sweep, "recorded", lambda: found)
    taught = sweep.recipe(sweep.Run("width-logits", "chosen", 2))
    assert taught.more == ({"signal": "logits", "weight": sweep.weight("logits", 4)},)
    assert sweep.recipe(sweep.Run("width-logits", "plain", 2)) is None
    blended = sweep.recipe(sweep.Run("width-logits", "blend", 2))
    assert blended.blend is not None and (blended.logits, blended.boxes, blended.label_threshold) == (0, 0, None)


@pytest.mark.parametrize(
    ("blend", "good"),
    [((40.0, 41.0), True), ((38.0, 41.5), True), ((39.0, 40.4), False), ((38.0, 38.9), False), ((42.0, 43.0), True)],
)
def test_as_good_is_not_lower_by_more_than_two_standard_errors(sweep, monkeypatch, blend, good):
    found = finished(sweep, "width-logits", best=4, blend=blend, chosen=(40.0, 41.0), plain=(35.0, 36.0))
    monkeypatch.setattr(sweep, "recorded", lambda: found)
    told = sweep.verdict("width-logits", found)
    assert told["as_good"] is good
    assert told["over_plain"]["mean"] == pytest.approx(sum(blend) / 2 - 35.5)
    assert told["step_time_of_the_sweep"] == pytest.approx(0.1)
    del found["width-plain-3"]
    assert sweep.verdict("width-logits", found) is None


def test_the_readme_names_the_combinations_in_which_blending_is_below_the_labels_alone(sweep, monkeypatch):
    from readme_blend import blend_sweep as told

    found = finished(sweep, "width-logits", best=4, blend=(39.0, 40.4), chosen=(40.0, 41.0), plain=(39.5, 41.0))
    monkeypatch.setattr(sweep, "recorded", lambda: found)
    verdict = sweep.verdict("width-logits", found)
    setting = {"range_m": 25.6, "steps": 400, "batch": 2}
    said, table, judged = told({"combinations": [verdict], "setting": setting, "as_good": "0 of 1"})
    cells = "31.0 to 40.0 | 0.221 | 40.00, 41.00 | 39.00, 40.40 | 39.50, 41.00 | -0.80 (0.20) | no | 0.100"
    assert f"| width, `logits` | {cells} |" in table and "400 steps of 2 frames" in said
    assert judged.startswith("Blending is as good as the swept weight in 0 of 1;")
    assert judged.endswith("in width-logits.")


def test_single_runs_can_be_asked_for_by_name(sweep, monkeypatch):
    spec = SimpleNamespace(name="narrow")
    teacher = SimpleNamespace(module=SimpleNamespace(to=lambda device: None))
    trained = []
    monkeypatch.setattr(sweep, "near_teacher", lambda: teacher)
    monkeypatch.setattr(sweep, "students", lambda: {"width": (spec, 0.25)})
    monkeypatch.setattr(sweep, "to_json", lambda spec: {})
    monkeypatch.setattr(sweep, "recorded", lambda: {"width-plain-2": {}})
    monkeypatch.setattr(sweep, "fit", lambda *_, out, **__: trained.append(out.name))
    sweep.train(["width-logits"], "cpu", ["width-plain-2", "width-plain-3", "width-logits-sweep-4-1"])
    assert trained == ["width-logits-sweep-4-1", "width-plain-3"]
