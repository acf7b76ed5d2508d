"""The literal oracle of verify: what the erasers do to the writer's DLA, who else erases it, and what the writer is for.

Effects of the erasers G on the logits, y at a token, against x = DLA(o_w):

- ``full``: DLA of what they write. ``v_composition``: of their V-composed part.
- ``value_input``: what is lost of it when their values read LN(resid_pre − o_w), their patterns clean.
- ``layer_input``: when queries and keys read that too.
- ``downstream``: when o_w is taken out of the stream right after it was written and everything behind is run again.
- ``without_pattern``: of what their OV circuits make of o_w at its own position, along the true next token alone, from
  position 32 on; x is along that token too.

MLPs: what of an MLP's output is lost when o_w is taken out of its input, over the input's clean scale; the same of what
stands in w's place (``verify_nulls``), each onto itself. Ablations: the writer's output replaced by the partner's, at the
same or at a permuted position. Carries: shares of the writer's variance between cells of equal position and of equal
token, 1 − (SSW / dof) / (SST / (N − 1)), cells within blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from erasure_sweep.workers.records import Target
from tests.support.oracle.dla import correlate, fisher, is_constant
from tests.support.oracle.scan import Activations, forward, layer_of_head
from tests.support.oracle.sublayers import (
    behind_mlp,
    capped,
    centre,
    layer_heads,
    neurons,
    output_weights,
    place_of,
    read_stream,
    run_head,
    value_weights,
)
from tests.support.oracle.v_composition import resid_pre, source
from tests.support.oracle.verify_nulls import Nulls, conclusion, placebo
from tests.support.oracle.verify_setting import (
    Field,
    Setting,
    added,
    beta,
    beta_interval,
    dot,
    interval,
    mean_interval,
    named,
    quantiles,
    ratios,
)

Row = dict[str, object]
SAMPLE, LOSSES, ALIGNED, FIRST_WITHOUT_PATTERN = 1000, 128, 30, 32
CONSTANT_POWER = 1e-12


def effects(s: Setting, target: Target) -> tuple[list[Row], list[Row]]:
    """Rows of ``dla_correlation`` and of ``dla_points``."""
    rows, points, sampled = [], [], sample(s)
    key = {"writer": target.writer, "eraser": target.label}
    g, next_token = s.logit_directions(), next_directions(s)
    every, late = np.ones(len(sampled), dtype=bool), s.positions() >= FIRST_WITHOUT_PATTERN
    late &= s.positions() < np.array([s.length(row) - 1 for row in s.prompts()])
    whole = dla(s, added([s.term(head) for head in target.erasers]), g)
    size = math.sqrt(float(np.mean(whole**2)))
    for effect, written in effects_written(s, target).items():
        alone = effect == "without_pattern"
        x, y = (dla(s, field, next_token if alone else g) for field in (s.term(target.writer), written))
        used = late if alone else every
        line = line_of(s, x, y, used, sampled)
        resolution = float(y[used].std()) / size if used.any() and size > 0.0 else 0.0
        rows.append(key | {"effect": effect} | line | {"stage": "verify", "resolution": resolution})
        for t in np.flatnonzero(sampled & used):
            place = {"prompt": s.first_prompt + int(s.prompts()[t]), "position": int(s.positions()[t])}
            points.append(key | {"effect": effect} | place | {"writer_dla": x[t], "eraser_dla": y[t]})
    return rows, points


def dla(s: Setting, field: Field, directions: Field) -> np.ndarray:
    """Products with the logit directions at the measured tokens."""
    return dot(s.tokens(field), s.tokens(directions))


def sample(s: Setting) -> np.ndarray:
    """The measured tokens with the lowest hashes."""
    hashes = s.tokens([s.hashes(row) for row in s.rows])
    chosen = np.zeros(len(hashes), dtype=bool)
    chosen[np.argsort(hashes, kind="stable")[:SAMPLE]] = True
    return chosen


def next_directions(s: Setting) -> Field:
    """Centred unembedding of the token that follows, over the final scale; zero where none does."""
    directions = []
    for ids, run in zip(s.ids, s.runs, strict=True):
        after = centre(s.config, s.w["W_U"][:, ids[1:]].T) / run.final_scale[:-1, None]
        directions.append(np.concatenate([after, np.zeros((1, s.config.d_model))]))
    return directions


def line_of(s: Setting, x: np.ndarray, y: np.ndarray, used: np.ndarray, sampled: np.ndarray) -> Row:
    """Line, correlations and intervals of y on x over the tokens used; ranks over the sampled ones among them."""
    if not used.any():
        ends = [end for prefix in ("", "slope_", "spearman_") for end in named(prefix, (0, 0))]
        return dict.fromkeys(["r", "spearman", "slope", "intercept", *ends]) | {"n": 0}
    line = correlate(x[used], y[used])
    line["spearman"] = correlate(x[used & sampled], y[used & sampled])["spearman"]
    row: Row = {name: line[name] for name in ("r", "spearman", "slope", "intercept")}
    row |= named("spearman_", line_interval(s, x, y, used & sampled, "spearman"))
    row |= named("", line_interval(s, x, y, used, "r")) | named("slope_", line_interval(s, x, y, used, "slope"))
    return row | {"n": int(used.sum())}


def line_interval(s: Setting, x: np.ndarray, y: np.ndarray, used: np.ndarray, name: str) -> tuple[float, float]:
    """Interval of r or Spearman's coefficient, symmetric in Fisher's z, or of the slope; NaN where there is no number."""
    x, y = x[used], y[used]
    if is_constant(x) or (name != "slope" and is_constant(y)):
        return math.nan, math.nan

    def of_kept(kept: np.ndarray) -> float:
        line = correlate(x[kept], y[kept])
        return line[name]

    if name != "slope":
        return interval(s.prompts()[used], of_kept, fisher, math.tanh)
    return interval(s.prompts()[used], of_kept)


def effects_written(s: Setting, target: Target) -> dict[str, Field]:
    """By effect, what of the erasers' output it is about."""
    heads, writer = target.erasers, target.writer
    state = s.stream.written_state(writer)
    removed = [
        forward(s.config, s.w, tokens, added={state: -output})
        for tokens, output in zip(s.ids, s.source(writer), strict=True)
    ]
    return {
        "full": added([s.term(head) for head in heads]),
        "v_composition": s.v_composed(heads, s.source(writer)),
        "value_input": added([lost(s, head, writer, values_alone=True) for head in heads]),
        "layer_input": added([lost(s, head, writer, values_alone=False) for head in heads]),
        "downstream": added(
            [[run.terms[h] - r.terms[h] for run, r in zip(s.runs, removed, strict=True)] for h in heads]
        ),
        "without_pattern": added([moved(s, head, writer) for head in heads]),
    }


