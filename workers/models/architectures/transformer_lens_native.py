"""TransformerLens' own layout: gelu, attention-only and SoLU models, as its legacy repositories (NeelNanda/*) hold them.

A config.json of its field names, without a ``model_type``, and a state dict of ``HookedTransformer``'s parameter names. It is
loaded as ``TransformerBridge.boot_tl_legacy`` does, from files that are already here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.architectures.architecture import Architecture, Config
from erasure_sweep.workers.models.bridge import convert_bridge
from erasure_sweep.workers.models.file_formats import layout_of
from erasure_sweep.workers.models.refusals import check_finite, refuse_misfit, refuse_unsupported
from erasure_sweep.workers.models.sources import ModelFiles
from erasure_sweep.workers.models.stored_tensors import read_state_dict

_OLDER_LAYOUTS = ("neel-solu-old", "mingpt")
_SHAPE_KEYS = ("n_layers", "d_model", "n_heads", "d_head", "n_ctx", "d_vocab")
_KINDS: dict[str, tuple[Any, str]] = {"act_fn": (str, "a name"), "eps": ((int, float), "a positive number")}
_IGNORED_BUFFERS = (".mask", ".IGNORE")


def _recognizes(config: Config) -> bool:
    return layout_of(config) == "transformer_lens"


def _refuse(name: str, _directory: Path, config: Config) -> None:
    if config.get("architecture") in _OLDER_LAYOUTS or name.endswith("_old"):
        raise DataError(f"model {name} cannot be measured: its weights are in a layout older than TransformerLens' own")
    refuse_unsupported(name, {**config, **_fields(name, config)})


def _boot(source: ModelFiles) -> Any:
    """TransformerLens' native bridge, loaded strictly."""
    values = _fields(source.name, source.config)
    refuse_unsupported(source.name, source.config | values)
    state = read_state_dict(source.weights[0])
    _check_fit(source, state, values)
    check_finite(source.name, state)
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    config = TransformerBridgeConfig(**values, architecture="TransformerLensNative", device="cpu", init_weights=False)
    bridge = TransformerBridge.boot_native(config, device="cpu", model_name=source.name)
    state = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    state.setdefault("unembed.b_U", torch.zeros(values["d_vocab"]))
    bridge.load_state_dict(convert_tl_checkpoint(state, config), strict=True)
    return bridge.eval()


def _fields(name: str, config: Config) -> dict[str, Any]:
    """Fields of TransformerLens' config from a config.json in its layout.

    Raises:
        DataError: one is missing, or is no such number or name.
    """
    attn_only = bool(config.get("attn_only", False))
    required = _SHAPE_KEYS if attn_only else (*_SHAPE_KEYS, "d_mlp", "act_fn")
    missing = [key for key in required if config.get(key) is None]
    if missing:
        raise DataError(
            f"model {name}: config.json has no {', '.join(missing)}; TransformerLens' layout needs "
            f"{', '.join(required)}, Hugging Face's a model_type"
        )
    values = {key: config[key] for key in (*required, "d_mlp", "act_fn", "eps") if config.get(key) is not None}
    for key, value in values.items():
        kinds, wanted = _KINDS.get(key, (int, "a positive integer"))
        if not isinstance(value, kinds) or isinstance(value, bool) or (key != "act_fn" and value <= 0):
            raise DataError(f"model {name}: config.json says {key} = {value!r}, not {wanted}")
    normalization = config.get("normalization", config.get("normalization_type", "LN"))
    return values | {"attn_only": attn_only, "normalization_type": normalization}


def _check_fit(source: ModelFiles, state: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the config: names first, then shapes."""
    shapes = _shapes(values)
    missing = [name for name in shapes if name not in state and name != "unembed.b_U"]
    extra = [name for name in sorted(state) if name not in shapes and not name.endswith(_IGNORED_BUFFERS)]
    wrong = [name for name in shapes if name in state and tuple(state[name].shape) != shapes[name]]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} has shape {tuple(state[name].shape)}, expected {shapes[name]}" for name in wrong]
    problems += [f"{name} is not part of such a model" for name in extra]
    refuse_misfit(source.name, problems)


def _shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a state dict in TransformerLens' layout."""
    heads, d_model, d_head = values["n_heads"], values["d_model"], values["d_head"]
    norms = values["normalization_type"] == "LN"
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (values["d_vocab"], d_model),
        "pos_embed.W_pos": (values["n_ctx"], d_model),
    }
    block: dict[str, tuple[int, ...]] = {"ln1.w": (d_model,), "ln1.b": (d_model,)} if norms else {}
    for name in "QKV":
        block |= {f"attn.W_{name}": (heads, d_model, d_head), f"attn.b_{name}": (heads, d_head)}
    block |= {"attn.W_O": (heads, d_head, d_model), "attn.b_O": (d_model,)}
    if not values["attn_only"]:
        d_mlp = values["d_mlp"]
        block |= {"ln2.w": (d_model,), "ln2.b": (d_model,)} if norms else {}
        block |= {"mlp.W_in": (d_model, d_mlp), "mlp.b_in": (d_mlp,)}
        block |= {"mlp.W_out": (d_mlp, d_model), "mlp.b_out": (d_model,)}
        block |= {"mlp.ln.w": (d_mlp,), "mlp.ln.b": (d_mlp,)} if values["act_fn"] == "solu_ln" else {}
    for layer in range(values["n_layers"]):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    shapes |= {"ln_final.w": (d_model,), "ln_final.b": (d_model,)} if norms else {}
    return shapes | {"unembed.W_U": (d_model, values["d_vocab"]), "unembed.b_U": (values["d_vocab"],)}


ARCHITECTURE = Architecture(
    name="TransformerLens",
    recognizes=_recognizes,
    refuse=_refuse,
    boot=_boot,
    convert=partial(convert_bridge, boot=_boot),
)
