"""What there is to measure: the models that have a name, and what of a sweep is staged on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.estimate import worker_memory
from erasure_sweep.sweep.execution.helper_process import Background
from erasure_sweep.sweep.helper_tasks import count_sketches
from erasure_sweep.sweep.progress import Reporter
from erasure_sweep.sweep.run import Run, staging_folder
from erasure_sweep.sweep.staging import Staging
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.hub.files import check_hub, quiet_hub
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.models.catalog import ModelEntry, model_entries
from erasure_sweep.workers.models.known_names import is_staged
from erasure_sweep.workers.records import Resolved


class Listed(NamedTuple):
    """A model that has a name here, and what it takes."""

    entry: ModelEntry
    staged: bool
    memory_bytes: float
    """Of a worker that scans it with the config's prompts."""
    hub: str
    """What a download would take; empty where the hub was not asked, or would not give it."""
    refusal: str
    """Why it cannot be downloaded; empty where it can."""


def list_models(config: SweepConfig, check: bool) -> list[Listed]:
    """Every model that has a name, bundled ones first.

    Args:
        config: the prompts that the memory is for, and where models are staged.
        check: ask the hub for each of its models.
    """
    entries, folder = model_entries(), staging_folder(config.staging)
    with closing(Background()) as background:
        counts = [background.submit(count_sketches, _layout(entry)) for entry in entries]
        hub = _ask(entries) if check else {}
        unasked = ("", "")
        return [
            Listed(
                entry,
                is_staged(entry.name, folder),
                worker_memory(
                    config, count.result(), entry.weights_bytes, min(config.seq_len, entry.n_ctx), entry._asdict()
                ),
                *hub.get(entry.name, unasked),
            )
            for entry, count in zip(entries, counts, strict=True)
        ]


def _layout(entry: ModelEntry) -> Layout:
    return Layout(entry.n_layers, entry.n_heads, entry.attn_only)


def _ask(entries: Iterable[ModelEntry]) -> dict[str, tuple[str, str]]:
    """Of each of the hub's models, what a download takes, or why there is none; a hub that does not answer takes its time."""
    asked = [entry for entry in entries if entry.kind == "hub"]
    # quiet_hub around all: what each request restores on its own is what another one set
    with quiet_hub(), ThreadPoolExecutor(max_workers=len(asked)) as threads:
        return {entry.name: said for entry, said in zip(asked, threads.map(_said_by_hub, asked), strict=True)}


def _said_by_hub(entry: ModelEntry) -> tuple[str, str]:
    try:
        return f"{check_hub(entry.location, entry.weights_file) / 1e6:,.0f} MB", ""
    except DataError as error:
        reason = str(error).partition(": ")[0]  # behind it stands what to do
        return "", re.sub(r" for \S+ of \S+", "", reason)  # a hub out of reach is so for all models


class Staged(NamedTuple):
    """What ``fetch`` left on this machine."""

    folder: Path
    models: list[Resolved]


def fetch(config: SweepConfig, reporter: Reporter, refresh: bool) -> Staged:
    """Put everything that a sweep needs into the staging folder: weights, tokenizers, token arrays.

    Args:
        refresh: ask the hub for what is staged as well, and replace what changed there.

    Raises:
        SweepError: something cannot be had or does not fit.
    """
    run = Run.of(config)
    with closing(Background()) as background:
        models = Staging(run, background, refresh).finish(reporter)
    return Staged(run.staging, models)
