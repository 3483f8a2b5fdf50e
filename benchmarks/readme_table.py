"""Write what is between the README's markers: the measured results, from ``results/*.json``, and the picture.

    python benchmarks/readme_table.py            rewrite README.md
    python benchmarks/readme_table.py --check    change nothing; end with code 1 if README.md is stale

A result that was not recorded is said to be absent. No number here comes from anywhere else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from readme_sections import SECTIONS, Section, provenance

from kd3d.runs.atomic import read_json, write_text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PICTURE = Path("docs/images/demo.png")
CAPTION = "The same cloud with the boxes of the teacher and of the student"


def main() -> None:
    """Rewrite the README, or with ``--check`` only say whether that would change it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = rendered(before, ROOT)
    if parser.parse_args().check:
        raise SystemExit(0 if after == before else "README.md is stale. Run benchmarks/readme_table.py.")
    if after != before:
        write_text(readme, after)
    print("README.md was rewritten." if after != before else "README.md is up to date.")


def rendered(readme: str, root: Path) -> str:
    """The text of the README with results and picture of ``root`` in it."""
    after = between(readme, "results", results(root / "benchmarks" / "results"))
    image = f"![{CAPTION}]({PICTURE})" if (root / PICTURE).exists() else ""
    return between(after, "picture", image)


def results(folder: Path) -> str:
    """All sections as Markdown."""
    return "\n\n".join(one_section(section, folder) for section in SECTIONS)


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
        raise SystemExit(f"README.md has no {begin} ... {end}.")
    return f"{head}{begin}\n{content}{chr(10) if content else ''}{end}{tail}"


if __name__ == "__main__":
    main()
