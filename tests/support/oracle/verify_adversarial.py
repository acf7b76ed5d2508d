"""The literal oracle of verify: places of high attribution at which a head's input is replaced by that of other prompts.

A place is a writer, a prompt and the position behind which the prompt is cut; a, b and g are those of its last token.
The writer's DLA there, and that of the other head whose DLA is highest, once as it is and once for every donor prompt cut
to the same length: the head's normalised input is the donor's at the last position alone (its query, and the last key
and value), or at all of them, which is the donor's own output. MLPs and embeddings write what they write in the donor.
Beside it what arrives: the writer's output is replaced by its mean over the scan at every source position, everything behind
is run again, and the difference of the logits of a and b is taken once more. A place fools DLA where its DLA is large, also
beside the mean's, and less than a quarter of it arrives.

Of the same prompt, token by token and as it is: the writer's DLA on the difference of that token's own a and b; net, with
what all later heads make of the writer's output and of what earlier ones made of it, patterns and scales clean; and what
arrives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.positions import PADDING, hash_u64
from erasure_sweep.workers.records import Place
from tests.support.oracle.dla import top_two
from tests.support.oracle.scan import Activations, as_numpy, forward, is_later_head, layer_of_head, quantile
from tests.support.oracle.sublayers import centre, read_stream, run_head, written_by
from tests.support.oracle.v_composition import resid_pre, source
from tests.support.oracle.verify_setting import Setting, dot, quantiles

Row = dict[str, object]
CONTEXT = 8
"""Places are searched behind so many positions, or behind a quarter of shorter prompts."""
LARGE, ARRIVES = 0.5, 0.25
"""A DLA in logits that is large, and a share of it that has arrived."""
HALVES = 2**35
"""In a position's place where prompts are hashed to be parted."""
SHOWN = 128
"""How many tokens of a prompt are told of, the last."""


class Cut(NamedTuple):
    """A prompt that ends at a place, and its logit direction there."""

    ids: np.ndarray
    run: Activations
    top: tuple[int, int]
    g: np.ndarray

    def without(self, s: Setting, label: str, mean: np.ndarray) -> Activations:
        """The prompt run again with a term's mean in the place of its output."""
        edit = mean - self.run.terms[label]
        edit[: s.first] = 0.0
        return forward(s.config, s.w, self.ids, added={s.stream.written_state(label): edit})

    def attribution(self, output: np.ndarray) -> float:
        """DLA of an output [pos, d_model] at the last position."""
        return float(output[-1] @ self.g)


def adversarial_rows(
    s: Setting,
    writers: Sequence[str],
    places: int,
    given: Sequence[Sequence[int]],
    donors: Sequence[int] | None,
    means: Mapping[str, np.ndarray],
) -> list[Row]:
    """Rows of all places, each place ranked by how little the writer's attribution changes under a donor's last input."""
    indices = range(len(s.corpus)) if donors is None else donors
    tried = all_places(s, writers, places, given)
    rows = [row for place in tried for row in place_rows(s, place, given, indices, means)]
    tested = [row for row in rows if (row["role"], row["inputs"]) == ("writer", "last")]
    for key in {(row["writer"], row["source"], row["half"]) for row in tested}:
        mine = [row for row in tested if (row["writer"], row["source"], row["half"]) == key]
        for rank, best in enumerate(sorted(mine, key=lambda row: row["change"]), start=1):
            same = ("writer", "source", "prompt", "position")
            for row in rows:
                if all(row[name] == best[name] for name in same):
                    row["rank"] = rank
    return rows


def token_rows(
    s: Setting, writers: Sequence[str], places: int, given: Sequence[Sequence[int]], means: Mapping[str, np.ndarray]
) -> Iterator[Row]:
    """Rows of the tokens before all places, the place's own last."""
    for place in all_places(s, writers, places, given):
        here = cut(s, prompt_of(s, place, given))
        ids, run, again = here.ids, here.run, here.without(s, place.writer, means[place.writer])
        written = run.terms[place.writer]
        made_of_it = made_by_later_heads(s, run, place.writer)
        for position in range(max(0, len(ids) - SHOWN), len(ids)):
            a, b = top_two(run.logits[position].tolist())
            g = centre(s.config, s.w["W_U"][:, a] - s.w["W_U"][:, b]) / run.final_scale[position]
            dla = float(written[position] @ g)
            total = arrives(run, again, position, (a, b)) if position >= s.first else math.nan
            yield {
                **{"writer": place.writer, "source": place.source, "half": place.half or None},
                **{"prompt": place.prompt, "place": place.position, "position": position},
                **{"token_id": int(ids[position]), "token": None},
                **{"dla": dla, "net_dla": dla + float(made_of_it[position] @ g), "total": total},
            }


def arrives(clean: Activations, again: Activations, position: int, top: tuple[int, int]) -> float:
    """How much smaller the difference of two tokens' logits is in another run."""
    differences = [run.logits[position][top[0]] - run.logits[position][top[1]] for run in (clean, again)]
    return float(differences[0] - differences[1])


def made_by_later_heads(s: Setting, run: Activations, writer: str) -> np.ndarray:
    """What all later heads write because a writer's output, and what earlier ones made of it, is in their values."""
    left = begun = source(run.terms[writer], s.first == 0)
    for layer in range(s.config.n_layers):
        written = np.zeros_like(left)
        for head in (term for term in run.terms if layer_of_head(term) == layer and is_later_head(term, writer)):
            seen = centre(s.config, left) / run.ln1_scales[layer][:, None]
            written = written + written_by(s.config, s.w, head, run.patterns[head], seen)
        left = left + written
    return left - begun


