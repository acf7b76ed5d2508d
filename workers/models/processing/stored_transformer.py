"""A model of the transformers library whose weights stay in their files, or in memory: which there are, and its own logits.

transformers builds the model without weights, which says every tensor's name and shape. A tensor is read when it is asked
for and belongs to nobody afterwards, so that a model of any size needs the memory of its largest tensors. Buffers
(frequencies of rotary positions, scales of embeddings) are real: transformers works them out from the config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.files.file_formats import is_gguf
from erasure_sweep.workers.models.files.gguf_file import gguf_tensors
from erasure_sweep.workers.models.files.stored_tensors import StoredTensor, stored_tensors
from erasure_sweep.workers.models.processing.block_weights import Affine, EndWeights, Linear
from erasure_sweep.workers.models.processing.fused_experts import with_fused_experts
from erasure_sweep.workers.models.processing.refusals import (
    LOAD_ERRORS,
    check_finite,
    refuse_misfit,
    refuse_other_depth,
)
from erasure_sweep.workers.models.sources import ModelFiles

_UNEMBEDDINGS = ("lm_head.weight", "embed_out.weight")
"""What files call the unembedding, whatever transformers calls it by now."""
BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq")
"""Causal masks and frequencies that old files hold beside the weights."""


Tensors = Mapping[str, StoredTensor]


class StoredTransformer:
    """A causal language model whose tensors are in files, or in memory.

    Args:
        name: of the model, as shown.
        config: transformers' config of it.
        tensors: by their names there, or what finds them once transformers' model is built without values.

    Raises:
        DataError: transformers cannot build it, or its tensors are damaged or do not fit its config.
    """

    def __init__(self, name: str, config: Any, tensors: Tensors | Callable[[Any], Tensors]) -> None:
        from accelerate import init_empty_weights

        self.name = name
        if isinstance(tensors, Mapping):
            refuse_other_depth(name, config.num_hidden_layers, len(tensors))
        self.model = without_weights(name, config, torch.device("meta"))
        self.shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters(remove_duplicate=False)}
        modules = {id(module): name for name, module in self.model.named_modules()}
        self.embed = modules[id(self.model.get_input_embeddings())]
        """The embedding's name."""
        self.unembed = modules[id(self.model.get_output_embeddings())]
        """The unembedding's."""
        self._stored = self._fitting(tensors if isinstance(tensors, Mapping) else tensors(self.model))
        # Only what fits is built with buffers, which can be as large as a config says.
        self.model = without_weights(name, config, init_empty_weights(include_buffers=False))

    @classmethod
    def of_files(cls, source: ModelFiles, config: Any) -> StoredTransformer:
        """The model in some files."""
        path = source.weights[0]
        if is_gguf(path):  # the header of a GGUF file counts layers as it counts tensors
            return cls(source.name, config, partial(gguf_tensors, path))
        return cls(source.name, config, with_fused_experts(stored_tensors(source.weights)))

    @classmethod
    def of_state(cls, name: str, config: Any, state: Mapping[str, Tensor]) -> StoredTransformer:
        """The model whose ``state_dict`` this is; it stays as it is."""
        tensors = {key: StoredTensor(tuple(values.shape), partial(_on_cpu, values)) for key, values in state.items()}
        return cls(name, config, with_fused_experts(tensors))

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

    @property
    def dtype(self) -> torch.dtype:
        """Of its embedding."""
        return self._stored[f"{self.embed}.weight"].read().dtype

    def linear(self, name: str) -> Linear:
        """A ``torch.nn.Linear``, whose weight is stored [out, into], with its bias where it has one."""
        return Linear(self.read(f"{name}.weight").T, self._optional(f"{name}.bias"))

    def affine(self, name: str, offset: float = 0.0) -> Affine:
        """What a norm does behind dividing; its weights are what is stored and ``offset``."""
        weight = self._optional(f"{name}.weight")
        return Affine(None if weight is None else weight + offset, self._optional(f"{name}.bias"))

    def ends(self, norm: str, *, offset: float = 0.0, **rest: Any) -> EndWeights:
        """Embedding, the norm in front of the unembedding, by its name, and the unembedding.

        Args:
            offset: of the norm's weights.
            rest: what ``EndWeights`` has beside.
        """
        embed, unembed = self.read(f"{self.embed}.weight"), self.linear(self.unembed)
        return EndWeights(embed=embed, norm=self.affine(norm, offset), unembed=unembed, **rest)

    def _optional(self, name: str) -> Float64[Tensor, "*shape"] | None:
        return self.read(name) if name in self.shapes else None

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "batch pos"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """transformers' own logits: every module's weights are read as it runs and dropped behind it."""
        with self._loading(dtype):
            logits: Tensor = self.model(tokens, use_cache=False).logits
        return logits

    @contextmanager
    def _loading(self, dtype: torch.dtype) -> Iterator[None]:
        handles = []
        for name, module in self.model.named_modules():
            empty = dict(module.named_parameters(recurse=False))
            if empty:
                handles.append(module.register_forward_pre_hook(partial(self._load, prefix=name, dtype=dtype)))
                handles.append(module.register_forward_hook(partial(_drop, empty=empty)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _load(self, module: nn.Module, _inputs: object, prefix: str, dtype: torch.dtype) -> None:
        for name, _ in list(module.named_parameters(recurse=False)):
            values = self.read(f"{prefix}.{name}").to(dtype)
            setattr(module, name, nn.Parameter(values, requires_grad=False))

    def _fitting(self, found: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        """The files' tensors by transformers' names; refused unless they are exactly those that transformers expects."""
        shapes = self.shapes
        full = {name: self._full_name(name) for name in found}
        in_files = {
            name: tensor for name, tensor in found.items() if full[name] in shapes or not name.endswith(BUFFERS)
        }
        stored = {full[name]: tensor for name, tensor in in_files.items()}
        if self.model.config.tie_word_embeddings:
            embed, unembed = f"{self.embed}.weight", f"{self.unembed}.weight"
            for here, there in ((embed, unembed), (unembed, embed)):
                stored |= {there: stored[here]} if here in stored and there not in stored else {}
        problems = [f"{name} is missing" for name in sorted(shapes.keys() - stored.keys())]
        problems += [
            f"{name} has shape {stored[name].shape}, expected {shape}"
            for name, shape in sorted(shapes.items())
            if name in stored and stored[name].shape != shape
        ]
        extra = [name for name in sorted(in_files) if full[name] not in shapes]
        refuse_misfit(self.name, problems + [f"{name} is not part of such a model" for name in extra])
        return stored

    def _full_name(self, name: str) -> str:
        """Files saved from the model without its unembedding leave out the prefix of everything else."""
        if name in _UNEMBEDDINGS:
            return f"{self.unembed}.weight"
        prefixed = f"{self.model.base_model_prefix}.{name}"
        return prefixed if name not in self.shapes and prefixed in self.shapes else name


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().cpu()


def _drop(module: nn.Module, _inputs: object, _output: object, empty: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in empty.items():
        setattr(module, name, parameter)


def without_weights(name: str, config: Any, while_built: AbstractContextManager[Any]) -> Any:
    """transformers' model of a config, without values of its parameters.

    Args:
        name: of the model, as shown.
        config: transformers'.
        while_built: what keeps values from being made.

    Raises:
        DataError: transformers cannot build it.
    """
    from transformers import AutoModelForCausalLM

    try:
        with while_built:
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()
    except (ArithmeticError, *LOAD_ERRORS) as error:
        raise DataError(f"model {name}: transformers cannot load it: {one_line(error)}") from error


def transformers_config(name: str, values: Mapping[str, Any]) -> Any:
    """transformers' config of what config.json holds.

    Raises:
        DataError: transformers does not know such a model, or a value is of another kind.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[values["model_type"]].from_dict(dict(values))
    except (StrictDataclassError, ArithmeticError, *LOAD_ERRORS) as error:
        raise DataError(f"model {name}: transformers cannot load it: {one_line(error)}") from error
