"""What crosses between the driver and the workers: plain records, importable without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy.typing as npt

from erasure_sweep.workers.labels import Layout

State = dict[str, npt.NDArray[Any]]
"""A shard's exported result: named arrays, never objects."""


class WriterBlock(NamedTuple):
    """The writers of one shard: ``Layout.writers[start:stop]``."""

    start: int
    stop: int

    def labels(self, layout: Layout) -> tuple[str, ...]:
        """Their labels."""
        return layout.writers[self.start : self.stop]


class Group(NamedTuple):
    """Later heads that are measured together as erasers of one writer."""

    writer: str
    erasers: tuple[str, ...]

    @property
    def label(self) -> str:
        """As tables name it: ``L2H2+L2H3``."""
        return "+".join(self.erasers)


class ScanOptions(NamedTuple):
    """What a scan is told beside its model and tokens."""

    ln: str = "frozen"
    """LayerNorm scale of a value input from which a writer is subtracted: ``frozen`` at its clean value, or
    ``recompute``."""
    groups: tuple[Group, ...] = ()
    seed: int = 0
    sample_below: int = 2**64
    """Tokens whose hash (``workers.positions.hash_u64``) is below this are kept one by one, for rank correlations."""
    sample: int = 1000
    """How many of them are used, those with the lowest hashes."""
    shard_tokens: int = 2**31
    """Upper bound on the measured tokens of one shard."""


class Thresholds(NamedTuple):
    """What counts as taken out of a writer: more than ``tau`` of it. A head opposes one by median PR ≤ −``tau`` and a negative
    upper quartile."""

    tau: float = 0.05


class TrustThresholds(NamedTuple):
    """Where one word of trust ends and another begins (``workers.tables.facts.trust`` has the rule)."""

    constant: float = 0.01
    """DLA is ``constant`` where less of its power than this varies."""
    cancelled: float = 0.25
    """``cancelled`` where the effect is smaller than this, in units of the direct change."""
    faint: float = 0.5
    """``cancelled`` where it is smaller than this and unrelated to the direct change."""
    related: float = 0.5
    """``unrelated`` where r² is below this."""
    holds: float = 0.75
    """``partly cancelled`` where a smaller share than this arrives."""
    amplified: float = 1.33
    """``amplified`` where a larger share than this arrives."""

    @property
    def noted(self) -> str:
        """As the table's metadata hold them."""
        return json.dumps(self._asdict())


class VerifyRequest(NamedTuple):
    """What verify asks of a model and its corpus."""

    prompts: int
    """On how many prompts it measures, behind the scanned ones where the corpus holds as many."""
    given: tuple[str, ...] = ()
    """Texts of the prompts that the user gave."""
    first_position: bool = False
    """Whether position 0 is measured."""


class Target(NamedTuple):
    """A writer and the heads that are verified as its erasers."""

    writer: str
    erasers: tuple[str, ...]
    """Heads of later layers, in the order of the stream."""
    chosen: str
    """Why these: ``named`` by the user, by the ``rule`` of the scan, a head alone for a strong ``pair`` or as a ``broad``
    eraser that the rule leaves out, or ``all`` later heads where there is no group."""

    @property
    def label(self) -> str:
        """As tables name the group."""
        return "later" if self.chosen == "all" else "+".join(self.erasers)


def writers_of(targets: Iterable[Target]) -> tuple[str, ...]:
    """The writers of some targets, once each, in their order."""
    return tuple(dict.fromkeys(target.writer for target in targets))


class ChosenTargets(NamedTuple):
    """What is verified of a model, and why."""

    targets: tuple[Target, ...]
    reason: str
    """In words, for people: what each writer was chosen for, or why there is none."""


class Place(NamedTuple):
    """A token at which a writer has a high direct logit attribution, to be tested with the writer's input replaced."""

    writer: str
    source: str
    """``given`` by the user, or ``found`` in the corpus."""
    prompt: int
    """Index in the corpus, or among the given prompts."""
    position: int
    """The last position of the prompt that is used."""
    half: str = ""
    """Of a place in the corpus, the half of verify's prompts that it is in: ``found``, on which what is high was found out, or
    ``shown``, on which what is said of such places is counted."""