def all_places(s: Setting, writers: Sequence[str], places: int, given: Sequence[Sequence[int]]) -> list[Place]:
    """The places found for every writer, then the ends of the given prompts."""
    chosen = [place for writer in writers for place in found_places(s, writer, places)]
    return chosen + [Place(w, "given", i, len(ids) - 1) for w in writers for i, ids in enumerate(given)]


def prompt_of(s: Setting, place: Place, given: Sequence[Sequence[int]]) -> np.ndarray:
    """A place's prompt up to the place."""
    ids = s.corpus[place.prompt] if place.source == "found" else np.asarray(given[place.prompt])
    return ids[: place.position + 1]


def found_places(s: Setting, writer: str, n: int) -> list[Place]:
    """Where the writer's DLA is highest, and positive: at most once in each prompt, and not at its first positions.

    On one half of the prompts, and then on the other where it is as high as at the lowest of these.
    """
    best = []
    for row, (output, g) in enumerate(zip(s.term(writer), s.logit_directions(), strict=True)):
        attributed = dot(output, g)
        start = min(CONTEXT, s.length(row) // 4)
        late = [position for position in s.kept[row] if position >= start and attributed[position] > 0.0]
        if late:
            position = max(late, key=lambda p: (attributed[p], -p))
            best.append((attributed[position], Place(writer, "found", s.first_prompt + row, int(position))))
    best.sort(key=lambda pair: (-pair[0], pair[1].prompt))
    by_hash = sorted(s.rows, key=lambda row: int(hash_u64(s.seed, s.first_prompt + row, HALVES)))
    finding = {s.first_prompt + row for row in by_hash[: math.ceil(len(by_hash) / 2)]}
    found = [pair for pair in best if pair[1].prompt in finding][: math.ceil(n / 2)]
    others = [pair for pair in best if pair[1].prompt not in finding]
    shown = [pair for pair in others if found and pair[0] >= found[-1][0]][: math.floor(n / 2)]
    return [
        *(place._replace(half="found") for _, place in found),
        *(place._replace(half="shown") for _, place in shown),
    ]


def cut(s: Setting, ids: Sequence[int]) -> Cut:
    """Run a prompt that was cut."""
    run = forward(s.config, as_numpy(s.w), ids)
    a, b = top_two(run.logits[-1].tolist())
    g = centre(s.config, s.w["W_U"][:, a] - s.w["W_U"][:, b]) / run.final_scale[-1]
    return Cut(np.asarray(ids), run, (a, b), g)


def place_rows(
    s: Setting,
    place: Place,
    given: Sequence[Sequence[int]],
    donors: Sequence[int],
    means: Mapping[str, np.ndarray],
) -> list[Row]:
    """A place's rows: the writer and the other head, each under both replacements."""
    found = place.source == "found"
    here = cut(s, prompt_of(s, place, given))
    lending = [donor for donor in donors if not (found and donor == place.prompt)]
    starts = [s.corpus[donor][: place.position + 1] for donor in lending]
    others = [cut(s, ids) for ids in starts if PADDING not in ids]
    heads = [label for label in s.stream.terms if layer_of_head(label) is not None and label != place.writer]
    components = {"writer": place.writer, "other": max(heads, key=lambda h: here.attribution(here.run.terms[h]))}
    a, b = here.top
    key: Row = {"writer": place.writer, "source": place.source, "half": place.half or None}
    key |= {"prompt": place.prompt, "position": place.position}
    key |= {"top_id": a, "second_id": b, "logit_diff": here.run.logits[-1][a] - here.run.logits[-1][b]}
    rows = []
    for role, component in components.items():
        clean = here.attribution(here.run.terms[component])
        effect = effect_at(s, here, component, means[component])
        for inputs in ("last", "all"):
            patched = [here.attribution(replaced(s, here, donor, component, inputs)) for donor in others]
            row = key | {"component": component, "role": role, "clean": clean} | effect
            row |= {"inputs": inputs} | quantiles(patched)
            change = abs(quantile(patched, 0.5) - clean) / abs(clean) if patched and clean else np.nan
            rows.append(row | {"change": change, "n": len(patched)})
    return rows


def effect_at(s: Setting, here: Cut, component: str, mean: np.ndarray) -> Row:
    """What of a component's attribution is not its mean's, what of it arrives, and whether DLA is fooled."""
    position, clean = len(here.ids) - 1, here.attribution(here.run.terms[component])
    if position < s.first:
        return {"direct": math.nan, "total": math.nan, "total_share": math.nan, "fools": None}
    direct = here.attribution(here.run.terms[component] - mean)
    total = arrives(here.run, here.without(s, component, mean), position, here.top)
    large = abs(clean) >= LARGE and abs(direct) >= LARGE and clean * direct > 0.0
    row: Row = {"direct": direct, "total": total, "total_share": total / clean if clean else math.nan}
    return row | {"fools": large and total / clean < ARRIVES and total / direct < ARRIVES}


def replaced(s: Setting, here: Cut, donor: Cut, component: str, inputs: str) -> np.ndarray:
    """A component's output [pos, d_model] with a donor's normalised input at the last position, or at all."""
    layer = layer_of_head(component)
    if layer is None or inputs == "all":
        return donor.run.terms[component]
    x, _ = read_stream(s.config, resid_pre(here.run, layer))
    from_donor, _ = read_stream(s.config, resid_pre(donor.run, layer))
    mixed = np.concatenate([x[:-1], from_donor[-1:]])
    return run_head(s.config, s.w, component, mixed, mixed, mixed, here.run.write_scales[layer])
