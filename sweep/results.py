"""What users hold of a sweep: ``run(config)`` measures one and returns its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erasure_sweep.sweep.config import SweepConfig, load_config

if TYPE_CHECKING:
    import pandas as pd


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

    from erasure_sweep.sweep.driver import SweepDriver
    from erasure_sweep.sweep.run import Run
    from erasure_sweep.sweep.terminal.progress import SilentReporter
    from erasure_sweep.workers.errors import SweepError, UsageError
    from erasure_sweep.workers.tables.sweep_folder import read_model

    if isinstance(config, SweepConfig) and flags:
        raise UsageError("flags go on top of a preset or file; change a SweepConfig with model_copy(update=…)")
    resolved = config if isinstance(config, SweepConfig) else load_config(config, flags)
    outcome = SweepDriver(Run.of(resolved, fresh), SilentReporter()).measure()
    if outcome.problems:
        raise SweepError(outcome.problems[0])
    entries = [entry for entry in outcome.manifest.models if entry.name in outcome.names]
    models = [read_model(outcome.folder.out, entry) for entry in entries]
    names = dict.fromkeys(name for model in models for name in model.tables)
    return {
        name: pd.concat([model.tables[name] for model in models if name in model.tables], ignore_index=True)
        for name in names
    }
