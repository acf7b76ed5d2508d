"""Train the bundled models: known architectures at a width that two CPU cores can train, on the standard library's source.

Architectures are those of Neel Nanda's gelu-1l…4l (LayerNorm, GELU MLPs four times as wide as the stream, learned
positions, separate unembedding), attn-only-1l…4l (the same without MLPs), Llama (RMSNorm, rotary positions, two query heads
on one key-value head, gated MLPs of the others' size, no biases) and Pythia (attention and MLP in parallel, a quarter of each
head rotary); the last two are transformers' own modules.
The corpus is the ``.py`` files of the interpreter that runs this script, in path order; every twentieth file (by a hash of
its path) is held out for the loss.

    python -m erasure_sweep.workers.train_bundled toy-gelu-4l --tokens 16777216 --out build/bundled

leaves ``OUT/tokenizer/tokenizer.json`` (made when absent) and ``OUT/NAME/`` in TransformerLens' or Hugging Face's layout:
``config.json``, ``model.safetensors``, ``training_log.json``, and ``checkpoints/`` at the powers of two of the step
count.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from erasure_sweep.workers.corpora.resolve_corpus import BOS_TOKEN, read_text, standard_library_files
from erasure_sweep.workers.fingerprint import digest

N_CTX = 256
D_VOCAB = 2048
D_HEAD = 16
TOKENIZER = "../tokenizer"
HELD_OUT_ONE_IN = 20
EVAL_ROWS = 128
CHUNK_ROWS = 4
"""Rows whose logits are in memory at a time: what fits into a core's cache is up to a third faster."""


@runtime_checkable
class Trainable(Protocol):
    """A model in training, and its files."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Next-token logits [rows, tokens, ``D_VOCAB``]."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def config(self) -> dict[str, object]:
        """Its ``config.json``."""

    def weights(self) -> dict[str, Tensor]:
        """Its parameters under the names of the files."""


class Shape(NamedTuple):
    """What distinguishes one GELU or attention-only model from another."""

    n_layers: int
    d_model: int
    attn_only: bool = False

    def tl_config(self) -> dict[str, object]:
        """The model's ``config.json`` in TransformerLens' legacy layout, which names MLPs that are not there as well."""
        return {
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "n_heads": self.d_model // D_HEAD,
            "d_head": D_HEAD,
            "d_mlp": 4 * self.d_model,
            "n_ctx": N_CTX,
            "d_vocab": D_VOCAB,
            "act_fn": "gelu",
            "attn_only": self.attn_only,
            "normalization": "LN",
            "tokenizer_name": TOKENIZER,
        }


DEPTHS = (1, 2, 3, 4)
SHAPES = {f"toy-gelu-{n}l": Shape(n, d_model=64) for n in DEPTHS}
SHAPES |= {f"toy-attn-{n}l": Shape(n, d_model=64, attn_only=True) for n in DEPTHS}
SHAPES |= {f"toy-gelu-{n}l-w128": Shape(n, d_model=128) for n in DEPTHS}

_SIZES: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": N_CTX,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    # 3 matrices of 168 are about the 2 of 256 that the others have.
    "toy-llama-4l": {"model_type": "llama", "intermediate_size": 168, "num_key_value_heads": 2} | _SIZES,
    "toy-pythia-4l": {"model_type": "gpt_neox", "intermediate_size": 256} | _SIZES,
}
"""transformers' settings of the models that it has the modules of."""


def build(name: str) -> Trainable:
    """A bundled model before its training."""
    return Transformer(SHAPES[name]) if name in SHAPES else TransformersModel(FAMILIES[name])


