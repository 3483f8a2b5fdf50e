"""Write the README's result tables from ``benchmarks/results/*.json``.

A result file is what a suite of this folder recorded: ``{"title": str, "tables": [{"caption", "columns", "rows"}], "notes": [str],
"env": {...}, "command": [...]}``; ``env`` is ``kd3d.runs.environment.record()``. Files without ``tables`` are kept out of the README.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kd3d.report.table import Table
from kd3d.runs.atomic import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
NOTHING = "No results have been recorded yet. Run `make bench`."


def main() -> None:
    """Rewrite the README between its markers, or with ``--check`` only say whether that would change it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; end with code 1 if the README is stale")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = between(before, "results", results(ROOT / "benchmarks" / "results"))
    after = between(after, "picture", picture(ROOT))
    if arguments.check:
        raise SystemExit(
            0 if after == before else "README.md is not what benchmarks/results says. Run benchmarks/readme_table.py"
        )
    if after != before:
        write_text(readme, after)
    print(json.dumps({"changed": after != before}))


def results(folder: Path) -> str:
    """All recorded tables as Markdown, one section per file."""
    records = [read_json(path) for path in sorted(folder.glob("*.json"))]
    sections = [section(record) for record in records if isinstance(record, dict) and record.get("tables")]
    return "\n\n".join(sections) if sections else NOTHING


def section(record: dict[str, Any]) -> str:
    """One result file as Markdown, with machine, commit and command."""
    parts = [f"### {record['title']}"]
    for table in record["tables"]:
        if table.get("caption"):
            parts.append(f"{table['caption']}:")
        rows = [tuple(str(cell) for cell in row) for row in table["rows"]]
        parts.append(Table("", tuple(table["columns"]), rows).markdown())
    parts += list(record.get("notes", []))
    parts.append(f"<sub>{provenance(record)}</sub>")
    return "\n\n".join(parts)


def provenance(record: dict[str, Any]) -> str:
    """Where a result was made."""
    env = record.get("env", {})
    machine = env.get("machine", {})
    gpus = f", {'; '.join(machine['gpus'])}" if machine.get("gpus") else ""
    where = f"{machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores{gpus}"
    commit = str(env.get("commit") or "unknown")
    commit = commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")
    return f"{where}; {env.get('date', 'no date')}; commit {commit}; `{' '.join(record.get('command') or env.get('command') or [])}`"


def picture(root: Path) -> str:
    """The demo's picture, if one is kept in the documentation."""
    kept = root / "docs" / "demo.png"
    return f"![The same cloud with the boxes of teacher and student]({kept.relative_to(root)})" if kept.exists() else ""


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
