"""Tables of verify for invented models: computed by their definitions from the same random vectors as the tables of the scan.

Reruns are invented: what comes later is taken to be unchanged by a patch but for what the patched heads wrote, and
replacing a writer to work through the V-composed parts of later heads. Numbers that need a real model (losses, prompts, tokens)
are drawn; their tables have every kind of row. Blocks are of four prompts; with fewer than eight there is one block, and
there are no intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.facts.trust import TrustEnds, TrustNumbers, is_settled, trust_word
from erasure_sweep.workers.tables.facts.verdict import verdict
from tests.support.fakes.prompts import adversarial_rows, aligned_rows, loss_rows, patched_loss_rows, token_rows
from tests.support.fakes.terms import FakeTarget, Invented, beta_columns, correlations, quantile_columns, ratios, summed

EFFECTS = ("full", "v_composition", "value_input", "layer_input", "downstream", "without_pattern")
MOST_POINTS = 1000


def add_verify(
    invented: Invented,
    tables: dict[str, pd.DataFrame],
    rng: np.random.Generator,
    groups: dict[str, tuple[str, ...]],
    *,
    tokenizer: bool = True,
) -> None:
    """Add every table of verify, for the writers with groups and the first three by rank; complete the scan's tables."""
    targets = choose(invented, tables, groups)
    rows: dict[str, list[dict[str, Any]]] = {}
    for target in targets:
        for name, found in {
            "eraser_group": group_rows(invented, target),
            "nulls": null_rows(invented, target, rng),
            "patched_residual_projection": state_rows(invented, target),
            "position_profile": profile_rows(invented, target),
            "later_use": later_rows(invented, target),
            "carries": carries_rows(invented, target, rng),
            "patched_loss": patched_loss_rows(target, rng, bool(invented.block.max())),
        }.items():
            rows.setdefault(name, []).extend(found)
    writers = list(dict.fromkeys(target.writer for target in targets))
    for writer in writers:
        rows.setdefault("mlp_erasure", []).extend(mlp_rows(invented, writer, rng))
        rows.setdefault("aligned_tokens", []).extend(aligned_rows(writer, rng, tokenizer))
        rows.setdefault("adversarial", []).extend(adversarial_rows(writer, _other(invented, writer), rng, tokenizer))
        rows.setdefault("ablation_loss", []).extend(loss_rows(writer, rng, bool(invented.block.max())))
    trust = [trust_rows(invented, writer, rng) for writer in invented.layout.writers]
    rows["dla_trust"] = [row for row, _ in trust]
    rows["dla_mediation"] = [row for _, mediators in trust for row in mediators]
    frames = {name: pd.DataFrame(found) for name, found in rows.items()}
    effects, points = effect_tables(invented, targets, rng)
    frames["dla_points"] = points
    for name, frame in frames.items():
        frame.insert(0, "model", invented.name)
        tables[name] = frame
    verdicts(tables)
    complete_scan(tables, effects.assign(model=invented.name), rng)
    tables["adversarial_tokens"] = token_rows(tables["adversarial"], rng, tokenizer)
    tables["adversarial_tokens"].insert(0, "model", invented.name)


def _other(invented: Invented, writer: str) -> str:
    return next(head for head in reversed(invented.layout.heads) if head != writer)


def choose(
    invented: Invented, tables: dict[str, pd.DataFrame], groups: dict[str, tuple[str, ...]], top: int = 3
) -> list[FakeTarget]:
    """Targets of the writers with groups and of the first by rank; all later heads where no head qualifies."""
    ranked = tables["writers"].dropna(subset="rank").sort_values("rank")
    targets = [FakeTarget(writer, heads, "named") for writer, heads in groups.items()]
    for writer, erasers in zip(ranked["writer"][:top], ranked["erasers"][:top], strict=True):
        heads = tuple(erasers.split("+")) if erasers else ()
        if heads and groups.get(writer) != heads:
            targets.append(FakeTarget(writer, heads, "rule"))
        elif not heads and writer not in groups:
            targets.append(FakeTarget(writer, tuple(invented.parts[writer]), "all"))
    return targets


