"""What a sweep is asked to do: one typed object, from a preset or a YAML file, with the command line's flags on top.

Default < YAML < flag. Everything is checked when the object is built, and an error is one line that names the key, the value
and what is allowed. The reference of keys (``erasure-sweep config --reference``) is generated from the docstrings here.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from erasure_sweep.sweep.model_names import sweep_name
from erasure_sweep.sweep.yaml_text import MOST_BYTES, load_yaml
from erasure_sweep.workers.credentials import note
from erasure_sweep.workers.errors import UsageError, nearest
from erasure_sweep.workers.models.catalog import find_entry
from erasure_sweep.workers.positions import count_positions
from erasure_sweep.workers.printed_commands import quoted
from erasure_sweep.workers.records import Group, TrustThresholds, VerifyRequest
from erasure_sweep.workers.storage.small_files import read_small_file
from erasure_sweep.workers.version import RESULTS_VERSION

PRESETS = resources.files("erasure_sweep.sweep") / "presets"

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Several = Annotated[int, Field(ge=2)]
"""Of prompts that lend each other a writer's output."""
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f]+$")]


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "Input should be a valid number")
    return value


Number = Annotated[float, BeforeValidator(_no_truth), Field(strict=False, allow_inf_nan=False)]
"""Also as text, as YAML has ``1e-3``; pydantic would take ``true`` for 1."""

_PLAINLY = {
    "missing": "is required",
    "string_pattern_mismatch": "should be a line of text",
    "string_too_short": "should not be empty",
    "too_short": "names none",
}
"""What pydantic would say in terms of its own, by kind of error."""
_BRIEFLY = reprlib.Repr()
"""How values are shown that cannot be used; they may be pages long."""
_BRIEFLY.maxstring = _BRIEFLY.maxother = _BRIEFLY.maxlong = 200
_HEAD = re.compile(r"L(\d+)H(\d+)")
PROTOCOL_TEXTS = ("corpus", "dtype", "ln", "groups")
"""What of a sweep's protocol is text."""
PROTOCOL_VALUES = (
    *(
        "own_corpora",
        "prompts",
        "seq_len",
        "pack",
        "pad_id",
        "positions",
        "first_position",
        "seed",
        "tau",
        "block_prompts",
        "results_version",
    ),
    *("paths_prompts", "paths_centred_prompts", "verify_prompts", "trust_prompts", "trust_tokens", "rotated_prompts"),
    *("trust_thresholds", "placebos", "donors", "places", "adversarial_prompts"),
)
"""What of it is not, though it may be written as text."""
_NAME_RULE = "should be up to 100 letters, digits, '.', '_' or '-', the first a letter or digit"


@dataclass(frozen=True)
class Flag:
    """Marks a key that the command line sets as well; help, type and choices of the flag are those of the field."""

    metavar: str | None = None
    """What help shows in place of the value, where that is no choice and no number."""
    spelling: str | None = None
    """The flag; by default the key's name, ``--seq-len`` for ``seq_len``."""


_THRESHOLDS: dict[Any, float] = TrustThresholds()._asdict()


