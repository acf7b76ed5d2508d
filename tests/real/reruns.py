"""Numbers of a sweep held against literal reruns on transformers' own model, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tests.support.models.hooked import Hooked
from tests.support.oracle.sublayers import place_of

FINAL_NORM = "model.norm"


class Compared(NamedTuple):
    """A number of the tables and its rerun."""

    what: str
    found: float
    rerun: float

    @property
    def off(self) -> float:
        """Relative where the number exceeds a tenth, so that small ones need not agree to many digits of nothing."""
        return abs(self.found - self.rerun) / max(0.1, abs(self.rerun))


def load(gguf: Path) -> Hooked:
    """transformers' model of a GGUF file."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="eager"
    )
    return Hooked(model.eval())


def pairs_of(table: pd.DataFrame, n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Half of them those with the most negative β, half drawn at random, all of them heads."""
    rows = table[table["writer"].str.contains("H") & table["eraser"].str.contains("H")]
    strongest = rows.nsmallest(n // 2, "beta")
    others = rows.drop(strongest.index).sample(n - len(strongest), random_state=seed)
    return list(pd.concat([strongest, others])[["writer", "eraser"]].itertuples(index=False, name=None))


def compare_pairs(hooked: Hooked, table: pd.DataFrame, tokens: Tensor, pairs: list[tuple[str, str]]) -> list[Compared]:
    """β of ``v_composition``: the writer's output, from position 1 on, is taken out of what the eraser's values read."""
    beta, found = table.set_index(["writer", "eraser"])["beta"], []
    for writer, eraser in pairs:
        (layer, head), (later, reader) = place_of(writer), place_of(eraser)
        clean = hooked.run(tokens, (layer, later))
        output = hooked.outputs(clean, clean, layer)[head]
        output[:, 0] = 0.0
        patched = hooked.run(tokens, (later,), taken=(later, hooked.read(later, output, clean)))
        change = (hooked.outputs(clean, clean, later) - hooked.outputs(patched, clean, later))[reader]
        rerun = float((change * output).sum() / output.square().sum())
        found.append(Compared(f"beta of {writer} in {eraser}", float(beta[writer, eraser]), rerun))
    return found


def compare_trust(
    hooked: Hooked, table: pd.DataFrame, scanned: Tensor, tokens: Tensor, writers: list[str]
) -> list[Compared]:
    """``share`` of ``dla_trust``: the writer's output is replaced by its mean over the scan, from position 1 on."""
    share, found, model = table.set_index("writer")["share"], [], hooked.model
    batch, place = torch.arange(len(tokens))[:, None], torch.arange(tokens.shape[1])[None]
    for writer in writers:
        layer, head = place_of(writer)
        scan = hooked.run(scanned, (layer,))
        mean = hooked.outputs(scan, scan, layer)[head][:, 1:].mean(dim=(0, 1))
        clean = hooked.run(tokens, (layer,), also=(FINAL_NORM,))
        apart = hooked.outputs(clean, clean, layer)[head] - mean
        apart[:, 0] = 0.0
        top = clean["logits"].topk(2, dim=-1).indices
        final, norm = clean[FINAL_NORM], model.get_submodule(FINAL_NORM)
        scale = torch.sqrt(final.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon)
        rows = model.get_output_embeddings().weight.detach()
        along = (rows[top[..., 0]] - rows[top[..., 1]]) * norm.weight.detach() / scale
        direct = (apart * along).sum(dim=-1)[:, 1:]
        again = hooked.run(tokens, (layer,), added=(f"{hooked.names.block}.{layer}.{hooked.out}", -apart))

        def difference(logits: Tensor, top: Tensor = top) -> Tensor:
            return logits[batch, place, top[..., 0]] - logits[batch, place, top[..., 1]]

        effect = (difference(clean["logits"]) - difference(again["logits"]))[:, 1:]
        rerun = float((direct * effect).sum() / direct.square().sum())
        found.append(Compared(f"share of {writer}", float(share[writer]), rerun))
    return found


def heads_of(table: pd.DataFrame, n: int, seed: int = 0) -> list[str]:
    """Heads drawn at random whose DLA varies."""
    heads = table[table["writer"].str.contains("H") & np.isfinite(table["share"].astype(float))]["writer"]
    return sorted(heads.sample(min(n, len(heads)), random_state=seed))
