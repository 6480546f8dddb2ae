"""Numbers at the leaves of a binary tree of sums: draw in proportion to them, and change some, in logarithmic time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]
Slots = NDArray[np.int64]

FEW = 12
"""Leaves from which on it takes less time to set them together than one after the other."""


def tree_bytes(num_leaves: int) -> int:
    """Return the bytes of memory that a :class:`SumTree` of so many leaves takes: 16 to 32 for each."""
    return 8 * (2 << _depth(num_leaves))


def _depth(num_leaves: int) -> int:
    return max(num_leaves - 1, 0).bit_length()


class SumTree:
    """Weights that are drawn from in proportion to their size.

    The leaves have float32 values. Every inner node is the float64 sum of its two children, computed anew whenever one
    of them changes: a node depends on the leaves below it alone, not on the order in which they were set, so that a
    tree made from the leaves of another equals it bit for bit.

    Args:
        num_leaves: Number of weights, at least 1; all are 0 at first.
    """

    def __init__(self, num_leaves: int) -> None:
        self.num_leaves = num_leaves
        self._depth = _depth(num_leaves)
        # Node i has the children 2i and 2i + 1; node 1 is the root, and the leaves follow one another at the end.
        self._nodes = np.zeros(2 << self._depth, np.float64)
        self._first = 1 << self._depth

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._nodes[1])

    @property
    def leaves(self) -> NDArray[np.float32]:
        """float32 [num_leaves], a copy of the weights."""
        return self._nodes[self._first : self._first + self.num_leaves].astype(np.float32)

    def __getitem__(self, slots: Slots) -> NDArray[np.float64]:
        """Return the weights of these leaves, as float64 of the same shape; they are float32 values."""
        return self._nodes[self._first + slots]

    def set(self, slots: Slots, weights: Floats) -> None:
        """Change some weights.

        Args:
            slots: int64 [K], which; of one that is there several times, the last counts.
            weights: [K], finite and at least 0; rounded to float32.
        """
        nodes = self._nodes
        node = slots + self._first
        nodes[node] = np.asarray(weights, np.float32)
        if len(slots) < FEW:  # the same sums: a call of numpy costs as much as several of Python's
            for one in node.tolist():
                while one > 1:
                    one >>= 1
                    nodes[one] = nodes[2 * one] + nodes[2 * one + 1]
            return
        for _ in range(self._depth):
            node = node >> 1
            left = node << 1
            nodes[node] = nodes[left] + nodes[left + 1]

    def rebuild(self, leaves: Floats) -> None:
        """Change all weights, [num_leaves], as of :meth:`set`. Time linear in their number."""
        nodes, end = self._nodes, 2 * self._first
        nodes[self._first : self._first + self.num_leaves] = np.asarray(leaves, np.float32)
        for _ in range(self._depth):
            first = end // 4
            np.add(nodes[2 * first : end : 2], nodes[2 * first + 1 : end : 2], out=nodes[first : 2 * first])
            end = 2 * first

    def find(self, masses: NDArray[np.float64]) -> Slots:
        """Return the leaves in which these masses fall, when all weights are laid end to end.

        Args:
            masses: float64 [K], in [0, total]; the total itself falls in the last leaf with a weight.

        Returns:
            int64 [K]; never a leaf of weight 0, unless all are.
        """
        nodes, rest = self._nodes, masses.copy()
        node = np.ones(len(masses), np.int64)
        for _ in range(self._depth):
            node = node << 1
            left = nodes[node]
            # Sums are rounded, so that what is left of a mass can exceed the left child where nothing is on the right.
            right = (rest >= left) & (nodes[node + 1] > 0)
            rest -= np.where(right, left, 0.0)
            node += right
        return node - self._first

    def draw(self, uniform: NDArray[np.float64]) -> Slots:
        """Draw one leaf of each of K equal parts of the total (stratified sampling).

        That is Schaul et al. 2016 (arXiv 1511.05952), section 3.3 and appendix B.2.1, and Dopamine; DQN Zoo draws
        independently. Each leaf is drawn in proportion to its weight in either case.

        Args:
            uniform: float64 [K], in [0, 1), independent: where in its part each draw falls.

        Returns:
            int64 [K], in ascending order.
        """
        return self.find((np.arange(len(uniform)) + uniform) * (self.total / len(uniform)))
