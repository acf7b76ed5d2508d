"""The literal oracle of verify: how far a component's direct logit attribution (DLA) can be trusted, and who changes it.

Per writer and token, g along the clean run's two most likely next tokens a and b, over the clean final scale:

- the writer's output o at the source positions is replaced by its mean over the scan, and everything behind is run again;
- direct d = (o − mean)·g; effect e = L(clean) − L(ablated), L the difference of the logits of a and b without the
  unembedding's biases, with the final scale σ of its own run;
- m_c = (o_c − õ_c)·g of every later term c, and n = L(ablated) (σ̃ / σ − 1), so that e = d + Σ m_c + n at every token;
- *rotated*: the same d and e, the partner's output in the writer's place, its source positions turned by one offset.

Over tokens: share s = Σ d·e / Σ d², r = Σ d·e / √(Σ d² Σ e²), size a = √(Σ e² / Σ d²), concordance 2 Σ d·e / (Σ d² + Σ e²),
and 1 − Σ d² / Σ (o·g)². A mediator's share is Σ d·m / Σ d². Intervals: one prompt after the other is left out, r after Fisher's
transformation, a and Σ d² / Σ (o·g)² as logarithms; t with one degree of freedom less than there are prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.positions import hash_u64
from tests.support.oracle.dla import SAME, STRONGEST, fisher, jackknife
from tests.support.oracle.scan import forward
from tests.support.oracle.sublayers import centre
from tests.support.oracle.verify_setting import Field, Setting, dot

Row = dict[str, object]
ROTATED = 2**36
"""Added to positions before they are hashed, so that the offsets have hashes of their own."""
FINAL_NORM = "final_norm"
NOTHING = 1e-9
"""Share of the power of a writer's DLA below which what varies of it is rounding."""


class Ablated(NamedTuple):
    """Every prompt with something in a writer's place, at every position."""

    direct: Field
    effect: Field
    mediated: dict[str, Field]
    """By later term, and by the final norm."""


def ablated(s: Setting, writer: str, replacement: Field) -> Ablated:
    """Run every prompt again with another output of the writer."""
    state, final = s.stream.written_state(writer), list(s.stream.states)[-1]
    directions, tops, u = s.logit_directions(), s.top_two(), s.w["W_U"]
    found = Ablated([], [], {})
    for row in s.rows:
        clean, g, top = s.runs[row], directions[row], tops[row]
        again = forward(s.config, s.w, s.ids[row], added={state: replacement[row] - clean.terms[writer]})
        along = (u[:, top[:, 0]] - u[:, top[:, 1]]).T
        before, after = (dot(centre(s.config, run.states[final]), along) / run.final_scale for run in (clean, again))
        found.direct.append(dot(clean.terms[writer] - replacement[row], g))
        found.effect.append(before - after)
        mediated = {term: dot(clean.terms[term] - again.terms[term], g) for term in clean.terms if term != writer}
        mediated[FINAL_NORM] = after * (again.final_scale / clean.final_scale - 1.0)
        for mediator, field in mediated.items():
            found.mediated.setdefault(mediator, []).append(field)
    return found


def scan_means(s: Setting) -> np.ndarray:
    """Mean vector of every term over all source positions, in the order of the stream."""
    first = s.first
    return np.array(
        [np.concatenate([run.terms[term][first:] for run in s.runs]).mean(axis=0) for term in s.stream.terms]
    )


def replaced(s: Setting, writer: str, mean: np.ndarray) -> Field:
    """A writer's output with its mean at the source positions."""
    fields = []
    for output in s.term(writer):
        field = output.copy()
        for position in range(s.first, len(field)):
            field[position] = mean
        fields.append(field)
    return fields


def rotated(s: Setting, writer: str) -> Field:
    """A writer's output with its partner's at the source positions, which are turned by one offset."""
    fields, first = [], s.first
    for row, output in zip(s.rows, s.term(writer), strict=True):
        field, n = output.copy(), s.length(row) - first
        turn = offset(s, row)
        for place in range(n):
            field[first + place] = s.at_partner(s.term(writer), row, first + (place + turn) % n)
        fields.append(field)
    return fields


def offset(s: Setting, row: int) -> int:
    """By how many positions a prompt's partner is turned: never by none, where there are two positions."""
    n = s.length(row) - s.first
    return 1 + int(hash_u64(s.seed, s.first_prompt + row, ROTATED)) % (n - 1) if n > 1 else 0