class ScanWork(NamedTuple):
    """What a shard of the scan measures: every later head against one block of writers."""

    writers: WriterBlock
    options: ScanOptions


class PathsWork(NamedTuple):
    """What a shard of the stage ``paths`` measures: all attention paths of one block of writers."""

    writers: WriterBlock
    every_family: bool
    """Whether what varies of the writers, and what they write at position 0, are carried as well."""


class NullErasers(NamedTuple):
    """Who takes out, on the scan's prompts, what stands in a verified writer's place as a null."""

    writer: str
    null: str
    """``siblings`` or ``placebo``."""
    direction: str
    """The sibling, or the number of the placebo's draw, from 1 on."""
    heads: tuple[str, ...]
    """Heads behind the writer's layer with a positive share, the largest share first."""


class CovarianceWork(NamedTuple):
    """What a shard of the stage ``covariance`` measures: how the stream varies in the states that first hold these writers."""

    writers: tuple[str, ...]


class PlaceboWork(NamedTuple):
    """What a shard of the stage ``placebo`` measures: which heads take out each placebo of these writers."""

    writers: tuple[str, ...]
    draws: int


class GroupWork(NamedTuple):
    """What a shard of the substage ``group`` measures of verified writers."""

    targets: tuple[Target, ...]
    places: int
    """How many places with the highest attribution are kept of each writer, at most one in each prompt."""
    draws: int = 0
    """How many placebos each writer has."""
    nulls: tuple[NullErasers, ...] = ()
    """What stands in the writers' places, writer by writer."""


class TrustWork(NamedTuple):
    """What a shard of the substage ``trust`` measures: what replacing each writer of a block does to the logits."""

    writers: WriterBlock
    tokens: int
    """Of each prompt, its first."""
    rotated: bool = False
    """Whether writers are replaced by their rotated output on another prompt, in place of their mean over the scan."""


class AdversarialWork(NamedTuple):
    """What a shard of the substage ``adversarial`` measures: places of high attribution under other prompts' inputs."""

    places: tuple[Place, ...]
    given: tuple[tuple[int, ...], ...]
    """Token ids of the given prompts."""
    donors: tuple[int, ...]
    """Indices in the corpus of the prompts whose inputs replace the writer's."""
    tokens: bool
    """Whether what needs no donors is measured as well, what arrives and the attributions token by token: by one shard of a
    model."""


Work = ScanWork | PathsWork | CovarianceWork | PlaceboWork | GroupWork | TrustWork | AdversarialWork


class Numerics(NamedTuple):
    """What decides the last digits of a result, beside what is measured: of a process, or asked for by a sweep."""

    device: str
    """Kind of device that measures: ``cpu`` or ``cuda``."""
    unit: str = ""
    """Which kernels: torch's CPU capability, or the GPU."""
    torch: str = ""
    """Its version."""
    backend: str = ""
    """Of matrix products."""
    precision: str = ""
    """Of float32 matrix products, as torch calls it."""
    probe: str = ""
    """Hash of a few results that were computed there."""

    def differs_from(self, other: Numerics) -> str:
        """What differs, in words: this against the other; empty where nothing does."""
        names = {"device": "", "unit": "", "torch": "torch ", "backend": "", "precision": "float32 precision "}
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        told = [
            f"{names[name]}{own or '?'} against {their or '?'}" for name, (own, their) in pairs.items() if own != their
        ]
        if not told and self.probe != other.probe:
            return f"the same products come out in other digits ({self.probe} against {other.probe})"
        return ", ".join(told)


