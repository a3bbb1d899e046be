"""Questions about codecs, latents and models, each answered with numbers and in words.

A question is a subpackage: `results` (what is measured, typed), `measure`, `report` (the
text) and `picture`; the docstring of the package is the help of its command. QUESTIONS registers
it: the command line and the tests take their list from there. Options of its own, if any, are
declared in `latentdiff/cli/diagnose.py`.

Imports nothing heavy: the help of the command line passes through here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One `latentdiff diagnose` command."""

    name: str
    """The command; its package has the same name with underscores."""
    function: str
    """`module.function` within the package, imported only when the command runs.

    With a run: `function(run, project, **options) -> list[str]`, the skipped parts with reasons.
    Without: `function(project, run=..., **options)`; False means that something is broken."""
    example: str
    """Arguments after `latentdiff diagnose NAME` in the help's example, one command a line."""
    needs_run: bool = True
    """Whether it is asked about a run directory; else of settings, which a run may supply."""

    @property
    def package(self) -> str:
        """Dotted name."""
        return f"{__name__}.{self.name.replace('-', '_')}"

    @property
    def help(self) -> str:
        """The docstring of the package."""
        return importlib.import_module(self.package).__doc__ or ""

    def load(self) -> Callable[..., object]:
        """Import and return the function."""
        module, _, function = f"{self.package}.{self.function}".rpartition(".")
        loaded: Callable[..., object] = getattr(importlib.import_module(module), function)
        return loaded


QUESTIONS = (
    Question("sampler", "measure.sampler", "diffusion.schedule.name=flow", False),
    Question("schedule", "measure.schedule", "--run runs/techno\n--gallery --out schedules", False),
    Question(
        "latents",
        "measure.diagnose_latents",
        "runs/techno\n--latents runs/techno/latents/mean --out report",
    ),
    Question("training", "diagnose.diagnose_training", "runs/techno"),
    Question("noise-ladder", "measure.diagnose_noise_ladder", "runs/techno --n 2 --seconds 1"),
    Question("conditioning", "measure.diagnose_conditioning", "runs/mel --n 2 --seconds 1"),
    Question("overfit", "measure.overfit", "--image --steps 100 --run runs/techno", False),
)
