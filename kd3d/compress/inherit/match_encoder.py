"""Which teacher layer stands for each layer of the student's encoder, and which share one choice of channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kd3d.compress.inherit.layers import Key
from kd3d.compress.inherit.positions import nearest_position
from kd3d.spec import DetectorSpec, PillarEncoderSpec, VoxelEncoderSpec


def match_encoder(teacher: DetectorSpec, student: DetectorSpec) -> Mapping[Key, Key | str]:
    """For each layer of the student's encoder the key of its teacher layer, or the reason why there is none."""
    ours, theirs = student.encoder, teacher.encoder
    if isinstance(ours, VoxelEncoderSpec):
        return dict(_sparse_pairs(ours, theirs))
    count = len(ours.filters)
    if not isinstance(theirs, PillarEncoderSpec):
        return {("encoder", index): "the teacher's encoder has voxels" for index in range(count)}
    differ = f"the encoder has {count} layer(s), the teacher's has {len(theirs.filters)}"
    same = count == len(theirs.filters)
    return {("encoder", index): ("encoder", index) if same else differ for index in range(count)}


def _sparse_pairs(
    ours: VoxelEncoderSpec, theirs: PillarEncoderSpec | VoxelEncoderSpec
) -> Iterator[tuple[Key, Key | str]]:
    reason = _stranger(ours, theirs)
    ends: tuple[Key, ...] = (("encoder", "input"), ("encoder", "out"))
    for end in ends:
        yield end, reason or end
    for stage, count in enumerate(ours.blocks):
        down: Key = ("encoder", stage, "down")
        if stage:
            yield down, reason or down
        for block in range(count):
            for index in range(2 if ours.block == "residual" else 1):
                key: Key = ("encoder", stage, block, index)
                yield key, reason or _block(ours, theirs, key)


def _stranger(ours: VoxelEncoderSpec, theirs: PillarEncoderSpec | VoxelEncoderSpec) -> str:
    """Why nothing of the teacher's encoder fits; empty where it may."""
    if not isinstance(theirs, VoxelEncoderSpec):
        return "the teacher's encoder has pillars"
    if len(ours.channels) != len(theirs.channels):
        return f"the encoder has {len(ours.channels)} stage(s), the teacher's has {len(theirs.channels)}"
    return ""


def _block(ours: VoxelEncoderSpec, theirs: PillarEncoderSpec | VoxelEncoderSpec, key: Key) -> Key | str:
    assert isinstance(theirs, VoxelEncoderSpec)
    _, stage, block, index = key
    assert isinstance(stage, int)
    assert isinstance(block, int)
    if ours.block != theirs.block:
        return f"its block is {ours.block}, the teacher's are {theirs.block}"
    of = theirs.blocks[stage]
    if not of:
        return "the teacher's stage has no blocks"
    return ("encoder", stage, nearest_position(block, ours.blocks[stage], of), index)


def encoder_groups(teacher: DetectorSpec, student: DetectorSpec) -> Mapping[Key, Key]:
    """For the teacher's sparse layers the group whose choice of channels they share; see ``channel_groups``."""
    ours, theirs = student.encoder, teacher.encoder
    if not isinstance(ours, VoxelEncoderSpec) or not isinstance(theirs, VoxelEncoderSpec) or _stranger(ours, theirs):
        return {}
    groups: dict[Key, Key] = {}
    last = 1 if theirs.block == "residual" else 0
    for stage, count in enumerate(theirs.blocks):
        same = ours.block == theirs.block and ours.blocks[stage] == count
        if same and theirs.block == "plain":
            continue
        group: Key = ("encoder", stage)
        if stage or theirs.input_channels == theirs.channels[0]:
            groups[("encoder", stage, "down") if stage else ("encoder", "input")] = group
        groups.update({("encoder", stage, block, last): group for block in range(count)})
    return groups
