"""`latentdiff diagnose`: one question a command, answered with numbers."""

from __future__ import annotations

from latentdiff.cli.base import Group, cli


@cli.group(cls=Group)
def diagnose() -> None:
    """Find out what is wrong: the sampler, the schedule, the latents, the condition, the training.

    Each command prints its verdict in words, with the numbers it rests on.
    """
