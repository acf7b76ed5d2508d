"""What a name of a model stands for: a folder, or a repository of the Hugging Face hub.

Names of its own have the models bundled with the package and those of ``named_models``. A bundled model is a folder of
``workers/models/bundled`` with ``config.json`` and ``model.safetensors``. Beside these, every name that TransformerLens knows
and every ``OWNER/NAME`` of the hub can be given. Nothing here imports torch, unless TransformerLens is asked for a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from erasure_sweep.workers.errors import DataError, UsageError, nearest
from erasure_sweep.workers.models.files.file_formats import is_gguf
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.named_models import (
    ModelEntry,
    hub_entries,
    llama_config,
    pythia_config,
    usual_config,
)

BUNDLED = Path(__file__).parent / "bundled"
CHECKPOINT_SUFFIXES = (".pth", ".safetensors")

_SHAPE_KEYS = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab")
_TRANSFORMERS_SHAPE_KEYS = ("num_hidden_layers", "hidden_size", "num_attention_heads")
_REPO_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


class ModelLocation(NamedTuple):
    """Where a model lies."""

    name: str
    """As shown."""
    kind: Literal["directory", "hub"]
    place: str
    """The directory (or GGUF file), or the repository."""
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
    if path.is_file() and is_gguf(path):
        path = path.resolve()
        return ModelLocation(path.stem, "directory", str(path), str(path))
    if path.exists():
        raise UsageError(
            f"model {name} is a file: give the directory that holds its config.json and weights, or a .gguf file"
        )
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
        config = _bundled_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"bundled model {folder.name}: config.json is damaged ({error!r}): install anew") from error
    kept = [path for path in folder.glob("checkpoints/*") if path.suffix in CHECKPOINT_SUFFIXES]
    return ModelEntry(folder.name, "bundled", str(folder), config, n_checkpoints=len(kept))


def _bundled_config(values: Mapping[str, Any]) -> ModelConfig:
    """The architecture that a config.json says, in TransformerLens' words or in transformers'."""
    if "model_type" not in values:
        shape = {key: int(values[key]) for key in _SHAPE_KEYS}
        return usual_config(**shape, act_fn=str(values["act_fn"]), attn_only=bool(values["attn_only"]))
    n_layers, d_model, n_heads = (int(values[key]) for key in _TRANSFORMERS_SHAPE_KEYS)
    rest = {"n_ctx": int(values["max_position_embeddings"]), "d_vocab": int(values["vocab_size"])}
    if values["model_type"] == "gpt_neox":
        return pythia_config(n_layers, d_model, n_heads, **rest)
    if values["model_type"] != "llama":
        raise ValueError(f"no bundled model is of the kind {values['model_type']}")
    n_kv_heads, d_mlp = int(values["num_key_value_heads"]), int(values["intermediate_size"])
    return llama_config(n_layers, d_model, n_heads, n_kv_heads, d_mlp, **rest)
