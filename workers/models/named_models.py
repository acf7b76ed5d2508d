"""Models of the hub that have a name of their own here, with their shapes, which plans need where there is no network.

Those the study was made for (Neel Nanda's small models: GELU, attention-only and SoLU, one to four layers, trained on C4 and
code; GPT-2 in its four sizes), and small ones of families that people study. Nothing here imports torch.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from erasure_sweep.workers.models.model_config import ModelConfig, weights_bytes

NANDA_REPOS = "NeelNanda/"
_PYTHIA_REPOS = "EleutherAI/pythia-"


class ModelEntry(NamedTuple):
    """One name that ``--model`` takes."""

    name: str
    kind: Literal["bundled", "hub"]
    location: str
    """The folder of a bundled model; the repository of one on the hub."""
    config: ModelConfig
    """Its architecture, as far as plans need it."""
    n_checkpoints: int = 0
    """Checkpoints of its training that lie beside a bundled model; those of the hub are not counted here."""

    @property
    def weights_file(self) -> str:
        """The file that holds the weights."""
        return "model_final.pth" if self.location.startswith(NANDA_REPOS) else "model.safetensors"

    @property
    def checkpoints_on_hub(self) -> bool:
        """Whether its repository holds checkpoints of its training."""
        return self.location.startswith((NANDA_REPOS, _PYTHIA_REPOS))

    @property
    def weights_bytes(self) -> int:
        """What the processed weights take in float32."""
        return weights_bytes(self.config)


def hub_entries() -> list[ModelEntry]:
    """The models on the hub, family by family, each by size."""
    nanda = [_nanda(family, repo, n) for family, repo in _NANDA for n in range(1, 5)]
    gpt2 = [_gpt2(*size) for size in _GPT2]
    pythia = [_pythia(*size) for size in _PYTHIA]
    return [*nanda, *gpt2, *pythia, *(_llama(*size) for size in _LLAMA)]


def usual_config(*, n_layers: int, d_model: int, n_heads: int, **rest: Any) -> ModelConfig:
    """A model whose scores are divided by the root of the heads' width, with biases and LayerNorm unless said otherwise."""
    said = {"d_head": d_model // n_heads, "attn_only": False, "eps": 1e-5, **rest}
    scale = math.sqrt(said["d_head"])
    return ModelConfig(n_layers=n_layers, d_model=d_model, n_heads=n_heads, attn_scale=scale, **said)


_NANDA = (("gelu", "GELU"), ("attn-only", "Attn_Only"), ("solu", "SoLU"))
_GPT2 = (("gpt2", 12, 768), ("gpt2-medium", 24, 1024), ("gpt2-large", 36, 1280), ("gpt2-xl", 48, 1600))
"""Name, layers, width."""
_PYTHIA = (
    ("70m", 6, 512, 8),
    ("160m", 12, 768, 12),
    ("410m", 24, 1024, 16),
    ("1b", 16, 2048, 8),
    ("1.4b", 24, 2048, 16),
)
"""Size, layers, width, heads."""
_SMOL = {"n_ctx": 8192, "d_vocab": 49152}
_QWEN = {"d_vocab": 151936, "attn_bias": True}
_LLAMA: tuple[tuple[str, str, tuple[int, int, int, int, int], dict[str, Any]], ...] = (
    ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", (30, 576, 9, 3, 1536), _SMOL),
    ("smollm2-360m", "HuggingFaceTB/SmolLM2-360M", (32, 960, 15, 5, 2560), _SMOL),
    ("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", (24, 2048, 32, 32, 8192), _SMOL),
    ("tinyllama-1.1b", "TinyLlama/TinyLlama_v1.1", (22, 2048, 32, 4, 5632), {"n_ctx": 2048, "d_vocab": 32000}),
    ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", (24, 896, 14, 2, 4864), {"n_ctx": 32768, **_QWEN}),
    ("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", (28, 1536, 12, 2, 8960), {"n_ctx": 131072, **_QWEN}),
    (
        *("qwen3-0.6b-base", "Qwen/Qwen3-0.6B-Base", (28, 1024, 16, 8, 3072)),
        {"n_ctx": 32768, "d_vocab": 151936, "d_head": 128, "qk_norm": "head"},
    ),
)
"""Name, repository, then layers, width, heads, key-value heads and neurons, and the rest."""


def _nanda(family: str, repo: str, n_layers: int) -> ModelEntry:
    act_fn, attn_only = "solu_ln" if family == "solu" else "gelu", family == "attn-only"
    shape = {"n_layers": n_layers, "d_model": 512, "n_heads": 8, "d_mlp": 2048, "n_ctx": 1024, "d_vocab": 48262}
    config = usual_config(**shape, act_fn=act_fn, attn_only=attn_only)
    return ModelEntry(f"{family}-{n_layers}l", "hub", f"{NANDA_REPOS}{repo}_{n_layers}L512W_C4_Code", config)


def _gpt2(name: str, n_layers: int, d_model: int) -> ModelEntry:
    shape = {"n_layers": n_layers, "d_model": d_model, "n_heads": d_model // 64, "d_mlp": 4 * d_model}
    return ModelEntry(name, "hub", name, usual_config(**shape, n_ctx=1024, d_vocab=50257, act_fn="gelu_new"))


def _pythia(size: str, n_layers: int, d_model: int, n_heads: int) -> ModelEntry:
    config = pythia_config(n_layers, d_model, n_heads, n_ctx=2048, d_vocab=50304)
    return ModelEntry(f"pythia-{size}", "hub", f"{_PYTHIA_REPOS}{size}", config)


def pythia_config(n_layers: int, d_model: int, n_heads: int, **rest: Any) -> ModelConfig:
    """A model of Pythia's kind: attention and MLP in parallel, a quarter of each head rotary."""
    return usual_config(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_mlp=4 * d_model,
        act_fn="gelu",
        positions="rotary",
        rotary_dim=d_model // n_heads // 4,
        parallel=True,
        **rest,
    )


def _llama(name: str, repo: str, sizes: tuple[int, int, int, int, int], rest: dict[str, Any]) -> ModelEntry:
    return ModelEntry(name, "hub", repo, llama_config(*sizes, **rest))


def llama_config(n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, d_mlp: int, **rest: Any) -> ModelConfig:
    """A model of Llama's kind: RMSNorm, rotary positions, grouped value heads, gated MLPs."""
    return usual_config(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_key_value_heads=n_kv_heads,
        d_mlp=d_mlp,
        act_fn="silu",
        norm="rms",
        positions="rotary",
        rotary_dim=rest.get("d_head", d_model // n_heads),
        gated_mlp=True,
        **{"attn_bias": False, **rest},
    )