def lost(s: Setting, head: str, writer: str, values_alone: bool) -> Field:
    """A head's output without what it writes when it reads a stream without the writer, its values alone or all of it."""
    layer, field = layer_of_head(head), []
    for row, run, output in zip(s.rows, s.runs, s.source(writer), strict=True):
        clean, _ = read_stream(s.config, s.resid_pre(row, layer))
        edited, _ = read_stream(s.config, s.resid_pre(row, layer) - output)
        if values_alone:
            left = run_head(s.config, s.w, head, clean, clean, edited, run.write_scales[layer])
        else:
            left = layer_heads(s.config, s.w, layer, edited)[0][head]
        field.append(run.terms[head] - left)
    return field


def moved(s: Setting, head: str, writer: str) -> Field:
    """What a head's OV circuit makes of the writer's output at its own position."""
    layer, _ = at = place_of(head)
    return [
        centre(s.config, run.terms[writer])
        / (run.ln1_scales[layer] * run.write_scales[layer])[:, None]
        @ value_weights(s.config, s.w, at)
        @ output_weights(s.config, s.w, at)
        for run in s.runs
    ]


def mlps(s: Setting, writer: str, nulls: Nulls, tau: float) -> Iterator[Row]:
    """Every MLP behind the writer's sublayer: its output, without what it writes because it reads the writer, that."""
    w, valid = s.tokens(s.term(writer)), s.has_ratio(writer)
    for mlp in (term for term in s.stream.later_terms(writer) if term.startswith("MLP")):
        layer = int(mlp.removeprefix("MLP"))
        output, read = s.tokens(s.term(mlp)), s.tokens(read_by_mlp(s, layer, s.term(writer)))
        row: Row = {"writer": writer, "component": mlp}
        row |= quantiles(ratios(output, w, valid), "clean_") | quantiles(ratios(output - read, w, valid), "patched_")
        row |= quantiles(ratios(read, w, valid), "read_") | {"beta": beta(read, w)}
        row |= named("beta_", beta_interval(s.prompts(), read, w))
        row |= beside_nulls(s, layer, row, mlp_nulls(s, writer, nulls), tau)
        yield row | {"n": int(valid.sum())}


