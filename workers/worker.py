"""The worker: keeps one model on its device, measures shards of it, returns their states.

``ShardWorker`` is a plain class, used as it is when everything runs in one process; ``RemoteShardWorker`` is what one does
more in a Ray actor, the only place in this package that knows Ray.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from erasure_sweep.workers.corpora.resolve_corpus import load_tokens
from erasure_sweep.workers.measures.interventions.placebos import Draws, Placebos
from erasure_sweep.workers.measures.interventions.verified_prompt import draws_of
from erasure_sweep.workers.measures.stages import measure_shard
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.resolve_model import load_model
from erasure_sweep.workers.numerics import numerics_on
from erasure_sweep.workers.records import ShardResult, ShardTask, SharedStore, WorkerProcess
from erasure_sweep.workers.storage.shard_storage import Storage, StorageError, find_shared, state_key
from erasure_sweep.workers.storage.staged_arrays import load_array
from erasure_sweep.workers.storage.states import encode_states

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class ShardWorker:
    """Measures shards, one model in memory at a time.

    Args:
        threads: what torch may use of the CPU.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._held: tuple[tuple[str, str, str], LeanModel] | None = None
        self._drawn: tuple[tuple[Draws, str], Placebos] | None = None
        """Placebos of the model that is held, for as long as shards ask for them, and what they were drawn from."""
        self._fits: dict[tuple[str, str], int] = {}
        """Prompts in one forward pass for which memory sufficed where it did not for more, by model and stage."""

    def measure(self, task: ShardTask, contents: Mapping[str, bytes] = MappingProxyType({})) -> ShardResult:
        """Measure one shard.

        Args:
            task: which shard of which model.
            contents: of files that ``task`` names, by path, for a worker that cannot read them itself.
        """
        model = self._model(task, contents.get(task.weights))
        prompts = load_tokens(contents.get(task.tokens) or Path(task.tokens))
        means = load_array(Path(task.means), contents.get(task.means)) if task.means else None
        placebos = self._placebos(model, task, contents)
        kind = (task.model_hash, task.stage)
        batch = min(task.batch, self._fits.get(kind, task.batch))
        while True:
            try:
                states = measure_shard(model, task, prompts, batch, means, placebos)
                return ShardResult(task.id, encode_states(states, task.id), batch)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                if batch == 1:
                    raise
                batch //= 2
                self._fits[kind] = batch

    def _model(self, task: ShardTask, weights: bytes | None) -> LeanModel:
        key = (task.model_hash, task.device, task.dtype)
        if self._held is None or self._held[0] != key:
            self._held = self._drawn = None  # frees the model before the next one is loaded
            source = Path(task.weights) if weights is None else weights
            self._held = (key, load_model(source, task.device, DTYPES[task.dtype])[1])
        return self._held[1]

    def _placebos(self, model: LeanModel, task: ShardTask, contents: Mapping[str, bytes]) -> Placebos | None:
        """Those of the verified writers, drawn once for all shards: each draw decomposes a matrix, which takes seconds."""
        if task.covariance is None:
            self._drawn = None
            return None
        source = (draws_of(task), task.covariance)  # the path holds the hash of the content
        if self._drawn is None or self._drawn[0] != source:
            covariance = load_array(Path(task.covariance), contents.get(task.covariance))
            self._drawn = (source, Placebos(model, source[0], covariance))
        return self._drawn[1]


class RemoteShardWorker(ShardWorker):
    """A ``ShardWorker`` in a Ray actor: fetches what its node cannot read, and puts states into the store where it can.

    Args:
        threads: what torch may use of the CPU.
        device: kind of device that it measures on.
    """

    def __init__(self, threads: int, device: str = "cpu") -> None:
        super().__init__(threads)
        self._stores: dict[SharedStore, Storage | None] = {}
        has_gpu = torch.cuda.is_available()
        self._numerics = numerics_on(device) if device == "cpu" or has_gpu else None
        self._has_gpu = has_gpu

    def ping(self) -> WorkerProcess:
        """Answer: this worker is alive, where it is, and with which numerics it measures."""
        import ray

        return WorkerProcess(os.getpid(), ray.get_runtime_context().get_node_id(), self._has_gpu, self._numerics)

    def measure_remote(self, task: ShardTask, files: dict[str, Any], shared: SharedStore | None = None) -> ShardResult:
        """Measure a shard.

        Args:
            files: Ray references of files' contents, by path; empty where disks are shared.
            shared: the store, in which the state is put if it is the same that this process sees there.

        Returns:
            The state is left out where it was put into the store.
        """
        import ray

        missing = [path for path in task.files if not Path(path).exists()]
        if self._holds(task):
            missing = [path for path in missing if path != task.weights]
        result = self.measure(task, {path: ray.get(files[path]) for path in missing})
        return result._replace(state=None) if self._put(result, shared) else result

    def _put(self, result: ShardResult, shared: SharedStore | None) -> bool:
        """Whether the state is in the store. If it cannot be put from here, the driver puts it, or says why it cannot."""
        if shared is None or result.state is None:
            return False
        if shared not in self._stores:
            self._stores = {shared: find_shared(shared)}
        storage = self._stores[shared]
        if storage is None:
            return False
        try:
            storage.put(state_key(result.id), result.state)
        except StorageError as error:
            log.warning("shard %s goes to the driver: %s", result.id, error)
            return False
        return True

    def _holds(self, task: ShardTask) -> bool:
        return self._held is not None and self._held[0][0] == task.model_hash
