"""Whether erasure changes with size: models alike in everything known of them but one size, from the smallest to the largest.

Two numbers are compared, for heads alone, since embeddings are erased at any depth:

- The median over a model's heads. It rises where it is noticeably larger at the end, the intervals over prompts (of several
  training runs: their range) lie apart, the heads rank higher than the smallest model's by more than chance, and no step leads
  clearly the other way.
- The largest. Of more heads it is larger by chance; it rises where so many heads exceed the smallest model's largest as chance
  gives in 2.5 % of cases at most.

With one training run of each size neither tells what size does from what a seed does: words say of how many runs they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from erasure_sweep.dashboards.comparison.sized_models import (
    LAYERS,
    PARAMETERS,
    WIDTH,
    Runs,
    SizeAxis,
    against,
    has_centred,
    over_heads,
    pooled,
    sized,
    training_runs,
)
from erasure_sweep.dashboards.wording import GROWS_TO, amount, number, percent, with_interval
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE
from erasure_sweep.workers.tables.facts.heads import CLEAR_Z, LEVEL, exceedance_p, exceeding, largest_of, rank_sum_z
from erasure_sweep.workers.tables.facts.verified import Interval
from erasure_sweep.workers.tables.sweep_folder import ModelTables

GrownSize = Literal["layers", "width", "parameters"]
Trend = Literal["rises", "falls", "neither"]
AXES: dict[GrownSize, SizeAxis] = {"layers": LAYERS, "width": WIDTH, "parameters": PARAMETERS}
_MOST_STEPS = 5
_RARE = 0.01


class Growth(NamedTuple):
    """Models that differ in one size alone, by that size.

    Attributes:
        held: the size that they share, in words; nothing where sizes grow together.
        sizes: two or more, ascending; ``runs`` are the training runs at each.
    """

    family: str
    held: str
    sizes: list[int]
    runs: list[Runs]


def growths(models: Sequence[ModelTables], size: GrownSize) -> list[Growth]:
    """Families along one size: layers at equal width, width at equal layers, parameters as they come.

    Checkpoints, models without a measured head and those of unknown size are left out; so are models of one family that
    nothing known of them but their names tells apart, since a line has one model at each of its places.
    """
    axis, other = AXES[size], {"layers": WIDTH, "width": LAYERS}.get(size)
    alike: dict[tuple[object, ...], list[Runs]] = {}
    for runs in training_runs(against(sized(models), axis)):
        one = runs[0]
        if other is None or other.place(one) is not None:
            equal = () if other is None else (other.place(one),)
            alike.setdefault((one.family, one.kind, *equal), []).append(runs)
    found = []
    for members in alike.values():
        line = sorted(members, key=lambda runs: axis.place(runs[0]) or 0)
        sizes = [axis.place(runs[0]) or 0 for runs in line]
        if 1 < len(set(sizes)) == len(sizes):
            held = "" if other is None else _held(other.place(line[0][0]) or 0, size)
            found.append(Growth(line[0][0].family, held, sizes, line))
    return found


def _held(shared: int, size: GrownSize) -> str:
    return (
        f"width\u00a0{amount(shared)}"
        if size == "layers"
        else f"{amount(shared)}\u00a0layer{'' if shared == 1 else 's'}"
    )


def medians(line: Growth, centred: bool) -> list[Interval]:
    return [over_heads(runs, 0.5, centred) for runs in line.runs]


def median_trend(line: Growth, centred: bool) -> Trend:
    """Whether the median over heads rises or falls, as said above."""
    found = medians(line, centred)
    first, last = found[0], found[-1]
    z = rank_sum_z(*(pooled(runs, centred) for runs in (line.runs[0], line.runs[-1])))
    signs: tuple[tuple[int, Trend], ...] = ((1, "rises"), (-1, "falls"))
    for sign, word in signs:
        against_it = any(_clearly(-sign, one, other) for one, other in pairwise(found))
        if sign * z >= CLEAR_Z and _clearly(sign, first, last) and not against_it:
            return word
    return "neither"


def _clearly(sign: int, one: Interval, other: Interval) -> bool:
    """Whether the other is noticeably larger (or smaller), and intervals, where there are any, lie apart."""
    overlap = one.low <= other.high and other.low <= one.high
    return sign * (other.value - one.value) >= NOTICEABLE and not overlap


def largest_trend(line: Growth, centred: bool) -> Trend:
    """Whether the largest rises or falls by more than the numbers of heads explain."""
    first, last = (pooled(runs, centred) for runs in (line.runs[0], line.runs[-1]))
    difference = last.max() - first.max()
    if difference >= NOTICEABLE and exceedance_p(first, last) <= LEVEL:
        return "rises"
    return "falls" if difference <= -NOTICEABLE and exceedance_p(last, first) <= LEVEL else "neither"


def verdict(lines: Sequence[Growth], trend: Callable[[Growth], Trend]) -> str:
    """The trends of all lines in a few words, such as ``rises in 2 of 3 families``."""
    trends = [trend(line) for line in lines]
    n = amount(len(trends))
    nouns = (
        ("family", "families") if len({line.family for line in lines}) == len(lines) else ("comparison", "comparisons")
    )
    noun = nouns[len(lines) != 1]
    counts = [(word, trends.count(word)) for word in ("rises", "falls") if word in trends]
    if not counts:
        return f"neither rises nor falls clear of chance in {'any of ' if len(lines) > 1 else ''}{n} {noun}"
    return f"{', '.join(f'{word} in {amount(count)}' for word, count in counts)} of {n} {noun}"


def training_runs_in_words(lines: Sequence[Growth]) -> str:
    """From how many training runs of each size lines are."""
    counts = [len(runs) for line in lines for runs in line.runs]
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "one training run each"
    return f"{amount(fewest)}{f' to {amount(most)}' if most > fewest else ''} training runs of each size"


def larger(lines: Sequence[Growth], centred: bool) -> int:
    """In how many lines the largest is larger at the end, for whatever reason."""
    return sum(
        pooled(line.runs[-1], centred).max() - pooled(line.runs[0], centred).max() >= NOTICEABLE for line in lines
    )


class GrowthWords(NamedTuple):
    """A line in words: which models these are, and their numbers, the smallest model's first.

    Attributes:
        medians: over heads, with their intervals over prompts; ``kept`` the same with means kept where that goes another way.
        diluted: the median of what growth of the stream takes; nothing where it was not measured.
        largest: of equally many heads, of all, and how often the last would be by chance.
    """

    models: str
    medians: str
    kept: str
    diluted: str
    largest: str


def in_words(line: Growth, size: GrownSize) -> GrowthWords:
    """``toy-gelu, width 64, 2 → 3 → 4 layers`` and so on; of many models the ends."""
    n = len(line.sizes)
    shown = list(range(n)) if n <= _MOST_STEPS else [0, n - 1]
    sizes = GROWS_TO.join(amount(line.sizes[at]) for at in shown)
    unit = {"layers": f"{sizes} layers", "width": f"width {sizes}", "parameters": f"{sizes} parameters"}[size]
    centred = all(has_centred(runs) for runs in line.runs)
    found, kept = medians(line, centred), medians(line, False)
    another = centred and median_trend(line, True) != median_trend(line, False)
    diluted = [float(np.mean([one.diluted for one in line.runs[at]])) for at in shown]
    return GrowthWords(
        ", ".join(part for part in (line.family, line.held, unit) if part),
        GROWS_TO.join(with_interval(*found[at]) for at in shown),
        GROWS_TO.join(number(kept[at].value) for at in shown) if another else "",
        GROWS_TO.join(map(number, diluted)) if np.isfinite(diluted).any() else "",
        _largest(line, shown, centred),
    )


def _largest(line: Growth, shown: Sequence[int], centred: bool) -> str:
    every = [pooled(line.runs[at], centred) for at in shown]
    n = min(map(len, every))
    of_all = (
        f"of all {GROWS_TO.join(amount(len(shares)) for shares in every)} heads "
        f"{GROWS_TO.join(number(shares.max()) for shares in every)}"
    )
    if len(every[-1]) <= len(every[0]):
        return f"largest {of_all}"
    equally = GROWS_TO.join(number(largest_of(shares, n).value) for shares in every)
    k, p = exceeding(every[0], every[-1]), exceedance_p(every[0], every[-1])
    cases = percent(p) if p >= _RARE else f"less than {percent(_RARE)}"
    exceed = f"; {amount(k)} of the last exceed the first's largest, by chance as many or more in {cases} of cases"
    by_chance = exceed if k else ""
    return f"largest {of_all}, of {amount(n)} of them drawn at random {equally}{by_chance}"
