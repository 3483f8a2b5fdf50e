"""What a model argument may be, and how it becomes a model or a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kd3d.cli.importing import FOREIGN, import_asked
from kd3d.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from kd3d.detectors.checkpoint import Model

Kind = Literal["model", "preset", "onnx", "export", "engine", "foreign"]
ARTEFACTS = ("onnx", "export", "engine")
SHIPPED = "world-teacher"
INSIDE_RUN = ("student", "model")
ENGINE_SUFFIXES = (".engine", ".plan")
_FILES: dict[str, Kind] = {
    ".onnx": "onnx",
    **dict.fromkeys(ENGINE_SUFFIXES, "engine"),
    **dict.fromkeys(FOREIGN, "foreign"),
}


@dataclass(frozen=True)
class Found:
    """A model argument, recognised without loading it.

    Args:
        kind: kd3d model folder, preset name, ``.onnx`` file, export folder, engine (its file or its folder), or another
            framework's checkpoint.
        name: the argument as given.
        path: where it is; ``None`` for a preset.
    """

    kind: Kind
    name: str
    path: Path | None


def find_model(text: str) -> Found:
    """Recognise a model argument: model, run, export or engine folder, file of a kind below, or preset name.

    Files: ``.onnx``, ``.engine``, and ``.pth``, ``.pt`` or ``.ckpt`` of another framework.

    Also ``world-teacher``, the trained teacher that comes with kd3d.

    Raises:
        UsageError: there is no such file or folder.
        CheckpointError: the folder holds no model.
    """
    path = Path(text)
    if path.is_file():
        return Found(_FILES.get(path.suffix, "model"), text, path)  # loading says what is wrong with another file
    if path.is_dir():
        return _in_folder(text, path)
    from kd3d.detectors.presets import PRESETS

    if text not in PRESETS and ("/" in text or path.suffix):  # "-v0.4" looks like a suffix
        raise UsageError(
            f"{text}: there is no such model. Give a model folder, a run folder, an .onnx or .engine file, a .pth of "
            "another framework, or a preset name."
        )
    if text == SHIPPED:
        from kd3d.detectors.assets import SHIPPED_TEACHER

        return Found("model", text, SHIPPED_TEACHER)
    return Found("preset", text, None)


def load_model(text: str, *, presets: bool = False) -> Model:
    """The torch model behind an argument.

    Args:
        text: model folder, run folder, ``.pth`` or ``.pt`` of another framework (imported with the command's ``--like``
            and ``--config``) or, with ``presets``, a preset name (weights are random then).
        presets: whether random weights make sense here.

    Raises:
        UsageError: no such model, or a preset or an artefact where trained weights are needed.
        CheckpointError: the folder is not a whole model.
    """
    found = find_model(text)
    if found.kind == "preset":
        return _random(found.name, allowed=presets)
    if found.kind in ARTEFACTS:
        raise UsageError(f"{text}: an exported artefact; here the kd3d model folder it was made from is needed.")
    assert found.path is not None
    if found.kind == "foreign":
        return import_asked(found.path)
    from kd3d.detectors import checkpoint

    return checkpoint.load_model(found.path)


def _random(name: str, *, allowed: bool) -> Model:
    from kd3d.detectors.build import build
    from kd3d.detectors.checkpoint import Model
    from kd3d.detectors.presets import preset

    spec = preset(name)
    if not allowed:
        raise UsageError(
            f"{name} is a preset, which has no trained weights. Train it first: kd3d train --preset {name}."
        )
    import torch

    torch.manual_seed(0)
    return Model(spec, build(spec).eval(), {"origin": f"preset {name}, random weights"})


def _in_folder(text: str, path: Path) -> Found:
    if (path / "engine.json").exists():
        return Found("engine", text, path)
    if (path / "pipeline.json").exists():
        return Found("export", text, path)
    if (path / "spec.json").exists() or (path / "weights.safetensors").exists():
        return Found("model", text, path)
    for inside in INSIDE_RUN:
        if (path / inside / "spec.json").exists():
            return Found("model", text, path / inside)
    raise CheckpointError(
        f"{path}: no model in this folder. Expected spec.json and weights.safetensors, pipeline.json of an export, "
        f"or a run with {' or '.join(f'{name}/' for name in INSIDE_RUN)}."
    )
