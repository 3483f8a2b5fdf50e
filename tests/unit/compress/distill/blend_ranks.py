"""One of two processes of a data-parallel run; the ranks have batches of different size. Arguments: rank, folder."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from blend_toy import EXACT, Toy, batch, flat, gradients, net, part, stepper
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from kd3d.compress.distill import blending
from kd3d.compress.distill.coefs import coefs
from kd3d.errors import NonFiniteError
from kd3d.training.objective import divided
from kd3d.training.ranks import sum_over_ranks
from kd3d.training.step import _masses_of_ranks

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
mine = part(batch(count=8), slice(0, 3) if rank == 0 else slice(3, 8))
found = {}


class Quiet(Toy):
    """Its forward pass is inside ``no_sync``."""

    def __call__(self, module, frames):
        with module.no_sync():
            return super().__call__(module, frames)


def parallel():
    return DistributedDataParallel(net())


def plain(gradients_by_name):
    return {name.removeprefix("module."): gradient for name, gradient in gradients_by_name.items()}


for mode in ("params", "cut", "interval", "auto"):
    by_name, report, _ = gradients(Toy(replace(EXACT, mode=mode)), [mine], parallel())
    found[mode], found[f"{mode}.terms"] = plain(by_name), report.terms
    found[f"{mode}.quiet"] = plain(gradients(Quiet(replace(EXACT, mode=mode)), [mine], parallel())[0])
warnings.simplefilter("ignore")
for bad in ("nan", "inf"):
    here = {"by": float(bad)}
    for mode in ("params", "cut"):
        spoil = {"spoil": "kd.head", **here} if rank == 1 else {}
        by_name, report, _ = gradients(Toy(replace(EXACT, mode=mode), **spoil), [mine], parallel())
        found[f"{bad}.{mode}"], found[f"{bad}.{mode}.taught"] = flat(by_name), report.blend["taught"]
    objective = Toy(replace(EXACT, mode="interval"))
    made, state = stepper(objective, parallel())
    made.step([mine])
    objective.spoil, objective.by = ("kd.head" if rank == 1 else None), float(bad)
    found[f"{bad}.between"] = made.step([mine]).skipped, made._failures.count
    try:
        gradients(Toy(EXACT, **({"spoil": "task0.box", **here} if rank == 1 else {})), [mine], parallel())
    except NonFiniteError as error:
        found[f"{bad}.error"] = str(error).split(" on frames")[0]

# Two ways to get it wrong.
whole, blending.summed_over_ranks = blending.summed_over_ranks, lambda gradients, slots: gradients
local = plain(gradients(Toy(EXACT), [mine], parallel())[0])
blending.summed_over_ranks = whole
summed = sum_over_ranks(list(local.values()))
found["blended before they are added"] = dict(zip(local, summed, strict=True))

module, objective = parallel(), Toy(EXACT)
terms = objective(module, mine)
parts = divided(terms, _masses_of_ranks({term.name: term.mass for term in terms}))
sides = []
for names in (("task0.box",), ("kd.head", "kd.features")):
    module.zero_grad(set_to_none=True)
    torch.stack([parts[name] for name in names]).sum().backward(retain_graph=True)
    known = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    sides.append(plain(known))
task, taught = (flat(side, [name for name in sides[1] if name in sides[0]]) for side in sides)
a, b, _ = coefs(float(task @ task), float(taught @ taught), float(task @ taught), EXACT)
found["two passes through the hooks"] = {name: a * sides[0][name] + b * sides[1].get(name, 0) for name in sides[0]}
torch.save(found, folder / f"{rank}.pt")
distributed.destroy_process_group()
