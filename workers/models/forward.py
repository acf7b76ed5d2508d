"""One forward pass of a decoder-only transformer, keeping what the measures read.

TransformerLens is the source of names, weights and processing (LayerNorm folded, writing weights and unembedding
centred, value biases folded into ``b_O``; of RMSNorm the gains folded, nothing centred); the forward here runs over those
processed weights without hooks, with fused attention and without the unembedding, because the hooked forward costs two to
three times as much. A model on which the two disagree is refused (``logits_check``).

The output of head h is ``z_h W_O^h`` with ``z_h`` the pattern-weighted sum of values, so a trace keeps ``z`` and
measures multiply where they need the vectors (Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits"). A norm behind the attention layer is a map of each head's output at a token, a gain over a scale: the gain is in
``w_o``, the scale in z. Measures ask the model for its maps and never index a weight by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from erasure_sweep.workers.models.activations import ACTIVATIONS
from erasure_sweep.workers.models.attention_weights import causal_mask, turn, weigh
from erasure_sweep.workers.models.model_config import ModelConfig, weight_shapes
from erasure_sweep.workers.models.trace import Attention, Trace, select

ALIGNMENT = 64
"""Bytes that the addresses of torch's own CPU tensors are multiples of."""

MATRICES = frozenset(f"W_{name}" for name in ("E", "pos", "Q", "K", "V", "O", "in", "gate", "out", "U"))
"""Weights that bfloat16 halves; what is left is small."""

LOGITS_BYTES = 64 * 2**20
"""Bound on the logits that are in memory at a time."""


