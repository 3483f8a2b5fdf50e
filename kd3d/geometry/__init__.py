"""Where things are: bird's-eye-view grids, boxes, their overlap, and suppression; numpy only, numba where installed."""
