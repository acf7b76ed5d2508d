"""A model's files → TransformerLens' bridge; every reason for which that cannot be is found first and said in a line.

TransformerLens' own layout is what its legacy hub repositories hold (NeelNanda/*): a config.json of its field names
and a state dict of ``HookedTransformer``'s parameter names. It is loaded as ``TransformerBridge.boot_tl_legacy``
does, from files that are already here. Hugging Face's layout is loaded by transformers, then wrapped. Neither runs
code of the model's own.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.hub.files import quiet_hub
from erasure_sweep.workers.models.forward import ACTIVATIONS, ModelConfig, default_attn_scale
from erasure_sweep.workers.models.sources import Source

ACTIVATION_ALIASES = {"gelu_pytorch_tanh": "gelu_new", "swish": "silu"}

_SHAPE_KEYS = ("n_layers", "d_model", "n_heads", "d_head", "n_ctx", "d_vocab")
_KINDS: dict[str, tuple[Any, str]] = {"act_fn": (str, "a name"), "eps": ((int, float), "a positive number")}
_IGNORED_BUFFERS = (".mask", ".IGNORE")
HF_BUFFERS = (".attn.bias", ".attn.masked_bias")
"""Causal masks that old files of GPT-2 hold beside the weights."""
HF_KEYS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention", "do_layer_norm_before")
LOAD_ERRORS = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError, OSError, EOFError)


def boot_bridge(source: Source) -> Any:
    """TransformerLens' bridge to the model, its weights as the files hold them, in float32 on the CPU.

    Raises:
        DataError: the files are damaged or do not fit their config, or the lean trace cannot express the architecture.
    """
    bridge = _boot_native(source) if source.layout == "transformer_lens" else _boot_hugging_face(source)
    return bridge.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and progress bars off the terminal while they load a model."""
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with quiet_hub(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def unsupported(values: Mapping[str, Any]) -> list[str]:
    """What the lean trace cannot express in an architecture, given in the words of TransformerLens' config."""
    n_heads, d_head = values["n_heads"], values["d_head"]
    positions = str(values.get("positional_embedding_type") or "standard").lower()
    normalization = str(values.get("normalization_type") or "no")
    kv_heads = values.get("n_key_value_heads") or n_heads
    act_fn = values.get("act_fn")
    scale = float(values.get("attn_scale") or -1.0)
    caps = [float(values.get(name) or -1.0) for name in ("attn_scores_soft_cap", "output_logits_soft_cap")]
    d_vocab_out = int(values.get("d_vocab_out") or -1)
    reasons = {
        f"{positions} position embeddings": positions != "standard",
        "shortformer position embeddings": values.get("shortformer_pos"),
        f"{normalization} normalization": normalization not in ("LN", "LNPre"),
        "RMS normalization before the unembedding": values.get("final_rms"),
        "attention and MLP in parallel": values.get("parallel_attn_mlp"),
        f"grouped-query attention ({n_heads} heads on {kv_heads} keys)": kv_heads != n_heads,
        "a gated MLP": values.get("gated_mlp"),
        "a mixture of experts": values.get("num_experts"),
        f"the activation {act_fn}": not values.get("attn_only") and _activation(act_fn) not in ACTIVATIONS,
        "soft-capped scores or logits": max(caps) > 0,
        "local attention": values.get("use_local_attn") or values.get("window_size"),
        "attention that is not causal": values.get("attention_dir", "causal") != "causal",
        f"attention not scaled by 1/sqrt(d_head = {d_head})": not _is_default_scale(values, scale, d_head),
        "normalized queries and keys": values.get("use_qk_norm"),
        "normalization after sublayers or embedding": values.get("use_normalization_before_and_after")
        or values.get("post_embedding_ln")
        or values.get("do_layer_norm_before") is False,
        "cross-attention": values.get("add_cross_attention"),
        "recurrent layers": values.get("is_stateful"),
        f"a vocabulary of {d_vocab_out} for output alone": d_vocab_out not in (-1, values["d_vocab"]),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _is_default_scale(values: Mapping[str, Any], scale: float, d_head: int) -> bool:
    scaled = values.get("use_attn_scale", True) and values.get("scale_attn_weights", True)
    by_layer = values.get("scale_attn_by_inverse_layer_idx", False)
    usual = scale <= 0 or math.isclose(scale, default_attn_scale(d_head), rel_tol=1e-6)
    return bool(scaled and not by_layer and usual)


def _activation(name: object) -> str:
    return ACTIVATION_ALIASES.get(str(name), str(name))


def refuse_unsupported(name: str, values: Mapping[str, Any]) -> None:
    """Refuse an architecture that the lean trace cannot express.

    Args:
        name: of the model, as shown.
        values: as ``unsupported`` takes them.

    Raises:
        DataError: with every reason.
    """
    try:
        reasons = unsupported(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"model {name}: config.json holds a value of another kind: {one_line(error)}") from error
    if reasons:
        raise DataError(f"model {name} cannot be measured: it has {', '.join(reasons)}")


def model_config(bridge_config: Any, weights: Mapping[str, Tensor]) -> ModelConfig:
    """The architecture of a processed model; sizes are those of its weights, which every config agrees with."""
    n_layers, n_heads, d_head, d_model = weights["W_O"].shape
    attn_only = bool(bridge_config.attn_only)
    return ModelConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=int(bridge_config.d_mlp or 0) if attn_only else weights["W_in"].shape[-1],
        n_ctx=weights["W_pos"].shape[0],
        d_vocab=weights["W_E"].shape[0],
        act_fn=_activation(bridge_config.act_fn),
        attn_only=attn_only,
        eps=float(bridge_config.eps),
        attn_scale=default_attn_scale(d_head),
    )


def _boot_native(source: Source) -> Any:
    """TransformerLens' layout → its native bridge, loaded strictly."""
    values = native_config(source)
    refuse_unsupported(source.name, source.config | values)
    state = read_weights(source.weights[0])
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
    return bridge


def native_config(source: Source) -> dict[str, Any]:
    """Fields of TransformerLens' config from a config.json in its layout.

    Raises:
        DataError: one is missing, or is no such number or name.
    """
    config, attn_only = source.config, bool(source.config.get("attn_only", False))
    required = _SHAPE_KEYS if attn_only else (*_SHAPE_KEYS, "d_mlp", "act_fn")
    missing = [key for key in required if config.get(key) is None]
    if missing:
        raise DataError(
            f"model {source.name}: config.json has no {', '.join(missing)}; TransformerLens' layout needs "
            f"{', '.join(required)}, Hugging Face's a model_type"
        )
    values = {key: config[key] for key in (*required, "d_mlp", "act_fn", "eps") if config.get(key) is not None}
    for key, value in values.items():
        kinds, wanted = _KINDS.get(key, (int, "a positive integer"))
        if not isinstance(value, kinds) or isinstance(value, bool) or (key != "act_fn" and value <= 0):
            raise DataError(f"model {source.name}: config.json says {key} = {value!r}, not {wanted}")
    normalization = config.get("normalization", config.get("normalization_type", "LN"))
    return values | {"attn_only": attn_only, "normalization_type": normalization}


def read_weights(path: Path, mapped: bool = False) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a torch file read with ``weights_only``.

    Args:
        path: of the file.
        mapped: leave a torch file's tensors on the disk until they are used, where its format allows that.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        mapped = mapped and is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is not a safe weights file: it holds more than tensors, or is damaged") from error
    except (SafetensorError, *LOAD_ERRORS) as error:
        raise DataError(f"{path} is damaged or cut short: {one_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dict: expected names and tensors")
    return state


def _check_fit(source: Source, state: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the config: names first, then shapes."""
    shapes = _native_shapes(values)
    missing = [name for name in shapes if name not in state and name != "unembed.b_U"]
    extra = [name for name in sorted(state) if name not in shapes and not name.endswith(_IGNORED_BUFFERS)]
    wrong = [name for name in shapes if name in state and tuple(state[name].shape) != shapes[name]]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} has shape {tuple(state[name].shape)}, expected {shapes[name]}" for name in wrong]
    problems += [f"{name} is not part of such a model" for name in extra]
    refuse_misfit(source.name, problems)


def refuse_misfit(name: str, problems: Sequence[str]) -> None:
    """Refuse a model whose weights are not those of its config, if there are problems: the first is said.

    Raises:
        DataError: there are.
    """
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"model {name}: weights do not fit config.json: {problems[0]}{more}")


def _native_shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
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


def check_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold NaN or infinity, naming the first tensor that does."""
    for key, tensor in state.items():
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise DataError(f"model {name}: {key} holds NaN or infinity at {bad} of {tensor.numel()} places")


def _boot_hugging_face(source: Source) -> Any:
    """Hugging Face's layout → the bridge around transformers' model."""
    model = _load_hugging_face(source)
    check_finite(source.name, dict(model.named_parameters()))
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    try:
        bridge = build_bridge_from_module(
            model, type(model).__name__, hf_config=model.config, device="cpu", model_name=source.name
        )
    except LOAD_ERRORS as error:
        raise DataError(f"model {source.name}: TransformerLens cannot load it: {one_line(error)}") from error
    extra = {key: getattr(model.config, key) for key in HF_KEYS if hasattr(model.config, key)}
    refuse_unsupported(source.name, vars(bridge.cfg) | extra)
    return bridge


def _load_hugging_face(source: Source) -> Any:
    """transformers' model in float32, refused where transformers would fill in or leave out weights."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source.directory,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            use_safetensors=source.weights[0].suffix != ".bin",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except pickle.UnpicklingError as error:
        raise DataError(f"{source.weights[0]} is not a safe weights file: it holds more than tensors") from error
    except (SafetensorError, StrictDataclassError, *LOAD_ERRORS) as error:
        raise DataError(f"model {source.name}: transformers cannot load it: {one_line(error)}") from error
    problems = [f"{key} is missing" for key in sorted(info["missing_keys"])]
    problems += [
        f"{key} has shape {tuple(found)}, expected {tuple(expected)}"
        for key, found, expected in sorted(info["mismatched_keys"])
    ]
    extra = [key for key in sorted(info["unexpected_keys"]) if not key.endswith(HF_BUFFERS)]
    refuse_misfit(source.name, problems + [f"{key} is not part of such a model" for key in extra])
    return model
