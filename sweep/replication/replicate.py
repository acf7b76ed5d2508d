"""The paper's protocol on gelu-4l, then every published number beside the measured one.

The run is the ``paper`` preset through both stages, with the published writer and its six published erasers as a named
group, what the scan's rule finds beside it, and the four published prompts. Its tables are then read and compared; the
report and the table of all comparisons are left in OUT. A directory can stand in for gelu-4l, to try it
without a network or on another model of at least its layers and heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from erasure_sweep.sweep.config import SweepConfig, load_config
from erasure_sweep.sweep.replication.matching import Results, as_table, compare
from erasure_sweep.sweep.replication.published_numbers import Published, published
from erasure_sweep.sweep.replication.report import Section, markdown, sections
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.run_folder import write_atomically
from erasure_sweep.workers.errors import SweepError, UsageError
from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.models.catalog import find_entry
from erasure_sweep.workers.models.checkpoints import names_several, split_point
from erasure_sweep.workers.models.sources import find_model_files
from erasure_sweep.workers.printed_commands import command
from erasure_sweep.workers.tables.sweep_folder import read_out

NAME = "replicate"
TABLE, REPORT = "replication.csv", "replication.md"
"""What is left in OUT beside what every run leaves."""


def replication_config(flags: Mapping[str, Any]) -> SweepConfig:
    """The paper's protocol with the published writer, erasers and prompts.

    Raises:
        UsageError: a wrong value, no such model, or one that lacks what was published.
    """
    numbers = published()
    spec = (flags.get("models") or [numbers.model])[0]
    model = _look_up(spec)
    _refuse_smaller(spec, model, numbers)
    texts = [prompt.text for prompt in numbers.prompts] if model.has_tokenizer else []
    fixed = {
        "name": NAME,
        "stage": "all",
        "writers": [numbers.writer],
        "erasers": "+".join(numbers.erasers),
        "adversarial_prompts": texts,
    }
    return load_config("paper", {**flags, **fixed})


class _ModelShape(NamedTuple):
    """What has to be known of a model before anything is measured."""

    n_layers: int
    n_heads: int
    attn_only: bool
    has_tokenizer: bool


def _look_up(spec: str) -> _ModelShape:
    """A model of the catalog, all of which have a tokenizer, or of a directory by its config.json."""
    if names_several(spec):
        raise UsageError(f"{spec} names several models: replicate measures one, such as {split_point(spec)[0]}@-1")
    entry = find_entry(split_point(spec)[0])
    if entry is not None:
        return _ModelShape(entry.config.n_layers, entry.config.n_heads, entry.config.attn_only, has_tokenizer=True)
    source = find_model_files(spec)
    layers, heads = (
        next((source.config[key] for key in keys if isinstance(source.config.get(key), int)), 0)
        for keys in (("n_layers", "n_layer"), ("n_heads", "n_head"))
    )
    return _ModelShape(layers, heads, bool(source.config.get("attn_only")), source.tokenizer is not None)


def _refuse_smaller(spec: str, model: _ModelShape, numbers: Published) -> None:
    """See that a model has every component and state of the published numbers."""
    writers = [label for label in numbers.residual_projection["writer"] if "H" in label]
    n_layers = 1 + max(map(layer_of, writers))
    n_heads = 1 + max(int(label.partition("H")[2]) for label in writers)
    found = None
    if model.n_layers < n_layers or model.n_heads < n_heads:
        found = f"{_counted(model.n_layers, 'layer')} of {_counted(model.n_heads, 'head')}"
    elif model.attn_only:
        found = "no MLPs"
    if found is not None:
        raise UsageError(
            f"{spec} has {found}; the published numbers ({numbers.writer}, {numbers.erasers[0]}, …) are of {n_layers} "
            f"layers with {n_heads} heads and an MLP each: measure it with `{command('run', '--model', spec)}`"
        )


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def write_report(config: SweepConfig) -> tuple[list[Section], Path]:
    """Compare a finished run with what was published and leave the report in OUT.

    Returns:
        The report's sections, and its path.

    Raises:
        SweepError: the tables cannot be read, or the report not written.
    """
    folder = Run.of(config).folder
    manifest = folder.read_manifest()
    model = next((m for m in read_out(folder.out) if m.about.spec == config.models[0]), None)
    if manifest is None or model is None:
        raise SweepError(f"{folder.out} holds no results of {config.models[0]}: run again with --fresh")
    results = Results(model.about.to_json(), manifest.config.to_json(), model.tables, published())
    comparisons = compare(results)
    table = folder.out / TABLE
    found = sections(results, comparisons, str(table))
    write_atomically(table, as_table(comparisons).to_csv(index=False).encode())
    write_atomically(folder.out / REPORT, markdown(found).encode())
    return found, folder.out / REPORT
