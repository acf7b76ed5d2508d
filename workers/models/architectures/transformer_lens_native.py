"""TransformerLens' own layout: gelu, attention-only and SoLU models, as its legacy repositories (NeelNanda/*) hold them.

A config.json of its field names, without a ``model_type``, and a state dict of ``HookedTransformer`` or ``TransformerBridge``.
It is loaded as ``TransformerBridge.boot_tl_legacy`` does, from files that are already here.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.architectures.architecture import Architecture, Config
from erasure_sweep.workers.models.files.file_formats import layout_of
from erasure_sweep.workers.models.files.stored_tensors import read_state_dict
from erasure_sweep.workers.models.processing.bridge import convert_bridge
from erasure_sweep.workers.models.processing.refusals import refuse_unsupported
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
    refuse_unsupported(name, {**config, **_fields(name, config)})


def boot_native(source: ModelFiles) -> Any:
    """TransformerLens' native bridge, loaded strictly."""
    values = _fields(source.name, source.config)
    refuse_unsupported(source.name, source.config | values)
    files = [path for path in source.weights if path.suffix != ".json"]
    saved = {name: tensor for path in files for name, tensor in read_state_dict(path).items()}
    state = read_saved(source.name, saved, values, source.config.get("architecture"))
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    config = TransformerBridgeConfig(**values, architecture="TransformerLensNative", device="cpu", init_weights=False)
    bridge = TransformerBridge.boot_native(config, device="cpu", model_name=source.name)
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
)
