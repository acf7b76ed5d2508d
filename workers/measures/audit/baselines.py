"""What takes a component's place when it is ablated: its mean over a reference text, what it wrote there, nothing, or what
it writes in a corrupted prompt.

A mean leaves what a component always writes, so that only what it says of this prompt is taken. What it wrote elsewhere, turned
by an offset along the positions, asks the same many times with other words in its place: how these differ is an interval also
of a single prompt. A corrupted prompt, of the same length, takes what the two prompts differ in (path patching's convention).
Position 0, which sees no other token and in real models has a hundred times the power, keeps its output, but of a corrupted
prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.errors import UsageError, nearest
from erasure_sweep.workers.measures.audit.questions import Question
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.replaced_writer import written
from erasure_sweep.workers.models.forward import LeanModel

Kind = Literal["mean", "resample", "corrupted", "zero"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REFERENCE_TOKENS = 1024
"""How many tokens of a reference text means are taken over, and donors are drawn from."""
WINDOW = 128
"""The longest part of the reference text that is read at once for means."""
STRIDE = 7
"""By how many positions more each further donor is turned: it has no divisor in common with most lengths."""


class Reference(NamedTuple):
    """Tokens of a reference text, and whether each part of it that is read begins with a BOS."""

    ids: tuple[int, ...]
    """Without one."""
    bos: int | None

    def windows(self, length: int, n: int | None = None) -> Int[Tensor, "window length"]:
        """Parts of so many tokens, one behind the other; from its beginning again where it ends, if ``n`` are wanted."""
        start = [] if self.bos is None else [self.bos]
        new = length - len(start)
        n = max(1, len(self.ids) // new) if n is None else n
        rows = [[*start, *(self.ids[(row * new + at) % len(self.ids)] for at in range(new))] for row in range(n)]
        return torch.tensor(rows)


Others = Callable[[Sequence[str]], Float[Tensor, "writer pos d_model"]]
"""What takes the place of some writers' outputs: all writers' together would be as large as so many streams."""

_MEANS: WeakKeyDictionary[LeanModel, dict[Reference, Tensor]] = WeakKeyDictionary()
"""Of the models that are still in use."""


class Baseline:
    """Outputs that take the place of a model's own.

    Args:
        kind: which.
        reference: where means are taken and donors drawn.
        donors: how many donors each prompt has, where they are drawn.

    Raises:
        UsageError: there is no such kind.
    """

    def __init__(self, model: LeanModel, kind: str, reference: Reference | None, donors: int) -> None:
        if kind not in KINDS:
            raise UsageError(f"there is no baseline {kind!r}: {nearest(kind, KINDS)}")
        if kind in ("mean", "resample") and reference is None:
            raise UsageError(
                f"baseline {kind} needs a reference text, and there is no tokenizer to read one: give tokenizer=…, "
                "reference=[token ids], or baseline='zero'"
            )
        if kind == "resample" and donors < 2:
            raise UsageError(f"an interval needs two donors or more: {donors} were asked for")
        self.kind, self._model, self._reference = kind, model, reference
        self._donors = donors

    @property
    def first(self) -> int:
        """The first position at which outputs are replaced."""
        return 0 if self.kind == "corrupted" else 1

    def check(self, questions: Sequence[Question]) -> None:
        """Refuse questions that lack what takes outputs' place."""
        if self.kind != "corrupted":
            return
        for row, question in enumerate(questions):
            if question.corrupted is None:
                raise UsageError(
                    f"prompt {row + 1} has no corrupted prompt, which this baseline is of: give corrupted=…, a set of prompts "
                    "with 'corrupted', or a task such as ioi:N"
                )

    def replacements(self, view: PromptView, question: Question) -> Iterator[Others]:
        """What takes the place of writers' outputs, once for each donor."""
        index = self._model.config.layout.writers.index
        if self.kind == "mean":
            means = self.means()
            yield lambda labels: means[[index(label) for label in labels], None].expand(-1, view.seq_len, -1)
        elif self.kind == "zero":
            yield lambda labels: view.final.new_zeros(len(labels), *view.final.shape)
        elif self.kind == "corrupted":
            assert question.corrupted is not None, "checked"
            yield partial(written, view_of(self._model, torch.tensor(question.corrupted)))
        else:
            assert self._reference is not None, "checked"
            for donor, tokens in enumerate(self._reference.windows(view.seq_len, self._donors)):
                yield partial(_turned, view_of(self._model, tokens), STRIDE * donor)

    def means(self) -> Float[Tensor, "writer d_model"]:
        """Every writer's mean over the reference text, position 0 of each part left out; once a model and text."""
        assert self._reference is not None, "checked"
        kept = _MEANS.setdefault(self._model, {})
        if self._reference not in kept:
            n_ctx = self._model.config.n_ctx or WINDOW
            kept[self._reference] = mean_outputs(self._model, self._reference.windows(min(WINDOW, n_ctx)))
        return kept[self._reference]


def _turned(view: PromptView, turn: int, labels: Sequence[str]) -> Float[Tensor, "writer pos d_model"]:
    """Outputs of a donor, turned along the positions behind the first."""
    other = written(view, labels)
    return torch.cat([other[:, :1], other[:, 1:].roll(-turn, dims=1)], dim=1)


def mean_outputs(model: LeanModel, windows: Int[Tensor, "window pos"]) -> Float[Tensor, "writer d_model"]:
    """Every writer's mean over some texts, position 0 left out."""
    writers = model.config.layout.writers
    sums = torch.zeros(len(writers), model.config.d_model, dtype=torch.float64, device=model.device)
    for tokens in windows:
        sums += written(view_of(model, tokens), writers)[:, 1:].sum(dim=1, dtype=torch.float64)
    return (sums / (len(windows) * (windows.shape[1] - 1))).to(model.dtype)


def view_of(model: LeanModel, tokens: Int[Tensor, "pos"], first: int = 1) -> PromptView:
    """A prompt, seen from its last token."""
    at = tokens.to(model.device)
    place = torch.tensor([[len(tokens) - 1]], device=model.device)
    return PromptView(model, model.trace(at[None], place, keep_resid=True), 0, 0, 0, at, first)