class SweepConfig(BaseModel):
    """Everything that a sweep can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "demo"
    """Name of the sweep: of its folder under runs/ and of its MLflow experiment. By default that of the config file; of a
    preset whose models or corpus are replaced by flags, theirs behind the preset's (`demo` is left out with its models)."""
    models: Annotated[list[Text], Field(min_length=1), Flag("[NAME=]NAME|DIR", "--model")]
    """Models to measure: bundled or hub names (`erasure-sweep models` lists them) or directories; `mine=DIR` is called
    `mine`."""
    corpus: Annotated[Text, Flag("NAME|FILE|DIR")] = "stdlib"
    """What the models read: `stdlib` (the running interpreter's standard library), a .npy token array, a text file or
    folder, JSONL or parquet, or a Hugging Face set; or `own`, each model its own training mix."""
    own_corpora: dict[Text, Text] = {}
    """With `corpus: own`, what a model reads in place of the training mix that is known, or where none is: {MODEL: CORPUS},
    MODEL as in `models` or without checkpoint and revision."""
    prompts: Annotated[Positive, Flag()] = 64
    """How many prompts; the first N of a longer run are the same prompts."""
    seq_len: Annotated[int, Field(ge=2), Flag()] = 256
    """Tokens of each prompt, the BOS included; where prompts are not packed, the most that one has."""
    pack: Annotated[bool, Flag("true|false")] = True
    """Whether every prompt has `seq_len` tokens, packed from passages of text; with `false` each document, or row of ready
    tokens, is a prompt of its own, cut to `seq_len` tokens: padding neither attends nor counts."""
    pad_id: Annotated[int | None, Flag("ID")] = None
    """Which id at the end of ready tokens is padding; one before the first token is taken for BOS. Rows that say how many of
    their tokens are none in a `length` column need no such id where prompts are not packed."""
    positions: Annotated[Literal["all"] | Positive, Flag()] = 128
    """Measured positions of each prompt: `all`, the paper's protocol, or how many, drawn by a hash of seed, prompt and
    position; all where prompts have no more."""
    first_position: bool = False
    """Whether position 0 is one of them, as in the paper. It often carries far more than all others (an attention sink), and
    would lead every sum: by default it is not measured, and what a writer sends from there stands in columns of its own."""
    writers: Annotated[list[Text], Flag("L0H2", "--writer")] = []
    """Writers that are verified, such as [L0H2], in place of those that the scan finds; every writer is scanned anyway."""
    erasers: Annotated[Text | None, Flag("L2H2+L2H3")] = None
    """A group of later heads, such as L2H2+L2H3, measured together as erasers of each of `writers`, in the scan as well."""
    ln: Annotated[Literal["frozen", "recompute"], Flag()] = "frozen"
    """LayerNorm scale of a value input from which a writer is subtracted: kept at its clean value (the authors' code), or
    recomputed."""
    seed: Annotated[NonNegative, Flag()] = 0
    """Seed of everything drawn: prompts from the corpus, positions."""
    stage: Annotated[Literal["scan", "verify", "all"], Flag()] = "all"
    """What to measure. `scan` looks at every component as a writer; `verify` does for few of them, on other prompts, what
    is too costly for all, and needs a stored scan; `all` is both."""
    tau: Annotated[Number, Field(ge=0)] = 0.05
    """What counts as taken out of a writer: more than this share of it, for writers that are clearly erased, significant pairs,
    broad erasers and verdicts. A later head opposes a writer when its median projection ratio is at most −tau and its upper
    quartile negative."""
    top: Annotated[Positive, Flag()] = 3
    """How many writers are verified at most for each of three reasons: most erased, a strong pair with a later head, a broad
    eraser; and how many, the most erased first, are shown in the final table."""
    verify_prompts: Several = 32
    """On how many prompts verify measures: those of the corpus behind the ones that are scanned, since erasers are chosen
    on these; fewer where the corpus ends, and scanned ones again where it holds not even two more. Both are said."""
    trust_prompts: Several = 32
    """How many of them, the first, tell for every writer how far its direct logit attribution (DLA) can be trusted."""
    trust_tokens: Several = 128
    """Of each of these how many tokens, the first: on them every writer's output is replaced by its mean, and the model run
    again."""
    rotated_prompts: Literal[0] | Several = 8
    """On how many of them, the first, a writer is also replaced by its rotated output on another prompt, to see whether the
    word is the same; 0 leaves that out, and no word is held against another."""
    trust_thresholds: dict[Literal["constant", "cancelled", "faint", "related", "holds", "amplified"], Number] = (
        _THRESHOLDS
    )
    """Where one word of trust ends and another begins, in place of {constant: 0.01, cancelled: 0.25, faint: 0.5, related: 0.5,
    holds: 0.75, amplified: 1.33}: DLA is `constant` below such a varying share of its power, `cancelled` below such a size of
    the effect (faint, where r² is below related), `unrelated` with r² below related, `partly cancelled` below holds and
    `amplified` above amplified."""
    placebos: Positive = 20
    """How many placebos stand beside each verified writer: its output turned at random within what the stream varies along."""
    donors: Positive = 300
    """How many prompts, drawn from the whole corpus, lend their inputs to a writer at a place of high attribution."""
    places: NonNegative = 8
    """At how many places of high attribution each verified writer is tested, at most one in each prompt: half of them are
    found on one half of verify's prompts, the others are places on the other half that are at least as high."""
    adversarial_prompts: list[Annotated[str, Field(min_length=1)]] = []
    """Prompts of one's own that verified writers are tested on as well, at their last token; BOS is put before them."""
    paths_prompts: Annotated[int, Field(ge=1, le=1024)] = 64
    """On how many of the scanned prompts, the first, every writer is followed over all attention paths, from which follows
    what is erased of it; every position of them takes part, whatever `positions` says."""
    paths_centred_prompts: NonNegative = 16
    """On how many of these, the first, the same is done for what varies of every writer and for what it writes at position
    0, which takes as long again for each."""
    block_prompts: Positive = 8
    """Prompts of one shard. Part of what determines the last digits, so never derived from the number of workers."""
    batch: Annotated[Positive | None, Flag()] = None
    """Prompts in one forward pass; by default as many as make 2,048 tokens on a CPU, 16,384 on a GPU."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Flag()] = "auto"
    """Where models run; `auto` takes a GPU when there is one."""
    dtype: Annotated[Literal["float32", "float64", "bfloat16"], Flag()] = "float32"
    """Precision of the forward pass and of the products, with `bfloat16` of its matrices alone; sums are always float64."""
    workers: Annotated[NonNegative | None, Flag()] = None
    """Worker processes; by default what the machine or cluster has, also when it grows or shrinks. 0 measures in the
    driver's own process."""
    max_workers: Annotated[Positive | None, Flag()] = None
    """Never more workers than this. A cluster that starts machines on demand is asked for so many."""
    cpus_per_worker: Annotated[int, Field(ge=1, le=4096)] = 1
    """CPU cores, and torch threads, of one worker."""
    gpus_per_worker: Literal["auto"] | Annotated[Number, Field(gt=0, le=1)] = "auto"
    """Share of a GPU that one worker asks for when models run on GPUs; `auto` lets four or two workers of a small model
    share one of `gpu_memory_gib`."""
    gpu_memory_gib: Annotated[Number, Field(gt=0)] = 16.0
    """Memory of the smallest GPU that may be given out, by which `auto` decides who shares one."""
    attempts: Positive = 3
    """How often a shard may fail before it is set aside."""
    shard_deadline_s: Annotated[Number, Field(gt=0)] = 3600.0
    """Seconds after which a shard counts as failed and its worker is replaced."""
    ray_address: Annotated[Text | None, Flag("A")] = None
    """A running Ray cluster (`auto`, HOST:PORT or ray://…); by default RAY_ADDRESS, else a local one is started."""
    out: Annotated[Text | None, Flag("DIR")] = None
    """Folder for tables, figures and the comparison page; by default runs/NAME."""
    store: Annotated[Text | None, Flag("DIR|URI")] = None
    """Folder or URI (s3://BUCKET/PREFIX and what else fsspec opens) for finished shards; by default .store inside OUT."""
    staging: Annotated[Text | None, Flag("DIR")] = None
    """Folder for processed weights and token arrays; by default ERASURE_SWEEP_STAGING, else ~/.cache/erasure-sweep."""
    tracking_uri: Annotated[Text | None, Flag("URI")] = None
    """MLflow tracking store; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: Annotated[Text | None, Flag("NAME")] = None
    """MLflow experiment; by default the sweep's name."""

    @model_validator(mode="after")
    def _check(self) -> SweepConfig:
        for address in (self.tracking_uri, self.store, self.ray_address):
            note(address)
        for key, names in (("models", self.models), ("writers", self.writers), ("erasers", self._eraser_labels)):
            doubles = sorted({name for name in names if names.count(name) > 1})
            if doubles:
                raise ValueError(f"{key}: {', '.join(doubles)} is listed more than once")
        if self.erasers is not None and not self.writers:
            raise ValueError(f"erasers = {self.erasers!r}: needs writers, the components (L0H2) that these heads erase")
        self._check_own_corpora()
        return self

    @field_validator("trust_thresholds")
    @classmethod
    def _with_the_others(cls, given: dict[str, float]) -> dict[str, float]:
        limits = TrustThresholds()._replace(**given)
        most = {"constant": 1.0, "cancelled": limits.faint, "related": 1.0, "holds": limits.amplified}
        for name, end in most.items():
            if not 0.0 <= (value := getattr(limits, name)) <= end:
                raise ValueError(f"trust_thresholds: {name} = {value:g}: should be from 0 to {end:g}")
        return limits._asdict()

    def _check_own_corpora(self) -> None:
        if not self.own_corpora:
            return
        from erasure_sweep.workers.corpora.resolve_corpus import OWN, find_corpus

        if self.corpus != OWN:
            raise ValueError(f"own_corpora: needs corpus = {OWN!r}, by which each model reads its own training mix")
        for model, corpus in self.own_corpora.items():
            try:
                find_corpus(corpus)
            except UsageError as error:
                raise ValueError(f"own_corpora: {model}: {error}") from error

    @property
    def _eraser_labels(self) -> list[str]:
        """The named erasers in the order of the stream, so that one group has one name; as given where one is no head."""
        labels = [] if self.erasers is None else self.erasers.replace(" ", "").split("+")
        places = [tuple(map(int, match.groups())) for label in labels if (match := _HEAD.fullmatch(label))]
        return (
            [label for _, label in sorted(zip(places, labels, strict=True))] if len(places) == len(labels) else labels
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        """The named groups of erasers, one for each named writer; none where writers alone are named."""
        erasers = tuple(self._eraser_labels)
        return tuple(Group(writer, erasers) for writer in self.writers) if erasers else ()

    @property
    def verify(self) -> VerifyRequest | None:
        """What verify asks of a model and its corpus; ``None`` where only the scan is wanted."""
        if self.stage == "scan":
            return None
        return VerifyRequest(self.verify_prompts, tuple(self.adversarial_prompts), self.first_position)

    @property
    def trust_limits(self) -> TrustThresholds:
        """Where one word of trust ends and another begins."""
        return TrustThresholds(**self.trust_thresholds)

    @property
    def n_positions(self) -> int | None:
        """How many positions of each prompt are drawn; ``None`` for all."""
        every = count_positions(self.seq_len, None, self.first_position)
        return None if self.positions == "all" or self.positions >= every else self.positions

    @property
    def measured_positions(self) -> int:
        """How many positions of each prompt are measured."""
        return count_positions(self.seq_len, self.n_positions, self.first_position)

    def batch_on(self, device_type: str) -> int:
        """Prompts in one forward pass on this kind of device, never more than a shard has."""
        tokens = 16_384 if device_type == "cuda" else 2_048
        return min(self.batch or max(1, tokens // self.seq_len), self.block_prompts)

    def protocol(self) -> dict[str, Any]:
        """What determines the numbers, whatever the models and the machines."""
        groups = ", ".join(f"{group.writer}: {group.label}" for group in self.groups) or "none"
        own = {"positions": self.n_positions or "all", "groups": groups, "results_version": RESULTS_VERSION}
        return {key: own[key] if key in own else getattr(self, key) for key in (*PROTOCOL_TEXTS, *PROTOCOL_VALUES)}


def flags() -> dict[str, Flag]:
    """The keys that the command line sets as well."""
    return {
        key: mark
        for key, field in SweepConfig.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Flag)
    }


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in PRESETS.iterdir() if path.name.endswith(".yaml"))


def load_config(source: str = "demo", flags: Mapping[str, Any] | None = None) -> SweepConfig:
    """The config of a preset or YAML file, with flags on top.

    Args:
        source: a preset's name, which wins over a file of that name, or a path.
        flags: keys given on the command line; ``None`` values count as not given.

    Raises:
        UsageError: no such preset or file, an unknown key, a wrong value.
    """
    read = _read_yaml(source)
    values = read | {key: value for key, value in (flags or {}).items() if value is not None}
    return build_config({"name": _default_name(source, read, values), **values}, source)


def build_config(values: Mapping[str, Any], source: str = "config") -> SweepConfig:
    """A checked config.

    Raises:
        UsageError: one line on the first wrong key or value.
    """
    unknown = sorted(set(values) - set(SweepConfig.model_fields))
    if unknown:
        raise UsageError(f"{source}: unknown key {unknown[0]!r}: {nearest(unknown[0], SweepConfig.model_fields)}")
    try:
        return SweepConfig(**values)
    except ValidationError as error:
        raise UsageError(f"{source}: {_one_line(error)}") from error


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    key = str(first["loc"][0])
    allowed = dict.fromkeys(_allowed(key, e["type"], e["msg"]) for e in error.errors() if e["loc"][0] == key)
    given = "" if first["type"] == "missing" else f" = {_BRIEFLY.repr(first['input'])}"
    either = " or ".join(allowed).replace(" or should be ", " or ")
    return f"{key}{given}: {either}"


def _allowed(key: str, kind: str, message: str) -> str:
    if key == "name" and kind == "string_pattern_mismatch":
        return _NAME_RULE
    return _PLAINLY.get(kind, message.removeprefix("Input "))


def _default_name(source: str, read: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """What a sweep is called that is given no name.

    Args:
        source: a preset's name or a file; a file gives its own name, whatever is replaced in it.
        read: what stands there.
        values: the same with flags on top.
    """
    if source not in preset_names() or not isinstance(values.get("models"), list):
        return sweep_name(source)
    models, corpus = (values[key] if values.get(key) != read.get(key) else None for key in ("models", "corpus"))
    return sweep_name("" if source == "demo" and models else source, models or [], corpus)


def _read_yaml(source: str) -> dict[str, Any]:
    preset = source in preset_names()
    text = (PRESETS / f"{source}.yaml").read_text(encoding="utf-8") if preset else _read_text(source)
    try:
        values = load_yaml(text)
    except ValueError as error:
        raise UsageError(f"{source}: not valid YAML: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"{source}: should hold `key: value` lines; `erasure-sweep config` prints an example")
    return values


def _read_text(source: str) -> str:
    try:
        return read_small_file(Path(source), MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} cannot be read as a config: it is not UTF-8 (at byte {error.start})") from error
    except (FileNotFoundError, IsADirectoryError, ValueError) as error:  # a name with NUL is a ValueError
        if find_entry(source) is not None or (source and isinstance(error, IsADirectoryError)):
            line = f"{source} is neither a preset nor a config file: for a model write {quoted('--model', source)}"
        else:
            line = f"no preset and no file {source!r}: {nearest(source, preset_names())}"
        raise UsageError(line) from error
    except OSError as error:
        raise UsageError(f"{source} cannot be read as a config: {error.strerror}") from error
