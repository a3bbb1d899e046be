"""Trains a starter codec: the RAVE of a preset, on hours of synthetic sound.

    python scripts/train_starter.py quickstart --hours 8 --steps 26000 --folder /tmp/starter
    python scripts/train_starter.py laptop --hours 8 --steps 20000 --folder /tmp/starter-laptop

The sound is drawn scene by scene into a dataset, by one process for each core; then the preset's
RAVE is trained on it by `RaveTraining`. The same command again continues. At the end the weights
are written into the package (`latentdiff/rave/starters`), with a Markdown file of scores beside
them. A seed determines all sound, so held-out scenes are those of another seed.

`scripts/bench_starter.py` measures how many steps a starter saves on recordings.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from measuring import cpu_name, markdown
from numpy.typing import NDArray

from latentdiff import synth
from latentdiff.commands.presets import preset_path
from latentdiff.model.project import Project, resolve
from latentdiff.rave.database import DATA_FILE, FULL_SCALE, DatabaseWriter
from latentdiff.rave.load import load_rave
from latentdiff.rave.manifest import DatasetFile, write_manifest
from latentdiff.rave.result import RaveTrainingResult
from latentdiff.rave.starter import STARTERS, StarterFacts, write_starter
from latentdiff.rave.train import RaveTraining

log = logging.getLogger(__name__)

SCENE_SECONDS = 12.0
HELD_OUT = 40
"""Scenes held out, of a seed of their own."""


def main() -> None:
    options = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    project = preset(options)
    dataset = options.folder / "dataset"
    if not (dataset / DATA_FILE).exists():
        write_scenes(dataset, project.data.sample_rate, options.hours, options.seed)
    began = time.monotonic()
    result = train(project, dataset, options.folder / "rave")
    log.info("trained for %.0f minutes in this call", (time.monotonic() - began) / 60)
    ship(project, options, result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", help="name of a preset in configs/")
    parser.add_argument("--hours", type=float, default=8.0, help="hours of synthetic sound")
    parser.add_argument("--steps", type=int, default=20_000, help="training steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="for the dataset and the run")
    return parser.parse_args()


def preset(options: argparse.Namespace) -> Project:
    """The preset with a training of its own: from nothing, one phase, a learning rate that falls
    over all of it, and a loss that hears quiet sound and levels, for scenes have all of them."""
    path = preset_path(options.preset)
    overrides = resolve(None, path, [], {}).rave.overrides
    rave = {
        "start": "none",
        "hours": None,
        "steps": options.steps,
        "phase_1_steps": options.steps,
        "level_weight": 1,
        "overrides": [*overrides, "core.AudioDistanceV1.log_epsilon=1e-3"],
        "validate_every": max(1, options.steps // 20),
        "validation_chunks": 128,
    }
    words = [f"rave.{name}={json.dumps(value)}" for name, value in rave.items()]
    return resolve(None, path, words, {"seed": options.seed})


def write_scenes(dataset: Path, sample_rate: int, hours: float, seed: int) -> None:
    """Write scenes as a RAVE dataset, one record each, the last ones held out."""
    count = max(1, round(hours * 3600 / SCENE_SECONDS))
    draw = partial(draw_scene, sample_rate)
    wanted = [(seed, index) for index in range(count)]
    wanted += [(seed + 1, index) for index in range(HELD_OUT)]
    with DatabaseWriter(dataset, sample_rate, 1) as writer, ProcessPoolExecutor() as pool:
        for done, samples in enumerate(pool.map(draw, wanted, chunksize=4), 1):
            writer.append(samples[None])
            if done % 100 == 0:
                log.info("%d of %d scenes", done, len(wanted))
    write_manifest(dataset, split(seed, count), [])


def split(seed: int, count: int) -> list[DatasetFile]:
    """The manifest of `count` scenes to train on, and of those held out after them."""
    return [part("train", seed, 0, count), part("validation", seed + 1, count, HELD_OUT)]


def part(side: Literal["train", "validation"], seed: int, first: int, scenes: int) -> DatasetFile:
    """Scenes of one seed as if they were one recording."""
    seconds = scenes * SCENE_SECONDS
    return DatasetFile(
        key=f"scenes of seed {seed}",
        path="",
        sha256=f"seed {seed}",
        seconds=seconds,
        kept_seconds=seconds,
        dropped={},
        clipped=0,
        split=side,
        first_chunk=first,
        chunks=scenes,
        validation_chunks=scenes if side == "validation" else 0,
    )


def draw_scene(sample_rate: int, which: tuple[int, int]) -> NDArray[np.int16]:
    """Scene (seed, index) as a record holds it."""
    samples = synth.scene(*which, sample_rate, seconds=SCENE_SECONDS)
    return (samples * FULL_SCALE).astype(np.int16)


def train(project: Project, dataset: Path, folder: Path) -> RaveTrainingResult:
    with RaveTraining(
        project.rave, dataset, folder, seed=project.seed, device=project.device
    ) as training:
        return training.fit()


def ship(project: Project, options: argparse.Namespace, result: RaveTrainingResult) -> None:
    """Write weights and scores into the package."""
    assert result.last is not None and result.first is not None
    facts = StarterFacts(
        preset=options.preset,
        sample_rate=project.data.sample_rate,
        steps=result.step,
        hours=options.hours,
        seed=options.seed,
        distance=result.last.distance,
    )
    path = STARTERS / f"{options.preset}.safetensors"
    model, _ = load_rave(options.folder / "rave")
    write_starter(model, path, facts)
    rows = [
        {"": "untrained", "distance on held-out scenes": result.first},
        {"": f"{result.step} steps", "distance on held-out scenes": result.last.distance},
    ]
    command = f"python scripts/train_starter.py {options.preset} --hours {options.hours:g}"
    text = (
        f"# Starter codec of configs/{options.preset}.yaml\n\n"
        f"Made by `{command} --steps {options.steps} --seed {options.seed}`, on {cpu_name()}: "
        f"{options.hours:g} hours of synthetic sound at {facts.sample_rate} Hz.\n\n"
        f"{markdown(rows)}\n"
    )
    path.with_suffix(".md").write_text(text)
    log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
