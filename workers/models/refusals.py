"""Whether the trace can express a model, as far as config.json says: asked before its weights are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.bridge import HF_KEYS, LOAD_ERRORS, native_config, quiet, refuse_unsupported
from erasure_sweep.workers.models.file_formats import layout_of
from erasure_sweep.workers.models.sources import Source

_OLDER_LAYOUTS = ("neel-solu-old", "mingpt")


def refuse_unsuitable(name: str, directory: Path, config: dict[str, Any]) -> None:
    """Refuse a model by its config alone; one that passes may still be refused once its weights are here.

    Args:
        name: of the model, as shown.
        directory: with its config.json.
        config: what that holds.

    Raises:
        DataError: the trace cannot express it, or its layout is another one, with the reason.
    """
    if layout_of(config) == "hugging_face":
        with quiet():
            refuse_unsupported(name, _hugging_face_values(name, directory))
        return
    if config.get("architecture") in _OLDER_LAYOUTS or name.endswith("_old"):
        raise DataError(f"model {name} cannot be measured: its weights are in a layout older than TransformerLens' own")
    values = native_config(Source(name, "transformer_lens", directory, config, (), "", "", None))
    refuse_unsupported(name, config | values)


def _hugging_face_values(name: str, directory: Path) -> dict[str, Any]:
    """What TransformerLens makes of a config in Hugging Face's layout, without a model."""
    from huggingface_hub.errors import StrictDataclassError
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (StrictDataclassError, *LOAD_ERRORS) as error:
        raise DataError(f"model {name}: transformers cannot load it: {one_line(error)}") from error
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if architecture is None:
        raise DataError(f"model {name} cannot be measured: {config.model_type} is no causal language model")
    try:
        found = build_bridge_config_from_hf(config, str(architecture), name, torch.float32)
        values: dict[str, Any] = vars(ArchitectureAdapterFactory.select_architecture_adapter(found).cfg)
    except LOAD_ERRORS as error:
        raise DataError(f"model {name}: TransformerLens cannot load it: {one_line(error)}") from error
    return values | {key: getattr(config, key) for key in HF_KEYS if hasattr(config, key)}
