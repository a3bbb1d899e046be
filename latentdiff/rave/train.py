"""Trains RAVE: its model and losses, pytorch-lightning's Trainer, our data, checkpoints and checks.

Shapes: B batch, N audio samples.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from latentdiff import runs, tracking
from latentdiff.errors import UserError
from latentdiff.interrupt import StopRequest
from latentdiff.rave import callbacks, compat
from latentdiff.rave.callbacks import LAST, StepPlan, Supervisor
from latentdiff.rave.checkpoint import (
    load_weights,
    read_checkpoint,
    read_result,
    step_to_resume,
)
from latentdiff.rave.checks import DatasetFacts, check, check_codec, check_sound
from latentdiff.rave.clock import ClockedSchedule, RunClock, plan_in_words
from latentdiff.rave.database import RaveDatabase
from latentdiff.rave.dataset import EndlessBatches, FixedCrops, TrainingCrops, training_loader
from latentdiff.rave.devices import accelerator, fast_arithmetic, one_thread
from latentdiff.rave.gin_config import Assembly, assemble, receptive_field
from latentdiff.rave.level import add_level_loss
from latentdiff.rave.locate import CONFIG, Weights
from latentdiff.rave.result import RaveTrainingResult
from latentdiff.rave.settings import RaveConfig
from latentdiff.rave.speedup import speed_up
from latentdiff.rave.starter import Starter, find_starter, load_starter
from latentdiff.run_length import RunLength

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningDataModule, Trainer
    from pytorch_lightning.loggers.logger import DummyLogger

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RaveTrainingPlan:
    """Everything that is fixed before the first step."""

    parameters: int
    """Number of weights in encoder and decoder."""
    hop: int
    """Audio samples per latent frame."""
    latent_dim: int
    receptive_field: int
    """Audio samples around one sample that its reconstruction depends on."""
    start: int
    """Steps done already."""
    over: bool
    """Whether the budget is used up."""
    ahead: str
    """Budget and phases, in words."""
    weights: Weights | None
    """Weights that a new run starts from; None: random ones, or a continued run."""
    weights_step: int | None
    """Steps that those weights were trained for; None: unknown, or no such weights."""
    starter: Starter | None
    """The starter codec that a new run starts from; None: another start."""


class RaveTraining:
    """One RAVE training in one folder: checked on entering, run by `fit`, continued if begun.

    The folder gets config.gin, metrics.jsonl, TensorBoard events and checkpoints/{last,best}.ckpt.
    Use as a context manager: RAVE's settings are global and are restored on leaving.
    Raises UserError where settings, dataset and checkpoints do not fit together, or where `encode`
    could not use the result.
    """

    def __init__(
        self,
        config: RaveConfig,
        dataset: Path,
        directory: Path,
        *,
        seed: int = 0,
        device: str = "auto",
        initial_weights: Weights | None = None,
        resume: bool = True,
    ) -> None:
        """`initial_weights`: for a new run only, see `locate.find_weights`; None: random ones."""
        self._config = config
        self._dataset = dataset
        self._directory = directory
        self._seed = seed
        self._device = accelerator(device)
        self._initial_weights = initial_weights
        self._resume = resume
        self._checkpoints = directory / CHECKPOINTS
        self._length = RunLength(config)
        self._phase_2_share = config.share_of_phase_2(self._device)
        self._began = 0.0

    def __enter__(self) -> RaveTraining:
        self._began = time.monotonic()
        self._gin = compat.isolated_gin()
        self._gin.__enter__()
        try:
            with one_thread(self._config.devices > 1):
                self._prepare()
        except BaseException:
            self._gin.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._gin.__exit__(None, None, None)

    def _prepare(self) -> None:
        database = RaveDatabase(self._dataset)
        self._train_records, self._validation_records = database.split()
        begun = read_result(self.last) if self._resume and self.last.exists() else None
        weights = None if begun else self._initial_weights
        self._resume_from = self.last if begun else None
        self._start = begun.step if begun else 0
        if weights is not None and weights.resume:
            self._resume_from = weights.checkpoint
            self._start = self._step_to_resume(weights)
        self._assembly = self._assemble(database, begun, weights)
        weights_step = self._load(weights) if weights else None
        starter = None
        if not begun and weights is None and self._config.start == "auto":
            starter = find_starter(self._assembly.model, database.sample_rate)
        if starter is not None:
            load_starter(self._assembly.model, starter)
        field = self._measure_field()
        self._check(database, field)
        model = self._assembly.model
        pretrained = begun.pretrained if begun else bool(weights or starter)
        self._result = RaveTrainingResult(
            schedule=self._assembly.schedule,
            sample_rate=database.sample_rate,
            channels=database.channels,
            hop=self._assembly.hop,
            latent_dim=int(model.latent_size),
            pretrained=pretrained,
            elapsed=begun.elapsed if begun else 0.0,
        )
        codec_parts = (model.encoder, model.decoder)
        self.plan = RaveTrainingPlan(
            parameters=sum(p.numel() for part in codec_parts for p in part.parameters()),
            hop=self._assembly.hop,
            latent_dim=self._result.latent_dim,
            receptive_field=sum(field) // model.n_channels,
            start=self._start,
            over=self._length.over(self._start, self._result.elapsed),
            ahead=plan_in_words(
                self._length, self._result.schedule, self._start, self._phase_2_share
            ),
            weights=weights,
            weights_step=weights_step,
            starter=starter,
        )

    def _assemble(
        self, database: RaveDatabase, begun: RaveTrainingResult | None, weights: Weights | None
    ) -> Assembly:
        """The model by our settings or, with pretrained weights, by their config.gin."""
        gin_file = weights.config if weights else None
        if begun is not None and begun.pretrained and (self._directory / CONFIG).exists():
            # A continued run knows its pretrained architecture from the config.gin that it wrote.
            gin_file = self._directory / CONFIG
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            return assemble(
                self._config,
                database.sample_rate,
                database.channels,
                begun.schedule if begun else None,
                gin_file,
                self._device,
                keep_lengths=weights is not None and weights.resume,
            )

    def _step_to_resume(self, weights: Weights) -> int:
        """The step from which the training of `weights` goes on."""
        if weights.config is None:
            raise UserError(
                f"the training of {weights.checkpoint} cannot be continued",
                why=f"there is no {CONFIG} near it, which holds its schedule",
                do_this="name the folder of the run, or leave out --continue.",
            )
        step = step_to_resume(weights.checkpoint)
        if self._length.over(step, 0.0):
            raise UserError(
                f"nothing is left to do: {weights.checkpoint} is at step {step:,}",
                why=f"rave.steps is {self._config.steps:,}",
                do_this="raise rave.steps; it counts from the very first step.",
            )
        return step

    def _load(self, weights: Weights) -> int | None:
        """Put the weights into the model; the number of steps they were trained for, if known."""
        model = self._assembly.model
        load_weights(model, weights.checkpoint)
        for part in (model.encoder, model.decoder):
            # An encoder saved in phase 2 is frozen, and this run begins with phase 1.
            part.set_warmed_up(False)
        step = read_checkpoint(weights.checkpoint).get("global_step")
        return None if step is None else int(step)

    def _measure_field(self) -> tuple[int, int]:
        """The receptive field (left, right) in samples; written into the model's buffer too."""
        model = self._assembly.model
        field = receptive_field(model)
        # RAVE's loss crops by this buffer, but RAVE itself fills it only after a validation.
        model.receptive_field.copy_(torch.tensor(field))
        return field

    def _check(self, database: RaveDatabase, field: tuple[int, int]) -> None:
        facts = DatasetFacts(
            database.samples(), len(self._train_records), len(self._validation_records)
        )
        check(self._assembly, self._config, field, facts)
        check_sound(self._crops(self._validation_records))
        check_codec()

    @property
    def last(self) -> Path:
        """Path of last.ckpt, whether it exists or not."""
        return self._checkpoints / LAST

    def result(self) -> RaveTrainingResult:
        """The result recorded in last.ckpt. Raises UserError if it is missing or damaged."""
        return read_result(self.last)

    def fit(self) -> RaveTrainingResult:
        """Train up to the budget and return `result()`.

        Raises KeyboardInterrupt on Ctrl-C or SIGTERM, after last.ckpt has been written.
        """
        if self.plan.over:
            return self.result()
        runs.make_directory(self._checkpoints)
        runs.write_text(self._directory / CONFIG, self._assembly.text)
        resume = self._start if self._start else None
        with StopRequest() as stop:
            supervisor = self._supervisor(partial(tracking.Tracker, self._directory, resume), stop)
            try:
                interrupted = self._run(supervisor)
            finally:
                supervisor.close()
        if interrupted:
            raise KeyboardInterrupt
        return self.result()

    def _step_plan(self) -> StepPlan:
        config = self._config
        every = config.validate_every
        if every is None and config.steps is not None and config.hours is None:
            every = min(10_000, max(10, config.steps // 20))
        return StepPlan(self._start, every, config.checkpoint_every, self._seed)

    def _crops(self, records: list[int]) -> FixedCrops:
        config = self._config
        return FixedCrops(self._dataset, records, config.n_signal, config.validation_chunks)

    def _supervisor(
        self, open_tracker: Callable[[], tracking.Tracker], stop: StopRequest
    ) -> Supervisor:
        import pytorch_lightning as pl

        # Lightning files a callback's state in checkpoints under the name of its class, so this
        # one must stay "Supervisor" for old checkpoints to be continued.
        joined: type[Supervisor] = type("Supervisor", (Supervisor, pl.Callback), {})
        crops, more_crops = map(self._crops, (self._validation_records, self._train_records))
        final = 1 + len(more_crops) / len(crops)
        return joined(
            self._step_plan(),
            self._result,
            RunClock(self._length, self._result.elapsed, self._began, final),
            ClockedSchedule(self._phase_2_share, self._assembly.beta_warmup),
            self._checkpoints,
            crops,
            more_crops,
            open_tracker,
            stop,
        )

    def _run(self, supervisor: Supervisor) -> bool:
        """Run the Trainer; true where it was interrupted."""
        from pytorch_lightning.loggers.logger import DummyLogger
        from rave.model import WarmupCallback

        class Logger(callbacks.TrainingLog, DummyLogger):
            """Everything of Lightning's logger interface that `TrainingLog` leaves out."""

        logger = Logger()
        logger.supervisor = supervisor
        speed_up(self._assembly.model)
        if self._config.level_weight:
            add_level_loss(self._assembly.model, self._config.level_weight)
        with compat.quiet_warnings(), fast_arithmetic(self._device):
            trainer = self._trainer(
                # A Callback too, see `_supervisor`.
                [cast("Callback", supervisor), WarmupCallback(), self._assembly.beta_warmup],
                logger,
            )
            trainer.fit(
                self._assembly.model,
                datamodule=self._data_module(),
                ckpt_path=str(self._resume_from) if self._start else None,
            )
        return bool(trainer.interrupted)

    def _trainer(self, steps_callbacks: list[Callback], logger: DummyLogger) -> Trainer:
        import pytorch_lightning as pl
        from pytorch_lightning.plugins.io import CheckpointIO
        from pytorch_lightning.utilities.exceptions import MisconfigurationException

        class Checkpoints(callbacks.AtomicCheckpoints, CheckpointIO):
            """`AtomicCheckpoints` as Lightning's plugin."""

        config = self._config
        try:
            return pl.Trainer(
                accelerator=self._device,
                devices=config.devices,
                strategy="ddp_fork" if config.devices > 1 else None,
                precision="bf16" if config.precision == "bf16-mixed" else 32,
                max_steps=-1 if config.steps is None else config.steps,
                max_epochs=-1,
                callbacks=steps_callbacks,
                logger=logger,
                plugins=[Checkpoints()],
                default_root_dir=str(self._directory),
                log_every_n_steps=self._log_interval(),
                # Validation, checkpoints and progress are the supervisor's; the sampler is ours.
                limit_val_batches=0,
                num_sanity_val_steps=0,
                replace_sampler_ddp=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        except (ValueError, RuntimeError, MisconfigurationException) as error:
            raise UserError(
                f"cannot train on {config.devices} device(s) of kind {self._device}",
                why=str(error).strip().splitlines()[0],
                do_this="set rave.devices to what this machine has, or --device cpu.",
            ) from error

    def _log_interval(self) -> int:
        """Steps between lines of metrics: about 200 lines of a short training, at most 50 steps."""
        steps, hours = self._config.steps, self._config.hours
        # One step a second is what a laptop manages.
        expected = min(steps or math.inf, 3600 * (hours or math.inf))
        return int(max(1, min(50, expected // 200)))

    def _data_module(self) -> LightningDataModule:
        import pytorch_lightning as pl

        config, seed = self._config, self._seed
        crops = TrainingCrops(
            self._dataset, config.n_signal, seed=seed, augmentations=config.augmentations
        )
        records, start, pin = self._train_records, self._start, self._device == "cuda"

        class Data(pl.LightningDataModule):
            """Gives each device its share of every step, once the devices are launched."""

            def train_dataloader(self) -> DataLoader[Tensor]:
                trainer = self.trainer
                assert trainer is not None
                rank, world = trainer.global_rank, trainer.world_size
                batches = EndlessBatches(
                    records, config.batch, seed=seed, start=start, rank=rank, world=world
                )
                return training_loader(crops, batches, workers=config.workers, pin=pin)

        return Data()
