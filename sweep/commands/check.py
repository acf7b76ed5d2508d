"""``erasure-sweep check``: whether everything that runs left is whole, and what it is that it says it is."""

from __future__ import annotations

import click

from erasure_sweep.sweep.commands.options import debug_option, staging_option


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="OUT|STORE...")
@staging_option
@debug_option
def check(targets: tuple[str, ...], staging: str | None, debug: bool) -> None:
    """Verify finished shards, tables, manifests and staged files; change nothing."""
    from erasure_sweep.sweep.check import check as check_one
    from erasure_sweep.sweep.terminal.printing import print_line
    from erasure_sweep.sweep.terminal.progress import count
    from erasure_sweep.workers.errors import SweepError

    n_findings = 0
    for target in targets:
        found = check_one(target, staging)
        for line in found.findings:
            print_line(line)
        for line in found.unchecked:
            print_line(f"not checked: {line}")
        whole = ", ".join(count(n, kind) for kind, n in found.whole.items() if n) or "nothing"
        print_line(f"{target}: {whole} checked and whole")
        n_findings += len(found.findings)
    if n_findings:
        raise SweepError(
            f"{count(n_findings, 'thing')} not as it should be: the next `erasure-sweep run` of the sweep repairs it"
        )
