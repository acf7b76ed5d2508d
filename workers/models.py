"""Name, directory, hub name or bundled model → weights as TransformerLens processes them, checked against it.

Resolving converts a model once: TransformerLens boots it and folds LayerNorm, centres what writes to the stream and
the unembedding, and folds value biases into ``b_O`` (its ``enable_compatibility_mode``); the weights are read out and
stored as one safetensors file per content of the model's files. Before that file counts, the lean forward that the
measures use runs on it beside TransformerLens' own on a few tokens; a model on which the two disagree is refused.
Later resolves and the workers read the file alone, hash its content again, and need no TransformerLens.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from workers.bridges import LOAD_ERRORS, boot_bridge, check_finite, model_config, quiet
from workers.errors import DataError
from workers.sources import Source, find_source, one_line
from workers.trace import LeanModel, ModelConfig

CHECK_PROMPTS = 2
CHECK_TOKENS = 32
CHECK_SEED = 0
CHECK_TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit where that exceeds one."""


class ResolvedModel(NamedTuple):
    """A model whose processed weights are staged."""

    name: str
    """As shown: the bundled or hub name, or the last part of the directory."""
    spec: str
    """What the user typed."""
    weights: Path
    """The staged safetensors file; its metadata holds config, hash and origin."""
    hash: str
    """Of config and processed weights."""
    config: ModelConfig
    tokenizer: str | None
    """Path of a tokenizer.json or of a tokenizer's directory, or a hub repository; None where the model names none."""


def resolve_model(spec: str, staging: Path) -> ResolvedModel:
    """Find a model, convert it unless that was done before, and say where its processed weights lie.

    Args:
        spec: a name of the catalog, a hub repository of Neel Nanda's, or a directory.
        staging: the folder whose ``models/`` keeps processed weights between runs.

    Raises:
        UsageError: nothing has this name.
        DataError: the model's files cannot be fetched or used, or the model cannot be measured.
    """
    source = find_source(spec)
    path = staging / "models" / f"{source.fingerprint}.safetensors"
    staged = _read_staged(path)
    if staged is None:
        staged = _convert(source, path)
    return ResolvedModel(source.name, spec, path, staged.hash, staged.config, source.tokenizer)


def load_model(
    weights: Path | bytes, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[ModelConfig, LeanModel]:
    """A staged model on a device.

    Args:
        weights: the file that ``resolve_model`` names, or its content.
        device, dtype: where and how the forward runs.

    Raises:
        DataError: the file is missing or damaged.
    """
    staged = read_staged(weights)
    return staged.config, LeanModel(staged.config, staged.weights, device, dtype)


def process_bridge(bridge: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Process a bridge's weights as TransformerLens does by default and read them out.

    Args:
        bridge: a ``TransformerBridge``, processed in place unless it was before.

    Returns:
        The architecture, and the weights as ``weight_shapes`` names them, in the bridge's dtype.
    """
    bridge.enable_compatibility_mode(disable_warnings=True)
    with torch.no_grad():
        names = ["W_E", "W_pos", "W_Q", "W_K", "W_V", "b_Q", "b_K", "W_O", "b_O", "W_U", "b_U"]
        names += [] if bridge.cfg.attn_only else ["W_in", "b_in", "W_out", "b_out"]
        weights = {name: getattr(bridge, name).detach().clone().contiguous() for name in names}
    return model_config(bridge.cfg, weights), weights


class StagedModel(NamedTuple):
    """What a staged file holds."""

    config: ModelConfig
    hash: str
    weights: dict[str, Tensor]


def read_staged(weights: Path | bytes) -> StagedModel:
    """Read a staged file and verify its content hash.

    Raises:
        DataError: the file is missing or damaged.
    """
    where = f"staged weights {weights}" if isinstance(weights, Path) else "staged weights from the object store"
    try:
        metadata, tensors = _read_file(weights) if isinstance(weights, Path) else _read_bytes(weights)
        config = ModelConfig(**json.loads(metadata["config"]))
        found = content_hash(config, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where} are missing or damaged ({one_line(error)}): run again, they are made anew") from error
    if found != metadata.get("hash"):
        raise DataError(f"{where} are damaged (their content hash differs): run again, they are made anew")
    return StagedModel(config, found, tensors)


def content_hash(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """Hash of an architecture and its processed weights, the same on every machine."""
    digest = blake2b(json.dumps(config.to_json(), sort_keys=True).encode(), digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_tokens(config: ModelConfig) -> Int[Tensor, "batch pos"]:
    """The random tokens on which the lean forward is held against TransformerLens'."""
    generator = torch.Generator().manual_seed(CHECK_SEED)
    return torch.randint(config.d_vocab, (CHECK_PROMPTS, min(config.n_ctx, CHECK_TOKENS)), generator=generator)


def check_logits(name: str, model: LeanModel, expected: Float[Tensor, "batch pos d_vocab"]) -> None:
    """Refuse a model on which the lean forward does not reproduce the processed bridge's logits.

    Args:
        name: of the model, as shown.
        model: the lean forward over the processed weights.
        expected: the bridge's logits of ``check_tokens``.

    Raises:
        DataError: the logits differ, by how much is said.
    """
    difference = float((model.logits(check_tokens(model.config)) - expected).abs().max())
    allowed = CHECK_TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise DataError(
            f"model {name} cannot be measured: the trace's logits differ from TransformerLens' by {difference:.2g} "
            f"(at most {allowed:.2g} is allowed)"
        )


def _read_staged(path: Path) -> StagedModel | None:
    """A staged model that was made before; None where there is none or it is damaged, so that it is made anew."""
    if not path.exists():
        return None
    try:
        return read_staged(path)
    except DataError:
        return None


def _convert(source: Source, path: Path) -> StagedModel:
    """Process a model through TransformerLens, check it, and stage it."""
    with quiet():
        bridge = boot_bridge(source)
        try:
            config, weights = process_bridge(bridge)
            check_finite(source.name, weights)
            with torch.no_grad():
                expected = bridge(check_tokens(config), return_type="logits")
            del bridge  # Half of the memory; the lean model below copies part of the weights.
            model = LeanModel(config, weights)
        except LOAD_ERRORS as error:
            raise DataError(f"model {source.name}: its weights cannot be processed: {one_line(error)}") from error
    check_logits(source.name, model, expected)
    staged = StagedModel(config, content_hash(config, weights), weights)
    _write_staged(staged, source, path)
    return staged


def _write_staged(staged: StagedModel, source: Source, path: Path) -> None:
    """Write under a temporary name, sync, rename: a file of the final name is whole."""
    metadata = {"config": json.dumps(staged.config.to_json()), "hash": staged.hash, "origin": source.origin}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(staged.weights, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot stage model {source.name} in {path.parent}: {one_line(error)}") from error
    finally:
        with suppress(OSError):  # it may be the folder itself that is not to be had
            temporary.unlink(missing_ok=True)


def _read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return metadata, load_file(path)


def _read_bytes(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata is in the JSON header that follows its own length, eight bytes little-endian."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata, load(content)
