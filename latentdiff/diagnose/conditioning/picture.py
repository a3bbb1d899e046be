"""Picture of `diagnose conditioning`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentdiff.evaluation import canvas
from latentdiff.evaluation.difference import UNRELATED


def distances(path: Path, results: dict[str, Any]) -> None:
    """What changes a sample, and where there is guidance, what its scale does."""
    scales = results["guidance"]
    figure = canvas.figure(11 if scales else 6.5, 3.8)
    panels = figure.subplots(1, 2 if scales else 1, squeeze=False)[0]
    changes = results["changes"]
    panels[0].barh(list(changes), [row["latents"] for row in changes.values()])
    panels[0].axvline(UNRELATED, color="grey", linestyle="--", label="unrelated")
    panels[0].invert_yaxis()
    panels[0].set(xlabel="difference of latents", title=f"the condition: {results['verdict']}")
    panels[0].legend()
    if scales:
        _guidance(panels[1], scales)
    canvas.save(figure, path)


def _guidance(axes: Any, rows: list[dict[str, Any]]) -> None:
    labels = {
        "from_free": "from free samples",
        "to_followed": "from what is followed",
        "spread": "spread",
    }
    for key, label in labels.items():
        if rows[0][key] is not None:
            axes.plot([row["scale"] for row in rows], [row[key] for row in rows], "o-", label=label)
    axes.set(xlabel="guidance", ylim=(0, None), title="difference of latents, and their spread")
    axes.legend()
