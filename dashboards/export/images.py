"""Figures as image files for papers: drawn by a browser on this machine, on white, without any network.

plotly hands them to kaleido, which starts the browser that BROWSER_PATH names or which stands where browsers usually do, and
gives it the plotly.js of the installed plotly. They speak through pipes, so not even loopback is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go
import plotly.io

from erasure_sweep.dashboards.plots.theme import template
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.storage.temporary_folder import TemporaryFolder
from erasure_sweep.workers.storage.whole_file import whole_file

Format = Literal["svg", "png", "pdf"]

_BROWSER = "install Chrome or chromium (apt-get install chromium), or set BROWSER_PATH to one"


class Image(NamedTuple):
    """A figure and the file that it becomes; ``width`` and ``height`` in pixels of a screen, 96 to the inch."""

    figure: go.Figure
    path: Path
    width: int
    height: int


def write_images(images: Sequence[Image], form: Format, scale: float, wrote: Callable[[Path], object]) -> None:
    """Draw figures in one browser and write each under its path, whole or not at all.

    Args:
        scale: of the image beside its size on a screen; of ``png`` the pixels for each of a screen's.
        wrote: hears of each file.

    Raises:
        SweepError: kaleido or a browser is absent or fails, or a file cannot be written.
    """
    try:
        from kaleido.errors import ChromeNotFoundError
    except ImportError as error:
        raise SweepError("image files need kaleido: pip install 'erasure-sweep[export]'") from error
    with closing(TemporaryFolder()) as folder, _without_mathjax(folder.path):
        drawn = [folder.path / f"{at}.{form}" for at in range(len(images))]
        try:
            plotly.io.write_images(
                [_for_paper(image.figure) for image in images],
                drawn,
                scale=scale,
                width=[image.width for image in images],
                height=[image.height for image in images],
                validate=False,
            )
        except Exception as error:  # the browser's, the pipe's or kaleido's own kind
            if isinstance(error.__context__, ChromeNotFoundError):
                raise SweepError(f"image files need a browser, and none was found: {_BROWSER}") from error
            raise SweepError(f"the browser for image files does not start ({_reason(error)}): {_BROWSER}") from error
        for image, path in zip(images, drawn, strict=True):
            if not path.is_file():  # kaleido goes on behind a figure that fails
                raise SweepError(f"{image.path.name} cannot be drawn: the browser made no image of it")
            _write(image.path, path.read_bytes())
            wrote(image.path)


@contextmanager
def _without_mathjax(folder: Path) -> Iterator[None]:
    """An empty script in place of MathJax, which kaleido would load from a server."""
    empty = folder / "mathjax.js"
    empty.touch()
    before, plotly.io.defaults.mathjax = plotly.io.defaults.mathjax, str(empty)
    try:
        yield
    finally:
        plotly.io.defaults.mathjax = before


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
    words = str(error.args[0] if error.args else "").strip() or type(error).__name__
    return "it does not answer" if isinstance(error, TimeoutError) else words.splitlines()[0][:300].rstrip(".: ")
