"""A network with a neck and a head, taught by fixed targets; runs through the real ``Stepper``."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from kd3d.compress.distill.blending import GradientBlend
from kd3d.compress.distill.coefs import BlendSettings
from kd3d.training.ema import Ema
from kd3d.training.objective import Term
from kd3d.training.precision import Precision
from kd3d.training.schedule import grouped, one_cycle
from kd3d.training.settings import TrainSettings
from kd3d.training.state import TrainState
from kd3d.training.step import Stepper

EXACT = BlendSettings(mode="params", warmup_steps=0)


class Backbone(nn.Module):
    def __init__(self, width=6, levels=1):
        super().__init__()
        self.first = nn.Linear(4, width, bias=levels > 0)
        self.second = nn.Linear(width, 5) if levels else nn.Identity()

    def forward(self, x):
        level = self.first(x)
        return [level], self.second(torch.tanh(level) if not isinstance(self.second, nn.Identity) else level)


class Net(nn.Module):
    def __init__(self, levels=1):
        super().__init__()
        self.backbone = Backbone(levels=levels)
        self.head = nn.Linear(5 if levels else 6, 3)
        self.alone = nn.Linear(5 if levels else 6, 2)  # of the task only

    def forward(self, batch):
        levels, neck = self.backbone(batch)
        return levels[0], neck, self.head(neck), self.alone(neck)


def net(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options)


def batch(seed=0, count=8):
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(
        tokens=tuple(f"f{i}" for i in range(count)),
        x=torch.randn(count, 4, generator=generator),
        y=torch.randn(count, 5, generator=generator),
        t=torch.randn(count, 3, generator=generator),
    )


def part(whole, rows):
    return SimpleNamespace(tokens=whole.tokens[rows], x=whole.x[rows], y=whole.y[rows], t=whole.t[rows])


class Toy:
    """Task, and two signals: of the head, and of the neck or a level through an adapter."""

    def __init__(
        self, blend=None, *, scales=(1.0, 1.0), tap="neck", task=True, spoil=None, signals=None, by=float("nan")
    ):
        self.scales, self.tap, self.task, self.spoil, self.by = scales, tap, task, spoil, by
        torch.manual_seed(5)
        self.signals = signals or ("kd.head", "kd.features")
        self.adapter = nn.Linear({"neck": 5, "wide neck": 6, "level": 6}[tap], 3)
        self.adapters = nn.ModuleList([self.adapter])
        self.blend = None if blend is None else GradientBlend(blend, self.signals)
        if self.blend is not None:
            self.adapters.append(self.blend.state)

    def __call__(self, module, frames):
        level, neck, head, alone = module(frames.x)
        mass = torch.tensor(float(len(frames.x)))
        target = torch.cat([head, alone], 1)
        features = self.adapter(level if self.tap == "level" else neck)
        terms = [Term("task0.box", (target - frames.y).square().sum(), mass, 1.0)] if self.task else []
        terms.append(Term("kd.head", (head - frames.t).abs().sum(), mass, self.scales[0]))
        terms.append(Term("kd.features", (features - frames.t).square().sum(), mass, self.scales[1]))
        terms = [term for term in terms if term.name in ("task0.box", *self.signals)]
        if self.spoil is not None:
            for term in terms:
                if term.name == self.spoil:
                    term.sum = term.sum * self.by
        return terms

    @property
    def taught(self):
        return self.signals


def stepper(objective, module, *, scaler=None, accumulate=1, lr_scales=(), precision="fp32"):
    settings = TrainSettings(
        steps=1000, batch_size=8, accumulate=accumulate, clip_norm=1e9, precision="fp32", lr_scales=lr_scales
    )
    named = [*module.named_parameters(), *((f"adapters.{n}", p) for n, p in objective.adapters.named_parameters())]
    optimiser = torch.optim.AdamW(grouped(named, settings), lr=1e-3)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    state = TrainState(module, Ema(getattr(module, "module", module), 0.0), optimiser, scaler, objective.adapters)
    made = Stepper(
        state, objective, settings=settings, precision=Precision(precision, "cpu"), schedule=one_cycle(settings, 1000)
    )
    return made, state


def gradients(objective, micro_batches, module=None, **options):
    """Gradients by name after one step, its report, and the state."""
    module = net() if module is None else module
    made, state = stepper(objective, module, accumulate=len(micro_batches), **options)
    report = made.step(micro_batches)
    found = {name: p.grad for name, p in module.named_parameters()}
    found |= {f"adapters.{name}": p.grad for name, p in objective.adapters.named_parameters()}
    return found, report, state


def flat(found, names=None):
    return torch.cat([g.flatten().double() for name, g in found.items() if names is None or name in names])
