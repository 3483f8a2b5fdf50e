"""Write what stands between markers in README and docs: results from ``results/*.json``, in full and in brief.

    python benchmarks/readme_table.py            rewrite README.md and docs/results.md
    python benchmarks/readme_table.py --check    change nothing; end with code 1 if one of them is stale

A result that was not recorded is said to be absent. No number there comes from anywhere else.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from readme_glance import glance
from readme_sections import GROUPS, Section, provenance

from kd3d.runs.atomic import read_json, write_text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PICTURE = Path("docs/images/demo.png")
CAPTION = "The same cloud with the boxes of the teacher and of the student"
PAGES: Mapping[str, tuple[str, ...]] = {"README.md": ("picture", "glance"), "docs/results.md": ("results",)}


def main() -> None:
    """Rewrite the pages, or with ``--check`` only say which of them that would change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    before = {name: (ROOT / name).read_text() for name in PAGES}
    after = {name: rendered(before[name], ROOT, parts) for name, parts in PAGES.items()}
    stale = [name for name in PAGES if after[name] != before[name]]
    if parser.parse_args().check:
        raise SystemExit(f"Stale: {', '.join(stale)}. Run benchmarks/readme_table.py." if stale else 0)
    for name in stale:
        write_text(ROOT / name, after[name])
    print(f"Rewritten: {', '.join(stale)}." if stale else "Everything is up to date.")


def rendered(page: str, root: Path, parts: tuple[str, ...]) -> str:
    """The text ``page`` with the ``parts`` of it that are made from the results and the picture of ``root``."""
    records = root / "benchmarks" / "results"
    for part in parts:
        if part == "picture":
            content = f"![{CAPTION}]({PICTURE})" if (root / PICTURE).exists() else ""
        else:
            content = results(records) if part == "results" else glance(records)
        page = between(page, part, content)
    return page


def results(folder: Path) -> str:
    """All sections as Markdown, under the headings of their groups."""
    return "\n\n".join(
        "\n\n".join([f"## {title}", *(one_section(section, folder) for section in sections)])
        for title, sections in GROUPS.items()
    )


def script_of(name: str) -> str:
    """What makes the record ``name``: the script or folder of that name, or of the longest beginning of it."""
    words = name.split("_")
    stems = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next(f"{stem}{end}" for stem in stems for end in (".py", "") if (HERE / f"{stem}{end}").exists())


def one_section(section: Section, folder: Path) -> str:
    """One result as Markdown, or that it was not recorded."""
    path = folder / f"{section.name}.json"
    if not path.exists():
        return f"### {section.title}\n\nNot recorded yet (`benchmarks/{script_of(section.name)}`)."
    record = read_json(path)
    return "\n\n".join([f"### {section.title}", *section.render(record), f"<sub>{provenance(record)}</sub>"])


def between(text: str, name: str, content: str) -> str:
    """``text`` with what stands between the markers called ``name`` replaced."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"The page has no {begin} ... {end}.")
    return f"{head}{begin}\n{content}{chr(10) if content else ''}{end}{tail}"


if __name__ == "__main__":
    main()
