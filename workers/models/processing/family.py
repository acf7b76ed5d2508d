"""A family of models in Hugging Face's layout: what a file of it says, and the way to staged weights, the same for all.

Tensors are read one sublayer at a time, folded (``block_weights``) and written; then the forward pass that the measures use is
held against a pass that is not this project's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.architectures.architecture import Architecture, Config, InMemory
from erasure_sweep.workers.models.files.staged_weights import StagedModel, content_hash, staged_file
from erasure_sweep.workers.models.files.weights_file import WeightsFile
from erasure_sweep.workers.models.forward import LeanModel, default_attn_scale
from erasure_sweep.workers.models.model_config import ModelConfig, weight_shapes, weights_bytes
from erasure_sweep.workers.models.processing.block_weights import (
    EndWeights,
    ProcessedWeight,
    SublayerWeights,
    processed,
)
from erasure_sweep.workers.models.processing.bridge import bridge_logits, centred_logits, processing_errors
from erasure_sweep.workers.models.processing.logits_check import check_logits, check_tokens
from erasure_sweep.workers.models.processing.refusals import LOAD_ERRORS, check_finite
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer, transformers_config
from erasure_sweep.workers.models.sources import ModelFiles

BRIDGE_BYTES = 2**30
"""Largest model, in bytes of its processed weights, that TransformerLens processes too, to be compared with: it takes
about four times these bytes, which any machine has for GPT-2 small and few laptops for the larger ones."""


class Family(NamedTuple):
    """What one file of a family says. ``hf`` is transformers' config of a model."""

    name: str
    """As people call it."""
    model_types: tuple[str, ...]
    """What its configs call it."""
    refuse: Callable[[str, Any], None]
    """Given a model's name and ``hf``: raises ``DataError`` where the forward cannot express it."""
    shape: Callable[[Any], ModelConfig]
    """What is made of ``hf``."""
    ends: Callable[[StoredTransformer, ModelConfig], EndWeights]
    sublayers: Callable[[StoredTransformer, ModelConfig, int], Iterator[SublayerWeights]]
    """Of one layer, attention first."""
    boot: Callable[[ModelFiles], Any] | None = None
    """TransformerLens' bridge, where small models are compared with it; else with transformers' own model."""


def usual_shape(hf: Any, **rest: Any) -> ModelConfig:
    """What transformers' configs of all families say alike, and what one has beside.

    Args:
        rest: fields of ``ModelConfig``.
    """
    d_head = hf.hidden_size // hf.num_attention_heads
    said = {
        "n_layers": hf.num_hidden_layers,
        "d_model": hf.hidden_size,
        "n_heads": hf.num_attention_heads,
        "d_head": d_head,
        "d_vocab": hf.vocab_size,
        "attn_only": False,
        "attn_scale": default_attn_scale(rest.get("d_head", d_head)),
    }
    if "n_ctx" not in rest:
        said["n_ctx"] = hf.max_position_embeddings
    return ModelConfig(**(said | rest))


def architecture(family: Family) -> Architecture:
    """The family as the registry has it."""
    return Architecture(
        name=family.name,
        recognizes=lambda config: config.get("model_type") in family.model_types,
        refuse=partial(_refuse, family),
        boot=family.boot,
        convert=partial(convert_family, family),
        process=partial(_process, family),
    )


def _refuse(family: Family, name: str, _directory: Path, config: Config) -> None:
    _checked_config(family, name, config)


def _checked_config(family: Family, name: str, config: Config) -> tuple[Any, ModelConfig]:
    """transformers' config and this project's, refused where the forward cannot express it."""
    hf = transformers_config(name, config)
    if hf.num_hidden_layers < 1:
        raise DataError(f"model {name}: config.json says {hf.num_hidden_layers} layers, not a positive number")
    try:
        family.refuse(name, hf)
        return hf, family.shape(hf)
    except (ArithmeticError, *LOAD_ERRORS) as error:
        raise DataError(f"model {name}: config.json cannot be used: {one_line(error)}") from error


def convert_family(family: Family, source: ModelFiles, path: Path) -> StagedModel:
    """A model, from its files to the staged one, which then is mapped.

    Args:
        source: the model's files.
        path: of the staged file.

    Raises:
        DataError: the files cannot be used, the model cannot be measured, or the staged file cannot be written.
    """
    hf, config = _checked_config(family, source.name, source.config)
    stored = StoredTransformer.of_files(source, hf)
    with staged_file(path, source.name) as temporary:
        found = _write(source, config, family_weights(family, stored, config), temporary)
        weights = load_file(temporary)
        with processing_errors(source.name):
            expected, whose = _expected_logits(family, source, stored, config)
            check_logits(source.name, LeanModel(config, weights), expected, whose)
    return StagedModel(config, found, weights)


def _process(family: Family, name: str, values: Config, state: Mapping[str, Tensor]) -> InMemory:
    """A model in memory: its config.json and its state dict."""
    hf, config = _checked_config(family, name, values)
    stored = StoredTransformer.of_state(name, hf, state)
    dtype = torch.float64 if stored.dtype == torch.float64 else torch.float32
    weights = {key: torch.empty(shape, dtype=dtype) for key, shape in weight_shapes(config).items()}
    for key, layer, found in family_weights(family, stored, config):
        (weights[key] if layer is None else weights[key][layer]).copy_(found)
    return InMemory(config, weights)


def family_weights(family: Family, stored: StoredTransformer, config: ModelConfig) -> Iterator[ProcessedWeight]:
    """The processed weights of a model, read as they are asked for."""
    blocks = (family.sublayers(stored, config, layer) for layer in range(config.n_layers))
    return processed(config, family.ends(stored, config), blocks)


def _write(source: ModelFiles, config: ModelConfig, parts: Iterator[ProcessedWeight], path: Path) -> str:
    """Write a model's processed weights and return their content hash."""
    metadata = {"config": json.dumps(config.to_json()), "hash": "0" * 32, "origin": source.origin}
    with closing(WeightsFile(path, weight_shapes(config), metadata)) as file:
        for name, layer, values in parts:
            kept = values.float()
            check_finite(source.name, {name: kept})
            file.write(name, layer, kept)
        file.sync()
        metadata["hash"] = content_hash(config, load_file(path))
        file.replace_metadata(metadata)
        file.sync()
    return metadata["hash"]


def _expected_logits(
    family: Family, source: ModelFiles, stored: StoredTransformer, config: ModelConfig
) -> tuple[Float[Tensor, "batch pos d_vocab"], str]:
    """Logits of ``check_tokens`` that are not this project's, as those of processed weights are, and whose they are."""
    tokens, n_bytes = check_tokens(config), weights_bytes(config)
    # TransformerLens cannot process an MLP that is as wide as the stream.
    if family.boot is None or n_bytes > BRIDGE_BYTES or config.d_mlp == config.d_model:
        logits = stored.logits(tokens)
        return logits if config.logit_cap else centred_logits(logits), "transformers'"
    bridge = family.boot(source)
    bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge_logits(bridge, tokens), "TransformerLens'"
