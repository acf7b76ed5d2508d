"""What was published about erasure in gelu-4l, as data: ``published/`` holds the numbers and where they stand.

The paper's and the post's numbers are in one YAML file, each with how it is measured anew, how far apart two honest
measurements may be, and what is known about it; the residual projections of the paper's appendix are a CSV file of 36
components × 9 states.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import pandas as pd

from erasure_sweep.sweep.yaml_text import load_yaml

PUBLISHED = resources.files("erasure_sweep.sweep.replication") / "published"
STATISTICS = ("q25", "median", "q75")
"""Columns of the published residual projections."""

Topic = Literal["erasers", "erasure", "dla"]


class Number(NamedTuple):
    """One published number."""

    topic: Topic
    what: str
    where: str
    """Publication and section."""
    value: float | tuple[str, ...]
    """A number, or a list of components."""
    measure: str
    """Name of the function of ``sweep.replication.matching`` that measures it."""
    statistic: str | None = None
    """A quantile; of a line r, slope or intercept."""
    state: str | None = None
    """Where in the residual stream."""
    effects: tuple[str, ...] = ()
    """Of DLA: the effects that it may be of. With several the publication leaves open which."""
    tolerance: float | None = None
    """Up to which difference a measurement agrees; ``None`` where it has to be the same."""
    known: str = ""


class Prompt(NamedTuple):
    """One of the published adversarial prompts."""

    text: str
    top: str
    second: str
    logit_diff: float
    other_head: str
    """The head that the paper compares the writer with."""


class Source(NamedTuple):
    """Where a set of numbers stands and how to read it."""

    where: str
    tolerance: float
    known: str


class Published(NamedTuple):
    """Everything that was published about one model."""

    model: str
    writer: str
    erasers: tuple[str, ...]
    protocol: dict[str, Any]
    """Keys of the config that the publication's numbers were measured with."""
    numbers: tuple[Number, ...]
    residual: Source
    residual_projection: pd.DataFrame
    """writer, state, q25, median, q75."""
    adversarial: Source
    prompts: tuple[Prompt, ...]


@cache
def published() -> Published:
    """The published numbers on gelu-4l."""
    values = load_yaml((PUBLISHED / "gelu-4l.yaml").read_text(encoding="utf-8"))
    residual, adversarial = values["residual_projection"], values["adversarial"]
    with (PUBLISHED / residual.pop("file")).open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    return Published(
        model=values["model"],
        writer=values["writer"],
        erasers=tuple(values["erasers"]),
        protocol=values["protocol"],
        numbers=tuple(_number(entry) for entry in values["numbers"]),
        residual=Source(**residual),
        residual_projection=table,
        prompts=tuple(Prompt(**entry) for entry in adversarial.pop("prompts")),
        adversarial=Source(**adversarial),
    )


def _number(entry: dict[str, Any]) -> Number:
    value = entry["value"]
    lists = {"value": tuple(value) if isinstance(value, list) else value, "effects": tuple(entry.get("effects", ()))}
    return Number(**{**entry, **lists})
