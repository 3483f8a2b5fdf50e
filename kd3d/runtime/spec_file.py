"""The specification that comes with an artefact: beside it as JSON, or inside an ONNX file's metadata."""

from __future__ import annotations

from pathlib import Path

from kd3d.errors import SpecError
from kd3d.runs.atomic import parse_json, read_json
from kd3d.spec.codec import from_json
from kd3d.spec.detector import DetectorSpec

SPEC_KEY = "kd3d.spec"  # of the specification among an ONNX file's metadata


def spec_from_file(path: Path) -> DetectorSpec:
    """Of a ``spec.json``.

    Raises:
        SpecError: it is not valid; names the file.
        DataError: it is missing or damaged.
    """
    try:
        return from_json(DetectorSpec, read_json(path))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def spec_from_text(text: str, path: Path) -> DetectorSpec:
    """Of the metadata of the file ``path``.

    Raises:
        SpecError: the text is not JSON, or no valid specification; names the file.
    """
    try:
        return from_json(DetectorSpec, parse_json(text))
    except ValueError as error:
        raise SpecError(
            f"{path}: the metadata '{SPEC_KEY}' are not JSON ({error}). Export the detector again."
        ) from error
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
