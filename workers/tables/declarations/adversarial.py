"""Places of high attribution, tested with the writer's input replaced."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import WRITER, Table, count, flag, number, quantiles, text

LARGE = 0.5
"""A DLA of so many logits is large: it moves the odds between the two tokens by a factor of 1.65."""
ARRIVES = 0.25
"""Where a smaller share of a large DLA arrives, DLA is fooled."""

_SOURCE = text("source", "`given` by the user, or `found` in the corpus")
_HALF = text(
    "half",
    "of a place in the corpus, on which half of the prompts it is: `found`, where the places of highest DLA were looked for, "
    "or `shown`, the other one, where places count whose DLA is as high; null of a given prompt",
    nullable=True,
)
_PROMPT = count("prompt", "in the corpus, or among the given prompts", "index")

TABLES = (
    Table(
        "adversarial",
        "Places at which the writer has a high DLA: what of it arrives, and what it is with the writer's input, or that of the "
        "strongest other head, replaced by that of unrelated prompts.",
        ("verify",),
        ("writer", "source", "prompt", "position", "role", "inputs"),
        (
            WRITER,
            _SOURCE,
            _HALF,
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
            text("component", "whose output and input are replaced"),
            text("role", "`writer`, or `other`: the head that is strongest at this place beside it"),
            number("clean", "the component's DLA in the clean run", "logit"),
            number("direct", "of the component's output without its mean over the scan", "logit"),
            number(
                "total",
                "what arrives: how much smaller `logit_diff` is with that mean in place of the component's output, everything "
                "behind computed anew; null at position 0 where that is left out",
                "logit",
            ),
            number("total_share", "`total` / `clean`"),
            flag(
                "fools",
                f"whether DLA is fooled: `clean` and `direct` are at least {LARGE} in size and of one sign, and `total` is "
                f"below {ARRIVES} of either",
                nullable=True,
            ),
            text("inputs", "replaced at the `last` position alone, or at `all`"),
            *quantiles("the component's DLA over donor prompts, with its input replaced", unit="logit"),
            number("change", "|`median` − `clean`| / |`clean`|"),
            count("rank", "1 for the place of this writer, source and half that changes least", "rank"),
            count("n", "donor prompts, but for those that end before the place", "prompts"),
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
            _HALF,
            _PROMPT,
            count("place", "the `position` of `adversarial`", "index"),
            count("position", "of the token", "index"),
            count("token_id", "the token", "token id"),
            text("token", "its text; null where the model has no tokenizer", nullable=True),
            number("dla", "the writer's DLA at the token, on its own top two tokens' difference", "logit"),
            number(
                "net_dla",
                "the same with what all later heads make of it and of what earlier ones made of it, patterns and scales kept",
                "logit",
            ),
            number("total", "what arrives of it, as `total` of `adversarial` has it at the place", "logit"),
        ),
    ),
)
