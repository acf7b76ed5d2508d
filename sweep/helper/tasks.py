"""What the helper process is asked to do: a function for each task, which takes one record.

Only that process may import torch, pandas and the pages, so each function imports what it needs where it runs. The records
and the functions themselves are light: the driver names them, and the type checker sees both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.sweep.store.shards import BlockKeys, VerifyKeys
from erasure_sweep.workers.corpora.sampling import CorpusRequest
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.measures.cost import Cost, ShardSize, total
from erasure_sweep.workers.records import (
    ChosenTargets,
    Group,
    NullErasers,
    Nulls,
    Numerics,
    Place,
    Resolved,
    ScanOptions,
    StagedArray,
    Target,
    Thresholds,
    TrustThresholds,
    VerifyRequest,
)


class ModelRequest(NamedTuple):
    """A model to be staged with what it reads; fields as ``workers.resolve.resolve`` takes them."""

    spec: str
    corpus: CorpusRequest
    staging: Path
    groups: tuple[Group, ...]
    writers: tuple[str, ...]
    verify: VerifyRequest | None
    own_corpora: Mapping[str, str]
    refresh: bool
    halved: bool


def resolve_model(request: ModelRequest) -> Resolved:
    """Stage one model and its corpus."""
    from erasure_sweep.workers.resolve import resolve

    return resolve(
        request.spec,
        request.corpus,
        str(request.staging),
        request.groups,
        request.writers,
        request.verify,
        request.own_corpora,
        request.refresh,
        request.halved,
    )


class CheckpointsRequest(NamedTuple):
    """A spec that stands for several checkpoints; fields as ``workers.models.checkpoints.expand`` takes them."""

    spec: str
    staging: Path
    refresh: bool


def list_checkpoints(request: CheckpointsRequest) -> tuple[str, ...]:
    """The single models that a spec stands for, in the order of training."""
    from erasure_sweep.workers.models.checkpoints import expand

    return expand(request.spec, str(request.staging), request.refresh)


def count_sketches(layout: Layout) -> tuple[int, ...]:
    """How many sketches a scan with the usual options keeps of each writer."""
    from erasure_sweep.workers.measures.registry import count_sketches

    return count_sketches(layout, ScanOptions())


def total_costs(models: Sequence[Sequence[tuple[str, ShardSize, int]]]) -> list[Cost]:
    """What the shards of each model take together, given by stage and size, and how many are alike."""
    from erasure_sweep.workers.measures.registry import shard_cost

    return [total(shard_cost(stage, size).times(n) for stage, size, n in shards) for shards in models]


def has_gpu() -> bool:
    """Whether torch can use a GPU on this machine."""
    from erasure_sweep.workers.resolve import has_gpu

    return has_gpu()


def own_numerics(device: str) -> Numerics:
    """With which numerics this machine measures on a kind of device."""
    from erasure_sweep.workers.numerics import numerics_on

    return numerics_on(device)


class MeansMerge(NamedTuple):
    """Finished shards of a model that hold means, of terms or of products, to be staged for the stages behind."""

    weights: str
    """Path of the model's own, beside which the means are staged."""
    store: str
    """Location of the finished shards."""
    keys: list[str]


def stage_means(request: MeansMerge) -> StagedArray:
    """Merge the means of a model's terms over its scan, of which every block of writers holds all, and stage them."""
    from erasure_sweep.sweep.finishing import finish_model

    return finish_model.stage_means(request)


class NamedTargets(NamedTuple):
    """What the user named to be verified."""

    writers: tuple[str, ...]
    groups: tuple[Group, ...]
    top: int
    """How many writers of each family to take where none is named."""


class ScanMerge(NamedTuple):
    """The finished scan of a model."""

    model: Resolved
    store: str
    """Location of the finished shards."""
    blocks: BlockKeys
    paths: BlockKeys
    """Of the shards that followed all attention paths."""
    options: ScanOptions
    thresholds: Thresholds
    named: NamedTargets
    tables: Path
    """Folder that the tables are written into."""


def finish_scan(request: ScanMerge) -> ChosenTargets:
    """Merge a model's scan, write its tables, and say what to verify."""
    from erasure_sweep.sweep.finishing import finish_model

    return finish_model.finish_scan(request)


def stage_covariance(request: MeansMerge) -> StagedArray:
    """Merge how the stream varies where the verified writers write, and stage it for the stages behind."""
    from erasure_sweep.sweep.finishing import finish_model

    return finish_model.stage_covariance(request)


class NullMerge(NamedTuple):
    """The finished shards of a model's stage ``placebo``."""

    layout: Layout
    store: str
    """Location of the finished shards."""
    keys: list[str]
    targets: tuple[Target, ...]
    draws: int


def find_null_erasers(request: NullMerge) -> tuple[NullErasers, ...]:
    """Who takes out what stands in the verified writers' places."""
    from erasure_sweep.sweep.finishing import finish_model

    return finish_model.find_null_erasers(request)


class PlaceSearch(NamedTuple):
    """The finished shards of the substage ``group`` of a model."""

    store: str
    """Location of the finished shards."""
    keys: list[str]
    targets: tuple[Target, ...]
    n_places: int
    """How many to find for each writer."""
    seed: int
    """Of the halves of the prompts on which they are found and shown."""


def find_places(request: PlaceSearch) -> tuple[Place, ...]:
    """Where the verified writers have their highest attributions."""
    from erasure_sweep.sweep.finishing import finish_model

    return finish_model.find_places(request)


class VerifyMerge(NamedTuple):
    """The finished shards of all of verify's substages of a model."""

    model: Resolved
    store: str
    """Location of the finished shards."""
    shards: VerifyKeys
    targets: tuple[Target, ...]
    nulls: Nulls | None
    """Of the targets, where there are any."""
    places: tuple[Place, ...]
    """All that were tested."""
    tau: float
    trust: TrustThresholds
    tables: Path
    """Folder that the tables are written into."""


def finish_verify(request: VerifyMerge) -> None:
    """Merge what verify measured of a model and write its tables."""
    from erasure_sweep.sweep.finishing import finish_model

    finish_model.finish_verify(request)


class PageRequest(NamedTuple):
    """A model whose tables are written."""

    name: str
    manifest: Manifest
    out: Path


def write_page(request: PageRequest) -> None:
    """Write a model's page from its tables, and beside it the figures that are pages of their own."""
    from erasure_sweep.sweep.finishing import finish_model

    finish_model.write_page(request)


class StagedFiles(NamedTuple):
    """What a model was measured with, as far as it is still staged, and what it should be."""

    weights: Path | None
    hash: str | None
    tokens: Path | None
    corpus_fingerprint: str | None
    n_prompts: int | None


def check_staged(files: StagedFiles) -> list[str]:
    """A line on each of the files that is not what it should be."""
    from erasure_sweep.workers.resolve import check_staged

    return check_staged(files.weights, files.hash, files.tokens, files.corpus_fingerprint, files.n_prompts)


def discard_damaged_tables(folders: Sequence[Path], stages: Sequence[str]) -> list[str]:
    """Remove tables that cannot be read, and say of each whether these stages make it anew."""
    from erasure_sweep.sweep.finishing import finish_model

    return finish_model.discard_damaged_tables(folders, stages)


class ComparisonRequest(NamedTuple):
    """A sweep whose models have their tables."""

    manifest: Manifest
    out: Path


def compare_models(request: ComparisonRequest) -> list[str]:
    """Write the page that puts all finished models of an OUT side by side; returns a line on each that is left out."""
    from erasure_sweep.sweep.finishing import finish_model

    return finish_model.compare_models(request)
