"""A model's files → processed weights: as TransformerLens does by default, checked against another forward pass, staged.

TransformerLens boots the model, folds LayerNorm, centres what writes to the stream and the unembedding, and folds value
biases into ``b_O`` (its ``enable_compatibility_mode``); the weights are read out. GPT-2 in Hugging Face's layout takes the
same steps in ``workers.models.folding``, a layer at a time, because TransformerLens holds a model several times meanwhile.

Before the weights count, the lean forward that the measures use runs on them beside TransformerLens' own on a few tokens,
or, for a GPT-2 that is too large for that, beside transformers'; a model on which the two disagree is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.architectures.gpt2 import Gpt2
from erasure_sweep.workers.models.bridge import LOAD_ERRORS, boot_bridge, check_finite, model_config, quiet
from erasure_sweep.workers.models.folding import processed_gpt2
from erasure_sweep.workers.models.forward import LeanModel, ModelConfig, weight_shapes
from erasure_sweep.workers.models.sources import Source
from erasure_sweep.workers.models.staged_weights import StagedModel, content_hash, write_staged
from erasure_sweep.workers.models.weights_file import WeightsFile
from erasure_sweep.workers.storage.whole_file import whole_file

CHECK_PROMPTS = 2
CHECK_TOKENS = 32
CHECK_SEED = 0
CHECK_TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit where that exceeds one."""

BRIDGE_BYTES = 2**30
"""Largest GPT-2, in bytes of its processed weights, that TransformerLens processes too, to be compared with: it takes
about four times these bytes, which any machine has for GPT-2 small and few laptops for the larger ones."""


def convert(source: Source, path: Path) -> StagedModel:
    """Process a model, check it, and stage it.

    Args:
        source: the model's files.
        path: of the staged file.

    Raises:
        DataError: the files cannot be used, the model cannot be measured, or the staged file cannot be written.
    """
    streamed = source.layout == "hugging_face" and source.config.get("model_type") == "gpt2"
    with quiet():
        return _convert_streamed(source, path) if streamed else _convert_bridge(source, path)


def _convert_bridge(source: Source, path: Path) -> StagedModel:
    """Through TransformerLens, in memory."""
    bridge = boot_bridge(source)
    with _processing(source):
        tokens = check_tokens(bridge.cfg)
        unprocessed = _bridge_logits(bridge, tokens)
        config, weights = process_bridge(bridge)
        check_finite(source.name, weights)
        processed = _bridge_logits(bridge, tokens)
        del bridge  # Half of the memory; the lean model below copies part of the weights.
        model = LeanModel(config, weights)
    check_logits(source.name, model, processed)
    # TransformerLens 4.3 mistakes the sides of an MLP that is as wide as the stream.
    check_logits(source.name, model, unprocessed, "the unprocessed model's")
    staged = StagedModel(config, content_hash(config, weights), weights)
    write_staged(staged, source, path)
    return staged


def _convert_streamed(source: Source, path: Path) -> StagedModel:
    """A GPT-2, from its files to the staged one, which then is mapped."""
    gpt2 = Gpt2(source)
    config = gpt2.config
    with _temporary(source, path) as temporary:
        found = _write_streamed(gpt2, source.origin, temporary)
        weights = load_file(temporary)
        with _processing(source):
            expected, whose = _expected_logits(source, gpt2)
            check_logits(source.name, LeanModel(config, weights), expected, whose)
    return StagedModel(config, found, weights)


def _write_streamed(gpt2: Gpt2, origin: str, path: Path) -> str:
    """Write a GPT-2's processed weights and return their content hash."""
    config, shapes = gpt2.config, weight_shapes(gpt2.config)
    metadata = {"config": json.dumps(config.to_json()), "hash": "0" * 32, "origin": origin}
    with closing(WeightsFile(path, shapes, metadata)) as file:
        for part in processed_gpt2(gpt2.read, config):
            check_finite(gpt2.name, {part.name: part.values})
            file.write(*part)
        file.sync()
        metadata["hash"] = content_hash(config, load_file(path))
        file.replace_metadata(metadata)
        file.sync()
    return metadata["hash"]


def _expected_logits(source: Source, gpt2: Gpt2) -> tuple[Float[Tensor, "batch pos d_vocab"], str]:
    """Logits of ``check_tokens`` that are not this project's, centred over the vocabulary, and whose they are."""
    config, tokens = gpt2.config, check_tokens(gpt2.config)
    n_bytes = 4 * sum(math.prod(shape) for shape in weight_shapes(config).values())
    if n_bytes > BRIDGE_BYTES or config.d_mlp == config.d_model:  # which TransformerLens cannot process
        return _centred(gpt2.logits(tokens)), "transformers'"
    bridge = boot_bridge(source)
    bridge.enable_compatibility_mode(disable_warnings=True)
    return _bridge_logits(bridge, tokens), "TransformerLens'"


@torch.no_grad()
def _bridge_logits(bridge: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    return _centred(bridge(tokens, return_type="logits"))


def _centred(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
    """As the logits of a model are whose unembedding is centred."""
    return logits - logits.mean(dim=-1, keepdim=True)


@contextmanager
def _processing(source: Source) -> Iterator[None]:
    """Say of which model it is what the libraries stumble over."""
    try:
        yield
    except LOAD_ERRORS as error:
        raise DataError(f"model {source.name}: its weights cannot be processed: {one_line(error)}") from error


@contextmanager
def _temporary(source: Source, path: Path) -> Iterator[Path]:
    """A path beside the staged file's, whose name it takes in the end."""
    try:
        with whole_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise DataError(f"cannot stage model {source.name} in {path.parent}: {one_line(error)}") from error


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


def check_tokens(config: Any) -> Int[Tensor, "batch pos"]:
    """The random tokens on which the lean forward is held against another; of a config, ``d_vocab`` and ``n_ctx`` count."""
    generator = torch.Generator().manual_seed(CHECK_SEED)
    return torch.randint(config.d_vocab, (CHECK_PROMPTS, min(config.n_ctx, CHECK_TOKENS)), generator=generator)


def check_logits(
    name: str, model: LeanModel, expected: Float[Tensor, "batch pos d_vocab"], whose: str = "TransformerLens'"
) -> None:
    """Refuse a model on which the lean forward does not reproduce another's logits.

    Args:
        name: of the model, as shown.
        model: the lean forward over the processed weights.
        expected: the other's logits of ``check_tokens``, centred over the vocabulary.
        whose: they are.

    Raises:
        DataError: the logits differ, by how much is said.
    """
    difference = float((model.logits(check_tokens(model.config)) - expected).abs().max())
    allowed = CHECK_TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise DataError(
            f"model {name} cannot be measured: the trace's logits differ from {whose} by {difference:.2g} "
            f"(at most {allowed:.2g} is allowed)"
        )