def initialize(model: nn.Module) -> None:
    """Embeddings small, other matrices by what enters them, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.8 / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class TransformerBlock(nn.Module):
    """One pre-LayerNorm transformer layer."""

    def __init__(self, d_model: int, attn_only: bool) -> None:
        super().__init__()
        self.n_heads, self.attn_only = d_model // D_HEAD, attn_only
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv, self.o = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        if attn_only:
            return
        self.ln2 = nn.LayerNorm(d_model)
        self.w_in, self.w_out = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        batch, pos, d_model = x.shape
        qkv = self.qkv(self.ln1(x)).view(batch, pos, 3, self.n_heads, D_HEAD).permute(2, 0, 3, 1, 4)
        z = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        x = x + self.o(z.transpose(1, 2).reshape(batch, pos, d_model))
        if self.attn_only:
            return x
        hidden: Tensor = self.w_out(functional.gelu(self.w_in(self.ln2(x))))
        return x + hidden


class Transformer(nn.Module):
    """The trainable twin of the lean forward; exported under TransformerLens' parameter names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed, self.pos_embed = nn.Embedding(D_VOCAB, shape.d_model), nn.Embedding(N_CTX, shape.d_model)
        self.blocks = nn.ModuleList(TransformerBlock(shape.d_model, shape.attn_only) for _ in range(shape.n_layers))
        self.ln_final = nn.LayerNorm(shape.d_model)
        self.unembed = nn.Linear(shape.d_model, D_VOCAB)
        self._shape = shape
        initialize(self)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.pos_embed.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.unembed(self.ln_final(x))
        return logits

    def config(self) -> dict[str, object]:
        """In TransformerLens' legacy layout."""
        return self._shape.tl_config()

    def weights(self) -> dict[str, Tensor]:
        """Under the names and shapes of TransformerLens' legacy checkpoints."""
        state = {"embed.W_E": self.embed.weight, "pos_embed.W_pos": self.pos_embed.weight}
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, TransformerBlock)
            state |= {f"blocks.{layer}.{name}": value for name, value in _tl_block(block).items()}
        state |= {"ln_final.w": self.ln_final.weight, "ln_final.b": self.ln_final.bias}
        state |= {"unembed.W_U": self.unembed.weight.T, "unembed.b_U": self.unembed.bias}
        return {name: value.detach().clone().contiguous() for name, value in state.items()}


def _tl_block(block: TransformerBlock) -> dict[str, Tensor]:
    heads, d_model = block.n_heads, block.o.weight.shape[0]
    w_qkv = block.qkv.weight.view(3, heads, D_HEAD, d_model).transpose(2, 3)
    b_qkv = block.qkv.bias.view(3, heads, D_HEAD)
    state = {f"attn.W_{name}": w_qkv[i] for i, name in enumerate("QKV")}
    state |= {f"attn.b_{name}": b_qkv[i] for i, name in enumerate("QKV")}
    state |= {"attn.W_O": block.o.weight.T.reshape(heads, D_HEAD, d_model), "attn.b_O": block.o.bias}
    state |= {"ln1.w": block.ln1.weight, "ln1.b": block.ln1.bias}
    if block.attn_only:
        return state
    state |= {"ln2.w": block.ln2.weight, "ln2.b": block.ln2.bias}
    state |= {"mlp.W_in": block.w_in.weight.T, "mlp.b_in": block.w_in.bias}
    return state | {"mlp.W_out": block.w_out.weight.T, "mlp.b_out": block.w_out.bias}


