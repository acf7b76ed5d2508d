"""The queue: affinity to held models, and attempts that end."""

from __future__ import annotations

from collections import Counter

from erasure_sweep.sweep.execution.shard_queue import ShardQueue
from erasure_sweep.workers.records import ScanOptions, ScanWork, ShardTask, WriterBlock

WORK = ScanWork(WriterBlock(0, 1), ScanOptions())


def task(model: str, number: int, gpus: float = 0.0) -> ShardTask:
    return ShardTask(f"{model}{number}", "scan", model, "w", "t", number, 1, None, 0, WORK, 1, "cpu", "float32", gpus)


def queue(**sizes: int) -> ShardQueue:
    made = ShardQueue(attempts=3)
    for model, size in sizes.items():
        made.add(task(model, i) for i in range(size))
    return made


def test_a_worker_keeps_its_model_while_there_is_work_on_it() -> None:
    shards = queue(a=2, b=9)
    assert [shards.take("a", Counter(a=1)).id for _ in range(2)] == ["a0", "a1"]
    assert shards.take("a", Counter(a=1)).model_hash == "b"


def test_free_workers_go_where_most_shards_wait_for_each_worker() -> None:
    shards = queue(a=4, b=6)
    assert shards.take(None, Counter()).model_hash == "b"
    assert shards.take(None, Counter(b=2)).model_hash == "a"


def shares() -> ShardQueue:
    """Two models that ask for a quarter of a GPU, and one for a whole."""
    made = ShardQueue(attempts=3)
    for model, size, gpus in (("small", 3, 0.25), ("other", 2, 0.25), ("big", 9, 1.0)):
        made.add(task(model, i, gpus) for i in range(size))
    return made


def test_a_worker_gets_shards_of_its_share_alone() -> None:
    shards = shares()
    taken = [found.id for _ in range(6) if (found := shards.take(None, Counter(), 0.25))]
    assert sorted(taken) == ["other0", "other1", "small0", "small1", "small2"]
    assert shards.take("big", Counter(), 0.25) is None
    assert shards.take("small", Counter(), 1.0).id == "big0"
    assert shards.take("big", Counter(), 0.5) is None
    assert shards.take("small", Counter(), None).id == "big1"


def test_what_waits_is_counted_by_share() -> None:
    shards = shares()
    assert shards.waiting() == {0.25: 5, 1.0: 9}
    for _ in range(5):
        shards.take(None, Counter(), 0.25)
    assert dict(shards.waiting()) == {1.0: 9}
    assert queue(a=2, b=9).waiting() == {0.0: 11}


def test_an_empty_queue_gives_nothing() -> None:
    shards = queue(a=1)
    assert shards.take(None, Counter()) is not None
    assert shards.take(None, Counter()) is None
    assert len(shards) == 0


def test_a_shard_is_set_aside_after_its_attempts() -> None:
    shards = queue(a=2)
    first = shards.take(None, Counter())
    assert not shards.fail(first)
    assert shards.take(None, Counter()) == first
    assert not shards.fail(first)
    assert shards.take(None, Counter()) == first
    assert shards.fail(first)
    assert shards.take(None, Counter()).id == "a1"
    assert len(shards) == 0


def test_a_lost_shard_goes_first_and_is_not_charged() -> None:
    shards = queue(a=3)
    first = shards.take(None, Counter())
    for _ in range(5):
        shards.put_back(first)
        assert shards.take(None, Counter()) == first


def test_a_shard_that_crashes_workers_leaves_the_queue_it_was_put_back_into() -> None:
    shards = queue(a=1)
    poison = shards.take(None, Counter())
    for crash in range(3):
        shards.put_back(poison)
        assert len(shards) == 1
        assert shards.fail(poison, waiting=True) == (crash == 2)
        if crash < 2:
            assert shards.take(None, Counter()) == poison
    assert len(shards) == 0


def test_a_shard_that_was_set_aside_while_it_was_out_does_not_come_back() -> None:
    """Another worker had taken it before the crash of the one before was known to be its fault."""
    shards = queue(a=2)
    poison = shards.take(None, Counter())
    assert [shards.fail(poison, waiting=True) for _ in range(3)] == [False, False, True]
    shards.put_back(poison)
    assert shards.take(None, Counter()).id == "a1"
    assert len(shards) == 0
