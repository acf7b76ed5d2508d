"""How much of a writer's output is present in every state and every other component."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import N_TOKENS, WRITER, Column, Table, number, quantiles, text

_STATISTICS: tuple[Column, ...] = (
    *quantiles("PR over tokens, within 0.004 + 0.4 % of the exact ones"),
    number("mean", "mean of PR over tokens"),
    number("beta", "pooled coefficient β = Σ a·w / Σ |w|² over all measured tokens; it adds up over components"),
    number(
        "beta_centred",
        "β with every component's mean vector over all tokens taken out first; null where less than a millionth of the "
        "writer's power varies with the token",
    ),
    N_TOKENS,
)

TABLES = (
    Table(
        "residual_projection",
        "The projection ratio PR(a, w) = a·w / |w|² of every state a of the residual stream onto every writer w, states "
        "before the writer included. A writer that writes nothing has `n` = 0 and nulls.",
        ("scan",),
        ("writer", "state"),
        (
            WRITER,
            text("state", "the state that is projected onto the writer, such as `resid_mid2`"),
            *_STATISTICS,
            *quantiles(
                "effective presence over tokens: PR times the scale of the first state with the writer's output over that of "
                "this state, what is left of the writer as a reader behind a norm sees it",
                "effective_",
            ),
            number("effective_beta", "the same pooled: Σ ρ a·w / Σ |w|² with ρ the ratio of the scales"),
            number(
                "diluted",
                "1 − Σ ρ |w|² / Σ |w|²: by how much less a reader sees of the writer because the stream has grown since it "
                "wrote, whatever was written against it; negative where the stream is smaller",
            ),
            number(
                "constant_share",
                "share of the writer's power that its mean vector over all tokens holds; the same in every state",
            ),
        ),
    ),
    Table(
        "component_projection",
        "The projection ratio of every other component onto every writer, each layer's bias `b_O{l}` and whole attention "
        "output `attn{l}` included.",
        ("scan",),
        ("writer", "component"),
        (WRITER, text("component", "the component that is projected onto the writer"), *_STATISTICS),
    ),
)
