"""Nonlinearities of MLPs, by the names that TransformerLens gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def solu(hidden: Float[Tensor, "*batch d_mlp"]) -> Float[Tensor, "*batch d_mlp"]:
    """x · softmax(x) over the neurons (Elhage et al. 2022, "Softmax Linear Units")."""
    return hidden * hidden.softmax(dim=-1)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "solu_ln": solu,
}
"""The nonlinearity of the MLPs; behind that of ``solu_ln`` comes a LayerNorm, its affine part folded into ``W_out``."""

_ALIASES = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "swish": "silu"}


def activation(name: object) -> str:
    """An activation as ``ACTIVATIONS`` calls it."""
    return _ALIASES.get(str(name), str(name))
