"""Make an inheritance plan by following channels from the layer that writes them to the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kd3d.compress.inherit.layers import NORM_TENSORS, POINTS, Key, Layer, Piece, layers, point_channels
from kd3d.compress.inherit.match import channel_groups, match_layers
from kd3d.compress.inherit.plan import FRESH_INDEX, Entry, Fresh, Indices, InheritPlan, Pick, Resize
from kd3d.compress.inherit.rules import COPY, ChannelRule, find_rule
from kd3d.compress.inherit.scored import Writer, WriterRule
from kd3d.detectors.build import build
from kd3d.errors import CheckpointError
from kd3d.spec import DetectorSpec


def plan(
    teacher_spec: DetectorSpec,
    student_spec: DetectorSpec,
    rule: str | ChannelRule | WriterRule,
    teacher_weights: Mapping[str, Tensor],
) -> InheritPlan:
    """Say for every tensor of the student which part of which teacher tensor it takes.

    Widths: ``rule`` chooses output channels of each layer; consumers read the same channels, through normalisation,
    activation, the point/maximum pair of the pillar encoder, the sums of residual blocks, the height that a voxel
    encoder folds into channels, and the concatenation of the up branches. Depths: by nearest position in the level or
    sparse stage; extra student layers copy the nearest teacher layer, surplus ones are skipped. Cell and range are
    free. Point features and classes are matched by name.

    Args:
        teacher_spec: of the network that ``teacher_weights`` belong to.
        student_spec: of the network to fill.
        rule: ``first``, ``l1``, ``bn``, ``random``, ``copy``, or a rule of one's own; ``scored.taylor`` makes one.
        teacher_weights: state dict of the teacher; not changed.

    Raises:
        UsageError: an unknown rule.
        CheckpointError: ``teacher_weights`` lacks layers of ``teacher_spec``.
    """
    if rule == COPY:
        return copied(student_spec, teacher_weights)
    choose = find_rule(rule) if isinstance(rule, str) else rule
    name = rule if isinstance(rule, str) else getattr(rule, "__name__", repr(rule))
    flow = _DataFlow(teacher_spec, student_spec, choose, teacher_weights)
    return InheritPlan({tensor: entry for layer in layers(student_spec) for tensor, entry in flow.entries(layer)}, name)


def copied(student: DetectorSpec, teacher_weights: Mapping[str, Tensor]) -> InheritPlan:
    """Checkpoint to checkpoint: every tensor of the teacher with the same name and shape, as the released SparseKD
    loads its pillar students. A comparison arm: it knows nothing of the flow of data.
    """
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in build(student).state_dict().items()}
    entries: dict[str, Entry] = {}
    for name, shape in shapes.items():
        source = teacher_weights.get(name)
        if source is None:
            entries[name] = Fresh("the teacher has no tensor of this name")
        elif tuple(source.shape) != shape:
            entries[name] = Fresh("its shape is not that of the teacher's tensor of this name")
        else:
            entries[name] = Pick(name)
    return InheritPlan(entries, COPY)


class _DataFlow:
    def __init__(
        self,
        teacher: DetectorSpec,
        student: DetectorSpec,
        choose: ChannelRule | WriterRule,
        weights: Mapping[str, Tensor],
    ) -> None:
        self.teacher = {layer.key: layer for layer in layers(teacher)}
        missing = [layer.module for layer in self.teacher.values() if f"{layer.module}.weight" not in weights]
        if missing:
            raise CheckpointError(f"the teacher's weights lack {', '.join(missing)}: they are of another network.")
        self.weights = weights
        self.choose = choose
        self.match = match_layers(teacher, student)
        self.group = channel_groups(teacher, student)
        self.points = (point_channels(teacher), point_channels(student))
        self.chosen: dict[tuple[Key, int], Indices] = {}
        self.outputs = {layer.key: self._output(layer) for layer in layers(student)}

    def entries(self, layer: Layer) -> list[tuple[str, Entry]]:
        names = [f"{layer.module}.weight", *([f"{layer.module}.bias"] if layer.bias else [])]
        norms = [f"{layer.norm}.{name}" for name in (*NORM_TENSORS, "num_batches_tracked")] if layer.norm else []
        weight = self._weight(layer)
        if isinstance(weight, Fresh):
            return [(name, weight) for name in [*names, *norms]]
        other = self.teacher[self._partner(layer)]
        kept = self.outputs[layer.key]
        assert not isinstance(kept, str)  # else the weight is fresh
        note = weight.note if isinstance(weight, Pick) and FRESH_INDEX in kept else ""
        found: list[tuple[str, Entry]] = [(names[0], weight)]
        for name in names[1:]:
            bias = (
                Pick(f"{other.module}.bias", (kept,), note) if other.bias else Fresh("the teacher's layer has no bias")
            )
            found.append((name, bias))
        for name in norms:
            source = f"{other.norm}.{name.rsplit('.', 1)[1]}"
            found.append((name, Pick(source, () if name.endswith("num_batches_tracked") else (kept,))))
        return found

    def _partner(self, layer: Layer) -> Key:
        partner = self.match[layer.key]
        assert not isinstance(partner, str)
        return partner

    def _output(self, layer: Layer) -> Indices | str:
        """Teacher channels that ``layer`` stands for, or why it stands for none."""
        partner = self.match[layer.key]
        if isinstance(partner, str):
            return partner
        other = self.teacher[partner]
        if layer.outputs:
            return tuple(other.outputs.index(name) if name in other.outputs else FRESH_INDEX for name in layer.outputs)
        if layer.out > other.out:
            return f"student is wider ({layer.out} channels) than the teacher ({other.out})"
        return self._choice(partner, layer.out)

    def _choice(self, key: Key, keep: int) -> Indices:
        group = self.group.get(key, key)
        if (group, keep) not in self.chosen:
            members = [layer for layer in self.teacher.values() if self.group.get(layer.key, layer.key) == group]
            filters = [self.weights[f"{layer.module}.weight"] for layer in members]
            filters = [
                weight.transpose(0, 1) if layer.kind == "deconv" else weight
                for layer, weight in zip(members, filters, strict=True)
            ]
            if isinstance(self.choose, WriterRule):
                writers = [self._writer(layer) for layer in members]
                self.chosen[group, keep] = self.choose.kept(writers, len(filters[0]), keep)
            else:
                self.chosen[group, keep] = self.choose(filters, keep)
        return self.chosen[group, keep]

    def _writer(self, layer: Layer) -> Writer:
        return Writer(layer.norm, None if layer.norm is None else self.weights[f"{layer.norm}.weight"])

    def _weight(self, layer: Layer) -> Entry:
        kept = self.outputs[layer.key]
        if isinstance(kept, str):
            return Fresh(kept)
        other = self.teacher[self._partner(layer)]
        read = self._input(layer, other)
        if all(index == FRESH_INDEX for index in read):
            return Fresh(self._input_reason(layer))
        axes = (read, kept) if layer.kind == "deconv" else (kept, read)
        if layer.kind != other.kind:
            return Fresh(f"it is a {layer.kind}, the teacher's a {other.kind}: the up strides differ in kind")
        if layer.kernel != other.kernel:
            if layer.kind != "deconv":
                return Fresh(f"its kernel is {layer.kernel}, the teacher's {other.kernel}")
            return Resize(f"{other.module}.weight", axes, (layer.kernel, layer.kernel))
        return Pick(f"{other.module}.weight", axes, self._note(layer, other, kept, read))

    def _note(self, layer: Layer, other: Layer, kept: Indices, read: Indices) -> str:
        notes = []
        if FRESH_INDEX in kept:
            unknown = [name for name in layer.outputs if name not in other.outputs]
            notes.append(f"fresh rows: {', '.join(unknown)} not in the teacher's task")
        if FRESH_INDEX in read:
            notes.append(f"fresh columns: {self._input_reason(layer)}")
        return "; ".join(notes)

    def _input(self, layer: Layer, other: Layer) -> Indices:
        found: list[int] = []
        for piece in layer.pieces:
            if piece.source == POINTS:
                found += self._points()
            else:
                found += self._piece(piece, other)
        return tuple(found)

    def _points(self) -> Indices:
        theirs, ours = self.points
        return tuple(theirs.index(name) if name in theirs else FRESH_INDEX for name in ours)

    def _piece(self, piece: Piece, other: Layer) -> Indices:
        """Positions, in the input of teacher layer ``other``, of the channels that ``piece`` stands for."""
        kept = self.outputs[piece.source]
        if not isinstance(kept, str):
            wanted = self._group_of(piece)
            offset = 0
            for candidate in other.pieces:
                same = (candidate.role, candidate.depth) == (piece.role, piece.depth)
                if same and self.group.get(candidate.source, candidate.source) == wanted:
                    depth = piece.depth
                    return tuple(offset + index * depth + height for index in kept for height in range(depth))
                offset += candidate.width
        return (FRESH_INDEX,) * piece.width

    def _group_of(self, piece: Piece) -> Key:
        partner = self.match[piece.source]
        assert not isinstance(partner, str)
        return self.group.get(partner, partner)

    def _input_reason(self, layer: Layer) -> str:
        reasons = [kept for piece in layer.pieces if isinstance(kept := self.outputs.get(piece.source), str)]
        if reasons:
            return f"input: {reasons[0]}"
        if layer.pieces[0].source == POINTS:
            unknown = [name for name in self.points[1] if name not in self.points[0]]
            return f"the teacher does not read {', '.join(unknown)}"
        if any(piece.depth != 1 for piece in layer.pieces):
            return "the teacher folds another number of heights into channels"
        return "its input comes from another level than the teacher's"
