"""Tiny models of transformers' own classes, with random weights, norms and biases among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

TINY = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
"""What every family is given, as far as its config knows it."""


def random_transformer(model_type: str, seed: int, **settings: Any) -> Any:
    """A model whose every parameter is drawn at random, in float32."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[model_type](**{**TINY, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", experts_implementation="eager"
        ).eval()
        for name, values in model.named_parameters():
            scale = 0.2 if values.ndim == 1 else 1.0 / values.shape[-1] ** 0.5
            around = 1.0 if values.ndim == 1 and name.endswith("weight") else 0.0
            values.data = around + scale * torch.randn_like(values)
    return model


def write_transformer(folder: Path, model: Any, **saving: Any) -> Path:
    """The model's folder as transformers writes it."""
    model.save_pretrained(folder, **saving)
    return folder


def write_llama_directory(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A random Llama whose last layer's first head writes against whatever it reads, as in ``random_models``."""
    model = random_transformer("llama", seed, **{"num_hidden_layers": 3, "vocab_size": 97, **settings})
    attention = model.model.layers[-1].self_attn
    d_head = attention.head_dim
    attention.o_proj.weight.data[:, :d_head] = -3.0 * attention.v_proj.weight.data[:d_head].T
    return write_transformer(folder, model)


@contextmanager
def in_float64() -> Iterator[None]:
    """Let transformers compute in float64 what it computes in float32 whatever the weights are: norms and softmax."""
    plain = Tensor.float

    def kept(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return values if values.dtype == torch.float64 else plain(values, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(functional, "softmax", _softmax)
        patch.setattr(Tensor, "float", kept)
        yield


_plain_softmax = functional.softmax


def _softmax(values: Tensor, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    """Routers ask for float32 by its other name."""
    return _plain_softmax(values, *args, dtype=values.dtype if dtype == torch.float else dtype, **kwargs)


def float64_logits(model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """transformers' logits, all of them in float64."""
    with in_float64(), torch.no_grad():
        logits: Tensor = model.double()(tokens, use_cache=False).logits
    return logits
