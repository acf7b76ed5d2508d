"""GGUF files, as llama.cpp writes them: config, tensors and tokenizer in one file, the weights often quantized.

transformers reads them, with the package ``gguf`` (extra ``gguf``). The config is in the file's header; tensors are dequantized
all at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.files.stored_tensors import StoredTensor
from erasure_sweep.workers.models.processing.refusals import LOAD_ERRORS

_EXACT = ("F32", "F16", "BF16", "F64")
"""Kinds of values that are kept as they were trained."""


def gguf_config(path: Path) -> dict[str, Any]:
    """What transformers' config.json of the model would hold; nothing is dequantized.

    Raises:
        DataError: the package ``gguf`` is not installed, the file is damaged, or transformers does not read its kind.
    """
    return {name: _plain(value) for name, value in _load(path)["config"].items()}


def gguf_tensors(path: Path, model: Any) -> dict[str, StoredTensor]:
    """Every tensor by transformers' name, dequantized.

    Args:
        model: transformers' model of the file's config, be it without values.
    """
    tensors: Mapping[str, Any] = _load(path, return_tensors=True, model_to_load=model)["tensors"]
    return {name: StoredTensor(tuple(values.shape), partial(_given, values)) for name, values in tensors.items()}


def quantization(path: Path) -> str:
    """Of what kinds the quantized weights are, ``Q4_1, Q6_K``; empty where none is."""
    from gguf import GGUFReader

    kinds = {tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    return ", ".join(sorted(kinds - set(_EXACT)))


def _given(values: Any) -> Any:
    return values


def _load(path: Path, **wanted: Any) -> dict[str, Any]:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        found: dict[str, Any] = load_gguf_checkpoint(str(path), **wanted)
    except ImportError as error:
        raise DataError(
            f"{path} cannot be read: GGUF files need the package gguf (pip install 'erasure-sweep[gguf]')"
        ) from error
    except (ArithmeticError, IndexError, *LOAD_ERRORS) as error:
        raise DataError(f"{path} is no GGUF file that transformers can read: {one_line(error)}") from error
    return found


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's, which JSON takes."""
    return value.item() if hasattr(value, "item") else value
