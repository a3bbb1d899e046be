"""Compares training from a starter codec with the same training from random weights.

    latentdiff preprocess --run /tmp/mine -c configs/quickstart.yaml --audio recordings
    python scripts/bench_starter.py quickstart /tmp/mine/dataset

Both see the same crops and are validated at the same steps. For each mark, the table gives RAVE's
distance on held-out recordings there, and the first step at which the training from the starter
reached the distance that the one from random weights has at the mark. The aim is at most half
of the mark.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

from measuring import markdown

from latentdiff.commands.presets import preset_path
from latentdiff.model.project import resolve
from latentdiff.rave.train import RaveTraining

MARKS = (200, 1000, 5000)
DISTANCE = "validation/spectral_distance"


def main() -> None:
    options = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as scratch:
        random, started = (
            train(options, start, Path(scratch) / start) for start in ("none", "auto")
        )
    rows = [row(mark, random, started) for mark in options.marks]
    print(f"{options.preset}, seed {options.seed}\n\n{markdown(rows)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", help="name of a preset in configs/ that has a starter")
    parser.add_argument("dataset", type=Path, help="as `latentdiff preprocess` makes it")
    parser.add_argument("--marks", type=int, nargs="+", default=MARKS, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, over the preset")
    return parser.parse_args()


def train(options: argparse.Namespace, start: str, folder: Path) -> dict[int, float]:
    """Step -> distance on held-out recordings."""
    steps, every = max(options.marks), max(1, min(options.marks) // 4)
    words = [
        *options.settings,
        f"rave.start={start}",
        f"rave.steps={steps}",
        f"rave.validate_every={every}",
    ]
    # A learning rate that falls over the whole training, whatever its length, and one phase.
    words += [f"rave.phase_1_steps={steps}", "rave.validation_chunks=64", "rave.hours=null"]
    project = resolve(None, preset_path(options.preset), words, {"seed": options.seed})
    with RaveTraining(
        project.rave, options.dataset, folder, seed=options.seed, device=project.device
    ) as training:
        if (start == "auto") != (training.plan.starter is not None):
            raise SystemExit(f"no starter fits {options.preset} and {options.dataset}")
        training.fit()
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").open())
    return {line["step"]: line[DISTANCE] for line in lines if DISTANCE in line}


def row(mark: int, random: dict[int, float], started: dict[int, float]) -> dict[str, object]:
    reached = [step for step, distance in sorted(started.items()) if distance <= random[mark]]
    return {
        "steps": mark,
        "from random weights": random[mark],
        "from the starter": started[mark],
        "as near as random weights at step": reached[0] if reached else "never",
    }


if __name__ == "__main__":
    main()
