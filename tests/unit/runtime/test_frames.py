"""Portable frames: what is written is read, and damage is named."""

import json

import numpy as np
import pytest

from kd3d.errors import DataError, OutputError
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.frames import Frame, read_frames, write_frames


def frame(token, seed=0, **changes):
    rng = np.random.default_rng(seed)
    boxes = np.full((2, 9), np.nan, np.float32)
    boxes[:, :7] = rng.uniform(1, 2, (2, 7))
    values = {
        "points": rng.random((5, 4), np.float32),
        "features": ("x", "y", "z", "intensity"),
        "boxes": Boxes3D(boxes, np.array([1, 0])),
        "classes": ("car", "person"),
        "lidar2ego": rng.random((4, 4)),
        "ego2global": rng.random((4, 4)),
        "lidar2image": rng.random((3, 4)),
        "image_size_px": (1242, 375),
    }
    return Frame(token=token, **{**values, **changes})


def bare(token):
    return frame(token, boxes=None, lidar2image=None, image_size_px=None, points=np.zeros((0, 4), np.float32))


def test_frames_come_back_equal(tmp_path):
    scored = frame("s", boxes=Boxes3D(np.ones((1, 9)), np.zeros(1, int), np.array([0.5])))
    written = [frame("a", 1), bare("b"), scored]
    assert write_frames(iter(written), tmp_path / "f") == 3
    found = read_frames(tmp_path / "f")
    assert found.tokens == ["a", "b", "s"]
    assert len(found) == 3
    for one, other in zip(written, found, strict=True):
        assert (one.token, one.features, one.classes, one.image_size_px) == (
            other.token, other.features, other.classes, other.image_size_px,
        )  # fmt: skip
        for name in ("points", "lidar2ego", "ego2global", "lidar2image"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.boxes is None) == (other.boxes is None)
    np.testing.assert_array_equal(found[0].boxes.array, written[0].boxes.array)
    np.testing.assert_array_equal(found[0].boxes.label, [1, 0])
    assert found[0].boxes.score is None
    assert found[-1].boxes.score.tolist() == [0.5]
    with pytest.raises(IndexError):
        found[3]


def test_a_failure_half_way_leaves_nothing_and_keeps_what_was_there(tmp_path):
    write_frames([frame("old")], tmp_path / "f")

    def breaks():
        yield frame("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_frames(breaks(), tmp_path / "f")
    with pytest.raises(DataError, match="the frame a occurs twice"):
        write_frames([frame("a"), frame("a")], tmp_path / "f")
    assert read_frames(tmp_path / "f").tokens == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_frames([frame("a")], tmp_path / "file" / "f")


@pytest.mark.parametrize("damage", ["truncated", "empty", "junk", "missing"])
def test_a_damaged_frame_is_named(tmp_path, damage):
    write_frames([frame("a"), frame("b")], tmp_path)
    file = tmp_path / "000001.npz"
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "junk": b"junk" * 50}[damage])
    found = read_frames(tmp_path)
    assert found[0].token == "a"
    with pytest.raises(DataError, match=r"000001.npz: .*Make the frames again"):
        found[1]


def test_a_flipped_byte_is_noticed(tmp_path):
    write_frames([frame("a")], tmp_path)
    file = tmp_path / "000000.npz"
    content = bytearray(file.read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"000000.npz: not readable as a numpy file"):
        read_frames(tmp_path)[0]


def test_arrays_that_do_not_fit_the_index_are_refused(tmp_path):
    write_frames([frame("a")], tmp_path)
    np.savez(tmp_path / "000000.npz", points=np.zeros((3, 7), np.float32), lidar2ego=np.eye(4), ego2global=np.eye(4))
    with pytest.raises(DataError, match=r"000000.npz: a: points must have shape \(N, 4\)"):
        read_frames(tmp_path)[0]
    np.savez(tmp_path / "000000.npz", lidar2ego=np.eye(4))
    with pytest.raises(DataError, match=r"000000.npz: not a readable frame .*points"):
        read_frames(tmp_path)[0]


@pytest.mark.parametrize("index", ["{", "[]", '{"format": 2, "frames": []}', '{"format": 1, "frames": [{"token": 1}]}'])
def test_a_damaged_index_is_named(tmp_path, index):
    (tmp_path / "frames.json").write_text(index)
    with pytest.raises(DataError, match=r"frames.json: "):
        read_frames(tmp_path)


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="Make one with: kd3d data frames"):
        read_frames(tmp_path)


def test_the_index_names_the_points_of_each_frame(tmp_path):
    write_frames([frame("a")], tmp_path)
    assert json.loads((tmp_path / "frames.json").read_text())["frames"][0]["points"] == 5


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lidar2ego": np.full((4, 4), np.nan)}, r"lidar2ego must be a matrix of shape \(4, 4\) of finite numbers"),
        ({"ego2global": np.eye(3)}, r"ego2global must be a matrix of shape \(4, 4\)"),
        ({"lidar2image": np.eye(4)}, r"lidar2image must be a matrix of shape \(3, 4\)"),
        ({"boxes": Boxes3D(np.ones((1, 9)), np.array([7]))}, "labels are 7 to 7, but there are 2 classes"),
    ],
)
def test_a_frame_that_nobody_could_use_is_refused(tmp_path, changes, text):
    write_frames([frame("a", **changes)], tmp_path)
    with pytest.raises(DataError, match=rf"000000.npz: not a readable frame \({text}"):
        read_frames(tmp_path)[0]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("classes", ["car", 3], r"classes must be a list of names, but is \['car', 3\]"),
        ("features", "xyzi", "features must be a list of names"),
        ("image_size_px", [3], "list index out of range"),
    ],
)
def test_an_odd_entry_of_the_index_is_refused(tmp_path, key, value, text):
    write_frames([frame("a")], tmp_path)
    index = json.loads((tmp_path / "frames.json").read_text())
    index["frames"][0][key] = value
    (tmp_path / "frames.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=text):
        read_frames(tmp_path)[0]
