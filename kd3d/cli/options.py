"""Options that several commands share, so that they are named and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]
Data = Annotated[Path, typer.Option("--data", "--data-root", help="A nuScenes, KITTI or Waymo folder.")]
Out = Annotated[Path, typer.Option("--out", "--work-dir", help="The folder to write; must be new or empty.")]
Force = Annotated[bool, typer.Option("--force", "--exist-ok", help="Write into a folder that is not empty.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that read data; 0 reads in this one.")]
Split = Annotated[str, typer.Option("--split", help="train or val.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N; auto takes a CUDA device if there is one.")]
Provider = Annotated[
    str, typer.Option("--provider", help="ONNX Runtime's: cpu, cuda or tensorrt; auto follows --device.")
]
CudaBackend = Annotated[
    str,
    typer.Option("--cuda-backend", help="For engines: auto, cuda-bindings, ctypes, pycuda or torch handles memory."),
]
CudaGraph = Annotated[
    bool, typer.Option("--cuda-graph", help="Launch an engine as a CUDA graph; pillars are padded to a few sizes.")
]
DeviceStages = Annotated[
    str,
    typer.Option(
        "--device-stages",
        help="For engines: what comes before and after the network runs on the host, as CUDA kernels, or auto.",
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads for the network; 0 is every core.")]
Teacher = Annotated[str, typer.Option("--teacher", help="Model folder or run folder of the teacher.")]
BudgetFlops = Annotated[
    str | None, typer.Option("--budget-flops", help="MACs of the student: 25% of the teacher's, or 85G, or 900M.")
]
BudgetParams = Annotated[str | None, typer.Option("--budget-params", help="Parameters of the student: 30%, or 2M.")]
Convention = Annotated[
    str, typer.Option("--flops-convention", help="What --budget-flops binds: physical MACs, or thop (SparseKD's).")
]
Like = Annotated[
    str | None, typer.Option("--like", help="Of a .pth or .pt: a preset that says what its tensors do not.")
]
ImportConfig = Annotated[
    Path | None, typer.Option("--config", help="Of a .pth or .pt: the configuration it was trained with (.yaml, .py).")
]
