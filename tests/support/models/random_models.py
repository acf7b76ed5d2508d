"""Small random models for tests: as directories in TransformerLens' and Hugging Face's layouts, and as lean models.

The directories hold unprocessed weights with every bias and norm parameter away from its neutral value, so that folding
and centring have something to do. ``random_lean`` skips TransformerLens: its weights are random, centred as processed
weights are, and handed out in float64 beside the model, for tests that compute by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from erasure_sweep.workers.models.forward import LeanModel, default_attn_scale
from erasure_sweep.workers.models.model_config import ModelConfig, weight_shapes


class RandomLean(NamedTuple):
    """A lean model and what it was built from."""

    config: ModelConfig
    weights: dict[str, Tensor]
    model: LeanModel


def random_config(
    n_layers: int = 2,
    n_heads: int = 4,
    d_model: int = 32,
    attn_only: bool = False,
    *,
    d_head: int | None = None,
    d_mlp: int | None = None,
    n_ctx: int = 64,
    d_vocab: int = 97,
    act_fn: str = "gelu",
    eps: float = 1e-5,
    **kind: object,
) -> ModelConfig:
    """The shape of a small model; d_head and d_mlp follow from d_model where they are not given.

    Args:
        kind: what else ``ModelConfig`` takes.
    """
    d_head = d_head or d_model // n_heads
    return ModelConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=d_mlp or 4 * d_model,
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        act_fn=act_fn,
        attn_only=attn_only,
        eps=eps,
        attn_scale=default_attn_scale(d_head),
        **kind,
    )


KINDS: dict[str, dict[str, object]] = {
    "Llama": {
        **{"norm": "rms", "positions": "rotary", "rotary_dim": 8, "n_key_value_heads": 2, "gated_mlp": True},
        **{"act_fn": "silu", "attn_bias": False},
    },
    "Qwen": {
        **{"norm": "rms", "positions": "rotary", "rotary_dim": 8, "n_key_value_heads": 1, "gated_mlp": True},
        **{"act_fn": "silu", "qk_norm": "head"},
    },
    "Gemma": {
        **{"norm": "rms", "norm_behind": True, "positions": "rotary", "rotary_dim": 8, "n_key_value_heads": 2},
        **{"gated_mlp": True, "act_fn": "gelu_new", "attn_bias": False, "score_cap": 2.0, "logit_cap": 3.0},
        **{"windows": (5, 0, 5), "n_layers": 3},
    },
    "OLMo 2": {
        **{"norm": "rms", "norm_before": False, "norm_behind": True, "positions": "rotary", "rotary_dim": 8},
        **{"qk_norm": "layer", "gated_mlp": True, "act_fn": "silu", "attn_bias": False},
    },
    "GPT-NeoX": {"positions": "rotary", "rotary_dim": 4, "rotary_scale": 1.25, "parallel": True},
    "Mixtral": {
        **{"norm": "rms", "positions": "rotary", "rotary_dim": 8, "n_key_value_heads": 2, "gated_mlp": True},
        **{"act_fn": "silu", "attn_bias": False, "n_experts": 3, "experts_per_token": 2, "weigh_to_one": True},
    },
    "MPT": {"positions": "alibi", "attn_bias": False},
}
"""What families of models differ in, as ``random_config`` takes it; each has what the others lack."""


def random_lean(
    seed: int = 0,
    n_layers: int = 2,
    n_heads: int = 4,
    d_model: int = 32,
    attn_only: bool = False,
    *,
    dtype: torch.dtype = torch.float32,
    **shape: object,
) -> RandomLean:
    """A random lean model: config, its processed-like weights in float64, and the model in ``dtype``.

    Args:
        seed: of the weights.
        n_layers, n_heads, d_model, attn_only, shape: as ``random_config`` takes them.
        dtype: of the lean model; the weights beside it are always float64.
    """
    config = random_config(n_layers, n_heads, d_model, attn_only, **shape)
    weights = random_processed_weights(config, seed)
    return RandomLean(config, weights, LeanModel(config, weights, dtype=dtype))


def random_processed_weights(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Random float64 weights; under LayerNorm what reads and what writes is centred along d_model, the unembedding always
    along the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * _scale(name, config)
        if name in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            values = values - values.mean(dim=-1, keepdim=True) * (config.norm == "layer")
        elif name in ("W_Q", "W_K", "W_V", "W_in"):
            values = values - values.mean(dim=-2, keepdim=True) * (config.norm == "layer")
        elif name in ("W_U", "b_U"):
            values = values - values.mean(dim=-1, keepdim=True)
        elif name.endswith("_gain"):
            values = 1.0 + values
        elif name == "inverse_frequency":
            values = (values.abs() + 0.01).float().double()  # what every family computes in float32
        elif name == "alibi_slope":
            values = values.abs()
        weights[name] = values
    return weights


def _scale(name: str, config: ModelConfig) -> float:
    """Standard deviation that keeps every term of the residual stream of order one and attention away from uniform."""
    if name in ("W_E", "W_pos"):
        return 0.7
    if name.startswith("b_") or name.endswith("_gain"):
        return 0.2
    if name in ("inverse_frequency", "alibi_slope"):
        return 0.3
    fan_in = {"W_O": config.n_heads * config.d_head, "W_out": config.d_mlp}.get(name, config.d_model)
    return (1.5 if name in ("W_Q", "W_K") else 1.0) / math.sqrt(fan_in)


def tl_state_dict(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Unprocessed float32 weights under the names of TransformerLens' legacy checkpoints.

    Where there are several layers the last one's first head writes against whatever it reads: in purely random weights nothing
    is erased, and there would be nothing to verify.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, std: float = 0.2, mean: float = 0.0) -> Tensor:
        return mean + std * torch.randn(shape, generator=generator)

    heads, d_model, d_head, d_mlp = config.n_heads, config.d_model, config.d_head, config.d_mlp
    width = 1 / math.sqrt(d_model)
    state = {
        "embed.W_E": draw(config.d_vocab, d_model, std=0.7),
        "pos_embed.W_pos": draw(config.n_ctx, d_model, std=0.7),
    }
    for layer in range(config.n_layers):
        block = {"ln1.w": draw(d_model, mean=1.0), "ln1.b": draw(d_model)}
        for name in "QKV":
            block |= {
                f"attn.W_{name}": draw(heads, d_model, d_head, std=1.5 * width),
                f"attn.b_{name}": draw(heads, d_head),
            }
        block |= {"attn.W_O": draw(heads, d_head, d_model, std=width), "attn.b_O": draw(d_model)}
        if 0 < layer == config.n_layers - 1:
            block["attn.W_O"][0] = -3.0 * block["attn.W_V"][0].T
        if not config.attn_only:
            block |= {"ln2.w": draw(d_model, mean=1.0), "ln2.b": draw(d_model)}
            block |= {"mlp.W_in": draw(d_model, d_mlp, std=width), "mlp.b_in": draw(d_mlp)}
            block |= {"mlp.W_out": draw(d_mlp, d_model, std=1 / math.sqrt(d_mlp)), "mlp.b_out": draw(d_model)}
        if config.act_fn == "solu_ln" and not config.attn_only:
            block |= {"mlp.ln.w": draw(d_mlp, mean=1.0), "mlp.ln.b": draw(d_mlp)}
        state |= {f"blocks.{layer}.{name}": values for name, values in block.items()}
    state |= {"ln_final.w": draw(d_model, mean=1.0), "ln_final.b": draw(d_model)}
    return state | {"unembed.W_U": draw(d_model, config.d_vocab, std=width), "unembed.b_U": draw(config.d_vocab)}


def tl_config_json(config: ModelConfig, tokenizer_name: str | None = None) -> dict[str, object]:
    """``config.json`` of TransformerLens' legacy layout."""
    keys = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab", "act_fn", "attn_only")
    values: dict[str, object] = {key: getattr(config, key) for key in keys}
    return values | {"normalization": "LN", "tokenizer_name": tokenizer_name}


