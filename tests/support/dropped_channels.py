"""Zeroes in a teacher what a student drops: then the student must answer as the teacher does."""

from kd3d.compress.inherit.layers import layers


def zero_what_is_dropped(spec, state, made, student_spec):
    """Set what ``made`` leaves out of ``state`` to 0; what layers without a bias or norm lack is left alone."""
    kept = {}
    for layer in layers(student_spec):
        entry = made.entries[f"{layer.module}.weight"]
        kept[entry.source.removesuffix(".weight")] = entry.indices[1 if layer.kind == "deconv" else 0]
    for layer in layers(spec):
        dropped = [channel for channel in range(layer.out) if channel not in kept[layer.module]]
        weight = state[f"{layer.module}.weight"]
        (weight.transpose(0, 1) if layer.kind == "deconv" else weight)[dropped] = 0
        for name in [f"{layer.module}.bias"] if layer.bias else []:
            state[name][dropped] = 0
        for name in ("weight", "bias", "running_mean") if layer.norm else ():
            state[f"{layer.norm}.{name}"][dropped] = 0
