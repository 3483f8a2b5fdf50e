"""Places of layers among others of another number."""

from __future__ import annotations


def nearest_position(index: int, count: int, of: int) -> int:
    """Position among ``of`` equally spaced places that lies nearest to place ``index`` of ``count``; ends map to ends.

    >>> [nearest_position(i, 3, 5) for i in range(3)]
    [0, 2, 4]
    """
    if of <= 1 or count <= 1:
        return max(0, of - 1) // 2
    # Whole numbers, halves rounded up: the same answer on every machine.
    return (2 * index * (of - 1) + count - 1) // (2 * (count - 1))
