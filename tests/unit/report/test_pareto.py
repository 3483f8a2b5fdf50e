import base64
import hashlib
import json
import re
import subprocess
import xml.etree.ElementTree as ET

import pytest

from kd3d.cli.main import run as command
from kd3d.errors import DataError, OutputError
from kd3d.report.pareto import write_report
from kd3d.report.pareto_page import default_axes, facts
from kd3d.report.search_record import read_search

HOSTILE = "</script><script>window.hacked=1</script><!--<img src=x onerror=hacked()>'\"$(touch pwned);`id`&amp;"


def row(name, macs, **more):
    return {"name": name, "macs": macs, "params": macs, "prior": macs / 100, "score": None, **more}


def whole(*rows, **more):
    teacher = {"name": "t", "params": 50, "macs": 100, "macs_thop": 120, "acts": 30, "mAP": 0.6}
    budget = {"flops": {"text": "25%", "limit": 25.0}, "params": None, "convention": "physical"}
    return {"teacher": teacher, "budget": budget, "convention": "physical", "candidates": list(rows), **more}


@pytest.fixture
def folder(tmp_path):
    """A run of two students; the name of the first is an attack."""
    found = tmp_path / "my run"
    (found / "candidates").mkdir(parents=True)
    (found / "candidates" / "a b.json").write_text("{}")
    first = row(
        HOSTILE, 10, score=0.4, steps=100, state="complete", spec="candidates/a b.json", choice={"layers": [1, 2]}
    )
    second = row("b", 20, score=0.5, steps=100, state="complete")
    (found / "search.json").write_text(json.dumps(whole(first, second, chosen="b", strategy="tpe", seed=3)))
    return found


def embedded(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_report_is_written_and_named(folder, capsys):
    assert command(["report", str(folder), "--json"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 students (2 trained); budget 25% of MACs; teacher t; strategy tpe; seed 3."
    last = json.loads(printed[-1])
    assert [text.split(":")[0] for text in last.pop("missing")][1:] == ["speed", "training curves"]
    assert last == {
        "report": str(folder / "report.html"),
        "png": str(folder / "pareto.png"),
        "svg": str(folder / "pareto.svg"),
        "students": 2,
        "chosen": "b",
    }
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert ET.parse(folder / "pareto.svg").getroot().tag.endswith("svg")


def test_a_name_cannot_become_markup(folder):
    page = write_report(folder).html.read_text()
    assert page.count("<script") == 2
    assert "<img" not in page
    assert "<!--" not in page
    assert embedded(page)["points"][0]["name"] == HOSTILE


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(folder):
    page = write_report(folder).html.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" in policy
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)


def test_the_command_survives_the_shell_whatever_the_names(folder, tmp_path):
    (folder / "settings.json").write_text(json.dumps({"teacher": "my teacher", "data": "d$HOME"}))
    data = embedded(write_report(folder).html.read_text())
    script = data["command"] + data["points"][0]["command"]
    said = script.replace("kd3d distill", "printf '%s\\n'", 1)
    words = subprocess.run(
        ["sh", "-c", said], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[:6] == [
        "--teacher",
        "my teacher",
        "--data",
        "d$HOME",
        "--student",
        str(folder / "candidates" / "a b.json"),
    ]
    assert words[6] == "--out"
    assert re.fullmatch(re.escape(str(folder / "students")) + r"/[\w.+-]+", words[7])
    assert not (tmp_path / "pwned").exists()
    assert data["placeholders"] == []
    assert data["points"][1]["command"] is None


def test_what_the_run_does_not_say_is_a_placeholder_or_an_option(folder):
    data = embedded(write_report(folder).html.read_text())
    assert (data["placeholders"], "--teacher TEACHER" in data["command"]) == (["TEACHER", "DATA"], True)
    data = embedded(write_report(folder, teacher="world-teacher", data="w").html.read_text())
    assert (data["placeholders"], "--teacher world-teacher" in data["command"]) == ([], True)


def test_a_far_teacher_is_out_of_view_at_first_and_a_near_one_in(folder):
    assert embedded(write_report(folder).html.read_text())["teacher_in_view"] is False
    (folder / "search.json").write_text(json.dumps(whole(row("a", 70))))
    assert embedded(write_report(folder).html.read_text())["teacher_in_view"] is True


def test_a_compress_run_has_its_models_in_a_table(folder):
    metrics = {"teacher": {"mAP": 0.6, "macs": 1e9}, "student": {"mAP": 0.5, "macs": 2e8}, "control": None}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    page = write_report(folder).html.read_text()
    assert "<h2>Teacher and student</h2>" in page
    assert "<td>student</td><td>0.500</td>" in page
    assert "<td>control</td>" not in page


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("metrics.json", {"student": 3}, "metrics.json: student must be an object"),
        ("metrics.json", {"student": {"mAP": "good"}}, "metrics.json: a value is not a number"),
        ("settings.json", [1], "settings.json: must be an object"),
    ],
)
def test_damaged_companions_are_refused(folder, name, value, text):
    (folder / name).write_text(json.dumps(value))
    with pytest.raises(DataError, match=text):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_folder_without_search_ends_with_code_7(tmp_path, capsys):
    assert command(["report", str(tmp_path), "--json"]) == 7
    assert "no search is here" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_said(folder):
    (folder / "pareto.png").mkdir()
    with pytest.raises(OutputError, match=r"pareto.png: cannot be written"):
        write_report(folder)


def test_the_same_search_gives_the_same_picture(folder):
    first = write_report(folder).svg.read_bytes()
    assert write_report(folder).svg.read_bytes() == first


@pytest.mark.parametrize(
    ("rows", "more", "axes"),
    [
        ([row("a", 1)], {}, ("macs", "prior")),
        ([row("a", 1), row("b", 2, score=0.1)], {}, ("macs", "score")),
        ([row("a", 1, macs_thop=3)], {"convention": "thop", "budget": None}, ("macs_thop", "prior")),
        ([row("a", 1)], {"convention": "thop", "budget": None}, ("macs", "prior")),
    ],
)
def test_the_first_view_is_the_budgets_count_against_what_was_measured(tmp_path, rows, more, axes):
    (tmp_path / "search.json").write_text(json.dumps(whole(*rows, **more)))
    assert default_axes(read_search(tmp_path)) == axes
    assert write_report(tmp_path).png.stat().st_size > 5000


def test_the_facts_count_every_state(tmp_path):
    states = ("complete", "pruned", "pruned", "failed", "untrained")
    rows = [row(str(index), 1 + index, state=state) for index, state in enumerate(states)]
    (tmp_path / "search.json").write_text(json.dumps(whole(*rows, teacher=None, budget=None)))
    assert facts(read_search(tmp_path)) == "5 students (1 trained, 2 pruned, 1 failed, 1 untrained)."
    (tmp_path / "search.json").write_text(json.dumps(whole(rows[0], teacher=None, budget=None, count=1234)))
    assert facts(read_search(tmp_path)) == "1 student (1 trained) of 1,234 that fit."
