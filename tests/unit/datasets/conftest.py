import importlib.util
import shutil
from pathlib import Path

import pytest

SUPPORT = Path(__file__).resolve().parents[2] / "support" / "tiny_nuscenes.py"


@pytest.fixture(scope="session")
def tiny():
    """The module that writes a tiny nuScenes database."""
    spec = importlib.util.spec_from_file_location("tiny_nuscenes", SUPPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_root(tiny, tmp_path_factory):
    """A whole database; not to be changed."""
    return tiny.write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def broken_root(tiny_root, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(tiny_root, tmp_path / "broken"))
