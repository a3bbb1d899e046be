"""Whether the skills of several trainings can be compared: only with one and the same baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DECIDING = ("schedule", "parametrisation", "weighting", "loss")
"""Settings of `diffusion` that decide which noise levels skill is a mean over, and their weights.
The skill of a single level, `skill@LEVEL` of the metrics, depends on none of them but the loss."""

DISTILL = "distill.levels="
"""What the skill of a distilled model depends on instead."""


def baseline_of(config: Mapping[str, Any]) -> str:
    """What of a resolved config decides the baseline of its skill, such as `schedule.shift=-2`."""
    diffusion = config.get("diffusion")
    if not isinstance(diffusion, Mapping):
        return ""
    if isinstance(distill := config.get("distill"), Mapping):
        # Measured against the model's own first step, whatever its schedule.
        return DISTILL + ",".join(map(str, distill["levels"]))
    words = []
    for name in DECIDING:
        value = diffusion.get(name)
        if isinstance(value, Mapping):
            words += [f"{name}.{key}={value[key]}" for key in sorted(value, key=str)]
        elif value is not None:
            words.append(f"{name}={value}")
    return " ".join(words)


def warning(baselines: Mapping[str, str]) -> str | None:
    """What to tell who sees these skills side by side: run -> `baseline_of`; None: nothing."""
    if len(set(baselines.values()) - {""}) < 2:
        return None
    known = {run: words.split() for run, words in baselines.items() if words}
    ordinary = [set(words) for words in known.values() if not words[0].startswith(DISTILL)]
    shared = set.intersection(*ordinary) if ordinary else set()
    groups: dict[str, list[str]] = {}
    for run, words in known.items():
        apart = [
            word if word.startswith(DISTILL) else f"diffusion.{word}"
            for word in words
            if word not in shared
        ]
        groups.setdefault(" ".join(apart) or "the rest", []).append(run)
    listed = "\n".join(f"  {words}: {', '.join(runs)}" for words, runs in groups.items())
    return (
        "skills of these groups are not comparable, as each is measured against another baseline "
        f"(compare skill@LEVEL of the metrics, or the scores of `evaluate`):\n{listed}"
    )
