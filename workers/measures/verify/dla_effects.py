"""How the erasers' direct logit attribution goes with the writer's: every way of taking the writer's part of it.

The attribution x of the writer is set against what the group's attribution owes to the writer:

- ``full``: all of the group's attribution;
- ``v_composition``: of its V-composed part, pattern and scale kept;
- ``value_input``: of its output minus that with the writer taken out of the value input, the scale recomputed;
- ``layer_input``: the same with the writer taken out of queries, keys and values of each erasing layer;
- ``downstream``: the same with the writer taken out of the stream right behind it, everything later recomputed;
- ``without_pattern``: what the group's OV circuits make of the writer at the same position, no attention pattern, on the
  logit of the true next token alone, from position 32 on (a later script of the paper's authors).

The paper's figure 4 is one of the ablations; which one its text leaves open, so all are given.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import Sublayer
from erasure_sweep.workers.measures.interventions.value_reading import GroupReader
from erasure_sweep.workers.measures.statistics.lines import LineRecorder
from erasure_sweep.workers.measures.verify.ablations import Ablated
from erasure_sweep.workers.records import Target

EFFECTS = ("full", "v_composition", "value_input", "layer_input", "downstream", "without_pattern")
FIRST_POSITION = 32
"""Of ``without_pattern``, as in the authors' script."""


def record_effects(
    lines: LineRecorder, view: PromptView, target: Target, index: int, reader: GroupReader, ablated: Ablated
) -> None:
    """Every effect of a target against its writer's attribution.

    Args:
        index: of the target, for the keys.
    """
    direction = view.logit_direction
    x = (view.written(target.writer) * direction).sum(dim=-1)
    outputs = reader.outputs()
    parts = {
        "full": outputs,
        "v_composition": reader.read(view.output(target.writer)[None]),
        "value_input": reader.read_rescaled(target.writer),
        "layer_input": _minus(outputs, _without_layer_input(view, target, reader)),
        "downstream": _minus(outputs, [_heads(ablated.removed_z[part.layer], part.heads) for part in reader.layers]),
    }
    for effect, part in parts.items():
        lines.add((str(index), effect), x, reader.along(part, direction[None]).sum(dim=1)[0])
    _record_without_pattern(lines, view, target, index, reader)


def _minus(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _heads(z: Float[Tensor, "token all_heads d_head"], heads: list[int]) -> Float[Tensor, "one head token d_head"]:
    return z[:, heads].transpose(0, 1)[None]


def _without_layer_input(view: PromptView, target: Target, reader: GroupReader) -> list[Tensor]:
    """The heads' outputs, before W_O, if their layer's input lacks the writer."""
    found = []
    for part in reader.layers:
        stream = view.input_of(Sublayer(part.layer, False)) - view.output(target.writer)
        z = view.model.attend(part.layer, stream[None]).z[0, view.positions]
        found.append(_heads(z, part.heads))
    return found


def _record_without_pattern(
    lines: LineRecorder, view: PromptView, target: Target, index: int, reader: GroupReader
) -> None:
    model, at = view.model, view.positions
    inside = (at >= FIRST_POSITION) & (at < view.seq_len - 1)
    following = view.tokens[(at + 1).clamp(max=view.seq_len - 1)]
    unembedding = model.weights["W_U"].T[following]
    centred = unembedding - unembedding.mean(dim=-1, keepdim=True)
    direction = centred / view.final_scale[:, None]
    written = view.written(target.writer)
    y = reader.same_position(written, direction)
    lines.add((str(index), "without_pattern"), (written * direction).sum(dim=-1), y, inside)
