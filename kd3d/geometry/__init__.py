"""Where things are: bird's-eye-view grids, boxes, their overlap, and suppression. numpy only, unless named ``torch_``."""
