import pytest

from kd3d.cli.models import SHIPPED, find_model, load_model
from kd3d.cli.train import read_spec
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import save_model
from kd3d.detectors.presets import preset
from kd3d.errors import CheckpointError, UsageError

TINY = "world-centerpoint-pillar-tiny"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(folder, build(preset(TINY)), {"made_by": "a test"})
    return folder


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def test_a_model_folder_and_the_folder_of_the_run_that_made_it_are_the_same_model(stored):
    found = find_model(str(stored))
    assert (found.kind, found.path) == ("model", stored)
    inside = find_model(str(stored.parent))
    assert (inside.kind, inside.path, inside.name) == ("model", stored, str(stored.parent))
    assert load_model(str(stored.parent)).meta["made_by"] == "a test"


def test_of_a_run_with_both_the_student_is_meant_and_not_the_averaged_model(tmp_path):
    touch(tmp_path / "model" / "spec.json")
    touch(tmp_path / "student" / "spec.json")
    assert find_model(str(tmp_path)).path == tmp_path / "student"


def test_exports_are_recognised_as_folders_and_as_files(tmp_path):
    for name in ("pipeline.json", "spec.json", "model.onnx"):
        touch(tmp_path / name)
    assert find_model(str(tmp_path)).kind == "export"
    file = find_model(str(tmp_path / "model.onnx"))
    assert (file.kind, file.path) == ("onnx", tmp_path / "model.onnx")
    for argument in (tmp_path, tmp_path / "model.onnx"):
        with pytest.raises(UsageError, match="an exported artefact; here the kd3d model folder it was made from"):
            load_model(str(argument))


def test_a_word_is_a_preset_unless_there_is_such_a_folder(stored, monkeypatch):
    found = find_model(TINY)
    assert (found.kind, found.name, found.path) == ("preset", TINY, None)
    monkeypatch.chdir(stored.parent)
    assert find_model("model").kind == "model"


def test_a_version_in_a_preset_name_is_not_taken_for_a_file_suffix():
    assert find_model("waymo-centerpoint-pillar-v0.4").kind == "preset"


def test_the_shipped_teacher_has_a_name():
    found = find_model(SHIPPED)
    assert found.kind == "model"
    assert found.path is not None
    assert found.path.name == SHIPPED


@pytest.mark.parametrize("text", ["runs/none", "none.onnx", "none.pth"])
def test_a_path_to_nothing_is_not_taken_for_a_preset(text):
    with pytest.raises(UsageError, match=f"{text}: there is no such model. Give a model folder, a run folder"):
        find_model(text)


def test_a_folder_without_a_model_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"no model in this folder. Expected spec\.json .* student/ or model/"):
        find_model(str(tmp_path))


def test_half_a_model_folder_is_a_damaged_model(tmp_path):
    touch(tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"spec\.json is missing"):
        load_model(str(tmp_path))


def test_a_file_that_is_no_model_is_refused_as_a_checkpoint(tmp_path):
    (tmp_path / "model.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"model\.txt: is a file, not a kd3d model folder"):
        load_model(str(tmp_path / "model.txt"))


def test_a_preset_has_weights_only_where_random_ones_make_sense():
    with pytest.raises(UsageError, match=f"no trained weights. Train it first: kd3d train --preset {TINY}"):
        load_model(TINY)
    with pytest.raises(UsageError, match="no-such-preset"):
        load_model("no-such-preset", presets=True)
    first, second = (load_model(TINY, presets=True) for _ in range(2))
    assert first.spec == preset(TINY)
    assert not first.module.training
    for name, tensor in first.module.state_dict().items():
        assert tensor.equal(second.module.state_dict()[name]), name


def test_a_specification_is_read_from_a_model_folder_its_run_and_its_file(stored):
    for given in (stored, stored.parent, stored / "spec.json", TINY):
        assert read_spec(str(given)) == preset(TINY)
