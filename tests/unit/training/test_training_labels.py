import numpy as np
import pytest

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D
from kd3d.training.labels import check_classes, map_labels


def boxes(labels):
    array = np.zeros((len(labels), 9), np.float32)
    array[:, 0] = np.arange(len(labels))
    return Boxes3D(array, np.array(labels, np.int64))


def test_labels_are_matched_by_name_and_other_classes_dropped():
    got = map_labels(boxes([0, 1, 2, 2]), ("car", "animal", "bus"), ("bus", "car"))
    assert got.label.tolist() == [1, 0, 0]
    assert got.array[:, 0].tolist() == [0, 2, 3]


def test_no_boxes_stay_no_boxes():
    assert len(map_labels(Boxes3D.empty(), ("car",), ("bus",))) == 0


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_refused(label):
    with pytest.raises(DataError, match=r"labels run from .* but there are 3 classes"):
        map_labels(boxes([label]), ("a", "b", "c"), ("a",))


def test_a_data_set_without_any_of_the_classes_is_refused():
    check_classes(("car", "bus"), ("bus",))
    with pytest.raises(DataError, match=r"\(Car\) have none in common with the detector's \(car, bus\)"):
        check_classes(("Car",), ("car", "bus"))
