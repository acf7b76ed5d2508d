"""The worker: keeps one model on its device, measures shards of it, returns their states.

``ShardWorker`` is a plain class, used as it is when everything runs in one process; ``remote_worker`` wraps it for Ray, the
only place in this package that knows Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workers.corpora import load_tokens
from workers.encoding import encode_states
from workers.errors import DataError
from workers.measures import SCAN
from workers.models import load_model
from workers.positions import measured_positions
from workers.products import ProductReader, PromptProducts
from workers.records import ShardResult, ShardTask
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
        block = prompts[task.first_prompt : task.first_prompt + task.n_prompts]
        if len(block) < task.n_prompts:
            raise DataError(f"{task.tokens} ends before prompt {task.first_prompt + task.n_prompts}")
        batch = task.batch
        while True:
            try:
                return ShardResult(
                    task.id, self._measure(task, model, torch.from_numpy(block.astype(np.int64)), batch), batch
                )
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                if batch == 1:
                    raise
                batch //= 2

    def _measure(self, task: ShardTask, model: LeanModel, block: torch.Tensor, batch: int) -> bytes:
        reader = ProductReader(model, task.writers, task.options)
        accumulators = {name: measure.start(reader) for name, measure in SCAN.items()}
        for start in range(0, len(block), batch):
            rows = block[start : start + batch].to(model.device)
            for products in self._read(task, reader, start, rows):
                for accumulator in accumulators.values():
                    accumulator.update(products)
                del products  # or it would stand beside the next ones
        return encode_states({name: accumulator.export() for name, accumulator in accumulators.items()})

    def _read(self, task: ShardTask, reader: ProductReader, start: int, rows: torch.Tensor) -> Iterator[PromptProducts]:
        """Products of a batch's prompts, one at a time; their trace goes with the batch."""
        positions = self._positions(task, reader.model, start, rows)
        trace = reader.model.trace(rows, positions, keep_resid=task.options.ln == "recompute")
        for prompt in range(len(rows)):
            yield reader.read(trace, prompt, task.first_prompt + start + prompt)

    @staticmethod
    def _positions(task: ShardTask, model: LeanModel, start: int, rows: torch.Tensor) -> torch.Tensor | None:
        if task.positions is None or task.positions >= rows.shape[1]:
            return None
        first = task.first_prompt + start
        chosen = measured_positions(task.options.seed, first, len(rows), rows.shape[1], task.positions)
        return torch.from_numpy(chosen).to(model.device)

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
