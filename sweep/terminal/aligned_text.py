"""Plain lines of text in aligned columns, for what is listed: they can be searched, and no path is broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from erasure_sweep.workers.printable import printable_line


def aligned_lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """A line for each row, its cells below those of the row above."""
    rows = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]
