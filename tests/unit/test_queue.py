"""The queue: affinity to held models, and attempts that end."""

from __future__ import annotations

from collections import Counter

from sweep.queue import ShardQueue
from workers.records import ScanOptions, ScanWork, ShardTask, WriterBlock

WORK = ScanWork(WriterBlock(0, 1), ScanOptions())


def task(model: str, number: int) -> ShardTask:
    return ShardTask(f"{model}{number}", "scan", model, "w", "t", number, 1, None, 0, WORK, 1, "cpu", "float32")


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
