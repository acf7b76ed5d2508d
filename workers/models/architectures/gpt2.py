"""GPT-2 in Hugging Face's layout, read a tensor at a time: its config, its tensors, and transformers' own logits.

transformers builds the model without weights, which says every tensor's name and shape. A tensor is read when it is asked
for and belongs to nobody afterwards, so that a model of any size needs the memory of its largest tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.bridge import (
    ACTIVATION_ALIASES,
    HF_BUFFERS,
    HF_KEYS,
    LOAD_ERRORS,
    check_finite,
    read_weights,
    refuse_misfit,
    refuse_unsupported,
)
from erasure_sweep.workers.models.forward import ModelConfig, default_attn_scale
from erasure_sweep.workers.models.sources import Source

EMBED, UNEMBED = "transformer.wte.weight", "lm_head.weight"


class Stored(NamedTuple):
    """A tensor in a file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


class Gpt2:
    """A GPT-2 whose tensors are in files.

    Args:
        source: a model in Hugging Face's layout whose ``model_type`` is gpt2.

    Raises:
        DataError: the lean trace cannot express it, or its files are damaged or do not fit its config.
    """

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._model = _without_weights(source)
        shapes = {name: tuple(p.shape) for name, p in self._model.named_parameters(remove_duplicate=False)}
        self._stored = _fitting(source, shapes, tied=bool(self._model.config.tie_word_embeddings))
        self.config = _architecture(self._model.config, shapes)

    def read(self, name: str) -> Float64[Tensor, "*shape"]:
        """A tensor by transformers' name for it.

        Raises:
            DataError: it cannot be read, or it holds other than finite numbers.
        """
        tensor = self._stored[name].read()
        if not tensor.is_floating_point():
            raise DataError(f"model {self.name}: {name} holds {tensor.dtype}, not floating-point numbers")
        check_finite(self.name, {name: tensor})
        return tensor.to(torch.float64)

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """transformers' own float32 logits: every module's weights are read as it runs and dropped behind it."""
        with self._loading():
            logits: Tensor = self._model(tokens, use_cache=False).logits
        return logits

    @contextmanager
    def _loading(self) -> Iterator[None]:
        handles = []
        for name, module in self._model.named_modules():
            empty = dict(module.named_parameters(recurse=False))
            if empty:
                handles.append(module.register_forward_pre_hook(partial(self._load, prefix=name)))
                handles.append(module.register_forward_hook(partial(_drop, empty=empty)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _load(self, module: nn.Module, _inputs: object, prefix: str) -> None:
        for name, _ in list(module.named_parameters(recurse=False)):
            values = self.read(f"{prefix}.{name}").to(torch.float32)
            setattr(module, name, nn.Parameter(values, requires_grad=False))


def _drop(module: nn.Module, _inputs: object, _output: object, empty: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in empty.items():
        setattr(module, name, parameter)


def _without_weights(source: Source) -> Any:
    """transformers' model on the meta device, refused where the trace cannot express it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import GPT2Config, GPT2LMHeadModel

    try:
        config = GPT2Config.from_dict(source.config)
        if config.n_layer < 1:
            raise DataError(f"model {source.name}: config.json says n_layer = {config.n_layer}, not a positive integer")
        refuse_unsupported(source.name, _in_words_of_transformer_lens(config))
        with torch.device("meta"):
            return GPT2LMHeadModel(config).eval()
    except (StrictDataclassError, ArithmeticError, *LOAD_ERRORS) as error:
        raise DataError(f"model {source.name}: transformers cannot load it: {one_line(error)}") from error


def _in_words_of_transformer_lens(config: Any) -> dict[str, Any]:
    shape = {"n_heads": config.n_head, "d_head": config.n_embd // config.n_head, "d_vocab": config.vocab_size}
    settings = {key: getattr(config, key) for key in HF_KEYS if hasattr(config, key)}
    return {**shape, **settings, "normalization_type": "LN", "act_fn": config.activation_function}


def _architecture(config: Any, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    d_head = config.n_embd // config.n_head
    return ModelConfig(
        n_layers=config.n_layer,
        d_model=config.n_embd,
        n_heads=config.n_head,
        d_head=d_head,
        d_mlp=shapes["transformer.h.0.mlp.c_fc.weight"][1],
        n_ctx=config.n_positions,
        d_vocab=config.vocab_size,
        act_fn=ACTIVATION_ALIASES.get(config.activation_function, config.activation_function),
        attn_only=False,
        eps=float(config.layer_norm_epsilon),
        attn_scale=default_attn_scale(d_head),
    )


def _fitting(source: Source, shapes: Mapping[str, tuple[int, ...]], tied: bool) -> dict[str, Stored]:
    """The files' tensors by transformers' names; refused unless they are exactly those that transformers expects."""
    in_files = {name: tensor for name, tensor in _stored_tensors(source).items() if not name.endswith(HF_BUFFERS)}
    stored = {_full_name(name): tensor for name, tensor in in_files.items()}
    if tied:
        for here, there in ((EMBED, UNEMBED), (UNEMBED, EMBED)):
            stored |= {there: stored[here]} if here in stored and there not in stored else {}
    problems = [f"{name} is missing" for name in sorted(shapes.keys() - stored.keys())]
    problems += [
        f"{name} has shape {stored[name].shape}, expected {shape}"
        for name, shape in sorted(shapes.items())
        if name in stored and stored[name].shape != shape
    ]
    extra = [name for name in sorted(in_files) if _full_name(name) not in shapes]
    refuse_misfit(source.name, problems + [f"{name} is not part of such a model" for name in extra])
    return stored


def _full_name(name: str) -> str:
    """The hub's own GPT-2s leave out the prefix that transformers gives everything but the unembedding."""
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def _stored_tensors(source: Source) -> dict[str, Stored]:
    """Every tensor of the model's files under the name it has there."""
    stored: dict[str, Stored] = {}
    for path in source.weights:
        if path.suffix == ".safetensors":
            stored |= _in_safetensors(path)
        elif path.suffix == ".bin":
            state = read_weights(path, mapped=True)
            stored |= {
                name: Stored(tuple(values.shape), partial(torch.detach, values)) for name, values in state.items()
            }
    return stored


def _in_safetensors(path: Path) -> dict[str, Stored]:
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return {name: Stored(shape, partial(_read_safetensors, path, name)) for name, shape in shapes.items()}


def _read_safetensors(path: Path, name: str) -> Tensor:
    """One tensor; the file is mapped for as long as this tensor lives, so that what was read can leave memory."""
    with _opened(path) as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or cut short: {one_line(error)}") from error
