"""The models that can be named without a path: those bundled with the package, and those on the Hugging Face hub.

The hub's are the ones the study was made for: Neel Nanda's small models (GELU and attention-only, one to four layers,
trained on C4 and code) and GPT-2 in its four sizes. Their shapes are written down here because plans need them where
there is no network. A bundled model is a folder of ``workers/bundled`` with ``config.json`` and
``model.safetensors``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from workers.errors import DataError

BUNDLED = Path(__file__).parent / "bundled"
NANDA_REPOS = "NeelNanda/"

_SHAPE_KEYS = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab")


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
    sizes = [("gpt2", 12, 768), ("gpt2-medium", 24, 1024), ("gpt2-large", 36, 1280), ("gpt2-xl", 48, 1600)]
    return nanda + [_gpt2_entry(name, n_layers, d_model) for name, n_layers, d_model in sizes]


def find_entry(spec: str) -> ModelEntry | None:
    """The entry of this name, or of the hub repository written out in full."""
    entries = model_entries()
    repo = spec.removeprefix("openai-community/")
    by_name = next((entry for entry in entries if entry.name == spec), None)
    return by_name or next((entry for entry in entries if entry.kind == "hub" and entry.location == repo), None)


def _bundled_entry(folder: Path) -> ModelEntry:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = {key: int(config[key]) for key in _SHAPE_KEYS}
        act_fn, attn_only = str(config["act_fn"]), bool(config["attn_only"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"bundled model {folder.name}: config.json is damaged ({error!r}): install anew") from error
    return ModelEntry(folder.name, "bundled", str(folder), **shape, act_fn=act_fn, attn_only=attn_only)


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
        act_fn="gelu",
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
