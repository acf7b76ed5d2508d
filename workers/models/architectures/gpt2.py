"""GPT-2 in Hugging Face's layout, converted a tensor at a time, so that a model of any size needs the memory of its largest.

transformers builds the model without weights, which says every tensor's name and shape. A tensor is read when it is asked
for and belongs to nobody afterwards. It is folded and centred as TransformerLens would, which itself holds a model several
times meanwhile; small models are compared with it, larger ones with transformers' own logits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32, Float64, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.activations import activation
from erasure_sweep.workers.models.architectures.architecture import Architecture, Config
from erasure_sweep.workers.models.architectures.hugging_face import (
    HF_BUFFERS,
    HF_KEYS,
    boot_hugging_face,
    refuse_by_bridge_config,
    refuse_other_depth,
)
from erasure_sweep.workers.models.architectures.transformer_lens_native import boot_native
from erasure_sweep.workers.models.files.staged_weights import StagedModel, content_hash
from erasure_sweep.workers.models.files.stored_tensors import StoredTensor, stored_tensors
from erasure_sweep.workers.models.files.weights_file import WeightsFile
from erasure_sweep.workers.models.forward import LeanModel, default_attn_scale
from erasure_sweep.workers.models.model_config import ModelConfig, weight_shapes
from erasure_sweep.workers.models.processing.bridge import (
    bridge_logits,
    centred_logits,
    convert_bridge,
    processing_errors,
)
from erasure_sweep.workers.models.processing.folding import centred, folded, ordered_sum
from erasure_sweep.workers.models.processing.logits_check import check_logits, check_tokens
from erasure_sweep.workers.models.processing.refusals import (
    LOAD_ERRORS,
    check_finite,
    refuse_misfit,
    refuse_unsupported,
)
from erasure_sweep.workers.models.processing.saved_state import GPT2, is_of_bridge
from erasure_sweep.workers.models.sources import ModelFiles
from erasure_sweep.workers.storage.whole_file import whole_file

EMBED, UNEMBED = "transformer.wte.weight", "lm_head.weight"
BRIDGE_BYTES = 2**30
"""Largest GPT-2, in bytes of its processed weights, that TransformerLens processes too, to be compared with: it takes
about four times these bytes, which any machine has for GPT-2 small and few laptops for the larger ones."""

Read = Callable[[str], Tensor]
"""A tensor in float64, by transformers' name."""


class ProcessedWeight(NamedTuple):
    """A processed weight, or one layer of it."""

    name: str
    layer: int | None
    """None for weights that are not stacked by layer."""
    values: Float32[Tensor, "*shape"]


def _recognizes(config: Config) -> bool:
    return config.get("model_type") == "gpt2"


def _convert(source: ModelFiles, path: Path) -> StagedModel:
    """A GPT-2, from its files to the staged one, which then is mapped; from what a bridge to it saved, as a native model."""
    stored = stored_tensors(source.weights)
    refuse_other_depth(source, source.config.get("n_layer", source.config.get("num_hidden_layers")), len(stored))
    if is_of_bridge(stored):
        return convert_bridge(source._replace(config=_as_native(source)), path, boot_native)
    gpt2 = Gpt2(source)
    config = gpt2.config
    with _temporary(source, path) as temporary:
        found = _write(gpt2, source.origin, temporary)
        weights = load_file(temporary)
        with processing_errors(source.name):
            expected, whose = _expected_logits(source, gpt2)
            check_logits(source.name, LeanModel(config, weights), expected, whose)
    return StagedModel(config, found, weights)


