import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from kd3d.datasets.augment import Augmentation, augment
from kd3d.datasets.inside import points_in_boxes
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.datasets.paste import SampleDatabase, build_database
from kd3d.errors import DataError, UsageError
from kd3d.geometry.boxes import Boxes3D
from kd3d.geometry.iou import bev_iou


@pytest.fixture(scope="module")
def dataset(tiny_root):
    return NuScenesDataset(tiny_root, split="train")


@pytest.fixture(scope="module")
def database(dataset, tmp_path_factory):
    return build_database(dataset, tmp_path_factory.mktemp("db") / "objects")


def bare(dataset):
    """A frame with its points but without any box."""
    return replace(dataset[0], boxes=Boxes3D.empty())


def test_the_database_holds_every_object_with_enough_points(dataset, database):
    wanted = 0
    for i in range(len(dataset)):
        sample = dataset[i]
        wanted += int((points_in_boxes(sample.points, sample.boxes.array).sum(axis=1) >= 5).sum())
    assert len(database) == wanted > 20
    assert sum(database.counts.values()) == wanted
    for i in range(len(database)):
        points = database.points(i)
        assert len(points) >= 5
        assert points_in_boxes(points, database.boxes.array[i : i + 1]).all()


def test_classes_are_filled_up_to_their_count_without_overlap(dataset, database):
    sample = bare(dataset)
    pasted = augment(sample, np.random.default_rng(0), Augmentation(paste=(("car", 1), ("bicycle", 2))), database)
    names = [pasted.classes[label] for label in pasted.boxes.label]
    assert names[0] == "car"
    assert 1 <= names.count("bicycle") <= 2
    overlap = bev_iou(pasted.boxes.bev, pasted.boxes.bev)
    assert (overlap - np.diag(np.diag(overlap)) <= 0).all()
    full = dataset[0]
    assert len(augment(full, np.random.default_rng(0), Augmentation(paste=(("car", 1),)), database).boxes) == len(
        full.boxes
    )


def test_pasted_boxes_hold_their_own_points_only(dataset, database):
    pasted = database.paste(bare(dataset), np.random.default_rng(3), [(name, 1) for name in dataset.classes])
    assert len(pasted.boxes) >= 5
    for box in pasted.boxes.array:
        index = int(np.flatnonzero((database.boxes.array[:, :7] == box[:7]).all(axis=1))[0])
        inside = pasted.points[points_in_boxes(pasted.points, box[None])[0]]
        np.testing.assert_array_equal(np.unique(inside, axis=0), np.unique(database.points(index), axis=0))


def test_an_object_where_a_box_already_stands_is_not_pasted(dataset, database):
    blocked = replace(dataset[0], boxes=Boxes3D(np.array([[0, 0, 0, 200, 200, 4, 0, 0, 0]], float), np.array([5])))
    assert database.paste(blocked, np.random.default_rng(0), [("car", 5)]) is blocked


def test_pasting_keeps_names_when_the_classes_have_another_order(dataset, database):
    sample = replace(bare(dataset), classes=tuple(reversed(dataset.classes)))
    pasted = database.paste(sample, np.random.default_rng(0), [("bus", 1)])
    assert [sample.classes[label] for label in pasted.boxes.label] == ["bus"]


def test_a_database_survives_pickling_without_its_points(database):
    packed = pickle.dumps(database)
    again = pickle.loads(packed)
    assert len(packed) < database.boxes.array.nbytes + 8000
    np.testing.assert_array_equal(again.points(3), database.points(3))


def test_it_can_be_opened_again_and_replaced(dataset, tmp_path):
    first = build_database(dataset, tmp_path / "db")
    counts: list[tuple[int, int]] = []
    second = build_database(dataset, tmp_path / "db", min_points=10, progress=lambda *done: counts.append(done))
    assert 0 < len(second) < len(first)
    assert len(SampleDatabase(tmp_path / "db")) == len(second)
    assert counts == [(1, 3), (2, 3), (3, 3)]
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


def test_unknown_classes_and_other_features_are_refused(dataset, database):
    with pytest.raises(UsageError, match="tank: not a class of the sample database"):
        database.paste(bare(dataset), np.random.default_rng(0), [("tank", 1)])
    sample = bare(dataset)
    other = replace(sample, points=sample.points[:, :4], features=sample.features[:4])
    with pytest.raises(UsageError, match="Build the database from the same data"):
        database.paste(other, np.random.default_rng(0), [("car", 1)])
    with pytest.raises(UsageError, match="cannot be pasted into a frame without labels"):
        database.paste(replace(sample, boxes=None), np.random.default_rng(0), [("car", 1)])


def test_a_damaged_or_missing_database_is_named(dataset, tmp_path):
    with pytest.raises(DataError, match=r"index.json: no such file"):
        SampleDatabase(tmp_path)
    build_database(dataset, tmp_path / "db")
    (tmp_path / "db" / "objects.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"objects\.npz: not readable as a numpy file .* Build it again"):
        SampleDatabase(tmp_path / "db")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"start": np.zeros((3, 1), np.int64)}, "places of their points"),
        ({"start": "reversed"}, "places of their points"),
        ({"start": "longer"}, r"objects have points up to \d+ of \d+"),
        ({"label": "high"}, r"labels are \d+ to 99, with \d+ classes"),
        ({"points": np.zeros((4, 3, 2), np.float32)}, r"points are float32 of shape \(4, 3, 2\)"),
        ({"classes": ["car", 0]}, r"\['car', 0\] are no names"),
    ],
)
def test_files_of_a_database_that_do_not_fit_together_are_refused(dataset, tmp_path, change, text):
    folder = tmp_path / "db"
    build_database(dataset, folder)
    with np.load(folder / "objects.npz") as stored:
        arrays = dict(stored)
    made = {
        "reversed": lambda old: old[::-1],
        "longer": lambda old: old + 10**6,
        "high": lambda old: np.where(old == old.max(), 99, old),
    }
    for name, value in change.items():
        if name == "points":
            np.save(folder / "points.npy", value)
        elif name == "classes":
            index = json.loads((folder / "index.json").read_text())
            (folder / "index.json").write_text(json.dumps({**index, "classes": value}))
        else:
            arrays[name] = made[value](arrays[name]) if isinstance(value, str) else value
    np.savez(folder / "objects.npz", **arrays)
    with pytest.raises(DataError, match=rf"a damaged sample database \(.*{text}"):
        SampleDatabase(folder)


def test_an_object_with_points_that_are_not_finite_is_refused_when_it_is_used(dataset, tmp_path):
    folder = tmp_path / "db"
    build_database(dataset, folder)
    points = np.load(folder / "points.npy")
    points[:, 0] = np.nan
    np.save(folder / "points.npy", points)
    with pytest.raises(DataError, match=r"object 0 of .*points have NaN or infinite values"):
        SampleDatabase(folder).points(0)


def test_a_set_without_objects_gives_no_database(dataset, tmp_path):
    with pytest.raises(DataError, match="no labelled object of the split mini_train has 100000 points"):
        build_database(dataset, tmp_path / "db", min_points=100_000)
    assert not (tmp_path / "db").exists()
