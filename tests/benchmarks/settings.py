"""What is measured on: the shapes of real models with random weights, and how much of everything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from erasure_sweep.workers.models.files.staged_weights import content_hash
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.random_models import random_config, random_processed_weights

GELU_4L = "gelu-4l"
GPT2_SMALL = "GPT-2 small"


@dataclass(frozen=True)
class Workload:
    """A sweep over a small random model: how many shards, and how long each takes, follow from these."""

    name: str
    n_layers: int
    n_heads: int
    d_model: int
    seq_len: int
    n_prompts: int
    block_prompts: int


@dataclass(frozen=True)
class PagesShape:
    """How much stands on the pages whose size and opening are measured."""

    n_models: int
    n_layers: int
    n_heads: int


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    threads: int
    rounds: int
    shapes: dict[str, ModelConfig]
    seq_len: int
    n_positions: int
    """Measured positions of the scan that does not take all."""
    literal_rounds: int
    literal_writers: int
    """Writers that the literal method is run for; its time for all is extrapolated from them."""
    literal_pairs: int
    """Patched forwards of the literal method that are timed in each round."""
    verify_shape: str
    """The shape on which verify is measured."""
    verify_rounds: int
    verify_prompts: int
    """Prompts of the shards of verify that are timed."""
    memory_shape: str
    """The shape for which peaks of few and of many prompts are compared."""
    memory_seq_len: int
    memory_prompts: tuple[int, ...]
    enough_models: tuple[str, ...]
    """Bundled models in which results from some positions are compared with those from all."""
    enough_prompts: int
    enough_seq_len: int
    enough_positions: tuple[int, ...]
    work: Workload
    tiny: Workload
    sweep_rounds: int
    n_shards: int
    """Shards that measure nothing."""
    pages: PagesShape
    large: ModelConfig
    """The shape of many writers that a whole run is made on."""


def full_settings(threads: int, rounds: int) -> Settings:
    """The real thing: minutes."""
    gelu = random_config(4, 8, 512, d_head=64, d_mlp=2048, n_ctx=1024, d_vocab=48262, act_fn="gelu")
    gpt2 = random_config(12, 12, 768, d_head=64, d_mlp=3072, n_ctx=1024, d_vocab=50257, act_fn="gelu_new")
    return Settings(
        threads=threads,
        rounds=rounds,
        shapes={GELU_4L: gelu, GPT2_SMALL: gpt2},
        seq_len=1024,
        n_positions=128,
        literal_rounds=2,
        literal_writers=8,
        literal_pairs=4,
        verify_shape=GELU_4L,
        verify_rounds=2,
        verify_prompts=4,
        memory_shape=GELU_4L,
        memory_seq_len=256,
        memory_prompts=(8, 64),
        enough_models=("toy-gelu-3l", "toy-gelu-4l"),
        enough_prompts=32,
        enough_seq_len=256,
        enough_positions=(16, 32, 64, 128),
        work=Workload("small shards", 4, 4, 64, seq_len=256, n_prompts=640, block_prompts=8),
        tiny=Workload("tiny shards", 1, 1, 8, seq_len=8, n_prompts=500, block_prompts=1),
        sweep_rounds=2,
        n_shards=10_000,
        pages=PagesShape(n_models=12, n_layers=12, n_heads=12),
        large=random_config(64, 16, 64, d_head=4),
    )


def quick_settings(threads: int, rounds: int) -> Settings:
    """The same code on next to nothing: it shows that the benchmarks run; its figures mean little, so no aim stands beside."""
    gelu = random_config(2, 2, 32, n_ctx=64, d_vocab=97, act_fn="gelu")
    gpt2 = random_config(3, 4, 32, n_ctx=64, d_vocab=97, act_fn="gelu_new")
    return Settings(
        threads=threads,
        rounds=min(rounds, 3),
        shapes={"tiny gelu": gelu, "tiny gelu_new": gpt2},
        seq_len=64,
        n_positions=8,
        literal_rounds=2,
        literal_writers=2,
        literal_pairs=2,
        verify_shape="tiny gelu",
        verify_rounds=2,
        verify_prompts=2,
        memory_shape="tiny gelu",
        memory_seq_len=16,
        memory_prompts=(8, 64),
        enough_models=("toy-gelu-2l",),
        enough_prompts=4,
        enough_seq_len=32,
        enough_positions=(4, 16),
        work=Workload("small shards", 2, 2, 16, seq_len=32, n_prompts=80, block_prompts=8),
        tiny=Workload("tiny shards", 1, 1, 8, seq_len=8, n_prompts=20, block_prompts=1),
        sweep_rounds=1,
        n_shards=50,
        pages=PagesShape(n_models=2, n_layers=2, n_heads=2),
        large=random_config(2, 2, 16, d_head=4),
    )


def random_weights(config: ModelConfig) -> dict[str, Tensor]:
    """Random processed weights in float32."""
    weights = random_processed_weights(config, seed=0)
    return {name: weights.pop(name).float() for name in list(weights)}


def random_prompts(config: ModelConfig, n_prompts: int, seq_len: int) -> Tensor:
    """Random token ids."""
    return torch.randint(config.d_vocab, (n_prompts, seq_len), generator=torch.Generator().manual_seed(1))


def stage_random(config: ModelConfig, path: Path) -> str:
    """Write a random model as a staged file, without TransformerLens, and return its hash."""
    weights = random_weights(config)
    model_hash = content_hash(config, weights)
    metadata = {"config": json.dumps(config.to_json()), "hash": model_hash, "origin": "random weights"}
    save_file(weights, path, metadata)
    return model_hash
