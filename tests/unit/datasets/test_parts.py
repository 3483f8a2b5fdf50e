"""Labelled parts of a training set, and frames whose labels are never read."""

import shutil
from itertools import pairwise

import numpy as np
import pytest

from kd3d.datasets import kitti as kitti_module
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.nuscenes_index import IndexBuilder
from kd3d.datasets.open import open_dataset
from kd3d.datasets.parts import labelled_part, scene_names
from kd3d.datasets.unlabelled import open_unlabelled
from kd3d.errors import DataError, UsageError

CALIB = """P2: 721.5377 0 609.5593 44.85728 0 721.5377 172.854 0.2163791 0 0 1 0.002745884
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
"""


def write_kitti(root, frames, *, folder="training", first=0.0, labels=True):
    for kind in ("velodyne", "calib", *(["label_2"] if labels else [])):
        (root / folder / kind).mkdir(parents=True, exist_ok=True)
    for index in range(frames):
        token = f"{index:06d}"
        np.full((4, 4), first + index, np.float32).tofile(root / folder / "velodyne" / f"{token}.bin")
        (root / folder / "calib" / f"{token}.txt").write_text(CALIB)
        if labels:
            (root / folder / "label_2" / f"{token}.txt").write_text(
                "Car 0.00 0 1.55 614.24 181.78 727.31 284.77 1.57 1.73 4.15 1.00 1.75 13.22 1.62\n"
            )
    return root


@pytest.fixture
def kitti(tmp_path):
    return write_kitti(tmp_path / "kitti", 10)


def test_a_share_takes_whole_scenes_always_the_same_ones_and_more_of_them_include_fewer(kitti):
    dataset = KittiDataset(kitti, split="trainval")
    chosen = [labelled_part(dataset, f"{share}%").tokens for share in (1, 20, 50, 100)]
    assert [len(tokens) for tokens in chosen] == [1, 2, 5, 10]
    assert all(set(fewer) <= set(more) for fewer, more in pairwise(chosen))
    assert labelled_part(dataset, None) is dataset
    assert labelled_part(dataset, "20%")[0].boxes is not None


def test_a_list_names_scenes(tiny_root, tmp_path):
    dataset = NuScenesDataset(tiny_root, split="train")
    assert set(scene_names(dataset)) == {"scene-0061"}
    listed = tmp_path / "scenes.txt"
    listed.write_text("scene-0061\n")
    assert labelled_part(dataset, str(listed)).tokens == dataset.tokens
    listed.write_text("scene-0061 scene-9 scene-8")
    with pytest.raises(DataError, match=r"scenes.txt: not in the split mini_train: scene-8, scene-9. Correct the list"):
        labelled_part(dataset, str(listed))
    listed.write_text("\n")
    with pytest.raises(DataError, match=r"scenes.txt: names no scene. Write one per line"):
        labelled_part(dataset, str(listed))


@pytest.mark.parametrize("text", ["0%", "101%", "ten%"])
def test_a_share_that_is_none_is_refused(kitti, text):
    with pytest.raises(UsageError, match=r"labelled share must be above 0% and at most 100%, not \w+%"):
        labelled_part(KittiDataset(kitti, split="train"), text)
    with pytest.raises(UsageError, match=r"nothing.txt: neither a share such as 10% nor a file with one scene per"):
        labelled_part(KittiDataset(kitti, split="train"), "nothing.txt")


def test_labels_of_kitti_are_not_opened_and_may_be_absent(kitti, monkeypatch):
    shutil.rmtree(kitti / "training" / "label_2")
    monkeypatch.setattr(kitti_module, "read_labels", lambda path: pytest.fail("a label was read"))
    assert open_dataset(kitti, split="train", labels=False)[0].boxes is None


def test_labels_of_nuscenes_are_not_looked_at(tiny_root, monkeypatch):
    monkeypatch.setattr(IndexBuilder, "_label", lambda self, category: pytest.fail("a label was read"))
    dataset = open_dataset(tiny_root, split="train", labels=False)
    assert dataset[0].boxes is None
    assert len(dataset[0].points)


def test_frames_that_are_in_use_are_left_out(kitti):
    train = labelled_part(KittiDataset(kitti, split="train"), "50%")
    found = open_unlabelled(kitti, like=train)
    assert found.dropped == len(train) == 4
    assert set(found.dataset.tokens).isdisjoint(train.tokens)
    assert found.dataset[0].boxes is None
    val = KittiDataset(kitti, split="val")
    everything = open_unlabelled(kitti, split="trainval", like=train, elsewhere=[val])
    assert set(everything.dataset.tokens).isdisjoint([*train.tokens, *val.tokens])


def test_equal_numbers_of_kitti_frames_are_not_equal_frames(kitti, tmp_path):
    train = KittiDataset(kitti, split="train")
    other = write_kitti(tmp_path / "raw", 3, folder="testing", first=50.0, labels=False)
    assert open_unlabelled(other, like=train).dropped == 0  # other drives, numbered alike; test is all there is
    copied = tmp_path / "copied"
    shutil.copytree(kitti, copied)
    with pytest.raises(DataError, match=r"copied: all 8 frames of the split train are training or validation frames"):
        open_unlabelled(copied, like=train)


def test_frames_of_another_kind_or_of_no_kind_are_refused(kitti, tiny_root, tmp_path):
    with pytest.raises(DataError, match=r"nuscenes frames, while the labelled ones are kitti: other sensors"):
        open_unlabelled(tiny_root, like=KittiDataset(kitti, split="train"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: neither nuScenes .* nor KITTI"):
        open_unlabelled(tmp_path / "empty", like=KittiDataset(kitti, split="train"))
    (tmp_path / "no" / "training" / "velodyne").mkdir(parents=True)
    with pytest.raises(DataError, match=r"split train has no frames"):
        open_unlabelled(tmp_path / "no", like=KittiDataset(kitti, split="train"))
    with pytest.raises(DataError, match=r"all 3 frames of the split train"):
        open_unlabelled(tiny_root, like=NuScenesDataset(tiny_root, split="train"))
