"""TransformerLens' own layout: gelu, attention-only and SoLU models, as its legacy repositories (NeelNanda/*) hold them.

A config.json of its field names, without a ``model_type``, and a state dict of ``HookedTransformer`` or ``TransformerBridge``.
It is loaded as ``TransformerBridge.boot_tl_legacy`` does, from files that are already here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.architectures.architecture import Architecture, Config, InMemory
from erasure_sweep.workers.models.files.file_formats import layout_of
from erasure_sweep.workers.models.files.stored_tensors import read_state_dict
from erasure_sweep.workers.models.forward import default_attn_scale
from erasure_sweep.workers.models.processing.bridge import convert_bridge, process_bridge, processing_errors
from erasure_sweep.workers.models.processing.refusals import refuse_reasons
from erasure_sweep.workers.models.processing.saved_state import read_saved
from erasure_sweep.workers.models.sources import ModelFiles

_OLDER_LAYOUTS = ("neel-solu-old", "mingpt")
_SHAPE_KEYS = ("n_layers", "d_model", "n_heads", "d_head", "n_ctx", "d_vocab")
_KINDS: dict[str, tuple[Any, str]] = {"act_fn": (str, "a name"), "eps": ((int, float), "a positive number")}


def _recognizes(config: Config) -> bool:
    return layout_of(config) == "transformer_lens"


def _refuse(name: str, _directory: Path, config: Config) -> None:
    if config.get("architecture") in _OLDER_LAYOUTS or name.endswith("_old"):
        raise DataError(f"model {name} cannot be measured: its weights are in a layout older than TransformerLens' own")
    _refuse_unsupported(name, {**config, **_fields(name, config)})


def boot_native(source: ModelFiles) -> Any:
    """TransformerLens' native bridge, loaded strictly."""
    files = [path for path in source.weights if path.suffix != ".json"]
    saved = (item for path in files for item in read_state_dict(path).items())
    return _booted(source.name, source.config, lambda: dict(saved))


def _booted(name: str, config: Config, saved: Callable[[], Mapping[str, Tensor]]) -> Any:
    """The native bridge of a config and the state dict that goes with it, read once the config is one that can be used."""
    values = _fields(name, config)
    _refuse_unsupported(name, {**config, **values})
    state = read_saved(name, saved(), values, config.get("architecture"))
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    told = TransformerBridgeConfig(**values, architecture="TransformerLensNative", device="cpu", init_weights=False)
    bridge = TransformerBridge.boot_native(told, device="cpu", model_name=name)
    bridge.load_state_dict(convert_tl_checkpoint(state, told), strict=True)
    return bridge.eval()


def _process(name: str, config: Config, state: Mapping[str, Tensor]) -> InMemory:
    """A ``HookedTransformer``, or a native bridge, by its config and its state dict."""
    on_cpu = {key: values.detach().cpu() for key, values in state.items()}
    with processing_errors(name):
        return InMemory(*process_bridge(_booted(name, config, lambda: on_cpu)))


def _refuse_unsupported(name: str, values: Mapping[str, Any]) -> None:
    """Refuse what the forward cannot express of what TransformerLens' configs can say."""
    try:
        reasons = _unsupported(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"model {name}: config.json holds a value of another kind: {one_line(error)}") from error
    refuse_reasons(name, reasons, None if values.get("attn_only") else values.get("act_fn"))


def _unsupported(values: Mapping[str, Any]) -> dict[str, object]:
    n_heads, d_head = values["n_heads"], values["d_head"]
    positions = str(values.get("positional_embedding_type") or "standard").lower()
    normalization = str(values.get("normalization_type") or "no")
    kv_heads = values.get("n_key_value_heads") or n_heads
    scale = float(values.get("attn_scale") or -1.0)
    usual = scale <= 0 or math.isclose(scale, default_attn_scale(d_head), rel_tol=1e-6)
    caps = [float(values.get(name) or -1.0) for name in ("attn_scores_soft_cap", "output_logits_soft_cap")]
    d_vocab_out = int(values.get("d_vocab_out") or -1)
    return {
        f"{positions} position embeddings": positions != "standard",
        "shortformer position embeddings": values.get("shortformer_pos"),
        f"{normalization} normalization": normalization not in ("LN", "LNPre"),
        "RMS normalization before the unembedding": values.get("final_rms"),
        "attention and MLP in parallel": values.get("parallel_attn_mlp"),
        f"grouped-query attention ({n_heads} heads on {kv_heads} keys)": kv_heads != n_heads,
        "a gated MLP": values.get("gated_mlp"),
        "a mixture of experts": values.get("num_experts"),
        "soft-capped scores or logits": max(caps) > 0,
        "local attention": values.get("use_local_attn") or values.get("window_size"),
        "attention that is not causal": values.get("attention_dir", "causal") != "causal",
        f"attention not scaled by 1/sqrt(d_head = {d_head})": not (values.get("use_attn_scale", True) and usual),
        "normalized queries and keys": values.get("use_qk_norm"),
        "normalization after sublayers or embedding": values.get("use_normalization_before_and_after")
        or values.get("post_embedding_ln"),
        f"a vocabulary of {d_vocab_out} for output alone": d_vocab_out not in (-1, values["d_vocab"]),
    }


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
        positive = key == "act_fn" or (isinstance(value, int | float) and 0 < value < math.inf)
        if not isinstance(value, kinds) or isinstance(value, bool) or not positive:
            raise DataError(f"model {name}: config.json says {key} = {value!r}, not {wanted}")
    normalization = config.get("normalization", config.get("normalization_type", "LN"))
    return values | {"attn_only": attn_only, "normalization_type": normalization}


ARCHITECTURE = Architecture(
    name="TransformerLens",
    recognizes=_recognizes,
    refuse=_refuse,
    boot=boot_native,
    convert=partial(convert_bridge, boot=boot_native),
    process=_process,
)
