"""A worker process of the world's crew: one job per input line, one answer per output line, JSON both."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from kd3d.datasets.world.simulate import Job, make_scene
from kd3d.errors import Kd3dError


def answer(line: bytes) -> dict[str, Any]:
    """Do one job; failures become part of the answer, because the parent reports them."""
    fields = json.loads(line)
    try:
        scene = make_scene(Job(**{**fields, "root": Path(fields["root"])}))
    except OSError as error:
        return {"errno": error.errno or 0, "error": error.strerror or str(error)}
    except Kd3dError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - a process boundary: whatever happened, the parent must hear of it
        return {"error": f"{type(error).__name__}: {error}"}
    return {"tables": scene.tables, "boxes": scene.boxes}


def main() -> None:
    """Serve until standard input closes."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    for line in sys.stdin.buffer:
        output.write(json.dumps(answer(line)).encode() + b"\n")
        output.flush()


if __name__ == "__main__":
    main()
