"""The manifest of a run: which sweep a folder holds, with what it was measured, and how far each model is.

The driver writes it after every change; pages, tracking and commands read it. Whether a manifest is whole is decided here, by
its checksum and by types; what to do about one that is not, each reader says itself. Keys that are not known here are kept as
they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.fingerprint import fingerprint
from erasure_sweep.workers.storage.small_files import parse_json
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.version import VERSION

READY_TOKENS = "ready tokens"
"""Stands in the description of a corpus that is no text, which no tokenizer reads."""
MANIFEST_VERSION = 1
"""Raised when a key changes its meaning. Version 0.1.0 wrote none, and the keys of this one."""


class NewerError(UsageError):
    """What a later version of erasure-sweep wrote, which this one would misread."""


def refuse_newer(where: str, values: Mapping[str, Any]) -> None:
    """Refuse what a later version wrote.

    Args:
        where: that it stands in, for people.
        values: ``schema_version``, ``manifest_version`` and ``version``, as far as it says them.

    Raises:
        NewerError: it is of a newer schema, or a newer manifest.
    """
    newest = {"schema_version": SCHEMA_VERSION, "manifest_version": str(MANIFEST_VERSION)}
    for key, ours in newest.items():
        found = str(values.get(key, ""))
        if found.isdecimal() and int(found) > int(ours):
            raise NewerError(
                f"{where} was written by erasure-sweep {values.get('version') or '?'} ({key.replace('_', ' ')} {found}), "
                f"which is newer than this one ({VERSION}, up to {ours}): install that version, or a later one"
            )


Count = int | str | None
"""A number of the protocol; in words where sweeps that stand on one page differ in it."""


class _Written(BaseModel):
    """Values that are never changed in place, and of which those that were given are written."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        """The values as JSON has them."""
        return self.model_dump(mode="json", exclude_unset=True)


class VerifiedTarget(_Written):
    """A writer and the heads that are verified as its erasers; fields as of ``workers.records.Target``."""

    writer: str
    erasers: tuple[str, ...]
    chosen: str


class Links(_Written):
    """Where a model that was logged is to be found: of each the address, where there is one."""

    page: str | None = None
    tables: dict[str, str] = {}
    run: str | None = None


class ManifestEntry(_Written):
    """One model of a sweep."""

    name: str
    spec: str | None = None
    """As the user named it."""
    hash: str | None = None
    """Of its weights."""
    folder: Annotated[str, Field(min_length=1)]
    """Of its tables and pages, in OUT."""
    n_layers: int | None = None
    d_model: int | None = None
    n_heads: int | None = None
    d_head: int | None = None
    d_mlp: int | None = None
    n_ctx: int | None = None
    d_vocab: int | None = None
    act_fn: str | None = None
    attn_only: bool | None = None
    n_params: int | None = None
    base: str | None = None
    """The model of whose training this is a checkpoint; its own name where it is none."""
    training_tokens: int | None = None
    training_steps: int | None = None
    corpus_name: str | None = None
    corpus: str | None = None
    """Description of the corpus that it reads."""
    corpus_fingerprint: str | None = None
    n_prompts: int | None = None
    n_tokens: int | None = None
    """How many are measured."""
    batch: int | None = None
    """Prompts in one forward pass that fitted into memory."""
    numerics: dict[str, str] | None = None
    """With which it was measured: fields as of ``workers.records.Numerics``."""
    stages: tuple[str, ...] = ()
    """Those of which the tables are written."""
    targets: tuple[VerifiedTarget, ...] = ()
    targets_reason: str | None = None
    """Why these, or why none, in words."""
    n_verify_prompts: int | None = None
    held_out: bool | None = None
    """Whether verify measured on prompts that the scan has not seen."""
    run_url: str | None = None
    """Where MLflow's server shows its run."""
    weights_file: str | None = None
    """Of its processed weights: the file's name, in the staging folder."""
    tokens_file: str | None = None
    """Of the token array that it read."""
    tables: tuple[str, ...] = ()
    """Names of the tables that are written."""
    state: str
    """``MEASURING``, ``FINISHED``, ``FAILED`` or ``KILLED``."""
    reason: str | None = None
    """Why it is not finished."""
    stage: str | None = None
    """The one that is measured, or was when the run ended."""
    shards: int | None = None
    """Of that stage."""
    shards_done: int | None = None
    home: Links | None = None
    """Of a model that was downloaded."""

    @property
    def is_finished(self) -> bool:
        """Whether everything in it was measured."""
        return self.state == "FINISHED"


class ManifestConfig(_Written):
    """The sweep's config; named are the keys that are read again."""

    name: str | None = None
    corpus: str | None = None
    prompts: Count = None
    seq_len: Count = None
    pack: bool | str | None = None
    positions: Count = None
    first_position: bool | str | None = None
    seed: Count = None
    dtype: str | None = None
    tau: float | str | None = None
    ln: str | None = None
    stage: str | None = None
    store: str | None = None
    staging: str | None = None
    tracking_uri: str | None = None
    experiment: str | None = None


class Manifest(_Written):
    """A sweep and its models."""

    manifest_version: int = MANIFEST_VERSION
    sweep_id: str | None = None
    name: str | None = None
    version: str | None = None
    """Of erasure-sweep."""
    git_commit: str | None = None
    code_hash: str | None = None
    """Of the modules that measured, in a checkout and in a wheel alike (``workers.code_identity``)."""
    python: str | None = None
    schema_version: str | None = None
    """Of the tables."""
    device_type: str | None = None
    config: ManifestConfig
    run_url: str | None = None
    """Where MLflow's server shows the sweep's run."""
    models: tuple[ManifestEntry, ...]

    @classmethod
    def parse(cls, content: bytes, where: str = "the manifest") -> Manifest:
        """A manifest from a file's content.

        Raises:
            NewerError: a later version wrote it.
            ValueError: it is damaged.
        """
        values = parse_json(content)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        noted = values.pop("checksum", None)  # version 0.1.0 wrote none
        if noted is not None and noted != _checksum(values):
            raise ValueError("its checksum differs")
        refuse_newer(where, values)
        return cls.model_validate(values)

    def entry(self, name: str) -> ManifestEntry:
        """The model of this name."""
        return next(entry for entry in self.models if entry.name == name)

    def with_entry(self, name: str, **values: Any) -> Manifest:
        """The same with some values of a model replaced."""
        entries = (entry.model_copy(update=values) if entry.name == name else entry for entry in self.models)
        return self.model_copy(update={"models": tuple(entries)})

    def to_bytes(self) -> bytes:
        """What is written into the file."""
        values = self.to_json()
        return (json.dumps(values | {"checksum": _checksum(values)}, indent=1) + "\n").encode()


def _checksum(values: Mapping[str, Any]) -> str:
    """Of everything that is noted, whatever the order of keys; later versions keep it, so that they are told from damage."""
    return fingerprint(json.dumps(values, sort_keys=True, separators=(",", ":")))


class ManifestHead(BaseModel):
    """What can be told of a manifest whatever the schema of its tables, which may say the rest in another way."""

    schema_version: str | int | None = None
    manifest_version: Any = None
    version: Any = None
    name: Any = None
    models: Any = None

    @property
    def model_names(self) -> list[str]:
        """Names of its models, as far as they can be told."""
        entries = self.models if isinstance(self.models, list) else []
        return [str(entry["name"]) for entry in entries if isinstance(entry, dict) and entry.get("name")]
