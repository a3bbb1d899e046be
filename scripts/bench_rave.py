"""Benchmarks `train-rave` against RAVE's own training step in RAVE's own trainer.

    OMP_NUM_THREADS=1 python scripts/bench_rave.py --model v1 --phase 1
    OMP_NUM_THREADS=1 python scripts/bench_rave.py --model v2 --phase 2

Both sides train the same model from the same seed on the same crops of synthesised music: ours by
`RaveTraining`; RAVE's as `rave train` sets it up, without its validations. They run in two threads
of one process, of which one waits while the other does a block of steps, so that other load on the
machine affects both alike. A block's time is all that happens between its first step and the next
block's: data, step, optimiser, logging.

The losses of the first step must agree. Later ones drift apart as those of two machines do, because
Adam's first steps amplify rounding.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import cpu_name, markdown, median_ratio

from latentdiff import synth
from latentdiff.rave import compat
from latentdiff.rave.database import FULL_SCALE, DatabaseWriter, RaveDatabase
from latentdiff.rave.dataset import EndlessBatches, TrainingCrops, training_loader
from latentdiff.rave.gin_config import Assembly, assemble, receptive_field
from latentdiff.rave.settings import RaveConfig
from latentdiff.rave.train import RaveTraining

SAMPLE_RATE = 16000
SEED = 0
OURS, THEIRS = "ours", "rave train"
MODELS: dict[str, dict[str, Any]] = {
    # As in configs/quickstart.yaml.
    "v1": {
        "configs": ["v1"],
        "capacity": 32,
        "latent_size": 16,
        "ratios": [4, 4, 2],
        "n_signal": 16384,
        "batch": 4,
        "overrides": [
            "blocks.Generator.use_noise=False",
            "core.MultiScaleSTFT.scales=[1024,256]",
            "core.AudioDistanceV1.log_epsilon=1e-2",
        ],
    },
    # RAVE's own settings, but the capacity.
    "v2": {"configs": ["v2"], "capacity": 16, "n_signal": 131072, "batch": 2},
}


@dataclass
class Side:
    """One of the two trainings."""

    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released when it is this side's turn."""
    begun: float | None = None
    """When its block began; None before the first one."""
    seconds: list[float] = field(default_factory=list)
    """Of each block."""
    losses: list[float] = field(default_factory=list)
    """Spectral distances, both together, of each step."""
    steps: int = 0
    generator: torch.Tensor = field(default_factory=torch.get_rng_state)
    """The state of torch's global generator at the end of its turn."""


class EnoughError(Exception):
    """Ends a training whose turns are over."""


