"""The two layouts of a model's files: config.json, which says whose layout it is, and the names of the weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.storage.given_files import read_given_json

FileLayout = Literal["transformer_lens", "hugging_face"]
CONFIG = "config.json"
_SAFETENSORS_INDEX, _TORCH_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
INDICES = (_SAFETENSORS_INDEX, _TORCH_INDEX)
"""Files that list the shards in which the weights lie."""

_PREFERRED: dict[FileLayout, tuple[str, ...]] = {
    "transformer_lens": ("model.safetensors", "model_final.pth"),
    "hugging_face": ("model.safetensors", _SAFETENSORS_INDEX, "pytorch_model.bin", _TORCH_INDEX),
}


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a directory.

    Raises:
        DataError: there is none, or it holds no object.
    """
    path = directory / CONFIG
    try:
        config = read_given_json(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{directory} holds no config.json: a model directory is TransformerLens' (with n_layers, d_model, …) "
            "or Hugging Face's (with model_type)"
        ) from error
    if not isinstance(config, dict):
        raise DataError(f"{path} holds {type(config).__name__} where an object with the model's shape is expected")
    return config


def layout_of(config: Mapping[str, Any]) -> FileLayout:
    """Hugging Face's configs name a ``model_type``; TransformerLens' do not."""
    return "hugging_face" if "model_type" in config else "transformer_lens"


def weights_name(names: Collection[str], layout: FileLayout, where: str) -> str:
    """The file that holds the final weights, or the index of the files that do.

    Args:
        names: of the files of a folder or repository.
        layout: whose.
        where: the folder or repository, for errors.

    Raises:
        DataError: there is none, or it cannot be told which of several it is.
    """
    found = next((name for name in _PREFERRED[layout] if name in names), None)
    if found is not None:
        return found
    if layout == "hugging_face":
        raise DataError(f"{where} holds a config.json but no weights: expected model.safetensors or pytorch_model.bin")
    others = sorted(name for name in names if "/" not in name and name.endswith((".safetensors", ".pth")))
    if not others:
        raise DataError(f"{where} holds a config.json but no weights: expected *.safetensors or *.pth")
    final = [name for name in others if name.endswith("final.pth")] or others
    if len(final) > 1:
        raise DataError(
            f"{where} holds several weights ({', '.join(others[:4])}): name the one meant model.safetensors or "
            "model_final.pth"
        )
    return final[0]


def other_weights(names: Collection[str], layout: FileLayout, chosen: str) -> list[str]:
    """Files that could have been the final weights, beside the one that was chosen."""
    if layout == "hugging_face":
        return [name for name in _PREFERRED[layout] if name in names and name != chosen]
    return [name for name in sorted(names) if name.endswith((".safetensors", ".pth")) and name != chosen]


def shard_names(index: Path) -> tuple[str, ...]:
    """The files that an index of shards lists.

    Raises:
        DataError: it is damaged, or names files elsewhere.
    """
    try:
        names = sorted(set(read_given_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index} is not an index of shards: {one_line(error)}") from error
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError(f"{index} is not an index of shards: it names no files beside it")
    return tuple(names)


def is_gguf(path: Path | str) -> bool:
    """Whether a file is called as GGUF files are."""
    return str(path).endswith(".gguf")
