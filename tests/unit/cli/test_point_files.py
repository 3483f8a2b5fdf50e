import numpy as np
import pytest

from kd3d.cli.points import frame_from_file, frames_at
from kd3d.detectors.presets import preset
from kd3d.errors import DataError, UsageError
from kd3d.runtime.frames import Frame, write_frames

WORLD, KITTI = preset("world-centerpoint-pillar-tiny"), preset("kitti-centerpoint-pillar-small")
RNG = np.random.default_rng(0)


def cloud(path, columns):
    points = RNG.uniform(0, 50, (6, columns)).astype(np.float32)
    points.tofile(path)
    return points


def test_a_bin_has_the_columns_of_the_models_data_set(tmp_path):
    five = cloud(tmp_path / "a.bin", 5)
    frame, spec = frame_from_file(tmp_path / "a.bin", WORLD)
    assert frame.features == ("x", "y", "z", "intensity", "ring")
    assert np.array_equal(frame.points, five)
    assert spec == WORLD  # with its intensity transform
    cloud(tmp_path / "b.bin", 4)
    assert frame_from_file(tmp_path / "b.bin", KITTI)[0].features == ("x", "y", "z", "intensity")


def test_the_name_of_a_nuscenes_file_tells_its_columns_to_any_model(tmp_path):
    cloud(tmp_path / "a.pcd.bin", 5)
    assert len(frame_from_file(tmp_path / "a.pcd.bin", KITTI)[0].features) == 5


def test_named_columns_win(tmp_path):
    cloud(tmp_path / "a.bin", 6)
    frame, _ = frame_from_file(tmp_path / "a.bin", WORLD, columns="x,y,z,intensity,ring,time_lag")
    assert frame.points.shape == (6, 6)
    assert frame.features[-1] == "time_lag"


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_array_is_in_the_models_order_and_fed_as_it_is(tmp_path, suffix):
    points = RNG.uniform(0, 1, (6, len(WORLD.points.features))).astype(np.float32)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, points)
    else:
        np.savez(path, points=points)
    frame, spec = frame_from_file(path, WORLD)
    assert frame.features == WORLD.points.features
    assert np.array_equal(frame.points, points)
    assert WORLD.points.intensity != "raw"
    assert spec.points.intensity == "raw"


def test_an_array_of_another_width_names_the_columns(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((6, 3), np.float32))
    with pytest.raises(DataError, match=r"a\.npy: points must be numbers of shape \(N, 5\) for the columns x, y, z"):
        frame_from_file(tmp_path / "a.npy", WORLD)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.pcd").write_text("x")
    with pytest.raises(UsageError, match=r"a\.pcd: points are read from \.bin, \.npy or \.npz files"):
        frame_from_file(tmp_path / "a.pcd", WORLD)


def test_a_folder_of_bins_is_frames_in_the_order_of_their_names(tmp_path):
    for name in ("b.bin", "a.bin"):
        cloud(tmp_path / name, 5)
    assert [frame.token for frame in frames_at(tmp_path, WORLD)] == ["a.bin", "b.bin"]
    assert [frame.token for frame in frames_at(tmp_path / "a.bin", WORLD)] == ["a.bin"]


def test_portable_frames_are_read_as_such(tmp_path):
    frame = Frame("t", np.zeros((2, 3), np.float32), ("x", "y", "z"), None, ("car",), np.eye(4), np.eye(4))
    write_frames([frame], tmp_path / "frames")
    assert frames_at(tmp_path / "frames", WORLD)[0].token == "t"


def test_what_holds_no_frames_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"neither portable frames .* kd3d data frames"):
        frames_at(tmp_path, WORLD)
    with pytest.raises(DataError, match="none"):
        frames_at(tmp_path / "none", WORLD)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"a\.txt: frames are a folder of portable frames"):
        frames_at(tmp_path / "a.txt", WORLD)
