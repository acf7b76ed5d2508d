"""What a cluster has room for: by node and by GPU, never by sums."""

from __future__ import annotations

import pytest

from erasure_sweep.sweep.execution.ray.packing import Node, Packing


def nodes(*sizes: tuple[float, float]) -> tuple[Node, ...]:
    return tuple(Node(f"n{i}", f"host{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(sizes))


@pytest.mark.parametrize(
    ("sizes", "cpus", "share", "room"),
    [
        ([(8, 1)], 1, 0.25, 4),
        ([(2, 1)], 1, 0.25, 2),
        ([(8, 2)], 1, 0.4, 4),
        ([(8, 1)], 1, 1.0, 1),
        ([(8, 3), (8, 1)], 2, 1.0, 4),
        ([(8, 3), (1, 1)], 2, 1.0, 3),
        ([(8, 0), (3, 0)], 2, 0.0, 5),
        ([(0, 2)], 1, 0.5, 0),
        ([], 1, 0.0, 0),
        ([(16, 10)], 1, 0.1, 16),
    ],
)
def test_room_is_what_single_machines_and_single_gpus_have(sizes, cpus, share, room):
    assert Packing(nodes(*sizes), cpus).room(share) == room


def test_quarters_fill_a_gpu_before_they_begin_another():
    packing = Packing(nodes((8, 2)), 1)
    assert all(packing.put(0.25) for _ in range(4))
    assert packing.room(1.0) == 1
    assert packing.put(0.25)
    assert (packing.room(1.0), packing.room(0.5), packing.room(0.25)) == (0, 1, 3)


def test_two_halves_on_two_machines_are_no_whole_gpu():
    packing = Packing(nodes((8, 1), (8, 1)), 1)
    assert packing.put(0.5, "n0") and packing.put(0.5, "n1")
    assert packing.room(0.5) == 2
    assert packing.room(1.0) == 0 and not packing.put(1.0)


def test_a_worker_of_a_node_that_left_needs_another():
    packing = Packing(nodes((1, 0), (1, 0)), 1)
    assert packing.put(0.0, "n0") and packing.put(0.0, "gone")
    assert not packing.put(0.0, "gone")
    assert packing.room(0.0) == 0
