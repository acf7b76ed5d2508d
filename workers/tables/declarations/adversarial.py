"""Places of high attribution, tested with the writer's input replaced."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import WRITER, Table, count, number, quantiles, text

_SOURCE = text("source", "`given` by the user, or `found` in the corpus")
_PROMPT = count("prompt", "in the corpus, or among the given prompts", "index")

TABLES = (
    Table(
        "adversarial",
        "Places at which the writer has a high DLA, with its input, or that of the strongest other head, replaced by that of "
        "unrelated prompts. A contribution should go, an artefact stays.",
        ("verify",),
        ("writer", "source", "prompt", "position", "role", "inputs"),
        (
            WRITER,
            _SOURCE,
            _PROMPT,
            count("position", "the place: the last position of the prompt that is used", "index"),
            text(
                "text", "the end of the prompt, up to the place; null where the model has no tokenizer", nullable=True
            ),
            count("top_id", "the most likely next token of the clean run", "token id"),
            text("top", "its text", nullable=True),
            count("second_id", "the second most likely next token", "token id"),
            text("second", "its text", nullable=True),
            number("logit_diff", "difference of the logits of the two", "logit"),
            text("component", "whose input is replaced"),
            text("role", "`writer`, or `other`: the head that is strongest at this place beside it"),
            number("clean", "the component's DLA in the clean run", "logit"),
            text("inputs", "replaced at the `last` position alone, or at `all`"),
            *quantiles("the component's DLA over donor prompts, with its input replaced", unit="logit"),
            number("change", "|`median` − `clean`| / |`clean`|"),
            count("rank", "1 for the place of this writer and source that changes least", "rank"),
            count("n", "donor prompts", "prompts"),
        ),
    ),
    Table(
        "adversarial_tokens",
        "The prompts of `adversarial` token by token, up to the place, at most the last 128 tokens.",
        ("verify",),
        ("writer", "source", "prompt", "place", "position"),
        (
            WRITER,
            _SOURCE,
            _PROMPT,
            count("place", "the `position` of `adversarial`", "index"),
            count("position", "of the token", "index"),
            count("token_id", "the token", "token id"),
            text("token", "its text; null where the model has no tokenizer", nullable=True),
            number("dla", "the writer's DLA at the token, on its own top two tokens' difference", "logit"),
            number(
                "net_dla",
                "the same with the V-composed parts of all later heads: what they write because they read it",
                "logit",
            ),
        ),
    ),
)
