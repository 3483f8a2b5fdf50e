"""Which detectors can be trained and can teach."""

from __future__ import annotations

from kd3d.errors import UsageError
from kd3d.spec import AnchorHeadSpec, DetectorSpec


def check_teachable(*specs: DetectorSpec) -> None:
    """Refuse detectors without a centre head, before anything is read or written.

    Raises:
        UsageError: one has an anchor head; says what can be done with it instead.
    """
    for spec in specs:
        if isinstance(spec.head, AnchorHeadSpec):
            raise UsageError(
                f"{spec.name} has an anchor head. Anchor heads cannot be taught or searched yet, and cannot "
                "teach: take a detector with a centre head. Train, eval, export onnx, bench and infer work with anchor heads."
            )
