"""A JSON value with one place changed, and a text with one line changed, as a hasty editor or another program would."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import numpy as np

Random = np.random.Generator
STRANGE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 0.5, -0.0, 1e308, 2**31, 2**63, 10**30, float("nan"), float("inf"), float("-inf"),
    "", "x", "x" * 3000, "3", "nan", "../../outside", "/etc/passwd", "\ud800", "a\0b", "é\u202e", "<script>", "$(id)",
    [], {}, [[]], [None], {"kind": "x"}, {"": 1}, [1, 2, 3], ["a"] * 40, [[1e9] * 3] * 3,
)  # fmt: skip
_WORDS = (
    "nan", "inf", "-inf", "1e400", "-1", "0", "999999999999", "1e9", "", "x", "None", "{}", "[", "]", "(", "\t", "é",
    "'",
    "!!python/object/apply:os.mkdir [code-was-run]", "__import__('os').mkdir('code-was-run')", "*anchor", "&a [*a]",
    "[" * 400, "9**9**9", "'x' * 10**10", "{{", "# ",
)  # fmt: skip


def json_text(text: str, random: Random) -> tuple[str, str]:
    """JSON with one value changed, removed, doubled or renamed; ``ValueError`` where ``text`` is no JSON."""
    value = copy.deepcopy(json.loads(text))
    if random.random() < 0.03:
        deep = int(random.integers(900, 100_000))
        return "[" * deep + "]" * deep, f"a list in a list, {deep} deep"
    owner, key, path = _place(value, random)
    if owner is None:
        return json.dumps(_other(value, random)), "all of it replaced"
    way = str(random.choice(["replace"] * 6 + ["delete"] * 3 + ["double", "rename", "scale"]))
    if way == "delete":
        del owner[key]
    elif way == "double" and isinstance(owner, list):
        owner.insert(key, copy.deepcopy(owner[key]))
    elif way == "rename" and isinstance(owner, dict):
        owner[f"{key}x"] = owner.pop(key)
    elif way == "scale" and isinstance(owner[key], (int, float)):
        owner[key] = owner[key] * random.choice([-1, 0.1, 1000, 1e9])
    else:
        way, owner[key] = "replace", _other(owner[key], random)
        way = f"replace by {json.dumps(owner[key])[:60]}"
    return json.dumps(value), f"{path}: {way}"


def text_lines(text: str, random: Random) -> tuple[str, str]:
    """Text with one line or word left out, doubled, or replaced by another."""
    lines = text.splitlines()
    if not lines:
        return "x", "a line"
    at = int(random.integers(len(lines)))
    way = str(random.choice(["word"] * 6 + ["drop", "double", "cut", "indent", "insert"]))
    if way == "drop":
        del lines[at]
    elif way == "double":
        lines.insert(at, lines[at])
    elif way == "cut":
        lines[at] = lines[at][: int(random.integers(len(lines[at]) + 1))]
    elif way == "indent":
        lines[at] = "   " + lines[at]
    elif way == "insert":
        lines.insert(at, str(random.choice(_WORDS)))
    else:
        words = list(re.finditer(r"[^\s,:()\[\]{}=]+", lines[at]))
        if words:
            word = words[random.integers(len(words))]
            lines[at] = lines[at][: word.start()] + str(random.choice(_WORDS)) + lines[at][word.end() :]
    return "\n".join(lines) + "\n", f"line {at + 1}: {way}"


def _place(value: Any, random: Random) -> tuple[Any, Any, str]:
    """A random place, shallow ones more often than their number: its owner, its key, and its path."""
    owner, key, path = None, None, ""
    while isinstance(value, (dict, list)) and value and (owner is None or random.random() < 0.8):
        owner = value
        key = list(value)[random.integers(len(value))] if isinstance(value, dict) else int(random.integers(len(value)))
        path, value = f"{path}.{key}", owner[key]
    return (None, None, "") if random.random() < 0.02 else (owner, key, path[:80])


def _other(value: Any, random: Random) -> Any:
    """Half of the time something of the same type, so that it comes further."""
    alike = [one for one in STRANGE if type(one) is type(value) or {type(one), type(value)} == {int, float}]
    pool = alike if alike and random.random() < 0.5 else STRANGE
    return copy.deepcopy(pool[random.integers(len(pool))])
