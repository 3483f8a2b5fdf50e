"""One of two processes of a data-parallel run; the ranks have batches of different size. Arguments: rank, folder."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from blend_toy import EXACT, Toy, batch, gradients, net, part
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from kd3d.errors import NonFiniteError

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
mine = part(batch(count=8), slice(0, 3) if rank == 0 else slice(3, 8))
found = {}
for mode in ("params", "cut", "interval", "auto"):
    module = DistributedDataParallel(net())
    gradients_by_name, report, _ = gradients(Toy(replace(EXACT, mode=mode)), [mine], module)
    found[mode] = {name.removeprefix("module."): gradient for name, gradient in gradients_by_name.items()}
    found[f"{mode}.terms"] = report.terms
warnings.simplefilter("ignore")
spoil = {"spoil": "kd.head"} if rank == 1 else {}
found["dropped"] = gradients(Toy(EXACT, **spoil), [mine], DistributedDataParallel(net()))[1].blend["taught"]
try:
    gradients(Toy(EXACT, **({"spoil": "task0.box"} if rank == 1 else {})), [mine], DistributedDataParallel(net()))
except NonFiniteError as error:
    found["error"] = str(error).split(" on frames")[0]
torch.save(found, folder / f"{rank}.pt")
distributed.destroy_process_group()
