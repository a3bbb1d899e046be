"""Picture of `diagnose conditioning`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff.diagnose.conditioning.results import GuidanceRow, Results
from latentdiff.evaluation import canvas
from latentdiff.evaluation.difference import UNRELATED

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(path: Path, results: Results) -> None:
    """Plot what changes a sample and, if the model can be guided, the effect of the guidance
    scale."""
    columns = 2 if results.guidance else 1
    figure = canvas.figure(11 if results.guidance else 6.5, 3.8)
    panels = figure.subplots(1, columns, squeeze=False)[0]
    _changes(panels[0], results)
    if results.guidance:
        _guidance(panels[1], results.guidance)
    canvas.save(figure, path)


def _changes(axes: Axes, results: Results) -> None:
    changes = results.changes
    axes.barh(list(changes), [change.latents for change in changes.values()])
    axes.axvline(UNRELATED, color="grey", linestyle="--", label="unrelated")
    axes.invert_yaxis()
    axes.set(
        xlabel="difference of latents",
        title=", ".join(f"{kind}: {found.verdict}" for kind, found in results.judged.items()),
    )
    axes.legend()


def _guidance(axes: Axes, rows: list[GuidanceRow]) -> None:
    scales = [row.scale for row in rows]
    axes.plot(scales, [row.from_free for row in rows], "o-", label="from unconditional samples")
    near = [row.to_followed for row in rows if row.to_followed is not None]
    if near:
        axes.plot(scales, near, "o-", label="from the clips")
    axes.plot(scales, [row.spread for row in rows], "o-", label="spread")
    axes.set(xlabel="guidance", ylim=(0, None), title="difference of latents, and their spread")
    axes.legend()