class LeanModel:
    """A processed model on one device.

    Args:
        config: the architecture.
        weights: as ``weight_shapes`` names them; value biases already folded into ``b_O``.
        device: where the forward runs.
        dtype: how. In bfloat16 are matrices, and what they multiply is rounded to it; sums, the stream, norms, what a
            trace holds and the maps that measures ask for are float32, so that outputs add up to what the stream holds.

    Raises:
        ValueError: a weight is missing or of another shape, or the activation is unknown.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if config.act_fn not in ACTIVATIONS and not config.attn_only:
            raise ValueError(f"activation {config.act_fn!r} is not one of {', '.join(sorted(ACTIVATIONS))}")
        for name, shape in weight_shapes(config).items():
            if name not in weights or tuple(weights[name].shape) != shape:
                found = tuple(weights[name].shape) if name in weights else "nothing"
                raise ValueError(f"weight {name} should have shape {shape}, found {found}")
        self.config = config
        self.device = torch.device(device)
        self.dtype = torch.float32 if dtype == torch.bfloat16 else dtype
        """Of the stream, and of everything that measures are given."""
        self.weights = {
            name: _aligned(weights[name].to(self.device, dtype if name in MATRICES else self.dtype))
            for name in weight_shapes(config)
        }
        # Columns of W_U are gathered for every token: they should lie together in memory.
        self.weights["W_U"] = self.weights["W_U"].T.contiguous().T
        if config.positions == "rotary":  # angles are float32 in every family, whatever the rest is
            self.weights["inverse_frequency"] = weights["inverse_frequency"].to(self.device, torch.float32)
        self._pack_attention()
        self.compositions: dict[tuple[int, int], Tensor] = {}
        """Matrices of ``workers.measures.scan.composition``, computed once per model."""
        self._activation = ACTIVATIONS.get(config.act_fn, functional.gelu)

    def _pack_attention(self) -> None:
        """One matrix product instead of three per head: [layer, d_model, (q k v) head d_head]."""
        config, n_layers = self.config, self.config.n_layers
        parts = [self.weights.pop(f"W_{name}").transpose(1, 2).flatten(2) for name in "QKV"]
        self._w_qkv = torch.cat(parts, dim=2)
        no_values = torch.zeros(n_layers, config.n_kv_heads, config.d_head, device=self.device, dtype=self.dtype)
        biases = [self.weights.pop("b_Q"), self.weights.pop("b_K"), no_values]
        self._b_qkv = torch.cat([bias.flatten(1) for bias in biases], dim=1)
        self._w_o = self.weights["W_O"]
        if config.norm_behind:
            self._w_o = (self._w_o * self.weights["attn_gain"][:, None, None]).to(self._w_o.dtype)

    # What measures ask for.

    def w_v(self, layer: int) -> Float[Tensor, "d_model head d_head"]:
        """Value weights of every query head, centred along d_model where the norm removes the mean of what they read."""
        config = self.config
        weights = self._w_qkv[layer, :, -config.n_kv_heads * config.d_head :].to(self.dtype)
        weights = weights.view(config.d_model, config.n_kv_heads, config.d_head)
        return self._for_query_heads(self.centre(weights, dim=0), dim=1)

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Output weights of every head, the gain of a norm behind the layer in them."""
        return self._w_o[layer].to(self.dtype)

    def b_o(self, layer: int) -> Float[Tensor, "d_model"]:
        """What an attention layer writes beside its heads; only where the layout has it."""
        return self.weights["b_O"][layer]

    def centre(self, values: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*shape"]:
        """Without their mean along d_model, where the norm removes it from the stream; else as they are."""
        return values - values.mean(dim=dim, keepdim=True) if self.config.norm == "layer" else values

    def normalize(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The final norm without its affine part, which is folded into the unembedding."""
        if self.config.norm == "layer":
            return functional.layer_norm(resid, (self.config.d_model,), eps=self.config.eps)
        return self._with_inverse_scale(resid)[0]

    def scale(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """What ``normalize`` divides by, once the mean is removed where it removes that."""
        if self.config.norm == "layer":
            return torch.sqrt(resid.var(dim=-1, unbiased=False) + self.config.eps)
        return _root_mean_square(resid, self.config.eps)

    def read(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What a sublayer makes of the stream that it reads."""
        return self.normalize(resid) if self.config.norm_before else resid

    def attend(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        value_shift: Float[Tensor, "batch pos head d_head"] | None = None,
        first: int = 0,
    ) -> Attention:
        """One attention layer up to the heads' pattern-weighted values.

        Args:
            value_shift: what is taken from the heads' values.
            first: the position of the first token.
        """
        config = self.config
        normalized, inverse_scale = self._read_with_inverse_scale(resid)
        qkv = product(normalized.flatten(0, 1), self._w_qkv[layer], self._b_qkv[layer])
        qkv = qkv.view(*resid.shape[:2], -1, config.d_head)
        q, k, v = torch.split(qkv, [config.n_heads, config.n_kv_heads, config.n_kv_heads], dim=2)
        q, k = self._prepared(layer, q, "Q", first), self._for_query_heads(self._prepared(layer, k, "K", first), dim=2)
        v = self._for_query_heads(v, dim=2)
        if value_shift is not None:
            v = v - value_shift
        z = self._mix(layer, *(values.transpose(1, 2) for values in (q, k, v))).transpose(1, 2)
        if not config.norm_behind:
            return Attention(z, q, k, inverse_scale.reciprocal(), None)
        write_scale = _root_mean_square(self._out(z, self.weights["W_O"][layer], layer), config.eps)
        return Attention(z / write_scale[..., None, None], q, k, inverse_scale.reciprocal(), write_scale)

    def attention_out(
        self, layer: int, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Output of an attention layer, its bias included."""
        return self._out(z, self._w_o[layer], layer)

    def pattern(
        self,
        layer: int,
        query: Float[Tensor, "token head d_head"],
        key: Float[Tensor, "key head d_head"],
        positions: Int[Tensor, "token"],
        heads: Sequence[int] | None = None,
    ) -> Float[Tensor, "head token key"]:
        """Causal attention weights of query tokens at the given positions on the keys from position 0 on.

        Args:
            query, key: as a trace holds them, of some heads.
            heads: which; all where ``None``.
        """
        return self.attention_weights(layer, torch.einsum("qhe,khe->hqk", query, key), positions, heads)

    def attention_weights(
        self,
        layer: int,
        products: Float[Tensor, "head token key"],
        positions: Int[Tensor, "token"],
        heads: Sequence[int] | None = None,
    ) -> Float[Tensor, "head token key"]:
        """Attention weights from products of queries and keys; as ``pattern`` takes them."""
        return weigh(self.config, layer, products, positions, self._slopes(heads))

    def mlp(self, layer: int, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Output of an MLP layer whose input is ``resid``, before its norm."""
        written = self._mlp(layer, self.read(resid))
        return self._behind_mlp(layer, written, self._mlp_write_scale(written))

    def mlp_without(
        self, layer: int, resid: Float[Tensor, "*batch d_model"], taken: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Output of an MLP layer with something taken out of its input, all scales those of the clean input ``resid``."""
        read, inverse_scale = self._read_with_inverse_scale(resid)
        written = self._mlp(layer, read - self.centre(taken) * inverse_scale.unsqueeze(-1))
        clean = self._mlp(layer, read) if self.config.norm_behind else written
        return self._behind_mlp(layer, written, self._mlp_write_scale(clean))

    def unembed(self, normalized: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_vocab"]:
        """Next-token logits of normalized final states, before any cap: what direct logit attribution adds up to."""
        return product(normalized, self.weights["W_U"], self.weights["b_U"])

    def logits_of(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Next-token logits of final states, as the model gives them out."""
        logits, cap = self.unembed(self.normalize(final).flatten(0, -2)), self.config.logit_cap
        logits = logits.view(*final.shape[:-1], self.config.d_vocab)
        return cap * torch.tanh(logits / cap) if cap else logits

    @torch.inference_mode()
    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits, for the check against another forward and as the bare forward in benchmarks."""
        embed, pos_embed = self._embed(tokens)
        resid = embed if pos_embed is None else embed + pos_embed
        for layer in range(self.config.n_layers):
            before = resid
            resid = resid + self.attention_out(layer, self.attend(layer, resid).z)
            if not self.config.attn_only:
                resid = resid + self.mlp(layer, before if self.config.parallel else resid)
        return self.logits_of(resid)

    @torch.inference_mode()
    def trace(
        self,
        tokens: Int[Tensor, "batch pos"],
        positions: Int[Tensor, "batch measured"] | None = None,
        keep_resid: bool = False,
    ) -> Trace:
        """Run the model and keep what the measures read.

        Args:
            tokens: token ids on the model's device.
            positions: the measured positions of each prompt; ``None`` measures all. The forward always runs on all.
            keep_resid: keep the inputs of the attention layers and the final state as well.
        """
        config = self.config
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=self.device).expand(tokens.shape)
        embed, pos_embed = self._embed(tokens)
        resid = embed if pos_embed is None else embed + pos_embed
        sizes, attention, mlp_kept, resid_kept = [self._size(select(resid, positions))], [], [], []
        for layer in range(config.n_layers):
            before, attended = resid, self.attend(layer, resid)
            attention.append(attended)
            resid_kept += [resid] if keep_resid else []
            resid = resid + self.attention_out(layer, attended.z)
            if config.layout.has_middle:
                sizes.append(self._size(select(resid, positions)))
            if not config.attn_only:
                mlp_kept.append(self.mlp(layer, before if config.parallel else resid))
                resid = resid + mlp_kept[-1]
            sizes.append(self._size(select(resid, positions)))
        norms, scales = zip(*sizes, strict=True)
        write_scales = [attended.write_scale for attended in attention if attended.write_scale is not None]
        return Trace(
            positions=positions,
            embed=embed,
            pos_embed=pos_embed,
            z=torch.stack([attended.z for attended in attention]),
            mlp_out=torch.stack(mlp_kept) if mlp_kept else resid.new_zeros(0, *resid.shape),
            state_norm_sq=torch.stack(norms),
            state_scale=torch.stack(scales),
            q=torch.stack([attended.q for attended in attention]),
            k=torch.stack([attended.k for attended in attention]),
            ln1_scale=torch.stack([attended.scale for attended in attention]),
            write_scale=torch.stack(write_scales) if write_scales else None,
            logit_direction=self.logit_direction(select(resid, positions)),
            resid_pre=torch.stack([*resid_kept, resid]) if keep_resid else None,
        )

    def logit_direction(
        self, resid: Float[Tensor, "batch measured d_model"]
    ) -> Float[Tensor, "batch measured d_model"]:
        """Direction of the two most likely next tokens' logit difference, over the final scale; few logits at a time."""
        flat = resid.flatten(0, 1)
        normalized, inverse_scale = self._with_inverse_scale(flat)
        pairs = [
            top_two(self.unembed(part))
            for part in torch.split(normalized, max(1, LOGITS_BYTES // (4 * self.config.d_vocab)))
        ]
        first, second = torch.cat(pairs).unbind(dim=1)
        return (self.between(first, second) * inverse_scale.unsqueeze(-1)).view_as(resid)

    def between(self, first: Int[Tensor, "*batch"], second: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch d_model"]:
        """The direction in which the logits of two tokens differ, over a final scale of one."""
        rows = self.weights["W_U"].T
        return self.centre(rows[first].to(self.dtype) - rows[second].to(self.dtype))

    def logit_row(self, tokens: Int[Tensor, "token"]) -> Float[Tensor, "token d_model"]:
        """The direction in which the logit of each token grows, over a final scale of one."""
        return self.centre(self.weights["W_U"].T[tokens].to(self.dtype))

    def direct_logits(self, vector: Float[Tensor, "d_model"]) -> Float[Tensor, "d_vocab"]:
        """What a vector of the stream adds to every logit, over a final scale of one."""
        return product(self.centre(vector).to(self.dtype)[None], self.weights["W_U"])[0]

    # How it is done.

    def _embed(self, tokens: Int[Tensor, "batch pos"]) -> tuple[Tensor, Tensor | None]:
        embed = self.weights["W_E"][tokens].to(self.dtype)
        if self.config.positions != "learned":
            return embed, None
        return embed, self.weights["W_pos"][: tokens.shape[1]].to(self.dtype).expand(*tokens.shape, -1)

    def _size(self, resid: Float[Tensor, "*batch d_model"]) -> tuple[Tensor, Tensor]:
        """Squared norm and scale of a state."""
        return resid.square().sum(dim=-1), self.scale(resid)

    def _with_inverse_scale(self, resid: Float[Tensor, "*batch d_model"]) -> tuple[Tensor, Tensor]:
        """What ``normalize`` makes of states, and one over what it divides them by."""
        if self.config.norm == "layer":
            found = torch.native_layer_norm(resid, (self.config.d_model,), None, None, self.config.eps)
            return found[0], found[2].squeeze(-1)
        inverse_scale = torch.rsqrt(resid.square().mean(dim=-1) + self.config.eps)
        return resid * inverse_scale.unsqueeze(-1), inverse_scale

    def _read_with_inverse_scale(self, resid: Float[Tensor, "*batch d_model"]) -> tuple[Tensor, Tensor]:
        return self._with_inverse_scale(resid) if self.config.norm_before else (resid, resid.new_ones(resid.shape[:-1]))

    def _for_query_heads(self, values: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
        """Of each query head what its key-value head has."""
        group = self.config.n_heads // self.config.n_kv_heads
        return values.repeat_interleave(group, dim=dim) if group > 1 else values

    def _prepared(self, layer: int, values: Float[Tensor, "batch pos head d_head"], name: str, first: int) -> Tensor:
        """Queries or keys as they meet: normalized and turned where the model does that."""
        config = self.config
        if config.qk_norm != "none":
            over = (-1,) if config.qk_norm == "head" else (-2, -1)
            values = values * torch.rsqrt(values.square().mean(dim=over, keepdim=True) + config.eps)
            values = values * self.weights[f"{name}_gain"][layer]
        if config.positions == "rotary":
            values = turn(values, self.weights["inverse_frequency"][layer], config.rotary_scale, first)
        return values

    def _mix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "batch head pos d_head"]:
        """Values weighted by the pattern, by a fused product where the scores need nothing that it does not know."""
        config, n_tokens = self.config, q.shape[2]
        positions = torch.arange(n_tokens, device=q.device)
        if config.score_cap:
            rows = zip(q @ k.transpose(2, 3), v, strict=True)
            return torch.stack(
                [self.attention_weights(layer, products, positions) @ values for products, values in rows]
            )
        scale, window, dtype = 1.0 / config.attn_scale, config.window(layer), q.dtype
        q, k, v = (values.to(self._w_qkv.dtype) for values in (q, k, v))
        if config.positions != "alibi" and not 0 < window < n_tokens:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).to(dtype)
        mask = causal_mask(positions, n_tokens, window, self._slopes(None))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), scale=scale).to(dtype)

    def _mlp(self, layer: int, read: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What an MLP makes of its input, before a norm behind it."""
        w, flat = self.weights, read.flatten(0, -2)
        if self.config.n_experts:
            return self._experts(layer, flat).view_as(read)
        hidden = product(flat, w["W_in"][layer], w["b_in"][layer])
        hidden = (
            self._activation(product(flat, w["W_gate"][layer])) * hidden
            if self.config.gated_mlp
            else self._activation(hidden)
        )
        if self.config.act_fn == "solu_ln":
            hidden = functional.layer_norm(hidden, (self.config.d_mlp,), eps=self.config.eps)
        return product(hidden, w["W_out"][layer], w["b_out"][layer]).view_as(read)

    def _experts(self, layer: int, read: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What a layer's experts make of its input: of each token the few that its router likes best, by how much it does."""
        config, w = self.config, self.weights
        liking = (read @ w["W_router"][layer]).softmax(dim=-1)
        liked, chosen = liking.topk(config.experts_per_token, dim=-1)
        if config.weigh_to_one:
            liked = liked / liked.sum(dim=-1, keepdim=True)
        written = torch.zeros_like(read)
        for expert in range(config.n_experts):
            tokens, place = (chosen == expert).nonzero(as_tuple=True)
            if not len(tokens):
                continue
            seen = read[tokens]
            hidden = self._activation(product(seen, w["W_gate"][layer, expert])) * product(
                seen, w["W_in"][layer, expert]
            )
            found = product(hidden, w["W_out"][layer, expert])
            written.index_add_(0, tokens, found * liked[tokens, place].unsqueeze(-1))
        return written

    def _behind_mlp(self, layer: int, written: Float[Tensor, "*batch d_model"], scale: Tensor | None) -> Tensor:
        return written if scale is None else written * self.weights["mlp_gain"][layer] / scale.unsqueeze(-1)

    def _mlp_write_scale(self, written: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"] | None:
        """What the norm behind an MLP divides by; None where there is none."""
        return _root_mean_square(written, self.config.eps) if self.config.norm_behind else None

    def _slopes(self, heads: Sequence[int] | None) -> Float[Tensor, "head"] | None:
        if self.config.positions != "alibi":
            return None
        return self.weights["alibi_slope"] if heads is None else self.weights["alibi_slope"][list(heads)]

    def _out(self, z: Float[Tensor, "batch pos head d_head"], w_o: Tensor, layer: int) -> Tensor:
        bias = self.weights["b_O"][layer] if self.config.attn_bias else None
        return product(z.flatten(2).flatten(0, 1), w_o.flatten(0, 1), bias).view(*z.shape[:2], -1)


def product(
    values: Float[Tensor, "token into"], matrix: Float[Tensor, "into out"], bias: Float[Tensor, "out"] | None = None
) -> Float[Tensor, "token out"]:
    """Values times a matrix, and a bias added; the values are rounded to the matrix's dtype, and sums are of their own."""
    if values.dtype != matrix.dtype:
        values, dtype = values.to(matrix.dtype), values.dtype
        if values.is_cuda:
            found = torch.mm(values, matrix, out_dtype=dtype)
            return found if bias is None else found + bias
        values, matrix = values.to(dtype), matrix.to(dtype)
    return values @ matrix if bias is None else torch.addmm(bias, values, matrix)


def _root_mean_square(values: Float[Tensor, "*batch d"], eps: float) -> Float[Tensor, "*batch"]:
    return torch.sqrt(values.square().mean(dim=-1) + eps)


def _aligned(weight: Tensor) -> Tensor:
    """A weight at an address as torch allocates it.

    Weights that are mapped from a file or a buffer can lie anywhere, and products of matrices with vectors differ in the
    last digits with the address: the same model would measure differently when it was staged under another path.
    """
    return weight if weight.data_ptr() % ALIGNMENT == 0 else weight.clone()


def top_two(logits: Float[Tensor, "token d_vocab"]) -> Int[Tensor, "token 2"]:
    """The two largest logits' token ids, the lower id first among equals; overwrites ``logits``."""
    first = logits.argmax(dim=1, keepdim=True)
    logits.scatter_(1, first, -math.inf)
    return torch.cat([first, logits.argmax(dim=1, keepdim=True)], dim=1)


def default_attn_scale(d_head: int) -> float:
    """sqrt(d_head), what attention scores are divided by in GPT-2 and its kin."""
    return math.sqrt(d_head)
