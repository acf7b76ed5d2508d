"""The literal method on TransformerLens' hooks, as one would write it, beside the scan.

Run the bridge once with a cache of what is needed, multiply ``hook_z`` into each head's output, collect every component and
state, and then, one writer and one component or state at a time, take the projection ratio at every token, and every
component's direct logit attribution. Then, for every writer and every later layer, run the bridge again with the writer
subtracted from the value input of all heads of that layer, up to where their values are mixed, and take every head's
patched ratio and the attribution of the difference.

That is where it stops: the scan goes on to count the ratios for their quantiles and to keep sums, so the literal method is
favoured, as it is by stopping every patched forward at the layer that it is for: a row says what it costs without. Ratios
are timed for some writers and patched forwards for some pairs, spread over the layers, and extrapolated to all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.benchmarks.scan import ALL, Scan
from tests.benchmarks.settings import GELU_4L, GPT2_SMALL, Settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, added, interleave, ratio_row, scaled

SUBJECT = "literal method"
TARGETS = {GELU_4L: 25.0, GPT2_SMALL: 150.0}
"""Scans that the literal method should cost at least."""


class Clean(NamedTuple):
    """What the clean run leaves, [batch, pos, …]."""

    vectors: dict[str, Tensor]
    """Every component's output and every state."""
    scales: list[Tensor]
    """What the input of each attention layer is divided by."""
    direction: Tensor
    """The two most likely next tokens' logit difference, over the final LayerNorm's scale."""


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
def literal_clean(bridge: Any, layout: Layout, prompt: Tensor) -> Clean:
    """The clean run, from the bridge's hooks."""
    names = [*vector_names(layout), "ln_final.hook_scale"]
    names += [f"blocks.{layer}.ln1.hook_scale" for layer in range(layout.n_layers)]
    logits, cache = bridge.run_with_cache(prompt, return_type="logits", names_filter=names)
    scales = [cache[f"blocks.{layer}.ln1.hook_scale"].view(*prompt.shape, 1) for layer in range(layout.n_layers)]
    first, second = bridge.W_U.T[logits.topk(2).indices].unbind(dim=-2)
    difference = first - second
    final_scale = cache["ln_final.hook_scale"].view(*prompt.shape, 1)
    return Clean(
        vectors_of(bridge, layout, cache), scales, (difference - difference.mean(dim=-1, keepdim=True)) / final_scale
    )


def vector_names(layout: Layout) -> list[str]:
    """Hooks that ``vectors_of`` needs, in the order of the forward pass."""
    per_layer = ["attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post"]
    if layout.attn_only:
        per_layer = ["attn.hook_z", "hook_attn_out", "hook_resid_post"]
    names = ["hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre"]
    return names + [f"blocks.{layer}.{name}" for layer in range(layout.n_layers) for name in per_layer]


def vectors_of(bridge: Any, layout: Layout, cache: Any) -> dict[str, Tensor]:
    """Every component's output and every state [batch, pos, d_model], from what hooks saw."""
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
def literal_ratios(clean: Clean, writer: str) -> dict[str, Tensor]:
    """Projection ratio of every component and state onto one writer, [batch, pos]."""
    output = clean.vectors[writer]
    norm_sq = output.square().sum(dim=-1)
    return {label: (vector * output).sum(dim=-1) / norm_sq for label, vector in clean.vectors.items()}


@torch.no_grad()
def literal_attributions(clean: Clean) -> dict[str, Tensor]:
    """Direct logit attribution of every component and state, [batch, pos]."""
    return {label: (vector * clean.direction).sum(dim=-1) for label, vector in clean.vectors.items()}


@torch.no_grad()
def literal_patched(
    bridge: Any, clean: Clean, prompt: Tensor, writer: str, layer: int, stop_early: bool = True
) -> dict[str, tuple[Tensor, Tensor]]:
    """What every head of a layer writes once it cannot read a writer, by one more forward.

    Args:
        stop_early: run up to that layer alone, not to the end.

    Returns:
        For each head, at every token [batch, pos], the ratio of its patched output onto the writer, and the attribution of
        what the patch took from it.
    """
    output = clean.vectors[writer]
    read = (output - output.mean(dim=-1, keepdim=True)) / clean.scales[layer]
    values = torch.einsum("bpd,hde->bphe", read, bridge.W_V[layer])

    def subtract(v: Tensor, hook: Any) -> Tensor:
        return v - values

    kept: list[Tensor] = []

    def keep(z: Tensor, hook: Any) -> None:
        kept.append(z)
        if stop_early:
            raise StopAtLayerException(z)

    attention = f"blocks.{layer}.attn"
    hooks = [(f"{attention}.hook_v", subtract), (f"{attention}.hook_z", keep)]
    bridge.run_with_hooks(prompt, return_type=None, fwd_hooks=hooks)
    z, norm_sq = kept[0], output.square().sum(dim=-1)
    found = {}
    for head, w_o in enumerate(bridge.W_O[layer]):
        patched = z[:, :, head] @ w_o
        part = clean.vectors[f"L{layer}H{head}"] - patched
        found[f"L{layer}H{head}"] = (patched * output).sum(dim=-1) / norm_sq, (part * clean.direction).sum(dim=-1)
    return found