class TransformersModel(nn.Module):
    """A model of transformers', in Hugging Face's layout."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        super().__init__()
        self._config = AutoConfig.for_model(**settings)
        self._model = AutoModelForCausalLM.from_config(self._config)
        initialize(self)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self._model(tokens, use_cache=False).logits
        return logits

    def config(self) -> dict[str, object]:
        said: dict[str, object] = self._config.to_diff_dict()
        return said | {"tokenizer_name": TOKENIZER}

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone().contiguous() for name, value in self._model.state_dict().items()}


def is_held_out(name: str) -> bool:
    """Whether the file of this relative path is kept for the loss; a property of the path alone."""
    return int.from_bytes(digest([name], n_bytes=8), "big") % HELD_OUT_ONE_IN == 0


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """A byte-level BPE of ``D_VOCAB`` tokens whose token 0 is the BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=[BOS_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Streams(NamedTuple):
    """Token streams, files joined by BOS."""

    train: np.ndarray
    held_out: np.ndarray


def load_streams(tokenizer_dir: Path) -> Streams:
    """Tokenize the standard library with the tokenizer in ``tokenizer_dir``, training that first when it is absent."""
    files = standard_library_files()
    texts = {name: read_text(path) for name, path in files}
    path = tokenizer_dir / "tokenizer.json"
    if not path.exists():
        tokenizer_dir.mkdir(parents=True, exist_ok=True)
        train_tokenizer(text for name, text in texts.items() if not is_held_out(name)).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    bos = tokenizer.token_to_id(BOS_TOKEN)
    assert bos is not None
    ids: dict[bool, list[int]] = {True: [], False: []}
    for (name, _), encoding in zip(files, tokenizer.encode_batch(list(texts.values())), strict=True):
        ids[is_held_out(name)] += [bos, *encoding.ids]
    return Streams(np.array(ids[False], dtype=np.int64), np.array(ids[True], dtype=np.int64))


def sample_rows(stream: np.ndarray, rows: int, generator: np.random.Generator) -> Tensor:
    """``rows`` random windows of the stream, each behind a BOS: int64 [rows, N_CTX + 1]."""
    starts = generator.integers(0, len(stream) - N_CTX, size=rows)
    windows = np.stack([stream[start : start + N_CTX] for start in starts])
    return torch.from_numpy(np.concatenate([np.full((rows, 1), stream[0]), windows], axis=1))


def next_token_loss(model: Trainable, rows: Tensor) -> Tensor:
    """Mean cross entropy in nats over all positions."""
    logits = model(rows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: Trainable, stream: np.ndarray) -> float:
    rows = sample_rows(stream, EVAL_ROWS, np.random.default_rng(1))
    return sum(next_token_loss(model, chunk).item() * len(chunk) for chunk in torch.split(rows, 16)) / len(rows)


def learning_rate(step: int, n_steps: int, peak: float) -> float:
    """Linear warm-up over 2 % of the steps, then a cosine down to a twentieth of the peak."""
    warm_up = max(1, n_steps // 50)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, n_steps - warm_up)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(name: str, out: Path, n_tokens: int, rows: int = 16, peak_lr: float = 4e-3, seed: int = 0) -> None:
    """Train one bundled model on ``n_tokens`` tokens and write it, its checkpoints and its log under ``out / name``."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    streams = load_streams(out / "tokenizer")
    model = build(name)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    other = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak_lr, betas=(0.9, 0.98))
    n_steps = n_tokens // (rows * N_CTX)
    log: list[dict[str, float]] = []
    folder = out / name
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for step in range(n_steps + 1):
        if (step & (step - 1)) == 0 or step == n_steps:
            loss = held_out_loss(model, streams.held_out)
            log.append({"step": step, "tokens": step * rows * N_CTX, "held_out_loss_nats": round(loss, 4)})
            save_file(model.weights(), folder / "checkpoints" / f"{step:06d}.safetensors")
            sys.stderr.write(
                f"{name} step {step}/{n_steps} held-out loss {loss:.4f} {time.monotonic() - start:.0f} s\n"
            )
        if step == n_steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps, peak_lr)
        optimizer.zero_grad(set_to_none=True)
        for chunk in torch.split(sample_rows(streams.train, rows, generator), CHUNK_ROWS):
            (next_token_loss(model, chunk) * (len(chunk) / rows)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    save_file(model.weights(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config(), indent=1) + "\n")
    settings = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "train_stream_tokens": len(streams.train),
        "held_out_stream_tokens": len(streams.held_out),
        "tokens_per_step": rows * N_CTX,
        "peak_lr": peak_lr,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - start),
    }
    (folder / "training_log.json").write_text(json.dumps({"settings": settings, "log": log}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted([*SHAPES, *FAMILIES]))
    parser.add_argument("--tokens", type=int, default=2**24)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    train(arguments.name, arguments.out, arguments.tokens)


if __name__ == "__main__":
    main()
