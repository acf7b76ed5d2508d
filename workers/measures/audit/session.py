"""A model that is audited on some questions: clean passes once, and whatever is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from numpy import ndarray

from erasure_sweep.workers.errors import UsageError, nearest
from erasure_sweep.workers.labels import Layout, is_head
from erasure_sweep.workers.measures.audit.baselines import Baseline
from erasure_sweep.workers.measures.audit.effects import Asked, Effects, ask, measure
from erasure_sweep.workers.measures.audit.joint import Joint, ablate_together
from erasure_sweep.workers.measures.audit.lens import Lens, head_pattern, read_states
from erasure_sweep.workers.measures.audit.questions import Question
from erasure_sweep.workers.measures.interventions.replaced_writer import RERUN_BYTES
from erasure_sweep.workers.models.forward import LeanModel


def check_components(layout: Layout, components: Sequence[str]) -> None:
    """See that a model has some components.

    Raises:
        UsageError: it has not; names the nearest.
    """
    for label in components:
        if label not in layout.writers:
            raise UsageError(f"the model has no component {label!r}: {nearest(label, layout.writers)}")


@dataclass(frozen=True)
class Session:
    """Questions to a model, and what takes the place of what is ablated."""

    model: LeanModel
    questions: Sequence[Question]
    baseline: Baseline
    rerun_bytes: int = RERUN_BYTES
    """Bound on the widest activations of the reruns that go together."""
    _asked: dict[int, Asked] = field(default_factory=dict)
    """The one prompt whose clean pass is kept: those of all would be as large as the model where prompts are many."""

    def __post_init__(self) -> None:
        self.baseline.check(self.questions)

    def effects(self, progress: Callable[[int], None] = lambda done: None) -> list[Effects]:
        """DLA and effect of every component at each prompt.

        Args:
            progress: told after each prompt how many are done.
        """
        found = []
        for index in range(len(self.questions)):
            found.append(measure(self.model, self.asked(index), self.baseline, self.rerun_bytes))
            progress(index + 1)
        return found

    def joint(self, members: Sequence[str]) -> list[Joint]:
        """Several components ablated together, at each prompt.

        Raises:
            UsageError: the model has no such component, or none is named.
        """
        if not members:
            raise UsageError("no component is named: give some, such as L0H1")
        check_components(self.model.config.layout, members)
        return [ablate_together(self.model, self.asked(index), self.baseline, members) for index in self._all()]

    def lens(self) -> list[Lens]:
        """How the logit difference builds up, at each prompt."""
        return [read_states(self.model, self.asked(index)) for index in self._all()]

    def pattern(self, head: str, prompt: int) -> Float[ndarray, "query key"]:
        """A head's attention at a prompt.

        Raises:
            UsageError: the model has no such head.
        """
        known = self.model.config.layout.heads
        if not is_head(head) or head not in known:
            raise UsageError(f"the model has no head {head!r}: {nearest(head, known)}")
        found: ndarray = head_pattern(self.model, self.asked(prompt), head).cpu().double().numpy()
        return found

    def asked(self, prompt: int) -> Asked:
        """A prompt and its clean pass."""
        if prompt not in self._asked:
            self._asked.clear()
            self._asked[prompt] = ask(self.model, self.questions[prompt], self.baseline.first)
        return self._asked[prompt]

    def _all(self) -> range:
        return range(len(self.questions))
