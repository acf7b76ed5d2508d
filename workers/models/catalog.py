"""What a name of a model stands for: a folder, or a repository of the Hugging Face hub.

Names of its own have the models bundled with the package and those the study was made for: Neel Nanda's small models
(GELU, attention-only and SoLU, one to four layers, trained on C4 and code) and GPT-2 in its four sizes. Their shapes
are written down here because plans need them where there is no network. A bundled model is a folder of
``workers/models/bundled`` with ``config.json`` and ``model.safetensors``. Beside these, every name that TransformerLens knows
and every ``OWNER/NAME`` of the hub can be given. Nothing here imports torch, unless TransformerLens is asked for a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from erasure_sweep.workers.errors import DataError, UsageError, nearest

BUNDLED = Path(__file__).parent / "bundled"
NANDA_REPOS = "NeelNanda/"
CHECKPOINT_SUFFIXES = (".pth", ".safetensors")

_SHAPE_KEYS = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab")
_REPO_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_FLOAT32_BYTES = 4


class ModelEntry(NamedTuple):
    """One name that ``--model`` takes."""

    name: str
    kind: Literal["bundled", "hub"]
    location: str
    """The folder of a bundled model; the repository of one on the hub."""
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_mlp: int
    n_ctx: int
    d_vocab: int
    act_fn: str
    attn_only: bool
    n_checkpoints: int = 0
    """Checkpoints of its training that lie beside a bundled model; those of the hub are not counted here."""

    @property
    def weights_file(self) -> str:
        """The file that holds the weights."""
        return "model_final.pth" if self.location.startswith(NANDA_REPOS) else "model.safetensors"

    @property
    def weights_bytes(self) -> int:
        """What the processed weights take in float32, embeddings and biases included."""
        heads = self.n_heads * self.d_head
        attention = 4 * heads * self.d_model + 2 * heads + self.d_model
        mlp = 0 if self.attn_only else 2 * self.d_model * self.d_mlp + self.d_mlp + self.d_model
        ends = (2 * self.d_vocab + self.n_ctx) * self.d_model + self.d_vocab
        return _FLOAT32_BYTES * (self.n_layers * (attention + mlp) + ends)


class ModelLocation(NamedTuple):
    """Where a model lies."""

    name: str
    """As shown."""
    kind: Literal["directory", "hub"]
    place: str
    """The directory, or the repository."""
    origin: str
    """What it is, for people."""

    @property
    def spec(self) -> str:
        """A spelling that always means this model: names that mean the same have the same."""
        entry = find_entry(self.place) if self.kind == "hub" else None
        return entry.name if entry else self.place


def model_entries() -> list[ModelEntry]:
    """Every name offered, bundled models first."""
    return [*bundled_entries(), *hub_entries()]


def bundled_entries() -> list[ModelEntry]:
    """The bundled models, by name."""
    folders = sorted(path.parent for path in BUNDLED.glob("*/config.json"))
    return [_bundled_entry(folder) for folder in folders if (folder / "model.safetensors").is_file()]


def hub_entries() -> list[ModelEntry]:
    """The models on the hub: small ones first, then GPT-2 by size."""
    nanda = [_nanda_entry("gelu", "GELU", n) for n in range(1, 5)]
    nanda += [_nanda_entry("attn-only", "Attn_Only", n) for n in range(1, 5)]
    nanda += [_nanda_entry("solu", "SoLU", n) for n in range(1, 5)]
    sizes = [("gpt2", 12, 768), ("gpt2-medium", 24, 1024), ("gpt2-large", 36, 1280), ("gpt2-xl", 48, 1600)]
    return nanda + [_gpt2_entry(name, n_layers, d_model) for name, n_layers, d_model in sizes]


def find_entry(spec: str) -> ModelEntry | None:
    """The entry of this name, or of the hub repository written out in full."""
    entries = model_entries()
    repo = spec.removeprefix("openai-community/")
    by_name = next((entry for entry in entries if entry.name == spec), None)
    return by_name or next((entry for entry in entries if entry.kind == "hub" and entry.location == repo), None)


def locate(name: str) -> ModelLocation:
    """Where the model lies that is named so, checkpoint or revision left out.

    A name of the catalog comes before a directory, a directory before what TransformerLens or the hub call so.

    Raises:
        UsageError: nothing has this name.
    """
    entry = find_entry(name)
    if entry is not None:
        return _of_entry(entry)
    path = Path(name).expanduser()
    if path.is_dir():
        path = path.resolve()
        return ModelLocation(path.name, "directory", str(path), str(path))
    if path.exists():
        raise UsageError(f"model {name} is a file: give the directory that holds its config.json and weights")
    if _REPO_ID.fullmatch(name) and "/" in name:
        return _of_repo(name)
    if "/" in name or "\\" in name or name.startswith("~"):
        raise UsageError(f"model directory {name} does not exist")
    repo = _aliases().get(name.lower())
    if repo is None:
        raise UsageError(f"unknown model {name!r}: {nearest(name, [entry.name for entry in model_entries()])}")
    return _of_repo(repo)


def is_repo(name: str) -> bool:
    """Whether a repository of the hub can have this name."""
    return _REPO_ID.fullmatch(name) is not None


def _of_repo(repo: str) -> ModelLocation:
    entry = find_entry(repo)
    return _of_entry(entry) if entry else ModelLocation(repo.rpartition("/")[2], "hub", repo, repo)


def _of_entry(entry: ModelEntry) -> ModelLocation:
    if entry.kind == "bundled":
        return ModelLocation(entry.name, "directory", entry.location, f"bundled {entry.name}")
    return ModelLocation(entry.name, "hub", entry.location, entry.location)


def _aliases() -> Mapping[str, str]:
    """Every name without an owner that TransformerLens knows, in lower case, and the repository it means."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    names = {name.lower(): name for name in OFFICIAL_MODEL_NAMES}
    return names | {alias.lower(): name for name, aliases in MODEL_ALIASES.items() for alias in aliases}


def _bundled_entry(folder: Path) -> ModelEntry:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = {key: int(config[key]) for key in _SHAPE_KEYS}
        act_fn, attn_only = str(config["act_fn"]), bool(config["attn_only"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"bundled model {folder.name}: config.json is damaged ({error!r}): install anew") from error
    kept = [path for path in folder.glob("checkpoints/*") if path.suffix in CHECKPOINT_SUFFIXES]
    return ModelEntry(
        folder.name, "bundled", str(folder), **shape, act_fn=act_fn, attn_only=attn_only, n_checkpoints=len(kept)
    )


def _nanda_entry(family: str, repo_family: str, n_layers: int) -> ModelEntry:
    return ModelEntry(
        name=f"{family}-{n_layers}l",
        kind="hub",
        location=f"{NANDA_REPOS}{repo_family}_{n_layers}L512W_C4_Code",
        n_layers=n_layers,
        d_model=512,
        n_heads=8,
        d_head=64,
        d_mlp=2048,
        n_ctx=1024,
        d_vocab=48262,
        act_fn="solu_ln" if family == "solu" else "gelu",
        attn_only=family == "attn-only",
    )


def _gpt2_entry(name: str, n_layers: int, d_model: int) -> ModelEntry:
    return ModelEntry(
        name=name,
        kind="hub",
        location=name,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=d_model // 64,
        d_head=64,
        d_mlp=4 * d_model,
        n_ctx=1024,
        d_vocab=50257,
        act_fn="gelu_new",
        attn_only=False,
    )
