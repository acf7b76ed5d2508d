"""Self-repair of every head, beside what Rushing and Nanda (2024, "Explorations of self-repair in language models") published.

They measured GPT-2 small and medium and Pythia 160M and 410M on the Pile, in prompts of 128 tokens. Whoever has weights
measures them by the same protocol (``workers.measures.audit.self_repair``) on a corpus of their own; another model is measured
without numbers beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from erasure_sweep.dashboards.wording import number
from erasure_sweep.sweep.replication.published_numbers import PUBLISHED
from erasure_sweep.sweep.replication.report import Section, markdown
from erasure_sweep.sweep.run import staging_folder
from erasure_sweep.sweep.run_folder import write_atomically
from erasure_sweep.workers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "self-repair-heads.csv"
SEQ_LEN = 128
SHARES = {"top2pct": 0.02, "all": 1.0}
"""As the published table calls them: of which tokens each head's numbers are means."""
MODELS = {
    "gpt2": "gpt2-small",
    "gpt2-small": "gpt2-small",
    "gpt2-medium": "gpt2-medium",
    "pythia-160m": "pythia-160m",
    "pythia-410m": "pythia-410m",
}
"""What the published table calls a model, by the last part of its name."""
COLUMNS = (
    "direct",
    "direct_after_ablation",
    "total_change",
    "repair_by_final_norm",
    "repair_by_heads",
    "repair_by_mlps",
)


class Request(NamedTuple):
    """What is measured, on what, and where it is left."""

    model: str
    corpus: str
    prompts: int
    out: Path
    staging: str | None = None
    published_as: str | None = None
    """The published model that this is; ``None`` where the model's own name says it."""


def published_heads() -> pd.DataFrame:
    """The published numbers: model, tokens, head, and ``COLUMNS``, in logits."""
    with (PUBLISHED / FILE).open(encoding="utf-8") as file:
        return pd.read_csv(file)


def replicate_self_repair(
    request: Request, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> tuple[list[Section], Path]:
    """Measure a model and set its heads beside the published ones; table and report are left in the folder.

    Args:
        progress: told of which tokens how many of how many prompts are done.

    Returns:
        The report's sections, and its path.

    Raises:
        SweepError: the model or the corpus cannot be had; one clear line.
    """
    known = published_heads()
    name = _published_name(request, known)
    measured, about = _measure(request, progress)
    beside = known[known["model"] == name] if name else known.iloc[:0]
    _refuse_other(request, measured, beside)
    table = measured.merge(beside.drop(columns="model"), on=["tokens", "head"], how="left", suffixes=("", "_published"))
    found = sections(table, about, name)
    write_atomically(request.out / "self_repair.csv", table.to_csv(index=False).encode())
    write_atomically(request.out / "self_repair.md", markdown(found).encode())
    return found, request.out / "self_repair.md"


def sections(table: pd.DataFrame, about: str, name: str | None) -> list[Section]:
    """What was measured, and how far it is from what was published."""
    found = [
        Section(
            "Self-repair, head by head",
            notes=[about, _beside(name)],
        )
    ]
    for tokens, rows in table.groupby("tokens", sort=False):
        of = "2 % of tokens with the largest direct effect" if tokens == "top2pct" else "all tokens"
        lines = [_line(rows, column) for column in COLUMNS]
        headings = ("", ">median measured", ">median published", ">median apart", ">r over heads", ">rank r")
        found.append(Section(f"Of each head's {of}", headings, lines))
    return found


def _beside(name: str | None) -> str:
    if name is None:
        published_models = ", ".join(sorted(set(MODELS.values())))
        return f"Nothing was published of this model: its numbers stand alone. The published ones are of {published_models}."
    return (
        f"Beside it stands {name}, measured by its authors on the Pile: other texts, so that heads should agree in their "
        "order and size, not in their digits."
    )


def _line(rows: pd.DataFrame, column: str) -> tuple[str, ...]:
    mine = rows[column].to_numpy(dtype=np.float64)
    theirs = rows.get(f"{column}_published", pd.Series(np.nan, index=rows.index)).to_numpy(dtype=np.float64)
    both = np.isfinite(mine) & np.isfinite(theirs)
    words = (column.replace("_", " "), number(float(np.median(mine)), 3))
    if both.sum() < 3:
        return (*words, *("—",) * 4)
    apart = float(np.median(np.abs(mine[both] - theirs[both])))
    ranks = [pd.Series(values[both]).rank().to_numpy() for values in (mine, theirs)]
    correlations = [np.corrcoef(one, other)[0, 1] for one, other in ((mine[both], theirs[both]), ranks)]
    return (
        *words,
        number(float(np.median(theirs[both])), 3),
        number(apart, 3),
        *(number(float(r)) for r in correlations),
    )


def _measure(request: Request, progress: Callable[[str, int, int], None]) -> tuple[pd.DataFrame, str]:
    from erasure_sweep.workers.corpora.resolve_corpus import CorpusRequest, load_tokens
    from erasure_sweep.workers.measures.audit.self_repair import measure_self_repair
    from erasure_sweep.workers.models.model_in_memory import hold_named
    from erasure_sweep.workers.resolve import resolve

    if request.prompts < 2:
        raise UsageError("self-repair replaces a head's output by another prompt's: give two prompts or more")
    corpus = CorpusRequest(request.corpus, request.prompts, SEQ_LEN, seed=0, least=2)
    resolved = resolve(request.model, corpus, str(staging_folder(request.staging)))
    held = hold_named(request.model, staging_folder(request.staging))
    tokens = load_tokens(Path(resolved.tokens))[: resolved.n_prompts]
    frames = []
    for name, share in SHARES.items():
        found = measure_self_repair(held.lean, tokens, share, lambda done, name=name: progress(name, done, len(tokens)))
        frames.append(pd.DataFrame({"tokens": name, "head": held.config.layout.heads, **found._asdict()}))
    about = f"{resolved.name} on {len(tokens)} prompts of {SEQ_LEN} tokens of {request.corpus}."
    return pd.concat(frames, ignore_index=True), about


def _published_name(request: Request, known: pd.DataFrame) -> str | None:
    names = sorted(set(known["model"]))
    if request.published_as is not None and request.published_as not in names:
        raise UsageError(f"nothing was published of {request.published_as!r}: known are {', '.join(names)}")
    last = request.model.rstrip("/").rpartition("/")[2].partition("@")[0]
    return request.published_as or MODELS.get(last)


def _refuse_other(request: Request, measured: pd.DataFrame, beside: pd.DataFrame) -> None:
    """See that a model has the heads of the published one."""
    if len(beside) and set(measured["head"]) != set(beside["head"]):
        raise UsageError(
            f"{request.model} has {measured['head'].nunique()} heads and {beside['model'].iloc[0]} "
            f"{beside['head'].nunique()}: it is another model"
        )
