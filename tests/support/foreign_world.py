"""kd3d's weights under OpenPCDet's names, so that a trained detector can be imported again."""

import re
from collections import OrderedDict

import foreign

PLACES = [
    (r"encoder\.layers\.(\d+)\.(.*)", r"vfe.pfn_layers.\1.\2"),
    (r"backbone\.ups\.(\d+)\.conv\.(.*)", r"backbone_2d.deblocks.\1.0.\2"),
    (r"backbone\.ups\.(\d+)\.norm\.(.*)", r"backbone_2d.deblocks.\1.1.\2"),
    (r"head\.shared\.conv\.(.*)", r"dense_head.shared_conv.0.\1"),
    (r"head\.shared\.norm\.(.*)", r"dense_head.shared_conv.1.\1"),
    (r"head\.tasks\.(\d+)\.(\w+)\.hidden\.conv\.(.*)", r"dense_head.heads_list.\1.\2.0.0.\3"),
    (r"head\.tasks\.(\d+)\.(\w+)\.hidden\.norm\.(.*)", r"dense_head.heads_list.\1.\2.0.1.\3"),
    (r"head\.tasks\.(\d+)\.(\w+)\.out\.(.*)", r"dense_head.heads_list.\1.\2.1.\3"),
]


def their_name(name):
    """OpenPCDet's name of a tensor of kd3d's CenterPoint-Pillar; a padding leads each of its levels."""
    level = re.fullmatch(r"backbone\.levels\.(\d+)\.(\d+)\.(conv|norm)\.(.*)", name)
    if level:
        place = 3 * int(level[2]) + 1 + (level[3] == "norm")
        return f"backbone_2d.blocks.{level[1]}.{place}.{level[4]}"
    return next(re.sub(pattern, to, name) for pattern, to in PLACES if re.fullmatch(pattern, name))


def write_openpcdet(path, module):
    """The weights of ``module`` in OpenPCDet's container: rot is (cos, sin) there."""
    state = OrderedDict()
    for name, tensor in module.state_dict().items():
        turned = re.search(r"\.rot\.out\.(weight|bias)$", name)
        state[their_name(name)] = tensor.flip(0) if turned else tensor.clone()
    return foreign.write(path, "openpcdet", state)