def write_tl_directory(
    path: Path,
    seed: int = 0,
    n_layers: int = 2,
    n_heads: int = 4,
    d_model: int = 32,
    attn_only: bool = False,
    *,
    weights_file: str = "model.safetensors",
    tokenizer_name: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    overrides: Mapping[str, object] | None = None,
    **shape: object,
) -> Path:
    """Write a random model in TransformerLens' layout and return its directory.

    Args:
        path: the directory, made when absent.
        weights_file: a name ending in .safetensors or .pth, which decides the format.
        tokenizer_name: as config.json should say it.
        state: weights to write instead of random ones.
        overrides: keys of config.json to change (a value of ``...`` removes the key).
        seed, n_layers, n_heads, d_model, attn_only, shape: as ``random_lean`` takes them.
    """
    path.mkdir(parents=True, exist_ok=True)
    config = random_config(n_layers, n_heads, d_model, attn_only, **shape)
    values = dict(tl_state_dict(config, seed) if state is None else state)
    target = path / weights_file
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".pth":
        torch.save(values, target)
    else:
        save_file(values, target)
    _write_config(path, tl_config_json(config, tokenizer_name), overrides)
    return path


def write_hf_gpt2_directory(
    path: Path,
    seed: int = 0,
    n_layers: int = 2,
    n_heads: int = 4,
    d_model: int = 32,
    *,
    weights_file: str = "model.safetensors",
    overrides: Mapping[str, object] | None = None,
    **shape: object,
) -> Path:
    """Write a random GPT-2 in Hugging Face's layout (keys as in the hub's gpt2) and return its directory."""
    path.mkdir(parents=True, exist_ok=True)
    config = random_config(n_layers, n_heads, d_model, act_fn="gelu_new", **shape)
    state = gpt2_state_dict(config, seed)
    if weights_file.endswith(".bin"):
        torch.save(state, path / weights_file)
    else:
        save_file(state, path / weights_file, metadata={"format": "pt"})
    _write_config(path, gpt2_config_json(config), overrides)
    return path