def patched_pairs(layout: Layout) -> list[tuple[str, int]]:
    """Every writer with every layer whose heads can read it, layer by layer: pairs of a layer cost the same."""
    return [
        (writer, layer) for layer in range(layout.n_layers) for writer in layout.writers if layer_of(writer) < layer
    ]


def spread_over(pairs: list[tuple[str, int]], n: int, rounds: int) -> list[list[tuple[str, int]]]:
    """``n`` pairs for each round, the middles of equal parts of the list, other ones in every round."""
    places = [[(part + (turn + 0.5) / rounds) / n for part in range(n)] for turn in range(rounds)]
    return [[pairs[int(place * len(pairs))] for place in turn] for turn in places]


def _check_same_model(bridge: Any, model: LeanModel) -> None:
    """Two methods are compared only on one model."""
    prompt = random_prompts(model.config, 1, min(16, model.config.n_ctx))
    with torch.no_grad():
        torch.testing.assert_close(bridge(prompt, return_type="logits"), model.logits(prompt), rtol=1e-3, atol=1e-3)


def measure_literal(settings: Settings) -> Iterator[Row]:
    """Rows for every shape, one after the other."""
    torch.set_num_threads(settings.threads)
    for shape, config in settings.shapes.items():
        yield from _measure_shape(settings, shape, config)


def _measure_shape(settings: Settings, shape: str, config: ModelConfig) -> Iterator[Row]:
    weights = random_weights(config)
    bridge, model = bridge_with(config, weights), LeanModel(config, weights)
    del weights
    _check_same_model(bridge, model)
    layout, rounds = config.layout, settings.literal_rounds
    prompt = random_prompts(config, 1, settings.seq_len)
    scan = Scan(model, settings.seq_len)
    writers = layout.writers[:: max(1, len(layout.writers) // settings.literal_writers)]
    pairs = patched_pairs(layout)
    # The round that is not timed has one pair: a patched forward is long.
    turns = iter([pairs[:1], *spread_over(pairs, settings.literal_pairs, rounds)])
    held: list[Clean] = []

    def run_clean() -> None:
        held[:] = [literal_clean(bridge, layout, prompt)]
        literal_attributions(held[0])

    def project() -> None:
        for writer in writers:
            literal_ratios(held[0], writer)

    def patch() -> None:
        for writer, layer in next(turns):
            literal_patched(bridge, held[0], prompt, writer, layer)

    def patch_to_the_end() -> None:
        literal_patched(bridge, held[0], prompt, *pairs[0], stop_early=False)

    cases = {"scan": partial(scan.update, prompt), "clean": run_clean, "ratios": project, "patched": patch}
    timings = interleave({**cases, "to the end": patch_to_the_end}, rounds)
    all_ratios = scaled(timings["ratios"], len(layout.writers) / len(writers))
    once = added(timings["clean"], all_ratios)
    all_patched = scaled(timings["patched"], len(pairs) / settings.literal_pairs)
    beside = (ALL, timings["scan"])
    measured = ("literal method on TransformerLens' hooks", added(once, all_patched))
    row = ratio_row(SUBJECT, shape, measured, beside, TARGETS.get(shape), at_least=True)
    row.details.update(writers_timed=len(writers), writers=len(layout.writers), rows=len(layout.rows))
    row.details.update(pairs_timed=settings.literal_pairs * rounds, pairs=len(pairs))
    yield row
    yield ratio_row(SUBJECT, shape, (f"… of it the {len(pairs)} patched forwards", all_patched), beside)
    to_the_end = added(once, scaled(timings["to the end"], len(pairs)))
    yield ratio_row(SUBJECT, shape, ("the same, every patched forward run to its end", to_the_end), beside)
