import pytest

from kd3d.errors import DataError, OutputError, UsageError
from kd3d.runs.atomic import read_json
from kd3d.runs.folder import start_run


def test_a_new_run_explains_itself(tmp_path):
    run = start_run(tmp_path / "a" / "run", {"lr": 0.1, "command": "train"})
    run.log("hello")
    assert run.settings == {"lr": 0.1, "command": "train"}
    assert read_json(run.path / "environment.json")["machine"]["cores"] >= 1
    lines = (run.path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["started", "hello"]


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"not empty. Choose another, or add --resume or --force"):
        start_run(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_that_failed_before_it_made_anything_is_not_in_the_way(tmp_path):
    start_run(tmp_path / "run", {"budget": "1K"})
    assert start_run(tmp_path / "run", {"budget": "25%"}).settings == {"budget": "25%"}
    (tmp_path / "run" / "checkpoints").mkdir()
    with pytest.raises(OutputError, match="not empty"):
        start_run(tmp_path / "run", {"budget": "30%"})
    assert start_run(tmp_path / "run", {"budget": "25%"}, resume=True).settings == {"budget": "25%"}


def test_a_log_alone_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "log.txt").write_text("precious")
    with pytest.raises(OutputError, match="not empty"):
        start_run(tmp_path, {})


def test_force_keeps_the_files_that_are_there(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    start_run(tmp_path, {"a": 1}, force=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_resuming_with_the_same_settings_goes_on(tmp_path):
    start_run(tmp_path / "run", {"seed": 1})
    start_run(tmp_path / "run", {"seed": 1}, resume=True)
    assert (tmp_path / "run/log.txt").read_text().rstrip().endswith("resumed")


def test_resuming_with_other_settings_names_them(tmp_path):
    start_run(tmp_path / "run", {"seed": 1, "lr": 0.1})
    with pytest.raises(UsageError, match="seed: 1 then, 2 now"):
        start_run(tmp_path / "run", {"seed": 2, "lr": 0.1}, resume=True)


def test_resuming_a_run_that_never_started_starts_it(tmp_path):
    assert start_run(tmp_path / "run", {"seed": 1}, resume=True).settings == {"seed": 1}


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OutputError, match="not empty"):
        start_run(tmp_path / "run", {})
    assert (tmp_path / "run").read_text() == "a file"


def test_settings_that_are_no_object_are_refused(tmp_path):
    start_run(tmp_path / "run", {"a": 1})
    (tmp_path / "run" / "settings.json").write_text("[3]")
    with pytest.raises(DataError, match=r"settings\.json: must be a JSON object. Restore it, or start a new run"):
        start_run(tmp_path / "run", {"a": 1}, resume=True)
