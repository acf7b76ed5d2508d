"""The literal method on TransformerLens' hooks, as one would write it, beside the scan.

Run the bridge with a cache of what is needed, multiply ``hook_z`` into each head's output, collect every component and
state, and then, one writer and one component or state at a time, take the projection ratio at every token. That is where
it stops: the scan goes on to count the ratios for their quantiles and to keep the ledger's sums, so the literal method is
favoured. The ratios are timed for some writers and extrapolated to all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

from tests.benchmarks.scan import Scan
from tests.benchmarks.settings import Settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, added, interleave, ratio_row, scaled
from workers.components import Layout
from workers.measures.projection import Projection
from workers.trace import LeanModel, ModelConfig

SUBJECT = "literal method"


def bridge_with(config: ModelConfig, weights: dict[str, Tensor]) -> Any:
    """TransformerLens' bridge holding processed weights; norms and value biases are neutral, so processing keeps them."""
    keys = ("n_layers", "d_model", "n_heads", "d_head", "n_ctx", "d_vocab", "d_mlp", "act_fn", "attn_only", "eps")
    values = {key: getattr(config, key) for key in keys}
    bridge_config = TransformerBridgeConfig(
        **values, normalization_type="LN", architecture="TransformerLensNative", device="cpu", init_weights=False
    )
    bridge = TransformerBridge.boot_native(bridge_config, device="cpu")
    bridge.load_state_dict(convert_tl_checkpoint(_state_dict(config, weights), bridge_config), strict=True)
    bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge.eval()


def _state_dict(config: ModelConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Processed weights under the names of TransformerLens' checkpoints."""
    ones, zeros = torch.ones(config.d_model), torch.zeros(config.d_model)
    state = {"embed.W_E": weights["W_E"], "pos_embed.W_pos": weights["W_pos"]}
    for layer in range(config.n_layers):
        block = {"ln1.w": ones, "ln1.b": zeros, "attn.b_V": torch.zeros(config.n_heads, config.d_head)}
        block |= {f"attn.{name}": weights[name][layer] for name in ("W_Q", "W_K", "W_V", "b_Q", "b_K", "W_O", "b_O")}
        if not config.attn_only:
            block |= {"ln2.w": ones, "ln2.b": zeros}
            block |= {f"mlp.{name}": weights[name][layer] for name in ("W_in", "b_in", "W_out", "b_out")}
        state |= {f"blocks.{layer}.{name}": values for name, values in block.items()}
    state |= {"ln_final.w": ones, "ln_final.b": zeros}
    return state | {"unembed.W_U": weights["W_U"], "unembed.b_U": weights["b_U"]}


@torch.no_grad()
def literal_vectors(bridge: Any, layout: Layout, prompt: Tensor) -> dict[str, Tensor]:
    """Every component's output and every state, [batch, pos, d_model], from the bridge's hooks."""
    per_layer = ["attn.hook_z", "hook_attn_out", "hook_resid_post"]
    per_layer += [] if layout.attn_only else ["hook_mlp_out", "hook_resid_mid"]
    names = ["hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre"]
    names += [f"blocks.{layer}.{name}" for layer in range(layout.n_layers) for name in per_layer]
    _, cache = bridge.run_with_cache(prompt, return_type=None, names_filter=names)
    vectors = {"embed": cache["hook_embed"], "pos_embed": cache["hook_pos_embed"]}
    vectors["resid_pre0"] = cache["blocks.0.hook_resid_pre"]
    w_o, b_o = bridge.W_O, bridge.b_O
    for layer in range(layout.n_layers):
        z = cache[f"blocks.{layer}.attn.hook_z"]
        vectors |= {f"L{layer}H{head}": z[:, :, head] @ w_o[layer, head] for head in range(layout.n_heads)}
        vectors[f"b_O{layer}"] = b_o[layer].expand_as(vectors["embed"])
        vectors[f"attn{layer}"] = cache[f"blocks.{layer}.hook_attn_out"]
        vectors[f"resid_post{layer}"] = cache[f"blocks.{layer}.hook_resid_post"]
        if not layout.attn_only:
            vectors[f"MLP{layer}"] = cache[f"blocks.{layer}.hook_mlp_out"]
            vectors[f"resid_mid{layer}"] = cache[f"blocks.{layer}.hook_resid_mid"]
    return vectors


@torch.no_grad()
def literal_ratios(vectors: dict[str, Tensor], writer: str) -> dict[str, Tensor]:
    """Projection ratio of every component and state onto one writer, [batch, pos]."""
    output = vectors[writer]
    norm_sq = output.square().sum(dim=-1)
    return {label: (vector * output).sum(dim=-1) / norm_sq for label, vector in vectors.items()}


def _check_same_model(bridge: Any, model: LeanModel) -> None:
    """Two methods are compared only on one model."""
    prompt = random_prompts(model.config, 1, min(16, model.config.n_ctx))
    with torch.no_grad():
        torch.testing.assert_close(bridge(prompt, return_type="logits"), model.logits(prompt), rtol=1e-3, atol=1e-3)


def measure_literal(settings: Settings) -> Iterator[Row]:
    """Rows for every shape, one after the other."""
    torch.set_num_threads(settings.threads)
    for shape, config in settings.shapes.items():
        yield _measure_shape(settings, shape, config)


def _measure_shape(settings: Settings, shape: str, config: ModelConfig) -> Row:
    weights = random_weights(config)
    bridge, model = bridge_with(config, weights), LeanModel(config, weights)
    del weights
    _check_same_model(bridge, model)
    layout = config.layout
    prompt = random_prompts(config, 1, settings.seq_len)
    scan = Scan(model, (Projection(),))
    writers = layout.writers[:: max(1, len(layout.writers) // settings.literal_writers)]
    held: dict[str, Tensor] = {}

    def collect() -> None:
        held.clear()
        held.update(literal_vectors(bridge, layout, prompt))

    def project() -> None:
        for writer in writers:
            literal_ratios(held, writer)

    cases = {"scan": lambda: scan.update(prompt), "vectors": collect, "ratios": project}
    timings = interleave(cases, settings.literal_rounds)
    all_ratios = scaled(timings["ratios"], len(layout.writers) / len(writers))
    literal = ("literal method on TransformerLens' hooks", added(timings["vectors"], all_ratios))
    row = ratio_row(SUBJECT, shape, literal, ("projection scan, all positions", timings["scan"]))
    row.details.update(writers_timed=len(writers), writers=len(layout.writers), rows=len(layout.rows))
    return row
