"""State dicts as TransformerLens saves them, in either layout → weights by ``HookedTransformer``'s names, in float32.

``HookedTransformer`` names parameters, ``blocks.0.attn.W_Q [head, d_model, d_head]``. ``TransformerBridge``, which follows it
in TransformerLens 4, names modules, ``blocks.0.attn.q.weight``, and keeps matrices as the model inside has them: heads side by
side, [out, in] as torch's Linear in native models, and in GPT-2 [in, out] for all but queries, keys and values, as
transformers' Conv1D.

Where norms are folded into what reads them (LNPre), a state dict leaves them out, or holds ones and zeros. Causal masks are
buffers, which nothing here looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.processing.refusals import check_finite, refuse_misfit

NATIVE, GPT2 = "TransformerLensNative", "GPT2LMHeadModel"
"""What bridges are to, as their configs say it under ``architecture``."""

_BUFFERS = (".mask", ".IGNORE")
"""What HookedTransformer's attention holds beside its weights; IGNORE is minus infinity."""
_MODULES = {"W_E": "", "W_pos": "", "W_U": "", "b_U": "", "w": "", "b": ""}
_MODULES |= {f"{kind}_{name}": f".{name.lower()}" for kind in "Wb" for name in ("Q", "K", "V", "O", "in", "out")}


class _Stored(NamedTuple):
    """A weight as a file has it."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[Tensor], Tensor]
    """From there to HookedTransformer's shape."""


def is_of_bridge(names: Mapping[str, object]) -> bool:
    """Whether these are a bridge's names."""
    return "embed.weight" in names and "embed.W_E" not in names


def read_saved(
    name: str, state: Mapping[str, Tensor], values: Mapping[str, Any], bridge_to: object
) -> dict[str, Tensor]:
    """The weights of a state dict by ``HookedTransformer``'s names, folded norms filled in where a native bridge has them.

    Args:
        name: of the model, as shown.
        state: as it was saved.
        values: the model's config in TransformerLens' words.
        bridge_to: what config.json says of the model inside the bridge that saved it, if anything.

    Raises:
        DataError: the weights do not fit the config, or are not finite numbers.
    """
    weights = {key: tensor for key, tensor in state.items() if not key.endswith(_BUFFERS)}
    if values["n_layers"] > len(weights):  # before names are made for so many
        raise DataError(
            f"model {name}: weights do not fit config.json: it says n_layers = {values['n_layers']:,}, and the file holds "
            f"{len(weights):,} tensors"
        )
    norms = _norm_shapes(values)
    weight_shapes = _shapes(values)
    first = {key: shape for key, shape in weight_shapes.items() if key.startswith(("embed", "pos_embed"))}
    shapes = first | norms | weight_shapes  # in the order in which what does not fit is named
    forms = {key: _Stored(key, shape, lambda tensor: tensor) for key, shape in shapes.items()}
    if is_of_bridge(weights):
        conv1d = _has_conv1d(name, weights, values, bridge_to)
        forms = {key: _in_bridge(key, shape, conv1d) for key, shape in shapes.items()}
    folded = [] if values["normalization_type"] == "LN" else [*norms]
    refuse_misfit(name, [*_problems(weights, forms, norms, folded)])
    check_finite(name, weights)
    found = {
        key: form.read(weights[form.name]).to(torch.float32) for key, form in forms.items() if form.name in weights
    }
    filled = {key for key in folded if ".mlp.ln." in key} | {"unembed.b_U"}
    found |= {key: _neutral(key, shapes[key]) for key in filled - found.keys()}
    return {key: tensor for key, tensor in found.items() if key in filled or key not in folded}


def _problems(
    weights: Mapping[str, Tensor], forms: Mapping[str, _Stored], norm_keys: Collection[str], folded: Collection[str]
) -> Iterator[str]:
    """What does not fit: missing names first, then shapes, then names and numbers that have no place."""
    optional = {*folded, "unembed.b_U"}
    norms = {forms[key].name for key in norm_keys}
    missing = [form.name for key, form in forms.items() if key not in optional and form.name not in weights]
    hint = (
        ""
        if any(name in weights for name in norms)
        else "; if norms are folded into what reads them, say normalization = LNPre"
    )
    yield from (f"{name} is missing{hint if name in norms else ''}" for name in missing)
    there = {key: (form, weights[form.name]) for key, form in forms.items() if form.name in weights}
    for form, tensor in there.values():
        if tuple(tensor.shape) != form.shape:
            yield f"{form.name} has shape {tuple(tensor.shape)}, expected {form.shape}"
        elif not tensor.is_floating_point():
            yield f"{form.name} holds {tensor.dtype}, not floating-point numbers"
    known = {form.name for form in forms.values()}
    yield from (f"{name} is not part of such a model" for name in sorted(weights) if name not in known)
    for key in sorted(there.keys() & folded):
        form, tensor = there[key]
        if ".mlp.ln." not in key and not torch.equal(tensor.float(), _neutral(key, tuple(tensor.shape))):
            yield f"{form.name} is not folded away, and config.json says that norms are (LNPre)"


