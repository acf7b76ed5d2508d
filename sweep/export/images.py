"""Figures as image files for papers: drawn by a browser on this machine, on white, without any network.

kaleido starts the browser, which BROWSER_PATH names or which stands where browsers usually do, and hands it the plotly.js
of the installed plotly. They speak through pipes, so not even loopback is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import plotly.graph_objects as go

from erasure_sweep.dashboards.plots.theme import template
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.storage.whole_file import whole_file

if TYPE_CHECKING:
    from kaleido import Kaleido

Format = Literal["svg", "png", "pdf"]

_BROWSER = "install Chrome or chromium (apt-get install chromium), or set BROWSER_PATH to one"


class Image(NamedTuple):
    """A figure and the file that it becomes; ``width`` and ``height`` in pixels of a screen, 96 to the inch."""

    figure: go.Figure
    path: Path
    width: int
    height: int


def write_images(images: Sequence[Image], form: Format, scale: float, wrote: Callable[[Path], object]) -> None:
    """Draw figures and write each under its path, whole or not at all.

    Args:
        scale: of the image beside its size on a screen; of ``png`` the pixels for each of a screen's.
        wrote: hears of each file.

    Raises:
        SweepError: kaleido or a browser is absent or fails, or a file cannot be written.
    """
    try:
        from kaleido import Kaleido
    except ImportError as error:
        raise SweepError("image files need kaleido: pip install 'erasure-sweep[export]'") from error
    from choreographer.errors import ChromeNotFoundError

    try:
        drawer = Kaleido(mathjax=False)  # which it would load from a server
    except ChromeNotFoundError as error:
        raise SweepError(f"image files need a browser, and none was found: {_BROWSER}") from error
    asyncio.run(_write_all(drawer, images, form, scale, wrote))


async def _write_all(
    drawer: Kaleido, images: Sequence[Image], form: Format, scale: float, wrote: Callable[[Path], object]
) -> None:
    try:
        try:
            await drawer.open()
        except Exception as error:  # the browser's, the pipe's or kaleido's own kind
            raise SweepError(f"the browser for image files does not start ({_reason(error)}): {_BROWSER}") from error
        for image in images:
            options = {"format": form, "width": image.width, "height": image.height, "scale": scale}
            try:
                content = await drawer.calc_fig(_for_paper(image.figure), opts=options)
            except Exception as error:
                raise SweepError(f"{image.path.name} cannot be drawn: {_reason(error)}") from error
            _write(image.path, content)
            wrote(image.path)
    finally:
        await drawer.close()


def _for_paper(figure: go.Figure) -> dict[str, Any]:
    """The figure in the light template on white, whatever it had."""
    shown: dict[str, Any] = figure.to_dict()
    shown["layout"] |= {
        "template": template("light").to_plotly_json(),
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
    }
    return shown


def _write(path: Path, content: bytes) -> None:
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise SweepError(f"{path} cannot be written ({error.strerror}): choose another --to") from error


def _reason(error: Exception) -> str:
    said = str(error.args[0] if error.args else "").strip() or type(error).__name__
    return "it does not answer" if isinstance(error, TimeoutError) else said.splitlines()[0][:300].rstrip(".: ")