def group_rows(invented: Invented, target: FakeTarget) -> Iterator[dict[str, Any]]:
    """Each head, then the group."""
    writer, parts = invented.terms[target.writer], invented.parts[target.writer]
    singles = [(head, (head,)) for head in target.heads]
    for label, heads in [*singles, (target.label, target.heads)]:
        clean, read = ratios(summed(invented.terms, heads), writer), ratios(summed(parts, heads), writer)
        row = {
            "writer": target.writer,
            "group": target.label,
            "eraser": label,
            "chosen": target.chosen,
            "held_out": True,
        }
        for name, values in (("clean", clean), ("patched", clean - read), ("v_composed", read)):
            row |= quantile_columns(values, name)
        row |= {f"{run}_median_{end}": np.nan for run in ("clean", "patched") for end in ("low", "high")}
        yield (
            row
            | beta_columns(invented, summed(parts, heads), writer)
            | {
                "position_share": np.nan,
                "verdict": None,
                "n": len(writer),
            }
        )


def null_rows(invented: Invented, target: FakeTarget, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """What was measured, and every null of it."""
    writer, parts = invented.terms[target.writer], invented.parts[target.writer]
    group, read = summed(invented.terms, target.heads), summed(parts, target.heads)
    partner = writer[invented.partner]
    shuffled = partner[rng.permutation(len(partner))]
    rows = [
        ("measured", "", "clean", group, writer),
        ("measured", "", "v_composed", read, writer),
        ("shuffled", "", "clean", group, shuffled),
        ("shuffled", "", "v_composed", read, shuffled),
        ("position", "", "clean", group, partner),
        ("position", "", "v_composed", read, partner),
    ]
    for sibling in siblings(invented.layout, target.writer):
        output = invented.terms[sibling]
        if output.any():
            rows.append(("siblings", sibling, "clean", group, output))
            rows.append(("siblings", sibling, "v_composed", summed(invented.parts[sibling], target.heads), output))
    for draw in range(1, PLACEBOS + 1):
        turned = rng.normal(size=writer.shape)
        turned *= np.linalg.norm(writer, axis=1, keepdims=True) / np.linalg.norm(turned, axis=1, keepdims=True)
        rows.append(("placebo", str(draw), "clean", group, turned))
        rows.append(("placebo", str(draw), "v_composed", 0.02 * rng.normal(size=(len(read), 1)) * turned, turned))
    for kind, direction, of, a, b in rows:
        yield {
            **target.keys,
            **{"null": kind, "direction": direction, "of": of, "heads": "+".join(target.heads)},
            **quantile_columns(ratios(a, b)),
            **beta_columns(invented, a, b),
            "n": len(a),
        }


PLACEBOS = 3


def siblings(layout: Layout, writer: str) -> list[str]:
    """Other heads of a head's layer, the other embedding of an embedding."""
    if writer.endswith("embed"):
        return ["pos_embed" if writer == "embed" else "embed"]
    layer = writer.partition("H")[0]
    return (
        [head for head in layout.heads if head.partition("H")[0] == layer and head != writer] if "H" in writer else []
    )


def state_rows(invented: Invented, target: FakeTarget) -> Iterator[dict[str, Any]]:
    """Every state clean and patched, for the group and for all heads of its layers."""
    writer, parts, order = invented.terms[target.writer], invented.parts[target.writer], list(invented.terms)
    layers = {head.partition("H")[0] for head in target.heads}
    whole = tuple(head for head in parts if head.partition("H")[0] in layers)
    for patch, heads in (("group", target.heads), ("layer", whole)):
        for state, end in zip(invented.layout.states, invented.layout.state_ends, strict=True):
            clean = np.sum([invented.terms[term] for term in order[:end]], axis=0)
            written = [parts[head] for head in heads if head in order[:end]]
            patched = clean - np.sum(written, axis=0) if written else clean
            yield {
                **target.keys,
                **{"patch": patch, "state": state},
                **quantile_columns(ratios(clean, writer), "clean"),
                **quantile_columns(ratios(patched, writer), "patched"),
                "clean_beta": beta_columns(invented, clean, writer)["beta"],
                "patched_beta": beta_columns(invented, patched, writer)["beta"],
                "n": len(writer),
            }


def profile_rows(invented: Invented, target: FakeTarget) -> Iterator[dict[str, Any]]:
    """Bins of positions that double in width."""
    writer = invented.terms[target.writer]
    clean = ratios(summed(invented.terms, target.heads), writer)
    patched = clean - ratios(summed(invented.parts[target.writer], target.heads), writer)
    first = 0
    while first < invented.seq_len:
        last = min(max(2 * first - 1, first), invented.seq_len - 1)
        inside = (invented.position >= first) & (invented.position <= last)
        yield {
            **target.keys,
            **{"first_position": first, "last_position": last},
            **quantile_columns(clean[inside], "clean"),
            **quantile_columns(patched[inside], "patched"),
            "writer_norm": float(np.sqrt((writer[inside] ** 2).sum() / inside.sum())),
            "n": int(inside.sum()),
        }
        first = last + 1


def later_rows(invented: Invented, target: FakeTarget) -> Iterator[dict[str, Any]]:
    """Every term behind the attention of the group's last layer; patching is taken to change it by a tenth."""
    writer, layout = invented.terms[target.writer], invented.layout
    last = max(int(head[1:].partition("H")[0]) for head in target.heads)
    for label in layout.terms[layout.attention_slices[last].stop :]:
        output = invented.terms[label]
        clean = ratios(output, writer)
        yield {
            **target.keys,
            "component": label,
            **quantile_columns(clean, "clean"),
            **quantile_columns(0.9 * clean, "patched"),
            **beta_columns(invented, output, writer, "clean_beta"),
            "patched_beta": 0.9 * beta_columns(invented, output, writer)["beta"],
            **beta_columns(invented, 0.1 * output, writer, "response"),
            "n": len(writer),
        }


def mlp_rows(invented: Invented, writer: str, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Every MLP behind the writer; it is taken to read a share of the writer's output that is drawn."""
    output = invented.terms[writer]
    own = invented.layout.state_ends[invented.layout.written_state(writer)]
    for label in invented.layout.terms[own:]:
        if label.startswith("MLP"):
            read = -rng.uniform(-0.05, 0.3) * output * rng.uniform(0.5, 1.5, size=(len(output), 1))
            clean = ratios(invented.terms[label], output)
            yield {
                **{"writer": writer, "component": label},
                **quantile_columns(clean, "clean"),
                **quantile_columns(clean - ratios(read, output), "patched"),
                **quantile_columns(ratios(read, output), "read"),
                **(row := beta_columns(invented, read, output)),
                **{"placebo_lowest": -0.04, "placebo_median": -0.01, "placebo_highest": 0.02, "siblings_median": -0.01},
                "verdict": None
                if np.isnan(row["beta_high"])
                else "erased"
                if row["beta_high"] < -0.06
                else "not found",
                "n": len(output),
            }


def carries_rows(invented: Invented, target: FakeTarget, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """The whole output, and of a head what it writes from the first token and from all others."""
    output = invented.terms[target.writer]
    share = rng.uniform(0.2, 0.8)
    parts = {"all": output, "bos": share * output, "non_bos": (1 - share) * output}
    erased = -beta_columns(invented, summed(invented.parts[target.writer], target.heads), output)["beta"]
    for part, vectors in parts.items():
        if part == "all" or "H" in target.writer:
            yield {
                **target.keys,
                "part": part,
                "power_share": beta_columns(invented, vectors, output)["beta"],
                "variance": float(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean()),
                "position_share": float(rng.uniform(0, 0.9)) if len(set(invented.prompt)) > 1 else np.nan,
                "token_share": float(rng.uniform(-0.02, 0.4)),
                "erased_by_group": erased,
                "n": len(output),
            }


def trust_rows(
    invented: Invented, writer: str, rng: np.random.Generator
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A writer's DLA against what arrives of it behind the heads that read it, and these; no number of one that is zero."""
    output = invented.terms[writer]
    x, d = invented.dla(output), invented.dla(output - output.mean(axis=0))
    parts = {head: invented.dla(part - part.mean(axis=0)) for head, part in invented.parts.get(writer, {}).items()}
    parts["final_norm"] = 0.1 * d.std() * rng.normal(size=len(d))
    e = d + sum(parts.values(), np.zeros(len(d)))
    reach = 0.05 if invented.block.max() > 0 else np.nan
    power, product = (float((d * of).sum()) for of in (d, e))
    numbers = dict.fromkeys(("varying", "share", "r", "size", "concordance"), np.nan)
    if power > 0:
        size = float(np.sqrt((e**2).sum() / power))
        numbers = {"varying": power / float((x**2).sum()), "share": product / power, "r": product / power / size}
        numbers |= {"size": size, "concordance": 2 * product / (power + float((e**2).sum()))}
    ends = {name: (value - reach, value + reach) for name, value in numbers.items()}
    word = trust_word(TrustNumbers(*(numbers[name] for name in TrustNumbers._fields)))
    row: dict[str, Any] = {"writer": writer, "trust": word}
    row["settled"] = is_settled(TrustEnds(*(ends[name] for name in TrustEnds._fields))) if word else None
    for name in ("share", "r", "size", "concordance"):
        row |= {name: numbers[name], f"{name}_low": ends[name][0], f"{name}_high": ends[name][1]}
    low, high = ends["varying"]
    row |= {"constant": 1 - numbers["varying"], "constant_low": 1 - high, "constant_high": 1 - low}
    row |= {f"{name}_mean_abs": np.abs(of).mean() if word else np.nan for name, of in (("dla", x), ("effect", e))}
    row |= {"n": len(x), "rotated_share": numbers["share"] + 0.01, "rotated_r": numbers["r"]}
    row |= {"rotated_size": numbers["size"], "rotated_trust": word, "n_rotated": len(x) // 4}
    shares = {label: float((d * m).sum()) / power if power > 0 else np.nan for label, m in parts.items()}
    return row, [
        {"writer": writer, "mediator": label, "share": of, "share_low": of - reach, "share_high": of + reach}
        for label, of in shares.items()
    ]


def effect_tables(
    invented: Invented, targets: Sequence[FakeTarget], rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of ``dla_correlation`` and ``dla_points``; effects that need a rerun are the V-composed part and some noise."""
    lines, clouds = [], []
    for target in targets:
        x = invented.dla(invented.terms[target.writer])
        composed = invented.dla(summed(invented.parts[target.writer], target.heads))
        for effect in EFFECTS:
            y = invented.dla(summed(invented.terms, target.heads)) if effect == "full" else composed
            y = y + (0.0 if effect in EFFECTS[:2] else 0.1 * x.std()) * rng.normal(size=len(y))
            measured = np.flatnonzero(invented.position >= (32 if effect == "without_pattern" else 0))
            keys = {**target.keys, "effect": effect}
            lines.append({**keys, **_line(invented, x[measured], y[measured]), "stage": "verify"})
            kept = measured[:MOST_POINTS]
            at = {"prompt": invented.prompt[kept], "position": invented.position[kept]}
            clouds.append(pd.DataFrame({**keys, **at, "writer_dla": x[kept], "eraser_dla": y[kept]}))
    return pd.DataFrame(lines), pd.concat(clouds, ignore_index=True)


def _line(invented: Invented, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    if not len(x):
        names = ("r", "spearman", "slope", "intercept", "low", "high", "slope_low", "slope_high")
        return {**dict.fromkeys(names, np.nan), "n": 0}
    found = {name: float(values[0]) for name, values in correlations(x, y[None]).items()}
    found |= {"slope_low": found["slope"] - 0.05, "slope_high": found["slope"] + 0.05}
    if not invented.block.max():
        found |= dict.fromkeys(("low", "high", "slope_low", "slope_high"), np.nan)
    return {**found, "n": len(x)}


def verdicts(tables: dict[str, pd.DataFrame], tau: float = 0.05) -> None:
    """Complete the rows of groups from the table of nulls."""
    groups, nulls = tables["eraser_group"], tables["nulls"]
    for (writer, eraser), rows in nulls.groupby(["writer", "eraser"], sort=False):
        row = groups.index[(groups["writer"] == writer) & (groups["eraser"] == eraser)][-1]
        betas = rows[rows["of"] == "v_composed"].groupby("null")["beta"].apply(list)
        groups.loc[row, "position_share"] = betas["position"][0] / betas["measured"][0]
        of_nulls = (betas["placebo"], betas.get("siblings", []))
        groups.loc[row, "verdict"] = verdict(groups.loc[row, "beta"], groups.loc[row, "beta_high"], tau, *of_nulls)


def complete_scan(tables: dict[str, pd.DataFrame], effects: pd.DataFrame, rng: np.random.Generator) -> None:
    """The columns that scans have since verify stands, and verify's own rows among theirs."""
    scan = tables["dla_correlation"]
    scan = scan.assign(stage="scan", slope_low=scan["slope"] - 0.05, slope_high=scan["slope"] + 0.05)
    tables["dla_correlation"] = pd.concat([scan, effects[scan.columns]], ignore_index=True)
    pairs = tables["v_composition"]
    p = np.where(pairs["beta"] < -0.05, 0.001, rng.uniform(0.05, 1.0, size=len(pairs)))
    heads = pairs["eraser"].str.fullmatch(r"L\d+H\d+") & pairs["beta"].notna()
    significant = pd.Series(p < 0.01, dtype=object, index=pairs.index).where(heads, None)
    tables["v_composition"] = pairs.assign(p=np.where(pairs["beta"].notna(), p, np.nan), significant=significant)
    counts = tables["v_composition"].groupby("writer")["significant"].sum()
    read = tables["writers"]["rank"].notna()
    found = tables["writers"]["writer"].map(counts).where(read)
    tables["writers"] = tables["writers"].assign(significant_erasers=found)
