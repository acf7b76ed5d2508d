"""Any family in Hugging Face's layout that TransformerLens can boot and the forward pass expresses.

A config.json with a ``model_type``, and weights by transformers' names. transformers loads the model, TransformerLens wraps it;
neither runs code of the model's own.
"""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.architectures.architecture import Architecture, Config
from erasure_sweep.workers.models.files.file_formats import CONFIG, layout_of
from erasure_sweep.workers.models.files.stored_tensors import stored_tensors
from erasure_sweep.workers.models.processing.bridge import convert_bridge
from erasure_sweep.workers.models.processing.refusals import (
    LOAD_ERRORS,
    check_finite,
    refuse_misfit,
    refuse_other_depth,
    refuse_unsupported,
    unsupported,
)
from erasure_sweep.workers.models.processing.stored_transformer import BUFFERS
from erasure_sweep.workers.models.sources import ModelFiles

HF_KEYS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention", "do_layer_norm_before")


def _recognizes(config: Config) -> bool:
    return layout_of(config) == "hugging_face"


def _refuse(name: str, directory: Path, config: Config) -> None:
    """Refuse a model of a family that has no file here, by what TransformerLens makes of its config, without a model."""
    if not (directory / CONFIG).is_file():
        raise DataError(
            f"model {name} cannot be measured: models of the kind {config['model_type']} are not read from GGUF files"
        )
    values = _bridge_values(name, directory)
    reasons = unsupported(values) if values is not None else []
    if reasons:
        raise DataError(
            f"model {name} cannot be measured: models of the kind {config['model_type']} are not read (it has "
            f"{', '.join(reasons)})"
        )


def boot_hugging_face(source: ModelFiles) -> Any:
    """TransformerLens' bridge around transformers' model."""
    _refuse_other_size(source)
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
    return bridge.eval()


def _refuse_other_size(source: ModelFiles) -> None:
    """Refuse a model that is larger than its files: transformers would make what they do not hold."""
    from transformers import AutoModelForCausalLM

    stored = stored_tensors(source.weights)
    config = _read_config(source.name, source.directory)
    refuse_other_depth(source.name, getattr(config, "num_hidden_layers", None), len(stored))
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ArithmeticError, *LOAD_ERRORS) as error:
        raise DataError(f"model {source.name}: transformers cannot load it: {one_line(error)}") from error
    n_values = sum(parameter.numel() for parameter in model.parameters())
    n_bytes = sum(path.stat().st_size for path in source.weights)
    if n_values > n_bytes:  # a value takes a byte at least
        refuse_misfit(source.name, [f"it says {n_values:,} values, and the files have {n_bytes:,} bytes"])


def _load_hugging_face(source: ModelFiles) -> Any:
    """transformers' model in float32, refused where transformers would fill in or leave out weights."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            source.directory,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            use_safetensors=source.weights[-1].suffix != ".bin",
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
    extra = [key for key in sorted(info["unexpected_keys"]) if not key.endswith(BUFFERS)]
    refuse_misfit(source.name, problems + [f"{key} is not part of such a model" for key in extra])
    return model


def _read_config(name: str, directory: Path) -> Any:
    """transformers' config of a model."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (StrictDataclassError, *LOAD_ERRORS) as error:
        raise DataError(f"model {name}: transformers cannot load it: {one_line(error)}") from error


def _bridge_values(name: str, directory: Path) -> dict[str, Any] | None:
    """What TransformerLens makes of a config in Hugging Face's layout, without a model.

    ``None`` where its builder of configs, which is private to it, is gone: then a model is refused once its weights are here.
    """
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = _read_config(name, directory)
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if architecture is None:
        raise DataError(f"model {name} cannot be measured: {config.model_type} is no causal language model")
    try:
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    except ImportError:
        return None
    try:
        found = build_bridge_config_from_hf(config, str(architecture), name, torch.float32)
        values: dict[str, Any] = vars(ArchitectureAdapterFactory.select_architecture_adapter(found).cfg)
    except LOAD_ERRORS as error:
        raise DataError(f"model {name}: TransformerLens cannot load it: {one_line(error)}") from error
    return values | {key: getattr(config, key) for key in HF_KEYS if hasattr(config, key)}


ARCHITECTURE = Architecture(
    name="Hugging Face",
    recognizes=_recognizes,
    refuse=_refuse,
    boot=boot_hugging_face,
    convert=partial(convert_bridge, boot=boot_hugging_face),
    is_fallback=True,
)
