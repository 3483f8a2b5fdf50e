"""Every fenced ``bash`` block of the README and the docs runs, in the order of its page, in one folder per page.

Blocks marked ``<!-- runs: slow -->``, and those that follow one on the same page, run in the slow tier. Blocks of
other languages (``console``, ``text``) are not run. Pages that begin with the same commands, word for word, share their
outcome: each goes on in a copy of the folder that those commands left.
"""

import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?P<slow><!-- runs: slow -->\s*)?^```bash\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
ONE_COMMAND = re.compile(r"kd3d [^|&;\\$]+")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)#]*)#([^)]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def blocks(page, *, slow):
    """The page's fast blocks, or all of them: a slow block may need what the earlier ones made."""
    found = [(match["code"], bool(match["slow"])) for match in BLOCK.finditer(page.read_text())]
    cut = next((index for index, (_, is_slow) in enumerate(found) if is_slow), len(found))
    return [code for code, _ in (found if slow else found[:cut])]


def with_slow(page):
    return "<!-- runs: slow -->" in page.read_text()


def environment():
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shared = Path(os.environ.get("KD3D_SHARED", ROOT.parent / "shared")).resolve()
    return {**os.environ, "PATH": programs, "KD3D_SHARED": str(shared), "OMP_NUM_THREADS": "1"}


def run_page(page, folder, shared, *, slow):
    lines = lines_of(page, slow=slow)
    data = Path(environment()["KD3D_SHARED"]) / "data"
    if any("$KD3D_SHARED" in line for line in lines) and not data.is_dir():
        pytest.skip(f"real sensor data is not at {data}; set KD3D_SHARED")
    begun = common_beginning(page, lines)
    if begun:
        shutil.copytree(shared(begun), folder, dirs_exist_ok=True)
    run_lines(page.name, lines[len(begun) :], folder)


def run_lines(name, lines, folder):
    script = "\n".join(["set -euo pipefail", *lines])
    done = subprocess.run(
        ["bash", "-x", "-c", script], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{name} stopped with code {done.returncode}:\n{done.stderr[-3000:]}"


def lines_of(page, *, slow):
    return tuple("\n".join(blocks(page, slow=slow)).splitlines())


def common_beginning(page, lines):
    """The first lines of a page as far as another page has them too, and each is one command that must succeed."""
    others = [lines_of(other, slow=True) for other in PAGES if other != page]
    return max((alike(lines, other) for other in others), key=len)


def alike(lines, other):
    same = (one if one == two and ONE_COMMAND.fullmatch(one) else None for one, two in zip(lines, other, strict=False))
    return tuple(itertools.takewhile(bool, same))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Gives the folder that commands leave; each beginning is run once."""

    @functools.cache
    def after(lines):
        folder = tmp_path_factory.mktemp("page")
        if len(lines) > 1:
            shutil.copytree(after(lines[:-1]), folder, dirs_exist_ok=True)
        run_lines("the beginning of several pages", lines[-1:], folder)
        return folder

    return after


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, slow=False)], ids=lambda page: page.name)
def test_the_commands_of_the_page_run(page, tmp_path, shared):
    run_page(page, tmp_path, shared, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if with_slow(page)], ids=lambda page: page.name)
def test_the_long_commands_of_the_page_run(page, tmp_path, shared):
    run_page(page, tmp_path, shared, slow=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    broken = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_a_heading_name_one_that_is_there(page):
    for target, name in ANCHOR.findall(page.read_text()):
        other = (page.parent / target) if target else page
        assert name in {slug(heading) for heading in HEADING.findall(other.read_text())}, f"{target}#{name}"


def slug(heading):
    """GitHub's name for a heading: lower case, hyphens for spaces, without punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_names_exists(page):
    """Catches an option that was renamed in the code and not in a block that is only shown."""
    from typer.main import get_command

    from kd3d.cli.main import app

    known = {"--debug"} | {
        option
        for command in _commands(get_command(app))
        for parameter in command.params
        for option in parameter.opts + parameter.secondary_opts
    }
    for line in page.read_text().splitlines():
        if line.startswith("kd3d "):
            named = re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", line.split("#")[0])
            assert not [option for option in named if option not in known and option not in ("--help", "--version")], (
                line
            )


def _commands(group):
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from _commands(command)
        else:
            yield command
