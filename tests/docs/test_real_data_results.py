"""The tables of docs/real-data.md are those of the recorded files."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import real_data_tables

    yield real_data_tables
    for name in ("real_data_tables", "readme_table", "readme_sections", "readme_voxel"):
        sys.modules.pop(name, None)


def test_the_page_says_what_the_recorded_files_say(tables):
    text = (ROOT / "docs" / "real-data.md").read_text()
    assert tables.rendered(text, ROOT / "benchmarks" / "results") == text, "run benchmarks/real_data_tables.py"


def test_what_was_not_recorded_is_said_to_be_absent(tables, tmp_path):
    page = "".join(f"<!-- {name}:begin -->old<!-- {name}:end -->" for name in ("kitti", "labelfree", "nuscenes"))
    text = tables.rendered(page, tmp_path)
    assert text.count("Not recorded yet") == 3
    assert "old" not in text
