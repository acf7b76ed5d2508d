"""transformers' own model and what passes through its modules, by plain hooks: outputs of heads, patches, replaced outputs.

Nothing of this project's forward stands here. A head's output is what its slice of the output projection's input becomes,
behind the norm that is behind its layer, at the scale of the clean run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tests.support.models.transformers_models import in_float64


class Names(NamedTuple):
    """Where transformers keeps a block's parts."""

    block: str = "model.layers"
    attention: str = "self_attn"
    out: str = "o_proj"
    in_front: str = "input_layernorm"
    behind: str = ""


LLAMA = Names()


class Hooked:
    """A model in float64.

    Args:
        model: transformers'.
        names: of its parts.
    """

    def __init__(self, model: Any, names: Names = LLAMA) -> None:
        self.model, self.names, self.n_heads = model.double(), names, model.config.num_attention_heads
        self.is_rms = any("RMS" in type(module).__name__ for module in model.modules())

    def part(self, layer: int, name: str) -> Any:
        """A module of a block."""
        return self.model.get_submodule(f"{self.names.block}.{layer}.{name}")

    @property
    def out(self) -> str:
        """The output projection's name in a block."""
        return f"{self.names.attention}.{self.names.out}"

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        layers: Sequence[int],
        taken: tuple[int, Tensor] | None = None,
        added: tuple[str, Tensor] | None = None,
        also: Sequence[str] = (),
    ) -> dict[str, Tensor]:
        """Inputs of modules, by layer and name, and the ``logits``.

        Args:
            layers: whose modules.
            taken: from what the values of a layer read.
            added: to what a module of this name gives out.
            also: names of further modules.
        """
        found: dict[str, Tensor] = {}
        parts = [self.out, *filter(None, (self.names.in_front, self.names.behind))]
        with ExitStack() as stack, in_float64(), torch.no_grad():
            for layer in layers:
                for part in parts:
                    stack.enter_context(_before(self.part(layer, part), _keeps(found, f"{layer}.{part}")))
            for name in also:
                stack.enter_context(_before(self.model.get_submodule(name), _keeps(found, name)))
            if taken is not None:
                value = self.part(taken[0], f"{self.names.attention}.v_proj")
                stack.enter_context(_before(value, lambda values: values - taken[1]))
            if added is not None:
                stack.enter_context(_behind(self.model.get_submodule(added[0]), lambda values: values + added[1]))
            found["logits"] = self.model(tokens, use_cache=False).logits
        return found

    def outputs(
        self, found: dict[str, Tensor], clean: dict[str, Tensor], layer: int
    ) -> Float[Tensor, "head batch pos d_model"]:
        """What each head of a layer writes to the stream, scales those of the clean run."""
        z = found[f"{layer}.{self.out}"].unflatten(-1, (self.n_heads, -1)) - self._constant(layer)
        w_o = self.part(layer, self.out).weight.detach().T.unflatten(0, (self.n_heads, -1))
        written = torch.einsum("bphe,hed->hbpd", z, w_o)
        if self.names.behind:
            written = self._normed(layer, self.names.behind, written, clean)
        return written if self.is_rms else written - written.mean(dim=-1, keepdim=True)

    def read(
        self, layer: int, written: Float[Tensor, "batch pos d_model"], clean: dict[str, Tensor]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the values of a layer see of an output, at the scale of the clean run."""
        return self._normed(layer, self.names.in_front, written, clean) if self.names.in_front else written

    def _constant(self, layer: int) -> Float[Tensor, "head d_head"]:
        """The value that every token has: it passes attention unchanged, so it is no head's reading."""
        value = self.part(layer, f"{self.names.attention}.v_proj")
        bias = getattr(self.part(layer, self.names.in_front), "bias", None) if self.names.in_front else None
        at_rest = value(torch.zeros(value.in_features, dtype=torch.float64) if bias is None else bias)
        of_heads = at_rest.view(-1, self.part(layer, self.out).in_features // self.n_heads)
        return of_heads.repeat_interleave(self.n_heads // len(of_heads), dim=0).detach()

    def _normed(self, layer: int, name: str, vectors: Tensor, clean: dict[str, Tensor]) -> Tensor:
        """What a norm makes of parts of the state that it read in the clean run, its bias left out."""
        norm, state = self.part(layer, name), clean[f"{layer}.{name}"]
        eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))
        if not self.is_rms:
            state = state - state.mean(dim=-1, keepdim=True)
            vectors = vectors - vectors.mean(dim=-1, keepdim=True)
        scale = torch.sqrt(state.square().mean(dim=-1, keepdim=True) + eps)
        gain = getattr(norm, "weight", None)
        if gain is None:
            return vectors / scale
        return vectors / scale * (gain + 1.0 if "Gemma" in type(norm).__name__ else gain)


def _keeps(found: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    def keep(values: Tensor) -> None:
        found[name] = values

    return keep


@contextmanager
def _before(module: Any, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Show a module's input to ``act``, which may give another."""

    def before(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        other = act(inputs[0])
        return None if other is None else (other, *inputs[1:])

    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _behind(module: Any, act: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put another in the place of a module's output."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: act(output))
    try:
        yield
    finally:
        handle.remove()