def _as_native(source: ModelFiles) -> dict[str, Any]:
    """The config of a GPT-2 in TransformerLens' words."""
    config = _without_weights(source).config
    return {
        **{"n_layers": config.n_layer, "d_model": config.n_embd, "n_heads": config.n_head},
        **{"d_head": config.n_embd // config.n_head, "d_mlp": config.n_inner or 4 * config.n_embd},
        **{"n_ctx": config.n_positions, "d_vocab": config.vocab_size, "eps": float(config.layer_norm_epsilon)},
        **{"act_fn": activation(config.activation_function), "architecture": GPT2},
    }


def _write(gpt2: Gpt2, origin: str, path: Path) -> str:
    """Write a GPT-2's processed weights and return their content hash."""
    config, shapes = gpt2.config, weight_shapes(gpt2.config)
    metadata = {"config": json.dumps(config.to_json()), "hash": "0" * 32, "origin": origin}
    with closing(WeightsFile(path, shapes, metadata)) as file:
        for part in processed_gpt2(gpt2.read, config):
            check_finite(gpt2.name, {part.name: part.values})
            file.write(*part)
        file.sync()
        metadata["hash"] = content_hash(config, load_file(path))
        file.replace_metadata(metadata)
        file.sync()
    return metadata["hash"]


def _expected_logits(source: ModelFiles, gpt2: Gpt2) -> tuple[Float[Tensor, "batch pos d_vocab"], str]:
    """Logits of ``check_tokens`` that are not this project's, centred over the vocabulary, and whose they are."""
    config, tokens = gpt2.config, check_tokens(gpt2.config)
    n_bytes = 4 * sum(math.prod(shape) for shape in weight_shapes(config).values())
    if n_bytes > BRIDGE_BYTES or config.d_mlp == config.d_model:  # which TransformerLens cannot process
        return centred_logits(gpt2.logits(tokens)), "transformers'"
    bridge = boot_hugging_face(source)
    bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge_logits(bridge, tokens), "TransformerLens'"


@contextmanager
def _temporary(source: ModelFiles, path: Path) -> Iterator[Path]:
    """A path beside the staged file's, whose name it takes in the end."""
    try:
        with whole_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise DataError(
            f"cannot stage model {source.name} in {path.parent}: {one_line(error)} (--staging names another folder)"
        ) from error


def processed_gpt2(read: Read, config: ModelConfig) -> Iterator[ProcessedWeight]:
    """The processed weights of a GPT-2, under the names and in the shapes of ``weight_shapes``.

    Args:
        read: of the model's files.
        config: its architecture.
    """
    yield ProcessedWeight("W_E", None, centred(read("transformer.wte.weight"), dim=1).float())
    yield ProcessedWeight("W_pos", None, centred(read("transformer.wpe.weight"), dim=1).float())
    for layer in range(config.n_layers):
        block = f"transformer.h.{layer}."
        for name, values in {**_attention(read, block, config), **_mlp(read, block)}.items():
            yield ProcessedWeight(name, layer, values.float())
    w_u, b_u = folded(read("lm_head.weight").T, None, read("transformer.ln_f.weight"), read("transformer.ln_f.bias"))
    yield ProcessedWeight("W_U", None, centred(w_u, dim=1).float())
    yield ProcessedWeight("b_U", None, centred(b_u, dim=0).float())


def _attention(read: Read, block: str, config: ModelConfig) -> dict[str, Tensor]:
    """One attention layer's processed weights; queries, keys and values lie side by side in the file."""
    heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
    norm = read(f"{block}ln_1.weight"), read(f"{block}ln_1.bias")
    weight, bias = folded(read(f"{block}attn.c_attn.weight"), read(f"{block}attn.c_attn.bias"), *norm)
    w = dict(zip("QKV", weight.view(d_model, 3, heads, d_head).permute(1, 2, 0, 3), strict=True))
    b = dict(zip("QKV", bias.view(3, heads, d_head), strict=True))
    w_o = centred(read(f"{block}attn.c_proj.weight"), dim=1)
    from_values = ordered_sum(b["V"].reshape(-1, 1) * w_o, dim=0).squeeze(0)
    b_o = centred(read(f"{block}attn.c_proj.bias"), dim=0) + from_values
    read_out = {f"W_{name}": values for name, values in w.items()} | {"b_Q": b["Q"], "b_K": b["K"]}
    return read_out | {"W_O": w_o.view(heads, d_head, d_model), "b_O": b_o}


def _mlp(read: Read, block: str) -> dict[str, Tensor]:
    """One MLP's processed weights."""
    norm = read(f"{block}ln_2.weight"), read(f"{block}ln_2.bias")
    w_in, b_in = folded(read(f"{block}mlp.c_fc.weight"), read(f"{block}mlp.c_fc.bias"), *norm)
    w_out, b_out = centred(read(f"{block}mlp.c_proj.weight"), dim=1), centred(read(f"{block}mlp.c_proj.bias"), dim=0)
    return {"W_in": w_in, "b_in": b_in, "W_out": w_out, "b_out": b_out}


class Gpt2:
    """A GPT-2 whose tensors are in files.

    Args:
        source: a model in Hugging Face's layout whose ``model_type`` is gpt2.

    Raises:
        DataError: the lean trace cannot express it, or its files are damaged or do not fit its config.
    """

    def __init__(self, source: ModelFiles) -> None:
        self.name = source.name
        self._model = _without_weights(source)
        shapes = {name: tuple(p.shape) for name, p in self._model.named_parameters(remove_duplicate=False)}
        self._stored = _fitting(source, shapes, tied=bool(self._model.config.tie_word_embeddings))
        self.config = _model_config(self._model.config, shapes)

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


def _without_weights(source: ModelFiles) -> Any:
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


def _model_config(config: Any, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    d_head = config.n_embd // config.n_head
    return ModelConfig(
        n_layers=config.n_layer,
        d_model=config.n_embd,
        n_heads=config.n_head,
        d_head=d_head,
        d_mlp=shapes["transformer.h.0.mlp.c_fc.weight"][1],
        n_ctx=config.n_positions,
        d_vocab=config.vocab_size,
        act_fn=activation(config.activation_function),
        attn_only=False,
        eps=float(config.layer_norm_epsilon),
        attn_scale=default_attn_scale(d_head),
    )


def _fitting(source: ModelFiles, shapes: Mapping[str, tuple[int, ...]], tied: bool) -> dict[str, StoredTensor]:
    """The files' tensors by transformers' names; refused unless they are exactly those that transformers expects."""
    in_files = {
        name: tensor for name, tensor in stored_tensors(source.weights).items() if not name.endswith(HF_BUFFERS)
    }
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


ARCHITECTURE = Architecture(
    name="GPT-2", recognizes=_recognizes, refuse=refuse_by_bridge_config, boot=boot_hugging_face, convert=_convert
)
