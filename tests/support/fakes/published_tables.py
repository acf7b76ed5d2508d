"""Tables of an invented run in which every published number came out as published: what the report is tested on."""

from __future__ import annotations

from typing import Any

import pandas as pd

from erasure_sweep.sweep.replication.matching import Results
from erasure_sweep.sweep.replication.published_numbers import Published, published

FAMILY = ("q12_5", "q25", "median", "q75", "q87_5")
SUM = (-1.4, -1.128, -0.907, -0.700, -0.4)
GROUP = "L2H2+L2H3+L2H4+L2H5+L2H6+L2H7"
DLA = {
    "full": (-0.159, -0.2, 0.0),
    "v_composition": (-0.716, -0.6, 0.0),
    "value_input": (-0.702, -0.613, 0.001),
    "layer_input": (-0.65, -0.55, 0.002),
    "downstream": (-0.5, -0.4, 0.01),
    "without_pattern": (-0.8, -0.723, 0.052),
}
RULE = "L2H2+L3H1"
"""The group that verify's rule chooses where it chooses another."""
READERS = "L2H2+L3H1+L3H2"
"""What the scan's rule finds, which is no group of verify."""


def spread(prefix: str, values: tuple[float, ...]) -> dict[str, float]:
    """A family of quantile columns."""
    return {f"{prefix}{name}": value for name, value in zip(FAMILY, values, strict=True)}


def flat(prefix: str, median: float) -> dict[str, float]:
    """A family of quantile columns around a median."""
    return spread(prefix, tuple(median + step for step in (-0.3, -0.1, 0.0, 0.1, 0.3)))


def published_tables(rule: str = GROUP, *, readers: str = READERS, held_out: bool = True) -> dict[str, pd.DataFrame]:
    """The tables that the report reads: ``rule`` is verified beside the published group, the scan finds ``readers``."""
    numbers = published()
    groups = {GROUP: "named"} | ({rule: "rule"} if rule != GROUP else {})
    tables = {
        "residual_projection": numbers.residual_projection.assign(n=307_200),
        "component_projection": pd.DataFrame(
            [
                {"writer": "L0H2", "component": f"L{layer}H{head}", "median": median, "q75": median + 0.1}
                for layer in (2, 3)
                for head in range(8)
                for median in [-0.15 if layer == 2 and head > 1 else 0.05]
            ]
        ),
        "writers": pd.DataFrame([{"writer": "L0H2", "erasers": readers}]),
        "v_composition": pd.DataFrame([{"writer": "L0H2", "eraser": GROUP, "n": 307_200, **spread("clean_", SUM)}]),
        "eraser_group": pd.DataFrame(
            [row for label, chosen in groups.items() for row in _group(label, chosen, held_out)]
        ),
        "patched_residual_projection": pd.DataFrame([row for label in groups for row in _states(label)]),
        "dla_correlation": pd.DataFrame([row for label in groups for row in _lines(label)]),
        "adversarial": pd.DataFrame(_places(numbers)),
        "aligned_tokens": pd.DataFrame(
            [
                {"writer": "L0H2", "rank": rank, "token_id": rank, "token": token, "mean_direct_logit": 1.0 / rank}
                for rank, token in enumerate((" bottom", " the", " State"), start=1)
            ]
        ),
    }
    return {name: table.assign(model="gelu-4l") for name, table in tables.items()}


def _group(label: str, chosen: str, held_out: bool) -> list[dict[str, Any]]:
    about = {"writer": "L0H2", "group": label, "chosen": chosen, "held_out": held_out, "n": 300_000}
    heads = [{**about, "eraser": head, **flat("clean_", -0.15), **flat("patched_", 0.0)} for head in label.split("+")]
    ends = {"clean_median_low": -0.92, "clean_median_high": -0.89}
    return [*heads, {**about, "eraser": label, **spread("clean_", SUM), **flat("patched_", 0.0), **ends}]


def _states(label: str) -> list[dict[str, Any]]:
    medians = {"resid_post1": (1.02, 1.02), "resid_mid2": (0.12, 0.91), "resid_post2": (0.1, 0.8)}
    return [
        {"writer": "L0H2", "eraser": label, "patch": patch, "state": state, "n": 300_000}
        | flat("clean_", clean)
        | flat("patched_", patched)
        for patch in ("group", "layer")
        for state, (clean, patched) in medians.items()
    ]


def _lines(label: str) -> list[dict[str, Any]]:
    return [
        {"writer": "L0H2", "eraser": label, "effect": effect, "stage": stage, "n": 300_000}
        | {"r": r, "low": r - 0.02, "high": r + 0.02}
        | {"slope": slope, "slope_low": slope - 0.02, "slope_high": slope + 0.02, "intercept": intercept}
        for effect, (r, slope, intercept) in DLA.items()
        for stage in (("scan", "verify") if effect in ("full", "v_composition") and label == GROUP else ("verify",))
    ]


def _places(numbers: Published) -> list[dict[str, Any]]:
    return [
        {"writer": "L0H2", "source": "given", "prompt": index, "text": prompt.text, "top": prompt.top}
        | {"second": prompt.second, "logit_diff": prompt.logit_diff, "role": role, "inputs": inputs, "clean": 1.0}
        | {"component": "L0H2" if role == "writer" else prompt.other_head, "change": 0.02 if role == "writer" else 0.9}
        | flat("", 0.98 if role == "writer" else 0.1)
        for index, prompt in enumerate(numbers.prompts)
        for role in ("writer", "other")
        for inputs in ("last", "all")
    ]


def results(
    tables: dict[str, pd.DataFrame] | None = None, about: dict[str, Any] | None = None, **config: Any
) -> Results:
    """A run of gelu-4l under the published protocol, with those changes."""
    numbers = published()
    protocol = {
        **{**numbers.protocol, "verify_prompts": 300, "tau": 0.05},
        "adversarial_prompts": [prompt.text for prompt in numbers.prompts],
    }
    entry = {"name": "gelu-4l", "spec": "gelu-4l", "n_prompts": 300, "n_verify_prompts": 300} | (about or {})
    return Results(entry, protocol | config, published_tables() if tables is None else tables, numbers)