def write_hf_gpt2_shards(path: Path, config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float16) -> Path:
    """Write a random GPT-2 of any size, a shard for every layer and one for the rest, and return its directory."""
    path.mkdir(parents=True, exist_ok=True)
    shards = [f"model-{i + 1:05}-of-{config.n_layers + 1:05}.safetensors" for i in range(config.n_layers + 1)]
    weight_map = {}
    for layer, shard in enumerate(shards, start=-1):
        state = _rest_or_layer(config, seed, layer)
        save_file({name: values.to(dtype) for name, values in state.items()}, path / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(state, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index) + "\n")
    _write_config(path, gpt2_config_json(config), None)
    return path


def _rest_or_layer(config: ModelConfig, seed: int, layer: int) -> dict[str, Tensor]:
    """The weights outside of all layers, which count as layer −1, or those of one layer."""
    if layer < 0:
        return gpt2_state_dict(replace(config, n_layers=0), seed)
    state = gpt2_state_dict(replace(config, n_layers=1, n_ctx=1, d_vocab=1), seed + 1 + layer)
    return {name.replace("h.0.", f"h.{layer}."): v for name, v in state.items() if name.startswith("h.0.")}


def gpt2_config_json(config: ModelConfig) -> dict[str, object]:
    """``config.json`` of Hugging Face's GPT-2."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": config.act_fn,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_embd": config.d_model,
        "n_positions": config.n_ctx,
        "n_ctx": config.n_ctx,
        "vocab_size": config.d_vocab,
        "layer_norm_epsilon": config.eps,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def gpt2_state_dict(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """The weights of ``tl_state_dict`` as GPT-2 names and shapes them; embedding and unembedding are tied."""
    source = tl_state_dict(config, seed)
    state = {"wte.weight": source["embed.W_E"], "wpe.weight": source["pos_embed.W_pos"]}
    for layer in range(config.n_layers):
        block = {
            name.removeprefix(f"blocks.{layer}."): v
            for name, v in source.items()
            if name.startswith(f"blocks.{layer}.")
        }
        state |= {f"h.{layer}.{name}": values.contiguous() for name, values in _gpt2_block(block).items()}
    return state | {"ln_f.weight": source["ln_final.w"], "ln_f.bias": source["ln_final.b"]}


def _gpt2_block(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    norms = {f"ln_{i}.{new}": block[f"ln{i}.{old}"] for i in (1, 2) for old, new in (("w", "weight"), ("b", "bias"))}
    attention = {
        "attn.c_attn.weight": torch.cat([block[f"attn.W_{name}"].transpose(0, 1).flatten(1) for name in "QKV"], dim=1),
        "attn.c_attn.bias": torch.cat([block[f"attn.b_{name}"].flatten() for name in "QKV"]),
        "attn.c_proj.weight": block["attn.W_O"].flatten(0, 1),
        "attn.c_proj.bias": block["attn.b_O"],
    }
    mlp = {f"mlp.c_fc.{new}": block[f"mlp.{old}_in"] for old, new in (("W", "weight"), ("b", "bias"))}
    mlp |= {f"mlp.c_proj.{new}": block[f"mlp.{old}_out"] for old, new in (("W", "weight"), ("b", "bias"))}
    return norms | attention | mlp


def _write_config(path: Path, config: dict[str, object], overrides: Mapping[str, object] | None) -> None:
    merged = {key: value for key, value in (config | dict(overrides or {})).items() if value is not ...}
    (path / "config.json").write_text(json.dumps(merged, indent=1) + "\n")
