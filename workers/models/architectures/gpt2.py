"""GPT-2 in Hugging Face's layout: folded and centred as TransformerLens would, which small models are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.activations import activation
from erasure_sweep.workers.models.architectures.transformer_lens_native import boot_native
from erasure_sweep.workers.models.files.staged_weights import StagedModel
from erasure_sweep.workers.models.files.stored_tensors import stored_tensors
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.block_weights import (
    AttentionWeights,
    EndWeights,
    Linear,
    MlpWeights,
    SublayerWeights,
)
from erasure_sweep.workers.models.processing.bridge import convert_bridge
from erasure_sweep.workers.models.processing.family import Family, architecture, convert_family, usual_shape
from erasure_sweep.workers.models.processing.refusals import LOAD_ERRORS, refuse_reasons
from erasure_sweep.workers.models.processing.saved_state import GPT2, is_of_bridge
from erasure_sweep.workers.models.processing.stored_transformer import StoredTransformer, transformers_config
from erasure_sweep.workers.models.sources import ModelFiles


def _refuse(name: str, hf: Any) -> None:
    unusual = not hf.scale_attn_weights or hf.scale_attn_by_inverse_layer_idx
    reasons = {
        f"attention not scaled by 1/sqrt(d_head = {hf.n_embd // hf.n_head})": unusual,
        "cross-attention": hf.add_cross_attention,
    }
    refuse_reasons(name, reasons, hf.activation_function)


def _shape(hf: Any) -> ModelConfig:
    return usual_shape(
        hf,
        d_mlp=hf.n_inner or 4 * hf.n_embd,
        act_fn=activation(hf.activation_function),
        eps=float(hf.layer_norm_epsilon),
    )


def _ends(stored: StoredTransformer, _config: ModelConfig) -> EndWeights:
    return stored.ends("transformer.ln_f", positions=stored.read("transformer.wpe.weight"))


def _sublayers(stored: StoredTransformer, _config: ModelConfig, layer: int) -> Iterator[SublayerWeights]:
    block = f"transformer.h.{layer}."
    # Queries, keys and values lie side by side in the file.
    parts = (values.chunk(3, dim=-1) for values in _conv(stored, f"{block}attn.c_attn"))
    query, key, value = (Linear(*part) for part in zip(*parts, strict=True))
    out = Linear(*_conv(stored, f"{block}attn.c_proj"))
    yield AttentionWeights(stored.affine(f"{block}ln_1"), query, key, value, out)
    enter, leave = (Linear(*_conv(stored, f"{block}mlp.{name}")) for name in ("c_fc", "c_proj"))
    yield MlpWeights(stored.affine(f"{block}ln_2"), enter, leave)


def _conv(stored: StoredTransformer, name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of transformers' ``Conv1D``, whose weight is stored [into, out]."""
    return stored.read(f"{name}.weight"), stored.read(f"{name}.bias")


def _boot(source: ModelFiles) -> Any:
    """TransformerLens' bridge around transformers' model."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.directory, local_files_only=True, trust_remote_code=False, dtype=torch.float32
        )
        name = type(model).__name__
        return build_bridge_from_module(
            model, name, hf_config=model.config, device="cpu", model_name=source.name
        ).eval()
    except LOAD_ERRORS as error:
        raise DataError(f"model {source.name}: TransformerLens cannot load it: {one_line(error)}") from error


FAMILY = Family("GPT-2", ("gpt2",), _refuse, _shape, _ends, _sublayers, _boot)


def _convert(source: ModelFiles, path: Path) -> StagedModel:
    """From what a bridge to a GPT-2 saved, as a native model; else as any family."""
    if is_of_bridge(stored_tensors(source.weights)):
        return convert_bridge(source._replace(config=_as_native(source)), path, boot_native)
    return convert_family(FAMILY, source, path)


def _as_native(source: ModelFiles) -> dict[str, Any]:
    """The config of a GPT-2 in TransformerLens' words."""
    hf = transformers_config(source.name, source.config)
    _refuse(source.name, hf)
    shape = _shape(hf).to_json()
    kept = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab", "eps", "act_fn")
    return {name: shape[name] for name in kept} | {"architecture": GPT2}


ARCHITECTURE = replace(architecture(FAMILY), convert=_convert)
