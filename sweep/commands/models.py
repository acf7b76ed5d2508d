"""``erasure-sweep models``: list the models that have a name, and what each takes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import click

from erasure_sweep.sweep.commands.options import staging_option

if TYPE_CHECKING:
    from rich.table import Table

    from erasure_sweep.sweep.config import SweepConfig
    from erasure_sweep.sweep.terminal.printed_table import Kind
    from erasure_sweep.workers.models.named_models import ModelEntry


@click.command()
@click.option("--check", is_flag=True, help="Ask the Hugging Face hub for each of its models.")
@click.option("--seq-len", type=int, metavar="N", help="Tokens of each prompt, for the memory of a scan.")
@staging_option
def models(check: bool, seq_len: int | None, staging: str | None) -> None:
    """List the models that have a name here."""
    from erasure_sweep.sweep.config import load_config
    from erasure_sweep.sweep.terminal.printing import console, print_line

    config = load_config("demo", {"seq_len": seq_len, "staging": staging})
    listed = list_models(config, check)
    console.print(_models_table(listed, check))
    for refusal in dict.fromkeys(model.refusal for model in listed if model.refusal):
        print_line(refusal)
    console.print(
        f"Memory: of one worker at {config.seq_len} tokens a prompt. Checkpoints: --model NAME@TOKENS, NAME@INDEX, NAME@all, "
        "NAME@log:8; of others --model NAME@REVISION. Any other repository or folder of a family that is read works as well: "
        "--model OWNER/NAME|DIR (docs/models.md has the families)",
        highlight=False,
        markup=False,
    )


class ListedModel(NamedTuple):
    """A model that has a name here, and what it takes."""

    entry: ModelEntry
    staged: bool
    memory_bytes: float
    """Of a worker that scans it with the config's prompts."""
    download: str
    """Its size; empty where the hub was not asked, or would not give it."""
    refusal: str
    """Why it cannot be downloaded; empty where it can."""


def list_models(config: SweepConfig, check: bool) -> list[ListedModel]:
    """Every model that has a name, bundled ones first.

    Args:
        config: the prompts that the memory is for, and where models are staged.
        check: ask the hub for each of its models.
    """
    from erasure_sweep.sweep.estimate import worker_memory
    from erasure_sweep.sweep.helper.process import HelperProcess
    from erasure_sweep.sweep.helper.tasks import count_sketches
    from erasure_sweep.sweep.run import staging_folder
    from erasure_sweep.workers.models.catalog import model_entries
    from erasure_sweep.workers.models.known_names import is_staged

    entries, folder = model_entries(), staging_folder(config.staging)
    with closing(HelperProcess()) as background:
        counts = [background.submit(count_sketches, entry.config.layout) for entry in entries]
        downloads = _ask_hub(entries) if check else {}
        listed = []
        for entry, count in zip(entries, counts, strict=True):
            seq_len = min(config.seq_len, entry.config.n_ctx)
            memory = worker_memory(config, count.result(), entry.weights_bytes, seq_len, entry.config.to_json())
            listed.append(
                ListedModel(entry, is_staged(entry.name, folder), memory, *downloads.get(entry.name, ("", "")))
            )
    return listed


def _ask_hub(entries: Iterable[ModelEntry]) -> dict[str, tuple[str, str]]:
    """Of each of the hub's models, what a download takes, or why there is none; a hub that does not answer takes its time."""
    from erasure_sweep.workers.hub.files import quiet_hub

    on_hub = [entry for entry in entries if entry.kind == "hub"]
    # quiet_hub around all: what each request restores on its own is what another one set
    with quiet_hub(), ThreadPoolExecutor(max_workers=len(on_hub)) as threads:
        return dict(zip((entry.name for entry in on_hub), threads.map(_download, on_hub), strict=True))


def _download(entry: ModelEntry) -> tuple[str, str]:
    """The size of a model's weights on the hub, or else why they cannot be had."""
    from erasure_sweep.workers.errors import DataError
    from erasure_sweep.workers.hub.files import check_hub

    try:
        return f"{check_hub(entry.location, entry.weights_file) / 1e6:,.0f} MB", ""
    except DataError as error:
        reason = str(error).partition(": ")[0]  # behind it stands what to do
        return "", re.sub(r" for \S+ of \S+", "", reason)  # a hub out of reach is so for all models


def _models_table(listed: list[ListedModel], check: bool) -> Table:
    from erasure_sweep.sweep.terminal.printed_table import printed_table

    columns: dict[str, Kind] = {
        "name": "text",
        "from": "text",
        "layers": "number",
        "heads": "number",
        "width": "number",
    }
    columns |= {"checkpoints": "text", "weights": "number", "memory of a scan": "number", "staged": "text"}
    table = printed_table("Models that have a name", columns | ({"to download": "number"} if check else {}))
    for model in listed:
        entry = model.entry
        kept = str(entry.n_checkpoints) if entry.n_checkpoints else "–"
        table.add_row(
            *(entry.name, entry.kind),
            *map(str, (entry.config.n_layers, entry.config.n_heads, entry.config.d_model)),
            "on the hub" if entry.checkpoints_on_hub else kept,
            f"{entry.weights_bytes / 1e6:,.0f} MB",
            f"{model.memory_bytes / 2**30:.1f} GiB",
            "yes" if model.staged else "no",
            *((model.download or "–",) if check else ()),
        )
    return table
