"""Comparison with a stored benchmark, which fails only where the new run lies outside the spread of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd3d.errors import DataError, UsageError
from kd3d.runs.atomic import read_json

SCHEMA = "kd3d.bench/1"
TOLERANCE = 0.02
_ABOUT = ("device", "runtime", "threads")


def read_baseline(path: Path) -> dict[str, Any]:
    """A ``bench.json``, or the folder of one.

    Raises:
        DataError: it is missing, damaged, or of another schema.
    """
    path = Path(path)
    file = path / "bench.json" if path.is_dir() else path
    value = read_json(file)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise DataError(f"{file}: not a benchmark of schema {SCHEMA}. Make one with: kd3d bench --out DIR")
    env, frames = value.get("env", {}), value.get("frames", {})
    if not all(
        isinstance(part, dict) for part in (env, frames, env.get("machine", {}) if isinstance(env, dict) else 0)
    ):
        raise DataError(f"{file}: its env, machine or frames are no objects. Measure the baseline again.")
    models = value.get("models")
    if not isinstance(models, list) or not all(_usable(model) for model in models):
        raise DataError(f"{file}: a model lacks its name or e2e_ms.spread. Measure the baseline again.")
    return value


def check_comparable(
    baseline: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]], *, machine: Mapping[str, Any], digest: str
) -> None:
    """Refuse a baseline of another machine, other frames or another runtime, before anything is timed.

    Args:
        baseline: as ``read_baseline`` returns it.
        models: what is about to be measured, by name.
        machine: ``kd3d.runs.environment.machine()``.
        digest: of the frames.

    Raises:
        UsageError: names what differs.
    """
    was = baseline.get("env", {}).get("machine", {})
    differing = [
        f"{key}: {was.get(key)} then, {machine.get(key)} now"
        for key in ("cpu", "gpus")
        if was.get(key) != machine.get(key)
    ]
    then = baseline.get("frames", {}).get("digest")
    if then is not None and then != digest:
        differing.append("the frames")
    for name, model in models.items():
        old = partner(baseline, name, alone=len(models) == 1)
        if old is None:
            held = ", ".join(one["name"] for one in baseline["models"])
            differing.append(f"no model {name} (it has {held})")
            continue
        differing += [
            f"{name} {key}: {old.get(key)} then, {model.get(key)} now"
            for key in _ABOUT
            if old.get(key) != model.get(key)
        ]
    if differing:
        raise UsageError(f"the baseline cannot be compared: {'; '.join(differing)}. Measure a baseline like this one.")


def partner(baseline: Mapping[str, Any], name: str, *, alone: bool) -> Mapping[str, Any] | None:
    """The baseline's model of that name; its only model where one is compared with one."""
    held: Sequence[Mapping[str, Any]] = baseline["models"]
    same = next((one for one in held if one["name"] == name), None)
    return held[0] if same is None and alone and len(held) == 1 else same


def judge(baseline: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Each model against its baseline.

    ``verdict`` is ``slower`` where the whole spread of the new run (interval of its median and of the medians of its
    tenths) lies above that of the old one, ``faster`` where it lies below, else ``same``. Medians within 2 % of each
    other are the same.

    Returns:
        ``ok`` (nothing is slower), ``date`` of the baseline, ``models``.
    """
    rows = []
    for model in record["models"]:
        old = partner(baseline, model["name"], alone=len(record["models"]) == 1)
        if old is None:
            continue
        was, now = old["e2e_ms"], model["e2e_ms"]
        verdict = "same"
        if abs(now["p50"] / was["p50"] - 1) <= TOLERANCE:
            pass  # two runs of one program differ by that much: memory is laid out anew
        elif now["spread"][0] > was["spread"][1]:
            verdict = "slower"
        elif now["spread"][1] < was["spread"][0]:
            verdict = "faster"
        change = {"p50_ms": now["p50"], "baseline_p50_ms": was["p50"], "change": now["p50"] / was["p50"] - 1}
        rows.append(
            {
                "name": model["name"],
                "verdict": verdict,
                **change,
                "spread": now["spread"],
                "baseline_spread": was["spread"],
            }
        )
    ok = all(row["verdict"] != "slower" for row in rows)
    return {"ok": ok, "date": baseline.get("env", {}).get("date"), "models": rows}


def verdict_line(row: Mapping[str, Any]) -> str:
    """One model's comparison in words."""
    low, high = row["baseline_spread"]
    return (
        f"{row['name']}: {row['verdict']}, median {row['p50_ms']:.2f} ms against {row['baseline_p50_ms']:.2f} ms "
        f"({row['change']:+.1%}); the baseline's spread is {low:.2f} to {high:.2f} ms"
    )


def _usable(model: Any) -> bool:
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        return False
    e2e = model.get("e2e_ms")
    if not isinstance(e2e, dict):
        return False
    held = e2e.get("spread")
    numbers = [*held, e2e.get("p50")] if isinstance(held, list) and len(held) == 2 else []
    return len(numbers) == 3 and all(isinstance(one, (int, float)) and one > 0 for one in numbers)
