"""One error type per situation a user can be in. Each says what was wrong, with which value, and what to do.

The exit codes are part of the command line's contract (docs/cli.md).
"""

from __future__ import annotations


class Kd3dError(Exception):
    """Base of every error kd3d raises on purpose; the command line prints its text as one line."""

    exit_code = 1


class UsageError(Kd3dError):
    """The request itself makes no sense: an unknown name, clashing options, a bad setting."""

    exit_code = 2


class BudgetError(Kd3dError):
    """No student of the search space meets the budget."""

    exit_code = 3


class GateError(Kd3dError):
    """A parity or accuracy gate failed. ``gate`` names it in the JSON output."""

    exit_code = 4

    def __init__(self, message: str, *, gate: str) -> None:
        super().__init__(message)
        self.gate = gate


class BackendError(Kd3dError):
    """A backend, an optional package or a device that is needed is missing."""

    exit_code = 5


class DeviceMemoryError(BackendError):
    """The device has less free memory than is needed."""


class EngineError(BackendError):
    """An engine was built for another device, or by another TensorRT, than those that are here."""


class CudaError(Kd3dError):
    """A CUDA call failed on a device that had been working."""


class PrecisionError(Kd3dError):
    """An engine runs in another precision than was asked for."""

    exit_code = 6


class DataError(Kd3dError):
    """Input data is unusable: a corrupt file, a wrong shape, a missing table."""

    exit_code = 7


class CheckpointError(DataError):
    """A checkpoint is unusable: corrupt, unsafe, or of another architecture."""


class SpecError(DataError):
    """A specification is not valid: an unknown field, or values that contradict each other."""


class NonFiniteError(DataError):
    """A loss or a weight became NaN or infinite."""


class GraphError(Kd3dError):
    """A graph was refused: by the checker, by operator limits, or by TensorRT's parser or builder."""

    exit_code = 8


class OutputError(Kd3dError):
    """An output cannot be written: the folder is read-only or not empty, or the disk is full."""

    exit_code = 9


class LayoutError(Kd3dError):
    """A detector does not fit the layout that another program reads, such as Autoware's."""

    exit_code = 8
