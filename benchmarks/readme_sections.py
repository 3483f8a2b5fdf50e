"""The sections of docs/results.md: each turns one recorded file into paragraphs of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comparing import verdict
from readme_blend import blend_sweep
from readme_gain import kd_gain
from readme_import import imported_teacher
from readme_kd_table import kd_table
from readme_labelfree import labelfree_gain
from readme_search import cost_speed, latency_prediction, search_gain, study
from readme_test_all import test_all
from readme_voxel import sparse_conv, voxel_speed

from kd3d.report.table import Table, comparison, number

Record = Mapping[str, Any]
POINTS = 100  # mAP and NDS are printed in points


@dataclass(frozen=True)
class Section:
    """A title, the name of the result file, and how it is told."""

    name: str
    title: str
    render: Callable[[Record], list[str]]


def student_speed(record: Record) -> list[str]:
    """Teacher and student beside each other."""
    models = {}
    for name in ("teacher", "student"):
        found = record[name]
        latency = {f"latency_ms_{key}": found["latency_ms"].get(key) for key in ("p50", "p99")}
        models[name] = {**found, **latency}
    ratio = number(record.get("ratio_p50"), "{:.2f}")
    said = f"ONNX Runtime on the CPU, both models in turns over the same frames: the student is {ratio} times as fast"
    share = record.get("macs_share")
    said += f", with {100 * share:.1f} % of the MACs." if share is not None else "."
    parity = [f"{name} {record[name]['parity']}" for name in models if "parity" in record[name]]
    if parity:
        said += f" Boxes of the exports that equal torch's: {', '.join(parity)}."
    warnings = [f"Warning of the timer: {text}" for text in record.get("warnings", [])]
    return [comparison("", models).markdown(), said, *warnings]


def int8(record: Record) -> list[str]:
    """The same network in fp32 and in 8 bits."""
    table = Table("", ("graph", "8-bit layers", "mAP", "NDS", "MB", "network, ms", "end to end, ms"))
    for name in ("fp32", "int8_cpu", "int8_tensorrt"):
        one = record[name]
        layers = "none" if one["int8"] is None else f"{one['int8']['layers']} of {one['int8']['weighted']}"
        network = number(one.get("network_ms_p50"), "{:.1f}")
        latency = number(one.get("latency_ms", {}).get("p50"), "{:.1f}")
        accuracy = (points(one["mAP"]), points(one["NDS"]))
        table.rows.append((name.replace("_", ", "), layers, *accuracy, f"{one['size_mb']:.1f}", network, latency))
    speed, missed = record["speed"], [name.replace("_", " ") for name, met in record["bars"].items() if not met]
    said = (
        f"The shipped teacher in ONNX Runtime on the CPU, {record['validation_frames']} validation frames; ranges by "
        f"{record['calibration']['method']} from {record['calibration']['frames']} training frames. In 8 bits the "
        f"network is {speed['network']:.2f} times as fast, end to end {speed['end_to_end']:.2f} times. The graph for "
        "TensorRT (the rest in fp16) is scored here, not timed: that takes a GPU."
    )
    return [table.markdown(), said, f"Bars missed: {', '.join(missed) or 'none'}."]


def precision(record: Record) -> list[str]:
    """The same network in fp32 and in float16, rounded as hardware rounds."""
    table = Table("", ("network", "mAP", "NDS"))
    for name in ("fp32", "fp16_onnxruntime", "fp16_rounded"):
        table.rows.append((name.replace("_", ", "), points(record[name]["mAP"]), points(record[name]["NDS"])))
    parity, missed = record["parity"], [name.replace("_", " ") for name, met in record["bars"].items() if not met]
    said = (
        f"The shipped teacher, {record['validation_frames']} validation frames. `rounded` runs the fp16 export node by "
        "node with every float16 tensor rounded and overflow infinite; ONNX Runtime's CPU provider computes it in fp32 "
        f"between casts. On {parity['frames']} frames {parity['matched']} of {parity['boxes']} boxes above 0.3 equal "
        f"torch's, {parity['ties'] - parity['short_headings']} lost a tie of scores, {parity['short_headings']} differ "
        f"in a heading from a short vector. The largest float16 value is {parity['peak']:.1f}."
    )
    return [table.markdown(), said, f"Bars missed: {', '.join(missed) or 'none'}."]


def kd_three_seeds(record: Record) -> list[str]:
    """Every run, then the paired differences."""
    table = Table("", ("arm", "seed", "steps", "mAP", "NDS"))
    for run in sorted(record["runs"], key=lambda run: (run["arm"], run["seed"], run["steps"])):
        final = run["scores"][-1]
        table.rows.append((run["arm"], str(run["seed"]), str(run["steps"]), points(final["mAP"]), points(final["NDS"])))
    frames = record.get("worlds", {}).get("validation_frames", "?")
    rule = next((run["inherit"] for run in record["runs"] if run.get("inherit")), "?")
    said = (
        f"Student `{record['student']}`, {100 * record['macs_share']:.1f} % of the teacher's MACs; {frames} validation "
        f"frames; teacher mAP {points(record['teacher']['mAP'])}, NDS {points(record['teacher']['NDS'])}. `control` "
        "learns from the labels alone, `inherit` starts from the teacher's weights, `kd` inherits and distils; "
        f"channels are kept by the rule `{rule}`."
    )
    return [said, table.markdown(), *(compared(item) for item in record["comparisons"])]


def compared(item: Record) -> str:
    """One comparison with the control (a row of that name, or the one that ``item`` names), in words."""
    differences = ", ".join(f"{value:+.2f}" for value in item["differences"]) or "none"
    said = f"`{item['arm']}` minus `{item.get('control', 'control')}`, mAP points by seed: {differences}."
    if item.get("beats") is None:
        return f"{said} Too few seeds to judge."
    error = f"Mean {item['mean']:+.2f}, standard error {item['standard_error']:.2f}"
    return f"{said} {error}: beats: {verdict(item)}."


def world_gate(record: Record) -> list[str]:
    """How hard the world is."""
    table = Table("", ("detector", "mAP", "NDS"))
    named = (
        ("teacher", "the shipped teacher"),
        ("student_no_kd", "student without the teacher (mean of the controls)"),
        ("clustering", "clustering and a class-size look-up"),
    )
    for key, label in named:
        found = record.get(key)
        cells = ("not recorded",) * 2 if found is None else (points(found["mAP"]), points(found["NDS"]))
        table.rows.append((label, *cells))
    words = {True: "yes", False: "no", None: "not recorded"}
    asked = {
        "teacher_45_to_75": "teacher between 45 and 75 mAP",
        "student_5_below": "a converged student at least 5 mAP below it",
        "clustering_under_15": "clustering under 15 mAP",
    }
    gate = record.get("gate", {})
    judged = "; ".join(f"{text}: {words[gate[key]]}" for key, text in asked.items() if key in gate)
    return [f"{record['frames']} validation frames.", table.markdown(), *([f"{judged}."] if judged else [])]


def world_stats(record: Record) -> list[str]:
    """The generated world beside one real key frame."""
    if "real" not in record:
        return ["The real key frame was not there when this was recorded, so there is no comparison."]
    table = Table("", ("", "generated", "real", "ratio"))
    sweep = {"points": "points per sweep", "range_p90_m": "range, 90th percentile, m"}
    for key, label in sweep.items():
        table.rows.append(row(label, record["world"]["sweep"][key], record["real"]["sweep"][key]))
    for group, bins in record["real"]["points_per_box"].items():
        for name, value in bins.items():
            mine = record["world"]["points_per_box"].get(group, {}).get(name)
            table.rows.append(row(f"points per {group}, {name}", mine, value))
    said = f"{record['frames']} generated frames beside the one real nuScenes key frame at hand."
    return [said, table.markdown()]


def world_speed(record: Record) -> list[str]:
    """How long the world takes to write."""
    table = Table("", ("20 key frames with all sweeps", "seconds"))
    labels = {"lidar_only": "LiDAR only", "lidar_and_cameras": "LiDAR and six cameras"}
    for key, label in labels.items():
        table.rows.append((label, number(record["seconds"][key], "{:.1f}")))
    return [table.markdown()]


def row(label: str, mine: float | None, real: float) -> tuple[str, ...]:
    """One line of the comparison; a dash where the world has nothing of the kind."""
    ratio = None if mine is None or not real else mine / real
    return (label, number(mine, "{:,.1f}"), number(real, "{:,.1f}"), number(ratio, "{:.2f}"))


def pillars(record: Record) -> list[str]:
    """Point-to-pillar conversion beside spconv."""
    contenders = {"spconv PointToVoxel": "spconv", "kd3d group_points": "kd3d", "kd3d hard_pillars": "kd3d, decorated"}
    heads = [f"{label}, ms" for label in contenders.values()]
    table = Table("", ("cloud", "points", *heads, "kd3d / spconv"))
    for cloud in record["clouds"]:
        times = [number(cloud["times"][name]["min_ms"], "{:.2f}") for name in contenders]
        ratio = number(cloud["ratios"]["kd3d group_points"]["min"], "{:.2f}")
        table.rows.append((cloud["cloud"], f"{cloud['points']:,}", *times, ratio))
    said = (
        f"One thread, fastest of {record['settings']['repeats']} turns, output equal to spconv's. `decorated` also "
        "computes the network's input features, which spconv does not."
    )
    return [table.markdown(), said]


def runtime_overhead(record: Record) -> list[str]:
    """What the runtime adds to the network, against what was asked for."""
    network, host = record["network"], record["host"]
    stages = host["stages_ms"]
    table = Table("", ("on the CPU", "measured", "asked for"))
    ratio, share = f"{network['ratio']:.3f}", f"{100 * host['share']:.1f} %"
    table.rows.append(("network: our runner / a bare session", ratio, f"at most {network['bar']:.2f}"))
    table.rows.append(("pillars, decoding and NMS / network", share, f"under {100 * host['bar']:.0f} %"))
    times = ", ".join(f"{stage} {number(value, '{:.2f}')}" for stage, value in stages.items())
    said = (
        f"The shipped teacher, {record['settings']['frames']} frames of the validation world, in turns, "
        f"medians of the fastest of {record['settings']['repeats']} repeats. Stages, ms: {times}."
    )
    return [said, table.markdown()]


def kitti_overfit(record: Record) -> list[str]:
    """Twenty real frames learnt by heart."""
    heads = ("MACs", "parameters", "Car BEV", "Car 3D", "boxes as in torch", "latency p50")
    table = Table("", ("model", *heads))
    times = {model["name"]: model["e2e_ms"]["p50"] for model in record["bench"]["models"]}
    for name, model in record["models"].items():
        ap, parity = model["scores"]["train"]["ap_r40"], model["parity_on_27_real_frames"]
        cells = (
            number(model["macs"], "{:.3f} G", 1e-9),
            number(model["params"], "{:,.0f}"),
            points(ap["bev"]["Car"]["moderate"]),
            points(ap["3d"]["Car"]["moderate"]),
            f"{parity['matched']} of {parity['boxes']}",
            number(times.get(name), "{:.1f} ms"),
        )
        table.rows.append((name, *cells))
    said = (
        f"Preset `{record['preset']}`; moderate AP (R40) on the 20 frames it was trained on, which proves that "
        "training works and nothing about accuracy on other roads."
    )
    return [table.markdown(), said]


def points(share: float) -> str:
    """A metric between 0 and 1 in points."""
    return number(share, "{:.2f}", POINTS)


def provenance(record: Record) -> str:
    """Machine, date, commit and command of a result."""
    environment = record.get("environment")
    if not environment:
        return "Machine, date and commit were not recorded."
    machine = environment["machine"]
    cards = f", {'; '.join(machine['gpus'])}" if machine.get("gpus") else ""
    commit = str(environment.get("commit") or "unknown")
    short = commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")
    command = " ".join(environment.get("command") or ["unknown"])
    return f"{machine['cpu']}, {machine['cores']} cores{cards}; {environment['date'][:10]}; commit {short}; `{command}`"


def kd_step(record: Record) -> list[str]:
    """Times of the arms, and the ratios beside their bars."""
    table = Table("", ("step", "ms (median)"))
    for name, value in record["step_ms_p50"].items():
        table.rows.append((f"`{name}`", f"{value:.0f}"))
    bars = Table("", ("ratio", "measured", "bar", "holds"))
    for name, bar in record["bars"].items():
        holds = "yes" if record["holds"][name] else "no"
        bars.rows.append((name, f"{record['ratios'][name]:.2f}", f"{bar:.2f}", holds))
    cache = record["cache"]
    said = (
        f"One training step of `{record['student']}` ({100 * record['macs_share']:.1f} % of the teacher's MACs), batch "
        f"{record['batch']}, {record['precision']} on {record['device']}: `own` from the labels alone, `cached` and "
        "`teacher` distilled with fixed weights, the teacher's answers from disk or asked for, `cut` blended at the "
        f"heads; `inference` is the teacher alone. The cache took {cache['seconds']:.0f} s for {cache['records']} "
        f"answers of {cache['bytes_per_record'] / 1000:.0f} kB each."
    )
    return [said, table.markdown(), bars.markdown()]


GROUPS: Mapping[str, tuple[Section, ...]] = {
    "From teacher to student": (
        Section("student_speed", "Teacher and student", student_speed),
        Section("imported_teacher", "A teacher of another framework", imported_teacher),
        Section("study_width_depth_resolution", "Width, depth or resolution?", study),
        Section("kitti_overfit", "Real KITTI frames, learnt by heart", kitti_overfit),
    ),
    "Distillation": (
        Section("kd_three_seeds", "What the teacher adds: three seeds", kd_three_seeds),
        Section("kd_gain", "What weights and answers of the teacher bring", kd_gain),
        Section("kd_gain_long", "The same with three times the steps", kd_gain),
        Section("kd_table", "Every method beside its controls", kd_table),
        Section("blend_sweep", "One run of gradient blending against a sweep of weights", blend_sweep),
        Section("labelfree_gain", "What frames without labels bring", labelfree_gain),
        Section("kd_step", "What a step of distillation costs", kd_step),
    ),
    "Search": (
        Section("search_gain", "Does the search earn its keep?", search_gain),
        Section("search_gain_six_tasks", "A search where the head has parts to spare", search_gain),
        Section("latency_prediction", "Predicted and measured latency", latency_prediction),
        Section("cost_speed", "The cost of a student", cost_speed),
    ),
    "Export and runtime": (
        Section("int8", "8 bits", int8),
        Section("precision", "Float16", precision),
        Section("runtime_overhead", "What the runtime adds", runtime_overhead),
        Section("pillars", "Points to pillars", pillars),
        Section("sparse_conv", "Sparse convolution beside spconv", sparse_conv),
        Section("voxel_speed", "Latency against voxels", voxel_speed),
    ),
    "The generated world": (
        Section("world_gate", "How hard the generated world is", world_gate),
        Section("world_stats", "The generated world beside a real frame", world_stats),
        Section("world_speed", "Writing the generated world", world_speed),
    ),
    "Endurance": (Section("test_all", "Kills, damaged inputs, random students, every preset", test_all),),
}
SECTIONS = tuple(section for sections in GROUPS.values() for section in sections)