def _neutral(key: str, shape: tuple[int, ...]) -> Tensor:
    """What a norm or bias is that does nothing."""
    return torch.ones(shape) if key.endswith(".w") else torch.zeros(shape)


def _has_conv1d(name: str, weights: Mapping[str, Tensor], values: Mapping[str, Any], bridge_to: object) -> bool:
    """Whether matrices lie as in GPT-2, by what the config says, else by the shape of an MLP.

    Raises:
        DataError: neither tells, or the bridge is to another model.
    """
    if bridge_to in (NATIVE, GPT2):
        return bridge_to == GPT2
    if bridge_to is not None:
        raise DataError(
            f"model {name}: a state dict of TransformerBridge to {bridge_to} cannot be read: give the model's own folder"
        )
    if values["attn_only"]:
        return False
    if values["d_mlp"] == values["d_model"]:
        raise DataError(
            f"model {name}: which way its matrices lie cannot be told from the state dict of a TransformerBridge: add "
            f"architecture = {NATIVE} or {GPT2} to config.json"
        )
    w_in = weights.get("blocks.0.mlp.in.weight")
    return w_in is not None and tuple(w_in.shape) == (values["d_model"], values["d_mlp"])


def _in_bridge(key: str, shape: tuple[int, ...], conv1d: bool) -> _Stored:
    """A weight of HookedTransformer as a bridge has it."""
    owner, _, kind = key.rpartition(".")
    name = f"{owner}{_MODULES[kind]}.{'bias' if kind in 'b' or kind.startswith('b_') else 'weight'}"
    if kind in ("W_Q", "W_K", "W_V"):
        heads, d_model, d_head = shape
        return _Stored(name, (heads * d_head, d_model), lambda t: t.view(heads, d_head, d_model).transpose(1, 2))
    if kind in ("b_Q", "b_K", "b_V"):
        return _Stored(name, (shape[0] * shape[1],), lambda t: t.view(shape))
    flat = (shape[0] * shape[1], shape[2]) if kind == "W_O" else shape
    if kind == "W_U" or (kind in ("W_O", "W_in", "W_out") and not conv1d):
        return _Stored(name, flat[::-1], lambda t: t.T.reshape(shape))
    return _Stored(name, flat, lambda t: t.reshape(shape))


def _shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of HookedTransformer's parameters, but for norms."""
    heads, d_model, d_head = values["n_heads"], values["d_model"], values["d_head"]
    block: dict[str, tuple[int, ...]] = {}
    for name in "QKV":
        block |= {f"attn.W_{name}": (heads, d_model, d_head), f"attn.b_{name}": (heads, d_head)}
    block |= {"attn.W_O": (heads, d_head, d_model), "attn.b_O": (d_model,)}
    if not values["attn_only"]:
        d_mlp = values["d_mlp"]
        block |= {"mlp.W_in": (d_model, d_mlp), "mlp.b_in": (d_mlp,)}
        block |= {"mlp.W_out": (d_mlp, d_model), "mlp.b_out": (d_model,)}
    ends: dict[str, tuple[int, ...]] = {
        "embed.W_E": (values["d_vocab"], d_model),
        "pos_embed.W_pos": (values["n_ctx"], d_model),
        "unembed.W_U": (d_model, values["d_vocab"]),
        "unembed.b_U": (values["d_vocab"],),
    }
    return ends | _in_every_layer(block, values)


def _norm_shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The same of its norms."""
    wide, mlp_norm = (values["d_model"],), values.get("act_fn") == "solu_ln"
    block = {"ln1": wide} if values["attn_only"] else {"ln1": wide, "ln2": wide}
    if mlp_norm and not values["attn_only"]:
        block |= {"mlp.ln": (values["d_mlp"],)}
    norms = _in_every_layer(block, values) | {"ln_final": wide}
    return {f"{name}.{kind}": shape for name, shape in norms.items() for kind in "wb"}


def _in_every_layer(block: Mapping[str, tuple[int, ...]], values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {f"blocks.{i}.{name}": shape for i in range(values["n_layers"]) for name, shape in block.items()}
