"""Sweeps over models: what runs, where, and what it leaves behind; ``sweep.run(config)`` is the whole of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sweep.config import SweepConfig, load_config

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SweepConfig", "load_config", "run"]


def run(config: SweepConfig | str = "demo", *, fresh: bool = False, **flags: Any) -> dict[str, pd.DataFrame]:
    """Measure a sweep and return its tables, all models in each.

    Args:
        config: a config, a preset's name or a YAML file.
        fresh: measure everything anew instead of going on from what is stored.
        flags: config keys on top of a preset or file.

    Returns:
        Tables by name, each with the models that have it; the same rows are in OUT as parquet.

    Raises:
        SweepError: something could not be measured; one clear line.
    """
    import pandas as pd

    from dashboards.tables import read_out
    from sweep.driver import Sweep
    from sweep.progress import SilentReporter
    from workers.errors import SweepError, UsageError

    if isinstance(config, SweepConfig) and flags:
        raise UsageError("flags go on top of a preset or file; change a SweepConfig with model_copy(update=…)")
    resolved = config if isinstance(config, SweepConfig) else load_config(config, flags)
    outcome = Sweep(resolved, SilentReporter()).run(fresh)
    if outcome.problems:
        raise SweepError(outcome.problems[0])
    models = [model for model in read_out(outcome.folder.out) if model.about["name"] in outcome.names]
    names = dict.fromkeys(name for model in models for name in model.tables)
    return {
        name: pd.concat([model.tables[name] for model in models if name in model.tables], ignore_index=True)
        for name in names
    }
