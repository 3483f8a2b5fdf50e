import errno
import os

import numpy as np
import pytest

from kd3d.errors import OutputError
from kd3d.runs.atomic import atomic_file, atomic_folder, output_errors, write_json


def fill_disk(monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def test_a_file_that_cannot_be_finished_leaves_the_earlier_one_and_nothing_else(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", 1)
    fill_disk(monkeypatch)
    with pytest.raises(OutputError, match=r"a\.json: the disk is full. Free some space"):
        write_json(tmp_path / "a.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_a_folder_that_cannot_be_finished_leaves_the_earlier_one_and_names_it(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        write_json(folder / "a.json", 1)
    fill_disk(monkeypatch)
    with pytest.raises(OutputError, match=rf"^{out}/a\.json: the disk is full"), atomic_folder(out) as folder:
        write_json(folder / "a.json", 2)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["out", "out/a.json"]
    assert (out / "a.json").read_text() == "1\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_nothing(tmp_path, error):
    with pytest.raises(error), atomic_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise error
    with pytest.raises(error), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_numpys_words_for_a_full_disk_are_understood(tmp_path):
    with pytest.raises(OutputError, match="points: the disk is full"), output_errors(tmp_path / "points"):
        np.zeros(10_000).tofile("/dev/full")


def test_other_errors_of_the_system_pass(tmp_path):
    with pytest.raises(FileNotFoundError), output_errors(tmp_path):
        (tmp_path / "none").read_text()