def read_by_mlp(s: Setting, layer: int, field: Field) -> Field:
    """What an MLP writes because something is in its input, over the input's clean scale."""
    reads = []
    for run, taken in zip(s.runs, field, strict=True):
        before = resid_pre(run, layer) if s.config.parallel else run.states[f"resid_mid{layer}"]
        x, scale = read_stream(s.config, before)
        clean, without = (
            neurons(s.config, s.w, layer, seen) for seen in (x, x - centre(s.config, taken) / scale[:, None])
        )
        reads.append(behind_mlp(s.config, s.w, layer, clean - without, clean))
    return reads


def mlp_nulls(s: Setting, writer: str, nulls: Nulls) -> dict[str, list[Field]]:
    """What stands in the writer's place, by kind."""
    fields: dict[str, list[Field]] = {"placebo": [], "siblings": []}
    for null in nulls.of(writer):
        if null.null == "siblings":
            fields["siblings"].append(s.source(null.direction))
        else:
            fields["placebo"].append(placebo(s, writer, nulls.covariance[writer], int(null.direction) - 1))
    return fields


def beside_nulls(s: Setting, layer: int, row: Row, fields: Mapping[str, list[Field]], tau: float) -> Row:
    """β of an MLP for each null onto itself at a few positions of each prompt, and the verdict on it."""
    few = s._replace(
        kept=[np.sort(kept[np.argsort(s.hashes(i)[kept], kind="stable")[:LOSSES]]) for i, kept in enumerate(s.kept)]
    )
    betas = {
        kind: [beta(few.tokens(read_by_mlp(s, layer, field)), few.tokens(field)) for field in of_kind]
        for kind, of_kind in fields.items()
    }
    known = {kind: [value for value in values if not math.isnan(value)] for kind, values in betas.items()}
    placebos, kin = known["placebo"], known["siblings"]
    found: Row = dict.fromkeys(("placebo_lowest", "placebo_median", "placebo_highest"), math.nan)
    if placebos:
        found = {
            "placebo_lowest": min(placebos),
            "placebo_median": np.median(placebos),
            "placebo_highest": max(placebos),
        }
    found["siblings_median"] = np.median(kin) if kin else math.nan
    as_rows = [{"of": "v_composed", "null": kind, "beta": value} for kind in known for value in known[kind]]
    return found | {"verdict": conclusion(row, as_rows, tau)}


def ablations(s: Setting, writer: str) -> Iterator[Row]:
    """How much the loss rises when the writer writes what it wrote in the partner."""
    state, output = s.stream.written_state(writer), s.source(writer)
    for ablation, permuted in (("equal_position", False), ("random_position", True)):
        other = s.from_partner(output, permuted)
        runs = [forward(s.config, s.w, s.ids[row], added={state: other[row] - output[row]}) for row in s.rows]
        yield {"writer": writer, "ablation": ablation} | loss_increase(s, runs)


def patched_losses(s: Setting, target: Target, patched: Mapping[str, Sequence[Activations]]) -> Iterator[Row]:
    """How much the loss rises when the erasers do not read the writer."""
    for patch, runs in patched.items():
        yield {"writer": target.writer, "eraser": target.label, "patch": patch} | loss_increase(s, runs)


def loss_increase(s: Setting, runs: Sequence[Activations]) -> Row:
    """The clean loss, and how much higher that of other runs of the prompts is."""
    at = [losses_at(s, row) for row in s.rows]
    prompts = s._replace(kept=at).prompts()
    clean, other = (
        np.concatenate([loss(s.ids[row], capped(s.config, those[row].logits), at[row]) for row in s.rows])
        for those in (s.runs, runs)
    )
    increase = other - clean
    if not len(increase):
        return {"n": 0}
    row: Row = {"clean_loss": clean.mean(), "increase_mean": increase.mean()}
    row |= named("increase_mean_", mean_interval(prompts, increase)) | quantiles(increase)
    return row | {"n": len(increase)}


