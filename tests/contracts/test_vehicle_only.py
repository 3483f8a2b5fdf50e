"""The vehicle has numpy, the command line's libraries and a runtime: no detector imports anything else there."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from kd3d.detectors.presets import preset
from tests.support.autoware_detector import ALL, small
from tests.support.constant_network import write_autoware, write_export
from tests.support.tiny_anchor import anchor_spec

ROOT = Path(__file__).resolve().parents[2]


def installed_with(names):
    """Modules of the named packages and of all that pip installs with them."""
    wanted, seen = list(names), set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        wanted += [re.match(r"[\w.-]+", need)[0].lower().replace("_", "-") for need in needs if "extra ==" not in need]
    owners = metadata.packages_distributions().items()
    return sorted(module for module, names in owners if {name.lower().replace("_", "-") for name in names} & seen)


# What pip installs by the line of docs/targets/cpu.md without the compiler that "fast" adds.
CORE = [re.match(r"\w+", line)[0] for line in re.findall(r'"([^"]+)"', re.search(
    r"^dependencies = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1])]  # fmt: skip
INSTALLED = ("kd3d", *installed_with([*CORE, "onnxruntime"]))

SCRIPT = f"""
import json, sys
class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in {INSTALLED!r} and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {{name!r}} (not installed in this test)", name=name)
sys.meta_path.insert(0, OnlyThese())
from kd3d.cli.main import run
quick = ["--iterations", "2", "--warmup", "0", "--warmup-ms", "0", "--no-power"]
for model, points in json.loads(sys.argv[1]):
    assert run(["bench", model, "--frames", points, *quick]) == 0, model
    assert run(["infer", "--model", model, "--points", points, "--json"]) == 0, model
"""


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    root = tmp_path_factory.mktemp("vehicle")
    made = {
        "pillar": write_export(preset("world-centerpoint-pillar-tiny"), root / "pillar"),
        "voxel": write_export(preset("world-centerpoint-voxel-tiny"), root / "voxel"),
        "anchor": write_export(anchor_spec(), root / "anchor"),
        "autoware": write_autoware(small(points=ALL), root / "autoware"),
    }
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform((1, -1, -3), (7, 5, 3), (2000, 3)), rng.uniform(0, 1, (2000, 2))], axis=1)
    for columns in (4, 5):
        points[:, :columns].astype(np.float32).tofile(root / f"{columns}.bin")
    return [(str(folder), str(root / f"{4 if kind == 'anchor' else 5}.bin")) for kind, folder in made.items()]


def test_the_vehicle_needs_three_packages_and_a_runtime():
    assert CORE == ["numpy", "typer", "rich"]
    assert {"numpy", "typer", "rich", "onnxruntime"} <= set(INSTALLED)
    assert not {"torch", "onnx", "numba", "scipy", "nuscenes", "pynvml"} & set(INSTALLED)


def test_every_kind_of_export_is_benched_and_run_with_nothing_but_numpy_and_the_command_line(artefacts):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(artefacts)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line)["boxes"] for line in done.stdout.splitlines() if line.startswith('{"boxes"')]
    assert len(found) == len(artefacts)
    assert all(found), "every detector has a box"
