"""An audit as one self-contained page."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from erasure_sweep.dashboards.audit.view import AUDIT, BASELINES, AuditView
from erasure_sweep.dashboards.html.document import render_document, write_document
from erasure_sweep.dashboards.wording import with_interval

_MOST_PROMPTS = 3


def write_audit_page(view: AuditView, path: Path) -> None:
    """The figures first, then the numbers."""
    write_document(path, _title(view), audit_intro(view), AUDIT.parts(view))


def audit_page(view: AuditView) -> str:
    """The same, to be shown or sent."""
    return str(render_document(_title(view), audit_intro(view), AUDIT.parts(view)))


def _title(view: AuditView) -> str:
    return f"Which bars to believe: DLA of {view.model}"


def audit_intro(view: AuditView) -> Markup:
    """What was asked, and how it was measured."""
    prompts = Markup("").join(Markup("<li><code>{}</code></li>").format(text) for text in view.prompts[:_MOST_PROMPTS])
    more = f" and {view.n_prompts - _MOST_PROMPTS} more" if view.n_prompts > _MOST_PROMPTS else ""
    return Markup(
        "<p>{} = {} logits, behind</p><ul>{}</ul><p class='protocol'>{} prompt{}{}; ablated: replaced by {}.</p>"
    ).format(
        view.question,
        with_interval(*view.logit_difference),
        prompts,
        view.n_prompts,
        "" if view.n_prompts == 1 else "s",
        f" (shown are {_MOST_PROMPTS},{more})" if more else "",
        BASELINES[view.baseline],
    )
