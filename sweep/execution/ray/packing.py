"""What a cluster has room for: workers that ask for cores and for a share of a GPU, laid out on its nodes.

A sum over the cluster would not do: two halves of a GPU on two machines are no whole one. Pure arithmetic, in ten-thousandths
of a GPU, which is what Ray counts in.
"""

from __future__ import annotations

from typing import NamedTuple

UNIT = 10_000


class Node(NamedTuple):
    """A machine of the cluster that is alive."""

    id: str
    host: str
    cpus: float
    gpus: float


class _Free:
    """What of a node is not given out."""

    def __init__(self, node: Node, cpus: int) -> None:
        self._cpus = cpus
        self.workers = int(node.cpus // cpus)
        """For how many more its cores suffice."""
        self.gpus = [UNIT] * int(node.gpus)

    def put(self, asked: int) -> bool:
        """Whether there is room for a worker, which takes it: on the first GPU, so that others stay whole."""
        gpu = next((i for i, free in enumerate(self.gpus) if free >= asked), None)
        if self.workers < 1 or (asked and gpu is None):
            return False
        self.workers -= 1
        if asked and gpu is not None:
            self.gpus[gpu] -= asked
        return True

    def room(self, asked: int) -> int:
        """How many more workers fit."""
        return min(self.workers, sum(free // asked for free in self.gpus)) if asked else self.workers


class Packing:
    """Workers on nodes.

    Args:
        nodes: those that are alive.
        cpus: cores that every worker asks for.
    """

    def __init__(self, nodes: tuple[Node, ...], cpus: int) -> None:
        self._free = {node.id: _Free(node, cpus) for node in nodes}

    def put(self, share: float, node: str | None = None) -> bool:
        """Take the room of a worker, if there is any.

        Args:
            share: of a GPU.
            node: where it is; where it is not there any more, or not placed yet, any node will do.
        """
        asked = round(share * UNIT)
        if node in self._free:
            return self._free[node].put(asked)
        return any(free.put(asked) for free in self._free.values())

    def room(self, share: float) -> int:
        """How many more workers of this share fit."""
        return sum(max(0, free.room(round(share * UNIT))) for free in self._free.values())