class Resolved(NamedTuple):
    """A model and its corpus, staged and ready to be planned."""

    name: str
    spec: str
    hash: str
    weights: str
    """Path of the processed weights."""
    weights_bytes: int
    """What they take in float32."""
    architecture: dict[str, Any]
    """``workers.models.forward.ModelConfig`` as a dict."""
    n_params: int
    sketches: tuple[int, ...]
    """How many sketches each writer needs."""
    tokens: str
    """Path of the token array."""
    corpus_fingerprint: str
    """Of the prompts that are scanned."""
    corpus_description: str
    n_prompts: int
    """How many prompts are scanned, the first of the token array."""
    seq_len: int
    """Tokens of the longest prompts that there may be."""
    lengths: tuple[tuple[int, int], ...]
    """Each length of the prompts that are scanned, and how many have it."""
    verify_prompts: tuple[int, int] = (0, 0)
    """First and one past the last of the prompts on which verify measures: behind the scanned ones, or among them where
    the corpus holds no more; empty where verify is not asked for."""
    held_out: bool = False
    """Whether none of verify's prompts is among the scanned ones, by their tokens."""
    verify_fingerprint: str = ""
    """Of all prompts of the token array."""
    given: tuple[tuple[int, ...], ...] = ()
    """Token ids of the prompts that the user gave, BOS first where the model has one."""
    tokenizer: str | None = None
    """As ``workers.models.tokenizer.load_tokenizer`` takes it; ``None`` where the model has none."""
    base: str = ""
    """The model of whose training this is a checkpoint; its own name where it is none."""
    training_tokens: int | None = None
    """On how many tokens it was trained; ``None`` where that is not known."""
    training_steps: int | None = None
    corpus: str = ""
    """Name of the corpus that it reads."""
    notes: tuple[str, ...] = ()
    """What the user should hear before anything is measured, a line each."""

    @property
    def n_tokens(self) -> int:
        """Tokens of all prompts that are scanned."""
        return sum(length * n for length, n in self.lengths)


class StagedArray(NamedTuple):
    """Means of a model's terms over its scan, or covariances of its stream, staged for the stages behind it."""

    path: str
    fingerprint: str
    """Of the content."""


class Nulls(NamedTuple):
    """What stands in the places of verified writers: the covariance that placebos are drawn with, and who erases each null."""

    covariance: StagedArray
    erasers: tuple[NullErasers, ...]


class ShardTask(NamedTuple):
    """Everything a worker needs to know to measure one shard."""

    id: str
    stage: str
    """``scan``, ``paths``, ``covariance``, ``placebo``, ``group``, ``trust`` or ``adversarial``."""
    model_hash: str
    weights: str
    tokens: str
    first_prompt: int
    n_prompts: int
    positions: int | None
    """How many positions of each prompt are measured; ``None`` for all."""
    seed: int
    work: Work
    batch: int
    """Prompts in one forward pass."""
    device: str
    dtype: str
    gpus: float = 0.0
    """Share of a GPU that its worker has; where it is measured, so no part of what it is."""
    first_position: bool = False
    """Whether position 0 is measured, and what a writer writes there taken out with the rest (``workers.positions``)."""
    means: str | None = None
    """Path of the means of the model's terms over the scan; ``None`` in the scan itself."""
    covariance: str | None = None
    """Path of the stream's covariance in the states that first hold the verified writers, where placebos are drawn."""

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of everything that a worker reads for it."""
        return (self.weights, self.tokens, *(path for path in (self.means, self.covariance) if path))


class ShardResult(NamedTuple):
    """What a worker returns for a shard."""

    id: str
    state: bytes | None
    """``None`` where the worker itself has put it into the store."""
    batch: int
    """Prompts in one forward pass that fitted into memory: the task's own unless memory ran out."""


class WorkerProcess(NamedTuple):
    """What a worker on Ray answers to a ping."""

    pid: int
    node: str
    """Ray's id of the node that it is on."""
    gpu: bool
    """Whether torch finds a GPU there."""
    numerics: Numerics | None = None
    """With which it measures."""


class SharedStore(NamedTuple):
    """Where workers may put states themselves, if what they find there is the driver's store and not one of that name."""

    location: str
    """As ``workers.storage.shard_storage.open_storage`` takes it; it may hold a password."""
    mark: str
    """What stands there under the key ``mark``: random, and another one in every run."""
