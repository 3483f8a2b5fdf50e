"""The real nuScenes key frame through the command line. Skipped with a reason where the data is absent."""

import json

import numpy as np
import pytest

from kd3d.cli import main as program

TINY = "world-centerpoint-pillar-tiny"


@pytest.fixture(scope="module")
def key_frame(shared_data):
    files = sorted((shared_data / "nuscenes_keyframe").glob("*.pcd.bin"))
    if not files:
        pytest.skip(f"the nuScenes key frame is not in {shared_data / 'nuscenes_keyframe'}; set KD3D_SHARED")
    return files[0]


@pytest.fixture(scope="module")
def tiny_export(key_frame, tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny") / "export"
    assert program.run(["export", "onnx", "--model", TINY, "--out", str(out), "--frames", str(key_frame)]) == 0
    return out


def test_the_parity_gate_runs_on_the_key_frame(tiny_export):
    record = json.loads((tiny_export / "export.json").read_text())
    assert record["parity"]["passed"]
    assert record["parity"]["boxes"] > 50


def test_infer_reads_the_key_frame(tiny_export, key_frame, kd3d):
    found = kd3d("infer", "--model", tiny_export, "--points", key_frame)
    assert found["points"] == 34_688
    assert all(np.isfinite(box["center_m"]).all() for box in found["boxes"])


@pytest.mark.parametrize("folder", [False, True])
def test_bench_takes_a_bin_or_its_folder(tiny_export, key_frame, kd3d, folder):
    frames = key_frame.parent if folder else key_frame
    timed = kd3d("bench", tiny_export, "--frames", frames, "--iterations", 3, "--warmup", 1, "--threads", 1)
    assert timed["frames"].pop("digest")
    assert timed["frames"] == {"count": 1, "source": str(frames), "synthetic": False}
    assert timed["models"][0]["stages"].keys() == {"pre", "network", "decode", "nms"}


def test_bench_refuses_a_folder_without_frames_and_says_how_to_make_them(tmp_path, capsys):
    assert program.run(["bench", TINY, "--frames", str(tmp_path), "--json"]) == 7
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert "neither portable frames (frames.json is missing) nor .bin files" in error
    assert "kd3d data frames" in error


def test_bench_refuses_points_that_are_already_features(tmp_path, capsys):
    np.save(tmp_path / "points.npy", np.zeros((5, 5), np.float32))
    assert program.run(["bench", TINY, "--frames", str(tmp_path / "points.npy"), "--json"]) == 2
    assert "a .bin file or a folder of .bin files" in capsys.readouterr().out


@pytest.mark.slow
def test_the_published_nuscenes_network_is_exported_with_parity_on_the_key_frame(key_frame, kd3d, tmp_path):
    found = kd3d(
        "export", "onnx", "--model", "nuscenes-centerpoint-pillar", "--out", tmp_path / "e", "--frames", key_frame
    )
    assert found["parity"]["passed"]
    timed = kd3d("bench", tmp_path / "e", "--frames", key_frame, "--iterations", 5, "--warmup", 1)
    assert timed["models"][0]["fps"] > 0
