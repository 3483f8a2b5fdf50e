"""What every data set offers, whatever its format."""

from __future__ import annotations

from typing import Literal, Protocol

from kd3d.datasets.sample import Sample

Kind = Literal["nuscenes", "kitti", "waymo"]
Split = Literal["train", "val"]


class SampleDataset(Protocol):
    """A list of frames. Safe to pickle into the workers of a data loader.

    ``tokens[i]`` is the token of frame ``i``; ``classes`` is what the labels of every frame's boxes index.
    """

    kind: Kind
    split: str
    classes: tuple[str, ...]
    tokens: list[str]

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Read one frame.

        Raises:
            IndexError: ``index`` is out of range.
            DataError: a file of the frame is missing or damaged.
        """
        ...
