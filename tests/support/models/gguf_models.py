"""A model of the Llama kind as a GGUF file, written as llama.cpp's converter writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ENDS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_gguf(path: Path, model: Any, kind: str = "F32", **fields: Any) -> Path:
    """Write transformers' Llama.

    Args:
        kind: of the matrices' values, as gguf calls it.
        fields: further ones of the header.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_name("tiny")
    _add_tokenizer(writer, config.vocab_size)
    for name, value in fields.items():
        writer.add_string(name, value)
    for name, values in model.state_dict().items():
        array = values.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = _pairs(array, heads)
        wanted = GGMLQuantizationType[kind]
        if array.ndim == 1 or kind == "F32":
            writer.add_tensor(_name(name), np.ascontiguousarray(array))
        else:
            writer.add_tensor(_name(name), quantize(array, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    if name in _ENDS:
        return _ENDS[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{_PARTS[part.removesuffix('.weight')]}.weight"


def _pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head as llama.cpp turns them: the two of a pair beside each other."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _add_tokenizer(writer: Any, n_tokens: int) -> None:
    """Byte-level pieces: letters and what two of them make."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pairs = [(a, b) for a in letters for b in letters][: n_tokens - len(letters) - 1]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|endoftext|>", *letters, *(a + b for a, b in pairs)])
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
