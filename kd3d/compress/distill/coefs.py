"""The closed form of automatic gradient blending: two weights from three dot products."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from kd3d.errors import UsageError

_FLAT = 1e-6  # below this sine the two gradients span no plane
_WARMUP = 500
_LATER = ("granularity", "metric", "smooth", "direction")  # fields that runs from before them do not have


@dataclass(frozen=True)
class BlendSettings:
    """How far the teacher may turn a step, and how the gradients are found.

    No weight of a loss is among them: scaling any distillation loss by a positive constant changes nothing.
    """

    mode: Literal["auto", "params", "cut", "interval"] = "auto"
    """``params`` compares gradients of the weights: exact, one more backward pass per signal. ``cut`` compares them at
    the neck: nearly free, for signals that read only neck and heads. ``interval`` takes ``params`` every ``interval``
    steps and keeps the weights in between. ``auto`` is ``cut`` where that is possible, else ``params``."""
    terms: Literal["separate", "joint"] = "separate"
    """``separate`` gives every signal the same share whatever its weight; ``joint`` keeps the weights between them."""
    rho: float = 0.5
    """Share of the angle between both gradients by which the step turns towards the teacher's."""
    psi_max_deg: float = 45.0
    """The most it turns: at 45 degrees at least 71 % of the task's descent remain."""
    phi_hi_deg: float = 120.0
    """Gradients further apart than this turn the step less ..."""
    phi_cut_deg: float = 150.0
    """... and from this angle on not at all."""
    interval: int = 4
    """Steps between refreshes of the mode ``interval``."""
    warmup_steps: int | None = None
    """The turn grows from nothing over this many steps; ``None``: 500, but at most a twentieth of the run's."""
    granularity: Literal["global", "block"] = "global"
    """``block`` blends encoder, backbone, neck and head apart, each within the angle and at the length of its own part
    of the task's gradient; needs the gradients of the weights (``params``)."""
    metric: Literal["euclid", "lr"] = "euclid"
    """``lr`` measures lengths and angles with every weight's share of the learning rate (``TrainSettings.lr_scales``),
    as the step feels them; needs the gradients of the weights (``params`` or ``interval``)."""
    smooth: float = 0.0
    """Decay of the moving averages of angle and length ratio from which the weights are made; 0 takes each step's own.
    The length stays that of the step's task gradient; a step that would leave the limits takes its own angle."""
    direction: Literal["fixed", "search"] = "fixed"
    """``search`` tries three limits of the angle in short trainings first (``kd3d.compress.direction``)."""

    def __post_init__(self) -> None:
        choices = {
            "mode": ("auto", "params", "cut", "interval"),
            "terms": ("separate", "joint"),
            "granularity": ("global", "block"),
            "metric": ("euclid", "lr"),
            "direction": ("fixed", "search"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"the blend's {name} cannot be {getattr(self, name)!r}. Use {', '.join(known[:-1])} or {known[-1]}."
                )
        if self.granularity == "block" and self.mode in ("cut", "interval"):
            raise UsageError(
                f"blending block by block needs the gradients of all weights at every step, which the mode {self.mode} "
                "does not have. Use the mode params."
            )
        if self.metric == "lr" and self.mode == "cut":
            raise UsageError("maps have no learning rate: the metric lr needs the mode params or interval, not cut.")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not 0 < self.rho <= 1:
            raise UsageError(f"rho must be above 0 and at most 1, not {self.rho:g}.")
        if not 0 < self.psi_max_deg < 90:
            raise UsageError(f"psi_max_deg must be between 0 and 90 degrees, not {self.psi_max_deg:g}.")
        if not 90 <= self.phi_hi_deg < self.phi_cut_deg < 180:
            raise UsageError(
                "phi_hi_deg and phi_cut_deg must rise between 90 and 180 degrees, not "
                f"{self.phi_hi_deg:g} and {self.phi_cut_deg:g}."
            )
        if self.interval < 1 or (self.warmup_steps or 0) < 0:
            raise UsageError(
                f"interval ({self.interval}) must be at least 1 and warmup_steps ({self.warmup_steps}) at least 0."
            )
        if not 0 <= self.smooth < 1:
            raise UsageError(f"smooth must be at least 0 and below 1, not {self.smooth:g}.")

    @classmethod
    def strong(cls) -> BlendSettings:
        """For a teacher that knows much more than the labels: two thirds of the angle, up to 60 degrees."""
        return cls(rho=2 / 3, psi_max_deg=60.0)

    @property
    def at_weights(self) -> bool:
        """Whether only gradients of the weights will do, which rules a cut out."""
        return self.granularity == "block" or self.metric == "lr"

    def warm(self, step: int, steps: int) -> float:
        """How much of its turn step ``step`` of ``steps`` takes, 0 to 1."""
        over = min(_WARMUP, steps // 20) if self.warmup_steps is None else self.warmup_steps
        return 1.0 if over == 0 else min(1.0, step / over)

    def identity(self) -> dict[str, Any]:
        """Settings that a resumed run must repeat."""
        plain = BlendSettings()
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _LATER or getattr(self, field.name) != getattr(plain, field.name)
        }


@dataclass(frozen=True)
class Turn:
    """Angles of one blend, radians.

    Args:
        phi: between the task's gradient and the teacher's.
        psi: between the task's gradient and the step.
        gated: whether both oppose each other so much that the teacher was not heard.
    """

    phi: float
    psi: float
    gated: bool


@dataclass(frozen=True)
class Geometry:
    """How two gradients lie to each other, or the moving average of that.

    Args:
        log_ratio: ``log(|g_t| / |g_d|)``.
        phi: the angle between them, radians.
    """

    log_ratio: float
    phi: float

    @classmethod
    def of(cls, tt: float, dd: float, td: float) -> Geometry:
        """That of one step, from dot products as ``coefs`` takes them."""
        task, taught = math.sqrt(tt), math.sqrt(dd)
        return cls(math.log(task) - math.log(taught), math.acos(max(-1.0, min(1.0, td / task / taught))))

    def followed_by(self, other: Geometry, decay: float) -> Geometry:
        """The moving average after one more step."""
        mean = (decay * old + (1 - decay) * new for old, new in zip(self._parts(), other._parts(), strict=True))
        return Geometry(*mean)

    def _parts(self) -> tuple[float, float]:
        return self.log_ratio, self.phi


def coefs(tt: float, dd: float, td: float, settings: BlendSettings, warm: float = 1.0) -> tuple[float, float, Turn]:
    """Weights of the task's and the distillation's gradient; their sum is as long as the task's gradient.

    Our own design [D] after the published abstract of "Automatic gradient blending for knowledge distillation" (High
    Technology Letters 33(12), 2023, DOI 10.3772/j.issn.1002-0470.2023.12.005): how its authors find the direction is
    not known. With ``phi`` the angle between both, ``w = clip((phi_cut - phi) / (phi_cut - phi_hi), 0, 1)`` and
    ``psi = w * min(rho * phi, psi_max)``, the unit vectors are interpolated on the sphere:
    ``a = sin(phi - psi) / sin(phi)``, ``b = sin(psi) / sin(phi) * |g_t| / |g_d|``.

    Plain numbers, not tensors: a step reads its losses back from the device anyway.

    Args:
        tt: ``<g_t, g_t>`` of the task's gradient, above 0.
        dd: ``<g_d, g_d>`` of the distillation's, above 0.
        td: ``<g_t, g_d>``.
        settings: the limits.
        warm: 0 to 1, share of the turn during warm-up.

    Returns:
        ``a >= 0``, ``b >= 0`` and the angles.
    """
    task, taught = math.sqrt(tt), math.sqrt(dd)
    cosine = max(-1.0, min(1.0, td / task / taught))
    phi = math.acos(cosine)
    high, cut = math.radians(settings.phi_hi_deg), math.radians(settings.phi_cut_deg)
    gate = max(0.0, min(1.0, (cut - phi) / (cut - high)))
    psi = gate * warm * min(settings.rho * phi, math.radians(settings.psi_max_deg))
    sine = math.sin(phi)
    if sine < _FLAT:
        share = settings.rho * warm if cosine > 0 else 0.0
        a, b = 1 - share, share
    else:
        a, b = math.sin(phi - psi) / sine, math.sin(psi) / sine
    return a, b * task / taught, Turn(phi, psi, gate == 0)


def smoothed_coefs(
    products: tuple[float, float, float], settings: BlendSettings, warm: float, average: Geometry
) -> tuple[float, float, Turn]:
    """Like ``coefs``, but with the direction of an average geometry instead of the step's own.

    Both weights are then scaled so that the blend of *this* step's gradients is as long as its task gradient. If that
    blend is further from the task than ``psi_max``, or this step's gradients oppose each other, the step's own weights
    are taken. Multiplying the distillation loss by a constant shifts ``log_ratio`` by one, so nothing changes.

    Args:
        products: ``tt``, ``dd`` and ``td`` of this step.
        settings: the limits.
        warm: 0 to 1, share of the turn during warm-up.
        average: of the steps up to this one.
    """
    tt, dd, td = products
    own = coefs(tt, dd, td, settings, warm)
    if own[2].gated:
        return own
    a, b, _ = coefs(1.0, 1.0, math.cos(average.phi), settings, warm)
    b *= math.exp(average.log_ratio)
    length = math.sqrt(max(0.0, a * a * tt + 2 * a * b * td + b * b * dd))
    if length == 0:
        return own
    scale = math.sqrt(tt) / length
    a, b = a * scale, b * scale
    psi = math.acos(max(-1.0, min(1.0, (a * tt + b * td) / tt)))
    if psi > warm * math.radians(settings.psi_max_deg) + 1e-9:
        return own
    return a, b, Turn(own[2].phi, psi, gated=False)
