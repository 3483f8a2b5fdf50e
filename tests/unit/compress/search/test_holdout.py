from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.compress.data import CompressData
from kd3d.compress.search.holdout import hold_out
from kd3d.datasets.augment import Augmentation
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.parts import part
from kd3d.errors import DataError

MINI_TRAIN = ("scene-0061", "scene-0553", "scene-0655", "scene-0757", "scene-0796")


@dataclass
class Record:
    token: str
    previous: str | None


class Scenes:
    """Frames of scenes of the given lengths, known by their chains alone."""

    kind, split, classes = "nuscenes", "train", ("car",)

    def __init__(self, lengths, order=None):
        chains = [[f"{scene}-{frame}" for frame in range(length)] for scene, length in enumerate(lengths)]
        found = [Record(t, c[i - 1] if i else "a frame of no split") for c in chains for i, t in enumerate(c)]
        self.records = [found[place] for place in order] if order else found
        self.tokens = [record.token for record in self.records]

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return self.tokens[index]


class Loose(Scenes):
    """As KITTI: no scenes."""

    def __init__(self, count):
        super().__init__([count])
        del self.records


def scene(token):
    return token.split("-")[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_whole_scenes_are_held_out_whatever_the_order_of_the_frames(lengths, random):
    order = list(range(sum(lengths)))
    random.shuffle(order)
    data = CompressData(Scenes(lengths, order))
    held = hold_out(data)
    train, val = set(held.data.train.tokens), set(held.data.val.tokens)
    assert train.isdisjoint(val)
    assert train | val == set(data.train.tokens)
    assert {scene(token) for token in train}.isdisjoint({scene(token) for token in val})
    assert len({scene(token) for token in val}) == max(1, round(0.2 * len(lengths)))
    assert hold_out(data).data.val.tokens == held.data.val.tokens
    assert held.note == (
        f"trials are scored on {len(val)} frames of {max(1, round(0.2 * len(lengths)))} of {len(lengths)} training "
        "scenes, held out"
    )


def test_held_out_scenes_are_spread_evenly():
    held = hold_out(CompressData(Scenes([2] * 20)))
    chosen = [int(scene(token)) for token in held.data.val.tokens[::2]]
    assert [high - low for low, high in pairwise(chosen)] == [5, 5, 5]
    assert 0 < chosen[0] < chosen[-1] < 19


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([Loose, lambda count: Scenes([count])]), st.integers(2, 60))
def test_frames_of_no_or_one_scene_are_divided_at_one_point_and_the_note_says_so(kind, count):
    data = CompressData(kind(count))
    held = hold_out(data)
    number = max(1, round(0.2 * count))
    assert held.data.train.tokens + held.data.val.tokens == data.train.tokens
    assert len(held.data.val) == number
    assert held.note == (
        f"the training frames are not of several scenes: trials are scored on the last {number} of {count}"
    )


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_frames_are_refused(count):
    text = f"a search holds training frames out to score on, and there are {count}. Give more frames."
    with pytest.raises(DataError, match=text):
        hold_out(CompressData(Loose(count)))


def test_validation_frames_are_dropped_and_everything_else_stays():
    turn = Augmentation(flip_x=True)
    data = CompressData(Scenes([2, 2]), Scenes([7]), turn, "objects")
    held = hold_out(data).data
    assert (held.augmentation, held.database) == (turn, "objects")
    assert set(held.val.tokens) < set(data.train.tokens)
    assert [held.val[index] for index in range(len(held.val))] == held.val.tokens
    assert (held.val.kind, held.val.split, held.val.classes) == ("nuscenes", "train", ("car",))


@pytest.fixture(scope="module")
def mini(tiny, tmp_path_factory):
    root = tiny.write_tiny(tmp_path_factory.mktemp("mini"), scenes=(*MINI_TRAIN, "scene-0103"))
    return NuScenesDataset(root, split="train", drop_empty=True)


def test_a_nuscenes_folder_is_divided_by_its_scenes_and_stays_a_nuscenes_data_set(mini):
    before = list(mini.tokens)
    held = hold_out(CompressData(mini)).data
    assert (len(held.train), len(held.val)) == (12, 3)
    assert len({token.rpartition("-")[0] for token in held.val.tokens}) == 1
    assert isinstance(held.val, NuScenesDataset)
    assert [held.val[index].token for index in range(3)] == held.val.tokens
    assert [record.token for record in held.train.records] == held.train.tokens
    assert mini.tokens == before
    assert len(mini.records) == 15


def test_a_kitti_folder_is_divided_in_its_order(tmp_path):
    velodyne = tmp_path / "training" / "velodyne"
    velodyne.mkdir(parents=True)
    for number in range(10):
        (velodyne / f"{number:06d}.bin").touch()
    kitti = KittiDataset(tmp_path, split="train")
    held = hold_out(CompressData(kitti)).data
    assert isinstance(held.val, KittiDataset)
    assert held.train.tokens + held.val.tokens == kitti.tokens
    assert len(held.val) == 2
    assert part(kitti, [3, 1]).tokens == ["000003", "000001"]
