"""How MLflow's own pages open on an experiment of sweeps: a saved view of its runs table and charts.

As they come, MLflow's runs table shows a sweep as one closed row, and its charts nothing. A view, which MLflow keeps among
an experiment's tags, lists the models one by one with their sizes and what is erased of them, and opens the charts with
parallel coordinates and with erasure against size. Pages ask for a view by the ``viewStateShareKey`` in their address; the
button "Views" lists it.

The names of keys are private to MLflow: those that 3.17 writes when somebody saves a view there. A version that does not know
one passes over it, and a store that refuses the view costs the view alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from erasure_sweep.workers.errors import one_line
from erasure_sweep.workers.storage.small_files import parse_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

VIEW_KEY = "erasure"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
VIEW_NAME = "Erasure, model by model"
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""What an experiment is for: without it MLflow asks, or opens the pages for language model applications."""

_SAVED_MS = 1_760_000_000_000
"""When the view was saved, always the same: only people change that."""
_MODEL = ("model/n_layers", "model/d_model", "model/n_params")
_METRICS = ("erased/heads_median", "erased/heads_most_of_8", "trust/settled_share", "trust/holds_share")
_PARAMS = ("n_layers", "d_model", "n_params", "training_tokens")
_TAGS = ("most_erased", "most_erased_head")
_FIRST_COLUMNS = ("attributes.`Run Name`", "runDateAndNestInfo", "duration")
"""That the table shows whatever is chosen."""
_LETTER_PX, _MARGIN_PX = 6, 34
_SCATTERED = (
    ("model/n_layers", "erased/heads_median"),
    ("model/d_model", "erased/heads_median"),
    ("model/n_params", "erased/heads_most_of_8"),
    ("model/training_tokens", "erased/heads_median"),
)
_CLOSED = ("model", "Model metrics", "System metrics")
_SECTIONS = ("erased", "trust", "verify", "ledger", *_CLOSED)
"""MLflow's own, a bar chart for each metric; those of sizes and of the driver's machine are closed at first."""


def runs_page(experiment_id: str, has_view: bool = True) -> str:
    """Address of an experiment's page below the server's own, opened on the view where the experiment has it."""
    view = f"viewStateShareKey={VIEW_KEY}&" if has_view else ""
    return f"#/experiments/{experiment_id}/runs?{view}workflowType=machine_learning"


def save_view(client: MlflowClient, experiment_id: str) -> None:
    """Give an experiment what it lacks to open well; where that cannot be, its pages open as they come."""
    from mlflow.exceptions import MlflowException

    try:
        present = client.get_experiment(experiment_id).tags
        for key, value in experiment_tags(present).items():
            client.set_experiment_tag(experiment_id, key, value)
    except (MlflowException, LookupError, TypeError, ValueError) as error:
        log.warning("MLflow's pages open as they come: no view could be saved (%s)", one_line(error))


def experiment_tags(present: Mapping[str, str]) -> dict[str, str]:
    """The tags that an experiment lacks to open well; what people have changed there stays.

    Args:
        present: its tags.
    """
    tags = {} if KIND_TAG in present else {KIND_TAG: KIND}
    if VIEW_TAG not in present or (present[VIEW_TAG] != _saved_view() and _is_untouched(present[VIEW_TAG])):
        tags[VIEW_TAG] = _saved_view()
    return tags


def _is_untouched(tag: str) -> bool:
    try:
        view = parse_json(tag)
        return bool(view["createdAt"] == view["updatedAt"] == _SAVED_MS)
    except (ValueError, TypeError, KeyError):
        return False


def _saved_view() -> str:
    times = {"createdAt": _SAVED_MS, "updatedAt": _SAVED_MS}
    state = json.dumps(_state(), separators=(",", ":"))  # stores keep 5,000 characters of an experiment's tag
    return json.dumps({"name": VIEW_NAME, **times, "state": state}, separators=(",", ":"))


def _state() -> dict[str, Any]:
    kinds = {"metrics": _METRICS, "params": _PARAMS, "tags": _TAGS}
    columns = {f"{kind}.`{name}`": name for kind, names in kinds.items() for name in names}
    return {
        # by anything but the date, since by that MLflow puts models below their sweeps, and closes these
        "orderByKey": "metrics.`erased/heads_median`",
        "orderByAsc": False,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(columns),
        "columnOrder": [*_FIRST_COLUMNS, *columns],
        "columnWidths": {key: max(100, _LETTER_PX * len(name) + _MARGIN_PX) for key, name in columns.items()},
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": _sections(),
        "compareRunCharts": [
            # lines take their colour from the last
            _parallel("erased", (*_MODEL, "erased/heads_diluted", "erased/heads_most_of_8", "erased/heads_median")),
            _parallel("trusted", (*_MODEL, "erased/heads_median", "trust/settled_share", "trust/holds_share")),
            *(_scatter(index, across, up) for index, (across, up) in enumerate(_SCATTERED)),
        ],
    }


def _sections() -> list[dict[str, Any]]:
    own = (("parallel", "Models side by side", 1), ("against", "Erasure against size and training", 2))
    return [
        *({**_section(uuid, name), "columns": columns, "cardHeight": 400} for uuid, name, columns in own),
        *({**_section(name, name), "display": name not in _CLOSED, "isGenerated": True} for name in _SECTIONS),
    ]


def _section(uuid: str, name: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
    }


def _parallel(uuid: str, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Parallel coordinates of all runs that have these metrics."""
    return {
        **_chart(uuid, "PARALLEL", "parallel"),
        "selectedParams": [],
        "selectedMetrics": list(metrics),
        "showAllRuns": True,
    }


def _scatter(index: int, across: str, up: str) -> dict[str, Any]:
    """A point for each run."""
    axes = {"xaxis": {"key": across, "type": "METRIC"}, "yaxis": {"key": up, "type": "METRIC"}}
    return {**_chart(f"against{index}", "SCATTER", "against"), **axes}


def _chart(uuid: str, kind: str, section: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "metricSectionId": section,
        "runsCountToCompare": 1000,
        "deleted": False,
        "isGenerated": False,
    }
