"""Numpy files from outside are read whole, or refused in one sentence."""

import io
import zipfile

import numpy as np
import pytest

from kd3d.errors import DataError
from kd3d.runtime.arrays import map_array, read_arrays

AGAIN = "Make it again."


def claiming(array, shape):
    """The file of an array whose header claims another shape."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    told = str(array.shape).encode() + b", }"
    assert told in buffer.getvalue()
    return buffer.getvalue().replace(told, shape + b", }", 1)


def test_both_kinds_of_file_come_back(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", one=values, two=values[:2])
    assert np.array_equal(read_arrays(tmp_path / "a.npy", again=AGAIN)[""], values)
    assert read_arrays(tmp_path / "a.npz", again=AGAIN).keys() == {"one", "two"}
    assert np.array_equal(map_array(tmp_path / "a.npy", again=AGAIN), values)


def test_a_header_that_claims_more_than_there_is_memory_for_is_refused(tmp_path):
    huge = claiming(np.zeros(5, np.float32), b"(90000000000000,)")
    (tmp_path / "a.npy").write_bytes(huge)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("points.npy", huge)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match=rf"{name}: not readable as a numpy file \(.*\)\. Make it again\."):
            read_arrays(tmp_path / name, again=AGAIN)
    with pytest.raises(DataError, match=r"a\.npy: not readable as a numpy file"):
        map_array(tmp_path / "a.npy", again=AGAIN)


@pytest.mark.parametrize("read", [read_arrays, map_array])
def test_a_missing_file_and_one_with_python_objects_are_refused(tmp_path, read):
    with pytest.raises(DataError, match=r"none\.npy: no such file\. Make it again\."):
        read(tmp_path / "none.npy", again=AGAIN)
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"o\.npy: not readable as a numpy file"):
        read(tmp_path / "o.npy", again=AGAIN)


def test_a_compressed_member_that_does_not_unpack_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", points=np.arange(4000.0))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200:400] = bytes(200)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not readable as a numpy file"):
        read_arrays(tmp_path / "a.npz", again=AGAIN)