def trust_tables(
    s: Setting, means: Mapping[str, np.ndarray], few: Setting | None, limits: Mapping[str, float] | None = None
) -> dict[str, list[Row]]:
    """Rows of both tables, writers in the order in which they write.

    Args:
        means: mean vector of every writer, as the scan has it.
        few: the first of the prompts, on which the writer's output is replaced by a rotated one as well.
    """
    rows: dict[str, list[Row]] = {"dla_trust": [], "dla_mediation": []}
    for writer in s.stream.writers:
        run = ablated(s, writer, replaced(s, writer, means[writer]))
        turned = None if few is None else (few, ablated(few, writer, rotated(few, writer)))
        rows["dla_trust"].append(trust_row(s, writer, run, turned, limits or LIMITS))
        rows["dla_mediation"] += mediation_rows(s, writer, run)
    return rows


def trust_row(
    s: Setting, writer: str, run: Ablated, turned: tuple[Setting, Ablated] | None, limits: Mapping[str, float]
) -> Row:
    x = [dot(output, g) for output, g in zip(s.term(writer), s.logit_directions(), strict=True)]
    sums = per_prompt(s, x, run)
    numbers = {name: statistic(sums.sum(axis=0)) for name, statistic in STATISTICS.items()}
    ends = {name: interval_of(sums, name) for name in STATISTICS}
    certain = ends | ({"r": (numbers["r"], numbers["r"])} if abs(numbers["r"]) >= STRONGEST else {})
    said = word(numbers, limits)
    row: Row = {"writer": writer, "trust": said, "settled": None}
    for name in ("share", "r", "size", "concordance"):
        row |= {name: numbers[name], f"{name}_low": ends[name][0], f"{name}_high": ends[name][1]}
    low, high = ends["varying"]
    row |= {"constant": 1.0 - numbers["varying"], "constant_low": 1.0 - high, "constant_high": 1.0 - low}
    row |= {f"{name}_mean_abs": np.abs(s.tokens(field)).mean() for name, field in (("dla", x), ("effect", run.effect))}
    row["n"] = len(s.positions())
    other: dict[str, float] = dict.fromkeys(STATISTICS, math.nan)
    if turned is not None:
        few, again = turned
        of_few = per_prompt(few, x[: len(few.runs)], again).sum(axis=0)
        other = {name: statistic(of_few) for name, statistic in STATISTICS.items()}
    row |= {f"rotated_{name}": other[name] for name in ("share", "r", "size")}
    row |= {
        "rotated_trust": word(other, limits),
        "n_rotated": 0 if turned is None else len(turned[0].positions()),
    }
    sure = numbers["varying"] <= NOTHING or settled(certain, limits)
    differs = row["rotated_trust"] not in (None, said)
    row["settled"] = None if said is None else False if differs else sure
    return row


def per_prompt(s: Setting, x: Field, run: Ablated) -> np.ndarray:
    """Σ x², Σ d², Σ e² and Σ d·e of every prompt."""
    sums = []
    for row in s.rows:
        at = s.kept[row]
        a, d, e = x[row][at], run.direct[row][at], run.effect[row][at]
        sums.append([(a * a).sum(), (d * d).sum(), (e * e).sum(), (d * e).sum()])
    return np.array(sums)


def _varying(sums: np.ndarray) -> float:
    x, d, *_ = sums.tolist()
    return d / x if x > 0.0 else math.inf if d > 0.0 else math.nan


def _over(top: Callable[..., float], below: Callable[..., float]) -> Callable[[np.ndarray], float]:
    """A ratio of sums; NaN where what varies of the DLA is rounding, or nothing is below."""

    def statistic(sums: np.ndarray) -> float:
        if not _varying(sums) > NOTHING or below(*sums) <= 0.0:
            return math.nan
        return float(top(*sums) / below(*sums))

    return statistic


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "varying": _varying,
    "share": _over(lambda x, d, e, de: de, lambda x, d, e, de: d),
    "r": _over(lambda x, d, e, de: de, lambda x, d, e, de: math.sqrt(d * e)),
    "size": _over(lambda x, d, e, de: math.sqrt(e), lambda x, d, e, de: math.sqrt(d)),
    "concordance": _over(lambda x, d, e, de: 2.0 * de, lambda x, d, e, de: d + e),
}


