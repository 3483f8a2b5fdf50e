"""A roofline estimate, for where nothing was measured. It is a lower bound of a kind, and is never called latency."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kd3d.compress.search.cost import Cost
from kd3d.errors import UsageError


@dataclass(frozen=True)
class Roofline:
    """A device by its two ceilings (Williams, Waterman, Patterson 2009, "Roofline").

    Args:
        tflops: peak arithmetic in 10^12 operations per second; a multiply-accumulate is two.
        gbps: peak memory bandwidth in 10^9 bytes per second.
        bits: per number.
    """

    tflops: float
    gbps: float
    bits: int = 16

    def __post_init__(self) -> None:
        if not all(0 < value < math.inf for value in (self.tflops, self.gbps)) or self.bits < 1:
            raise UsageError(
                f"a roofline needs ceilings above 0, but has {self.tflops:g} TFLOPS, {self.gbps:g} GB/s and "
                f"{self.bits} bits."
            )

    def estimate_ms(self, cost: Cost) -> float:
        """Sum over the stages of the larger of arithmetic and memory time, in milliseconds."""
        return sum(
            max(
                2 * stage.macs / (self.tflops * 1e12),
                (stage.read_elements + stage.written_elements) * self.bits / 8 / (self.gbps * 1e9),
            )
            * 1e3
            for stage in cost.stages
        )


def parse_roofline(text: str) -> Roofline:
    """Read ``TFLOPS,GBPS`` or ``TFLOPS,GBPS,BITS``, such as ``85,204.8`` or ``170,204.8,8``.

    Raises:
        UsageError: it is not that.
    """
    parts = text.split(",")
    try:
        if len(parts) not in (2, 3):
            raise ValueError
        bits = int(parts[2]) if len(parts) == 3 else 16
        return Roofline(float(parts[0]), float(parts[1]), bits)
    except ValueError as error:
        raise UsageError(
            f"the roofline {text!r} is not understood. Write peak TFLOPS and GB/s of the device, such as 85,204.8; "
            "bits per number may follow (16 unless given)."
        ) from error
