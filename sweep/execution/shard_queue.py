"""Which shard goes to which worker next, and what becomes of shards that fail: bookkeeping without clock or Ray."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from erasure_sweep.workers.records import ShardTask


class ShardQueue:
    """Shards that wait, by model, with their failed attempts. All of a model ask for the same share of a GPU.

    Args:
        attempts: how often one shard may fail before it is set aside.
    """

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._waiting: dict[str, deque[ShardTask]] = {}
        """No line is empty."""
        self._failures: Counter[str] = Counter()

    def add(self, tasks: Iterable[ShardTask]) -> None:
        """Put shards at the end of their models' lines."""
        for task in tasks:
            self._waiting.setdefault(task.model_hash, deque()).append(task)

    def __len__(self) -> int:
        return sum(len(tasks) for tasks in self._waiting.values())

    def waiting(self) -> Counter[float]:
        """How many shards wait, by the share of a GPU that they ask for."""
        found: Counter[float] = Counter()
        for tasks in self._waiting.values():
            found[tasks[0].gpus] += len(tasks)
        return found

    def take(self, held: str | None, holders: Counter[str], gpus: float | None = None) -> ShardTask | None:
        """The next shard for a worker: of the model it holds, else of the model with most shards for each worker on it.

        Args:
            held: hash of the model that the worker holds.
            holders: how many workers hold each model now.
            gpus: share of a GPU that the worker has; only shards that ask for the same are for it. ``None`` takes any.
        """
        waiting = {model: tasks for model, tasks in self._waiting.items() if gpus is None or tasks[0].gpus == gpus}
        if not waiting:
            return None
        model = held if held in waiting else max(waiting, key=lambda m: len(waiting[m]) / (1 + holders[m]))
        assert model is not None
        task = waiting[model].popleft()
        if not waiting[model]:
            del self._waiting[model]
        return task

    def put_back(self, task: ShardTask) -> None:
        """A shard that was lost goes first again, unless it was set aside since it was taken."""
        if self._failures[task.id] >= self._attempts:
            return
        self._waiting.setdefault(task.model_hash, deque()).appendleft(task)

    def fail(self, task: ShardTask, *, waiting: bool = False) -> bool:
        """Count a failure; the shard waits again, or is set aside after too many.

        Args:
            waiting: the shard is back in the queue already.

        Returns:
            Whether it was set aside.
        """
        self._failures[task.id] += 1
        if self._failures[task.id] < self._attempts:
            if not waiting:
                self.put_back(task)
            return False
        if left := deque(t for t in self._waiting.pop(task.model_hash, ()) if t.id != task.id):
            self._waiting[task.model_hash] = left
        return True