def interval_of(sums: np.ndarray, name: str) -> tuple[float, float]:
    """Interval of one of the numbers; NaN from fewer than two prompts."""
    statistic = STATISTICS[name]
    there, back = {"r": (fisher, math.tanh), "size": (log, math.exp), "varying": (log, math.exp)}.get(
        name, (lambda value: value, lambda value: value)
    )
    return leave_one_out(sums, lambda rows: there(statistic(rows.sum(axis=0))), back)


def leave_one_out(
    sums: np.ndarray, statistic: Callable[[np.ndarray], float], back: Callable[[float], float] = lambda value: value
) -> tuple[float, float]:
    """The interval of a statistic of prompts; NaN where there are too few, or where it does not vary."""
    if len(sums) < 2:
        return math.nan, math.nan
    without = [statistic(np.delete(sums, row, axis=0)) for row in range(len(sums))]
    middle = statistic(sums)
    if not np.isfinite([middle, *without]).all():
        return math.nan, math.nan
    reach = jackknife(without)
    if reach <= SAME * abs(middle):
        return math.nan, math.nan
    return back(middle - reach), back(middle + reach)


def log(value: float) -> float:
    return math.log(value) if value > 0.0 else math.nan


def mediation_rows(s: Setting, writer: str, run: Ablated) -> Iterator[Row]:
    """Every later head and MLP, and the final norm."""
    direct = [run.direct[row][s.kept[row]] for row in s.rows]
    later = [term for term in s.stream.later_terms(writer) if not term.startswith("b_O")]
    x = [dot(output, g) for output, g in zip(s.term(writer), s.logit_directions(), strict=True)]
    varies = _varying(per_prompt(s, x, run).sum(axis=0)) > NOTHING
    for mediator in (*later, FINAL_NORM):
        m = [run.mediated[mediator][row][s.kept[row]] for row in s.rows]
        sums = np.array([[(d * d).sum(), (d * of).sum()] for d, of in zip(direct, m, strict=True)])

        def share(rows: np.ndarray) -> float:
            power, product = rows.sum(axis=0)
            return float(product / power) if varies and power > 0.0 else math.nan

        low, high = leave_one_out(sums, share)
        yield {"writer": writer, "mediator": mediator, "share": share(sums), "share_low": low, "share_high": high}


LIMITS = {"constant": 0.01, "cancelled": 0.25, "faint": 0.5, "related": 0.5, "holds": 0.75, "amplified": 1.33}


def word(numbers: Mapping[str, float], limits: Mapping[str, float] = LIMITS) -> str | None:
    """What readers are told, the first that matches."""
    varying, share, size = (numbers[name] for name in ("varying", "share", "size"))
    weak = math.isnan(numbers["r"]) or numbers["r"] ** 2 < limits["related"]
    if math.isnan(varying):
        said = None
    elif varying < limits["constant"]:
        said = "constant"
    elif size < limits["cancelled"] or (size < limits["faint"] and weak):
        said = "cancelled"
    elif weak:
        said = "unrelated"
    elif share < 0.0:
        said = "reversed"
    elif share < limits["holds"]:
        said = "partly cancelled"
    elif share <= limits["amplified"]:
        said = "holds"
    else:
        said = "amplified"
    return said


def settled(
    ends: dict[str, tuple[float, float]],
    limits: Mapping[str, float] = LIMITS,
    rule: Callable[[Mapping[str, float], Mapping[str, float]], str | None] = word,
) -> bool | None:
    """Whether no combination of values from the intervals has another word; a missing interval holds every value."""
    grids = {}
    for name, widest in (("varying", (0.0, 1e9)), ("share", (-1e9, 1e9)), ("r", (-1.0, 1.0)), ("size", (0.0, 1e9))):
        low, high = widest if math.isnan(ends[name][0]) else ends[name]
        borders = {"varying": [limits["constant"]], "size": [limits["cancelled"], limits["faint"]]}
        borders |= {"share": [0.0, limits["holds"], limits["amplified"]]}
        borders["share"] += [sign * limits["cancelled"] for sign in (-1.0, 1.0)] if rule is not word else []
        borders["r"] = [-math.sqrt(limits["related"]), 0.0, math.sqrt(limits["related"])]
        inside = [border + side for border in borders[name] for side in (-1e-9, 1e-9)]
        grids[name] = [low, high, *(value for value in inside if low < value < high)]
    words = {
        rule({"varying": v, "share": s, "r": r, "size": a}, limits)
        for v in grids["varying"]
        for s in grids["share"]
        for r in grids["r"]
        for a in grids["size"]
    }
    if len(words) == 1:
        return True
    return None if any(math.isnan(low) for low, _ in ends.values()) else False
