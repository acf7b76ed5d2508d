"""The worker: keeps one model on its device, measures shards of it, returns their states.

``ShardWorker`` is a plain class, used as it is when everything runs in one process; ``remote_worker`` wraps it for Ray, the
only place in this package that knows Ray.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from workers.corpora import load_tokens
from workers.encoding import encode_states
from workers.models import load_model
from workers.records import ShardResult, ShardTask
from workers.stages import STAGES
from workers.trace import LeanModel

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ShardWorker:
    """Measures shards, one model in memory at a time.

    Args:
        threads: what torch may use of the CPU.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._held: tuple[tuple[str, str, str], LeanModel] | None = None

    def ping(self) -> int:
        """Answer with the process id: the worker is alive."""
        return os.getpid()

    def measure(self, task: ShardTask, weights: bytes | None = None, tokens: bytes | None = None) -> ShardResult:
        """Measure one shard.

        Args:
            task: which shard of which model.
            weights, tokens: contents of the files that ``task`` names, for a worker that cannot read them itself.
        """
        model = self._model(task, weights)
        prompts = load_tokens(Path(task.tokens) if tokens is None else tokens)
        batch = task.batch
        while True:
            try:
                return ShardResult(task.id, encode_states(STAGES[task.stage](model, task, prompts, batch)), batch)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                if batch == 1:
                    raise
                batch //= 2

    def _model(self, task: ShardTask, weights: bytes | None) -> LeanModel:
        key = (task.model_hash, task.device, task.dtype)
        if self._held is None or self._held[0] != key:
            self._held = None  # frees the model before the next one is loaded
            source = Path(task.weights) if weights is None else weights
            self._held = (key, load_model(source, task.device, DTYPES[task.dtype])[1])
        return self._held[1]


class RemoteShardWorker(ShardWorker):
    """A ``ShardWorker`` in a Ray actor: fetches from the object store what its node cannot read."""

    def measure_remote(self, task: ShardTask, files: dict[str, Any]) -> ShardResult:
        """Measure a shard; ``files`` maps paths to Ray references of their contents, empty where disks are shared."""
        import ray

        weights = None if self._holds(task) or Path(task.weights).exists() else ray.get(files[task.weights])
        tokens = None if Path(task.tokens).exists() else ray.get(files[task.tokens])
        return self.measure(task, weights, tokens)

    def _holds(self, task: ShardTask) -> bool:
        return self._held is not None and self._held[0][0] == task.model_hash


def remote_worker() -> Any:
    """The Ray actor class. The driver owns attempts, so Ray restarts workers but repeats no shard by itself."""
    import ray

    return ray.remote(max_restarts=-1, max_task_retries=0)(RemoteShardWorker)