def losses_at(s: Setting, row: int) -> np.ndarray:
    """The measured positions of a prompt that have a next token and the lowest hashes."""
    followed = s.kept[row][s.kept[row] < s.length(row) - 1]
    return followed[np.argsort(s.hashes(row)[followed], kind="stable")[:LOSSES]]


def loss(ids: np.ndarray, logits: np.ndarray, at: np.ndarray) -> np.ndarray:
    """−log of the probability of the token that follows each position."""
    values = []
    for position in at:
        shifted = logits[position] - logits[position].max()
        values.append(math.log(np.exp(shifted).sum()) - shifted[ids[position + 1]])
    return np.array(values)


def carries(s: Setting, target: Target) -> Iterator[Row]:
    """How the writer's variance divides, and that of what it takes from the first position and from all others."""
    whole = s.tokens(s.term(target.writer))
    every, once = np.arange(len(whole)), one_of_each(s)
    cells = {"position_share": (s.positions(), every), "token_share": (s.tokens(s.ids), once)}
    for part, field in parts_of(s, target.writer).items():
        x, read = s.tokens(field), s.tokens(s.v_composed(target.erasers, field))
        row: Row = {"writer": target.writer, "eraser": target.label, "part": part, "power_share": beta(x, whole)}
        row["variance"] = float(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())
        row |= {name: explained(x[of], s.block_of()[of], cell[of]) for name, (cell, of) in cells.items()}
        yield row | {"erased_by_group": -beta(read, x), "n": len(x)}


def one_of_each(s: Setting) -> np.ndarray:
    """Measured tokens: of each token in a prompt the measured occurrence with the lowest hash."""
    found: list[int] = []
    for row in s.rows:
        before, hashes = sum(len(s.kept[r]) for r in s.rows if r < row), s.hashes(row)
        for token in sorted(set(s.ids[row][s.kept[row]].tolist())):
            same = [i for i, position in enumerate(s.kept[row]) if s.ids[row][position] == token]
            found.append(before + min(same, key=lambda i: int(hashes[s.kept[row][i]])))
    return np.array(sorted(found))


def parts_of(s: Setting, writer: str) -> dict[str, Field]:
    """All of a writer; of a head also what it moves from the first position, and the rest."""
    whole = s.source(writer)
    if layer_of_head(writer) is None:
        return {"all": whole}
    layer, _ = at = place_of(writer)
    first = []
    for row, run in zip(s.rows, s.runs, strict=True):
        x, _ = read_stream(s.config, s.resid_pre(row, layer))
        moved = x[0] @ value_weights(s.config, s.w, at) @ output_weights(s.config, s.w, at)
        first.append(source(run.patterns[writer][:, :1] * moved, s.first == 0))
    return {"all": whole, "bos": first, "non_bos": [a - b for a, b in zip(whole, first, strict=True)]}


def explained(x: np.ndarray, block_of: np.ndarray, cell: np.ndarray) -> float:
    """Share of the variance of vectors [token, d_model] between cells; NaN where no cell has two tokens."""
    total = float(((x - x.mean(axis=0)) ** 2).sum())
    within, dof = 0.0, 0
    for key in sorted(set(zip(block_of.tolist(), cell.tolist(), strict=True))):
        members = x[(block_of == key[0]) & (cell == key[1])]
        within += float(((members - members.mean(axis=0)) ** 2).sum())
        dof += len(members) - 1
    if dof == 0 or total <= CONSTANT_POWER * float((x**2).sum()):
        return math.nan
    return 1.0 - (within / dof) / (total / (len(x) - 1))


def aligned_tokens(s: Setting, writer: str) -> Iterator[Row]:
    """The tokens that the writer raises most, on average over the measured tokens."""
    logits: Sequence[np.ndarray] = [
        centre(s.config, run.terms[writer]) / run.final_scale[:, None] @ s.w["W_U"] for run in s.runs
    ]
    mean = s.tokens(list(logits)).mean(axis=0)
    for rank, token in enumerate(np.argsort(-mean, kind="stable")[:ALIGNED], start=1):
        row = {"writer": writer, "rank": rank, "token_id": int(token), "token": None}
        yield row | {"mean_direct_logit": float(mean[token])}
