"""What one forward pass over a batch of prompts leaves for the measures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Attention(NamedTuple):
    """One attention layer's inner values."""

    z: Float[Tensor, "batch pos head d_head"]
    """Pattern-weighted values, over ``write_scale`` where there is one: times the head's W_O what the head writes."""
    q: Float[Tensor, "batch pos head d_head"]
    k: Float[Tensor, "batch pos head d_head"]
    """One for each query head, as they meet: normalized and turned where the model does that."""
    scale: Float[Tensor, "batch pos"]
    """What the layer's input is divided by."""
    write_scale: Float[Tensor, "batch pos"] | None
    """What the norm behind the layer divides by."""


class Trace(NamedTuple):
    """One forward pass."""

    positions: Int[Tensor, "prompt measured"]
    """The measured positions of each prompt, ascending."""
    embed: Float[Tensor, "prompt pos d_model"]
    pos_embed: Float[Tensor, "prompt pos d_model"] | None
    """None where positions are no vectors of the stream."""
    z: Float[Tensor, "layer prompt pos head d_head"]
    """As in ``Attention``."""
    mlp_out: Float[Tensor, "mlp_layer prompt pos d_model"]
    """Empty along ``mlp_layer`` for attention-only models."""
    state_norm_sq: Float[Tensor, "state prompt measured"]
    """Squared norm of the residual stream at each state."""
    state_scale: Float[Tensor, "state prompt measured"]
    """What a norm that reads the state divides it by."""
    q: Float[Tensor, "layer prompt pos head d_head"]
    k: Float[Tensor, "layer prompt pos head d_head"]
    ln1_scale: Float[Tensor, "layer prompt pos"]
    """What the attention layer's input is divided by, after its mean is removed where the norm does that."""
    write_scale: Float[Tensor, "layer prompt pos"] | None
    """What the norm behind the attention layer divides by; None where there is none."""
    logit_direction: Float[Tensor, "prompt measured d_model"]
    """Direct logit attribution is the product with this: (u_a − u_b) over the final norm's scale, its mean removed where that
    norm removes it, with a and b the two most likely next tokens."""
    resid_pre: Float[Tensor, "layer_or_end prompt pos d_model"] | None
    """Inputs of the attention layers and, last, the final state; kept where the forward is to be continued otherwise."""

    def of_prompt(self, prompt: int, n_tokens: int, n_measured: int) -> Trace:
        """What one prompt leaves, without what stands behind its last token and its last measured position.

        Attention is causal: what stands behind a prompt to fill up its batch changes nothing in it.
        """
        one, first, measured = slice(prompt, prompt + 1), slice(n_tokens), slice(n_measured)
        return Trace(
            positions=self.positions[one, measured],
            embed=self.embed[one, first],
            pos_embed=None if self.pos_embed is None else self.pos_embed[one, first],
            z=self.z[:, one, first],
            mlp_out=self.mlp_out[:, one, first],
            state_norm_sq=self.state_norm_sq[:, one, measured],
            state_scale=self.state_scale[:, one, measured],
            q=self.q[:, one, first],
            k=self.k[:, one, first],
            ln1_scale=self.ln1_scale[:, one, first],
            write_scale=None if self.write_scale is None else self.write_scale[:, one, first],
            logit_direction=self.logit_direction[one, measured],
            resid_pre=None if self.resid_pre is None else self.resid_pre[:, one, first],
        )

    def embeddings(self, prompt: int) -> Float[Tensor, "pos d_model"]:
        """The stream before the first layer."""
        return self.embed[prompt] if self.pos_embed is None else self.embed[prompt] + self.pos_embed[prompt]


def select(
    values: Float[Tensor, "batch pos *rest"], positions: Int[Tensor, "batch measured"]
) -> Float[Tensor, "batch measured *rest"]:
    """Values at the measured positions."""
    if positions.shape[1] == values.shape[1]:
        return values
    return values[torch.arange(len(values), device=values.device)[:, None], positions]
