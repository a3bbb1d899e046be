"""Trains RAVE: its model and losses, pytorch-lightning's Trainer, our data, checkpoints and checks.

Shapes: B batch, N samples.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latentdiff import runs, tracking
from latentdiff.errors import UserError
from latentdiff.interrupt import StopRequest
from latentdiff.rave import callbacks, compat
from latentdiff.rave.callbacks import LAST, Plan, Supervisor
from latentdiff.rave.checkpoint import OURS, load_weights, read_own
from latentdiff.rave.checks import check
from latentdiff.rave.database import RaveDatabase
from latentdiff.rave.dataset import EndlessBatches, FixedCrops, TrainingCrops, training_loader
from latentdiff.rave.gin_config import Assembly, Schedule, assemble, receptive_field
from latentdiff.rave.settings import RaveConfig

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
GIN_FILE = "config.gin"


@dataclass(frozen=True)
class Report:
    """What is known before the first step."""

    parameters: int
    """Of encoder and decoder."""
    hop: int
    """Samples per latent frame."""
    latent_dim: int
    receptive_field: int
    """Samples around one that it depends on."""
    start: int
    """Steps done already."""
    schedule: Schedule


class RaveTraining:
    """One RAVE training in one folder: checked on entering, run by `fit`, continued if begun.

    The folder gets config.gin, metrics.jsonl, TensorBoard events and checkpoints/{last,best}.ckpt.
    Use as a context manager: RAVE's settings are global and are put back on leaving.
    Raises UserError where the settings, the dataset and the checkpoints do not go together.
    """

    def __init__(
        self,
        config: RaveConfig,
        dataset: Path,
        directory: Path,
        *,
        seed: int = 0,
        device: str = "auto",
        initial_weights: Path | None = None,
        resume: bool = True,
    ) -> None:
        self._config = config
        self._dataset = dataset
        self._directory = directory
        self._seed = seed
        self._device = _accelerator(device)
        self._initial_weights = initial_weights
        self._resume = resume
        self._checkpoints = directory / CHECKPOINTS

    def __enter__(self) -> RaveTraining:
        self._gin = compat.isolated_gin()
        self._gin.__enter__()
        try:
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
        begun = read_own(self.last)[OURS] if self._resume and self.last.exists() else None
        self._start = begun["step"] if begun else 0
        self._assembly = self._assemble(database, begun)
        model = self._assembly.model
        if self._initial_weights is not None and not begun:
            load_weights(model, self._initial_weights)
            for part in (model.encoder, model.decoder):  # else an encoder of phase 2 stays frozen
                part.set_warmed_up(False)
        field = receptive_field(model)
        # The loss crops by it from the first step; RAVE alone would only after a validation.
        model.receptive_field.copy_(torch.tensor(field))
        check(
            self._assembly,
            self._config,
            field,
            database.samples(),
            len(self._train_records),
            len(self._validation_records),
        )
        self._facts = {
            "format": 1,
            "schedule": self._assembly.schedule.to_dict(),
            "sample_rate": database.sample_rate,
            "channels": database.channels,
            "hop": self._assembly.hop,
            "latent_dim": model.latent_size,
        }
        self.report = Report(
            parameters=sum(
                p.numel() for part in (model.encoder, model.decoder) for p in part.parameters()
            ),
            hop=self._assembly.hop,
            latent_dim=model.latent_size,
            receptive_field=sum(field) // model.n_channels,
            start=self._start,
            schedule=self._assembly.schedule,
        )

    def _assemble(self, database: RaveDatabase, begun: dict[str, Any] | None) -> Assembly:
        schedule = Schedule(**begun["schedule"]) if begun else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            return assemble(self._config, database.sample_rate, database.channels, schedule)

    @property
    def last(self) -> Path:
        return self._checkpoints / LAST

    def outcome(self) -> dict[str, Any]:
        """What last.ckpt says of itself: step, phase, first, last and best distance."""
        facts = read_own(self.last)[OURS]
        assert isinstance(facts, dict)
        return facts

    def fit(self) -> dict[str, Any]:
        """Train up to the budget and return `outcome()`.

        Raises KeyboardInterrupt on Ctrl-C or SIGTERM, after last.ckpt has been written.
        """
        if self._start >= self._config.steps:
            return self.outcome()
        runs.make_directory(self._checkpoints)
        runs.write_text(self._directory / GIN_FILE, self._assembly.text)
        resume = self._start if self._start else None
        with StopRequest() as stop:
            supervisor = self._supervisor(partial(tracking.Tracker, self._directory, resume), stop)
            try:
                interrupted = self._run(supervisor)
            finally:
                supervisor.close()
        if interrupted:
            raise KeyboardInterrupt
        return self.outcome()

    def _plan(self) -> Plan:
        config = self._config
        every = config.validate_every or min(10_000, max(10, config.steps // 20))
        return Plan(
            start=self._start,
            steps=config.steps,
            phase_1_steps=self._assembly.schedule.phase_1_steps,
            validate_every=every,
            checkpoint_every=config.checkpoint_every or every,
            seed=self._seed,
        )

    def _supervisor(self, open_tracker: Any, stop: StopRequest) -> Any:
        import pytorch_lightning as pl

        config = self._config
        crops, more_crops = (
            FixedCrops(self._dataset, records, config.n_signal, config.validation_chunks)
            for records in (self._validation_records, self._train_records)
        )
        joined = type("Supervisor", (Supervisor, pl.Callback), {})
        return joined(
            self._plan(), self._facts, self._checkpoints, crops, more_crops, open_tracker, stop
        )

    def _run(self, supervisor: Any) -> bool:
        """Run the Trainer; true where it was interrupted."""
        from pytorch_lightning.loggers.logger import DummyLogger
        from rave.model import WarmupCallback

        logger = type("Logger", (callbacks.TrainingLog, DummyLogger), {})()
        logger.supervisor = supervisor
        with compat.quiet_warnings(), _fast_arithmetic(self._device):
            trainer = self._trainer(
                [supervisor, WarmupCallback(), self._assembly.beta_warmup], logger
            )
            trainer.fit(
                self._assembly.model,
                datamodule=self._data_module(),
                ckpt_path=str(self.last) if self._start else None,
            )
        return bool(trainer.interrupted)

    def _trainer(self, steps_callbacks: list[Any], logger: Any) -> Any:
        import pytorch_lightning as pl
        from pytorch_lightning.plugins.io import CheckpointIO

        config = self._config
        atomic = type("Checkpoints", (callbacks.AtomicCheckpoints, CheckpointIO), {})()
        try:
            return pl.Trainer(
                accelerator=self._device,
                devices=config.devices,
                strategy="ddp_fork" if config.devices > 1 else None,
                precision="bf16" if config.precision == "bf16-mixed" else 32,
                max_steps=config.steps,
                max_epochs=-1,
                callbacks=steps_callbacks,
                logger=logger,
                plugins=[atomic],
                default_root_dir=str(self._directory),
                log_every_n_steps=max(1, min(50, config.steps // 200)),
                limit_val_batches=0,
                num_sanity_val_steps=0,
                replace_sampler_ddp=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        except (ValueError, RuntimeError, pl.utilities.exceptions.MisconfigurationException) as e:
            raise UserError(
                f"cannot train on {config.devices} device(s) of kind {self._device}",
                why=str(e).strip().splitlines()[0],
                do_this="set rave.devices to what this machine has, or --device cpu.",
            ) from e

    def _data_module(self) -> Any:
        import pytorch_lightning as pl

        config, seed = self._config, self._seed
        crops = TrainingCrops(
            self._dataset, config.n_signal, seed=seed, augmentations=config.augmentations
        )
        records, start, pin = self._train_records, self._start, self._device == "cuda"

        class Data(pl.LightningDataModule):
            """Each device gets its own share of every step; known only once they are launched."""

            def train_dataloader(self) -> Any:
                trainer = self.trainer
                assert trainer is not None
                rank, world = trainer.global_rank, trainer.world_size
                batches = EndlessBatches(
                    records, config.batch, seed=seed, start=start, rank=rank, world=world
                )
                return training_loader(crops, batches, workers=config.workers, pin=pin)

        return Data()


def _accelerator(device: str) -> str:
    """The accelerator that `auto` means here; UserError where the one asked for is not there."""
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if here[name])
    if not here[device]:
        raise UserError(
            f"--device {device}: torch sees no such device on this machine",
            why=f"torch {torch.__version__}",
            do_this="`latentdiff doctor` shows what there is; --device cpu always works.",
        )
    return device


@contextmanager
def _fast_arithmetic(device: str) -> Iterator[None]:
    """TF32 products and tuned convolutions on CUDA, as RAVE trains; as found afterwards."""
    if device != "cuda":
        yield
        return
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