class Turns:
    """Lets the trainings of two threads take turns, a block of steps each."""

    def __init__(self, block: int, blocks: int) -> None:
        """`block`: steps of a turn; `blocks`: turns of each side, beside the first."""
        self.sides = {OURS: Side(), THEIRS: Side()}
        self._block, self._blocks = block, blocks

    def take(self, name: str) -> None:
        """Wait for the turn of this side, whose thread this is."""
        side = self.sides[name]
        side.turn.acquire()
        torch.set_rng_state(side.generator)

    def give(self, name: str) -> None:
        """End the turn of this side."""
        self.sides[name].generator = torch.get_rng_state()
        self.sides[THEIRS if name == OURS else OURS].turn.release()

    def before_step(self, name: str) -> None:
        side = self.sides[name]
        if side.steps % self._block == 0:
            if side.begun is not None:
                side.seconds.append(time.perf_counter() - side.begun)
                self.give(name)
                if len(side.seconds) > self._blocks:
                    raise EnoughError
                self.take(name)
            side.begun = time.perf_counter()
        side.steps += 1

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Within it, every RAVE takes turns by the name of its thread, and notes its losses."""
        from rave import RAVE

        step, log_dict = RAVE.training_step, RAVE.log_dict

        def training_step(model: RAVE, batch: torch.Tensor, batch_idx: int) -> None:
            self.before_step(threading.current_thread().name)
            step(model, batch, batch_idx)

        def observe(model: RAVE, losses: dict[str, torch.Tensor]) -> None:
            distances = [value for name, value in losses.items() if "spectral" in name]
            self.sides[threading.current_thread().name].losses.append(float(sum(distances)))
            log_dict(model, losses)

        RAVE.training_step, RAVE.log_dict = training_step, observe
        try:
            yield
        finally:
            RAVE.training_step, RAVE.log_dict = step, log_dict


def main() -> None:
    options = arguments()
    config = RaveConfig(
        **MODELS[options.model],
        # Those of quickstart, of which only the first are done.
        steps=1200,
        phase_1_steps=1 if options.phase == 2 else 3000,
        validation_chunks=4 if options.model == "v2" else 16,
        workers=0,
    )
    turns = Turns(options.block, options.blocks)
    with tempfile.TemporaryDirectory() as scratch:
        compare(config, Path(scratch), turns)
    report(options, turns.sides)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="v1")
    parser.add_argument("--phase", type=int, choices=[1, 2], default=1)
    parser.add_argument("--block", type=int, default=4, help="steps of a turn; a multiple of 4")
    parser.add_argument("--blocks", type=int, default=8, help="turns that count")
    return parser.parse_args()


def compare(config: RaveConfig, scratch: Path, turns: Turns) -> None:
    """Run both trainings until their turns are over."""
    dataset = scratch / "dataset"
    write_music(dataset, 2 * config.n_signal)
    with compat.isolated_gin():
        upstream = assembled(config)
    # The configuration of `training` serves both: RAVE's losses look it up when called.
    with (
        RaveTraining(config, dataset, scratch / OURS, seed=SEED, device="cpu") as training,
        turns.observed(),
    ):
        theirs = threading.Thread(
            target=train_upstream, args=(upstream, config, dataset, turns), name=THEIRS
        )
        theirs.start()
        threading.current_thread().name = OURS
        with suppress(EnoughError):
            training.fit()
        theirs.join()


def write_music(directory: Path, samples: int) -> None:
    """Music of twenty pieces in records of `samples` each."""
    with DatabaseWriter(directory, SAMPLE_RATE, 1) as writer:
        for index in range(20):
            music = synth.compose(SEED, index, SAMPLE_RATE) * (FULL_SCALE - 1)
            for record in np.split(music, range(samples, len(music), samples)):
                if len(record) == samples:
                    writer.append(record.astype(np.int16)[None])


def assembled(config: RaveConfig) -> Assembly:
    """RAVE as ours begins with it, otherwise untouched."""
    torch.manual_seed(SEED)
    made = assemble(config, SAMPLE_RATE, 1)
    made.model.receptive_field.copy_(torch.tensor(receptive_field(made.model)))
    return made


def train_upstream(made: Assembly, config: RaveConfig, dataset: Path, turns: Turns) -> None:
    """Train by Lightning's Trainer with RAVE's callbacks, on the crops that ours takes."""
    import pytorch_lightning as pl
    from rave.model import WarmupCallback

    crops = TrainingCrops(dataset, config.n_signal, seed=SEED)
    records, _ = RaveDatabase(dataset).split()
    batches = EndlessBatches(records, config.batch, seed=SEED)
    turns.take(THEIRS)
    torch.manual_seed(SEED)
    with compat.quiet_warnings():
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=config.steps,
            max_epochs=300_000,
            callbacks=[WarmupCallback(), made.beta_warmup],
            logger=pl.loggers.TensorBoardLogger(str(dataset.parent), name="theirs"),
            limit_val_batches=0,
            num_sanity_val_steps=0,
            replace_sampler_ddp=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with suppress(EnoughError):
            trainer.fit(made.model, training_loader(crops, batches, workers=0, pin=False))


def report(options: argparse.Namespace, sides: dict[str, Side]) -> None:
    """Print what was measured; the first block only warms up."""
    rows = [
        {
            "": name,
            "seconds a step": statistics.median(side.seconds[1:]) / options.block,
            "first loss": f"{side.losses[0]:.6f}",
            "mean loss": statistics.mean(side.losses),
            "last block's loss": statistics.mean(side.losses[-options.block :]),
        }
        for name, side in sides.items()
    ]
    ratio = median_ratio(sides[THEIRS].seconds[1:], sides[OURS].seconds[1:])
    print(f"{cpu_name()}; torch {torch.__version__}; {torch.get_num_threads()} thread(s)")
    print(f"\n{options.model}, phase {options.phase}\n\n{markdown(rows)}\n")
    print(f"{ratio:.2f} times as many steps a second (median of {options.blocks} blocks)")


if __name__ == "__main__":
    main()
