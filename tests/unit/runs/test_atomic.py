import errno
import os
from pathlib import Path

import numpy as np
import pytest

from kd3d.errors import DataError, OutputError
from kd3d.runs.atomic import atomic_file, atomic_folder, output_errors, parse_json, read_json, write_json, write_text


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


def test_all_of_a_folder_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    """The order that a power cut needs: every file, the folders that name them from the inside out, and the rename."""
    out, sync, synced = tmp_path / "out", os.fsync, []

    def watch(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((path.name if path != folder else "root", out.exists()))
        sync(handle)

    with atomic_folder(out) as folder:
        (folder / "deep" / "deeper").mkdir(parents=True)
        for name in ("a.bin", "deep/b.bin", "deep/deeper/c.bin"):
            (folder / name).write_bytes(b"content")
        (folder / "link").symlink_to("a.bin")
        (folder / "nowhere").symlink_to("none")
        monkeypatch.setattr(os, "fsync", watch)
    assert {name for name, _ in synced[:3]} == {"a.bin", "b.bin", "c.bin"}
    assert [name for name, _ in synced[3:]] == ["deeper", "deep", "root", tmp_path.name]
    assert [there for _, there in synced] == [False] * 6 + [True]


def test_a_file_that_cannot_be_synced_keeps_the_earlier_folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        (folder / "a").write_text("earlier")
    fill_disk(monkeypatch)
    with pytest.raises(OutputError, match=rf"^{out}: the disk is full"), atomic_folder(out) as folder:
        (folder / "a").write_text("later")  # not through atomic_file: nobody has synced it
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["out", "out/a"]
    assert (out / "a").read_text() == "earlier"


def test_a_file_system_that_cannot_sync_folders_is_good_enough(tmp_path, monkeypatch):
    sync = os.fsync

    def files_only(handle):
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
    assert (tmp_path / "out" / "a").read_text() == "x"


def test_a_parent_that_cannot_be_synced_does_not_undo_the_folder(tmp_path, monkeypatch):
    out, sync = tmp_path / "out", os.fsync

    def broken_parent(handle):
        if Path(f"/proc/self/fd/{handle}").readlink() == tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        sync(handle)

    monkeypatch.setattr(os, "fsync", broken_parent)
    for content in ("one", "two"):
        with atomic_folder(out) as folder:
            (folder / "a").write_text(content)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["out", "out/a"]
    assert (out / "a").read_text() == "two"


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


def test_json_that_is_nested_without_end_is_refused_like_any_that_is_not_valid(tmp_path):
    (tmp_path / "a.json").write_text("[" * 50_000)
    with pytest.raises(DataError, match=r"a\.json: not readable as JSON \(it is nested too deeply\)"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="it is nested too deeply"):
        parse_json("[" * 50_000 + "]" * 50_000)


def test_half_a_character_becomes_a_question_mark(tmp_path):
    write_text(tmp_path / "a.html", "a \ud800 b")
    assert (tmp_path / "a.html").read_text() == "a ? b"
