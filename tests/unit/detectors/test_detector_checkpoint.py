"""Model folders: what goes in comes out, and anything else is refused by name."""

import json
import pickle

import pytest
import safetensors.torch
import torch

from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import load_model, read_tensors, save_model, weights_bytes, weights_hash
from kd3d.detectors.presets import preset
from kd3d.errors import CheckpointError, OutputError, SpecError


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    module = build(preset("world-centerpoint-pillar-tiny"))
    save_model(tmp_path / "model", module, {"parent": "abc", "metrics": {"mAP": 0.5}})
    return tmp_path / "model", module


def rewrite(folder, change):
    path = folder / "weights.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))


def test_a_saved_model_comes_back_equal(saved):
    folder, module = saved
    model = load_model(folder)
    assert model.spec == module.spec
    assert model.meta["parent"] == "abc"
    assert model.meta["metrics"] == {"mAP": 0.5}
    assert not model.module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, model.module.state_dict()[name])


def test_the_hash_follows_the_weights_and_nothing_else(saved, tmp_path):
    folder, module = saved
    save_model(tmp_path / "twin", module, {"other": "meta"})
    assert weights_hash(folder) == weights_hash(tmp_path / "twin")
    assert (folder / "weights.safetensors").read_bytes() == weights_bytes(module)
    module.head.shared.conv.bias.data[0] += 1
    save_model(tmp_path / "twin", module, {})
    assert weights_hash(folder) != weights_hash(tmp_path / "twin")


def test_every_mismatch_is_listed_at_once(saved):
    folder, _ = saved

    def damage(tensors):
        del tensors["head.shared.conv.bias"]
        tensors["extra"] = torch.zeros(1)
        tensors["encoder.layers.0.linear.weight"] = torch.zeros(2, 2)
        tensors["backbone.levels.0.0.conv.weight"][0, 0, 0, 0] = torch.nan

    rewrite(folder, damage)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    text = str(caught.value)
    assert "4 tensor(s) do not fit world-centerpoint-pillar-tiny" in text
    assert "head.shared.conv.bias is missing" in text
    assert "extra is not part of world-centerpoint-pillar-tiny" in text
    assert "encoder.layers.0.linear.weight is [2, 2], not [16, 11]" in text
    assert "backbone.levels.0.0.conv.weight is not finite" in text


def test_a_truncated_weights_file_is_refused(saved):
    folder, _ = saved
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: damaged .* Restore the file"):
        load_model(folder)


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors"])
def test_a_missing_file_is_named(saved, name):
    folder, _ = saved
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"not a kd3d model, {name} is missing"):
        load_model(folder)


def test_an_unknown_field_of_the_specification_is_refused(saved):
    folder, _ = saved
    spec = json.loads((folder / "spec.json").read_text())
    spec["colour"] = "red"
    (folder / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(SpecError, match="unknown field\\(s\\) colour"):
        load_model(folder)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle ran",))


def test_a_pickle_is_refused_unopened(saved, tmp_path):
    folder, _ = saved
    content = pickle.dumps(Trap())
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is a pickle, which could run code"):
        load_model(folder)
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pth: is a pickle, .* not opened. Give a kd3d model folder"):
        load_model(tmp_path / "model.pth")


def test_a_folder_with_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is not empty and not a kd3d model"):
        save_model(tmp_path / "thesis", build(preset("world-centerpoint-pillar-tiny")), {})
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_a_weights_file_whose_length_looks_like_a_pickle_is_read(tmp_path):
    for padding in range(256):  # the header grows by whole eights, so some length has the low byte 0x80
        content = safetensors.torch.save({"w": torch.zeros(1)}, {"padding": "x" * padding})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert read_tensors(path)["w"].shape == (1,)
