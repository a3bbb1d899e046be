"""A denoiser with its optimiser and averaged weights: gradient steps, and their state.

Shapes: B windows of this process in a step.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError
from latentdiff.specs import Denoise
from latentdiff.training.batch_sampler import StepBatch
from latentdiff.training.checkpoint import State
from latentdiff.training.ema import Ema
from latentdiff.training.meter import StepMeasurement
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.task import Task

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger(__name__)


class DenoiserLearner:
    """A denoiser in training: its raw and averaged weights, optimiser and precision."""

    def __init__(
        self,
        denoiser: nn.Module,
        task: Task,
        settings: TrainingConfig,
        fabric: Fabric,
        group: ProcessGroup,
    ) -> None:
        self.network = denoiser
        self._task, self._settings = task, settings
        self._fabric, self._group = fabric, group
        halflives = settings.ema_halflives or (None,)
        self.averages = [Ema(denoiser, halflife) for halflife in halflives]
        for average in self.averages:
            average.module.to(fabric.device)
        optimizer = torch.optim.AdamW(
            denoiser.parameters(),
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            # The gradient scaler of 16-mixed cannot clip for a fused optimiser.
            fused=fabric.device.type in ("cuda", "cpu") and settings.precision != "16-mixed",
        )
        self._model, self._optimizer = fabric.setup(denoiser, optimizer)

    def step(self, step: int, step_batch: StepBatch, *, rate: float, seed: int) -> StepMeasurement:
        """One optimiser step at learning rate `rate`; `seed`: of the network's own randomness."""
        step_batch = self._paired(step_batch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        _seed_network(seed, self._fabric.device)
        self.network.train()
        self._optimizer.zero_grad(set_to_none=True)
        losses = torch.cat(list(self._backward(step_batch)))
        norm = self._clip()
        self._optimizer.step()
        self._observe(step_batch, losses)
        with torch.no_grad():
            baselines = self._losses(self._task.baseline, step_batch)
        return StepMeasurement(
            step, losses, baselines, step_batch.logsnr, step_batch.batch.files, norm
        )

    def average(self, seen: int, halflife: float) -> None:
        """Update the averages after `seen` windows in all; `halflife` as in `Ema.update`."""
        for average in self.averages:
            average.update(self.network, self._settings.batch, seen, halflife)

    def finite(self) -> bool:
        """Whether all weights are finite: a gradient can be infinite although no loss is."""
        largest = [p.detach().abs().max() for p in self.network.parameters()]
        return bool(torch.stack(largest).isfinite().all())

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The network with its raw weights, in evaluation mode and the training precision."""
        self.network.eval()
        with self._fabric.autocast():
            yield self.network
        self.network.train()

    def chosen(self, halflife: float | None) -> Ema:
        """The average with this half-life; the first one if there is none."""
        for average in self.averages:
            if average.halflife == halflife:
                return average
        return self.averages[0]

    def compile(self, step_batch: StepBatch) -> None:
        """Compile the network and try it on `step_batch`; on failure, warn and run uncompiled."""
        self.network.compile()
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        try:
            with self._fabric.autocast():
                loss = self._losses(self.network, next(step_batch.parts(self._settings.accumulate)))
                torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
        # A compiler may raise anything; training can always go on without it.
        except Exception as error:
            self.network._compiled_call_impl = None
            reason = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("torch.compile failed, training uncompiled: %s", reason[0][:200])

    def _paired(self, step_batch: StepBatch) -> StepBatch:
        """The step's latents and noise as the task trains on them."""
        batch = step_batch.batch
        latents, noise = self._task.pair(batch, step_batch.logsnr, step_batch.noise)
        return step_batch._replace(batch=batch._replace(latents=latents), noise=noise)

    def _backward(self, step_batch: StepBatch) -> list[Tensor]:
        """Accumulate the gradient of the mean loss over the whole batch; returns losses [B]."""
        losses = []
        parts = list(step_batch.parts(self._settings.accumulate))
        for part in parts:
            # Processes exchange gradients once a step, with the last part.
            waits = self._group.size > 1 and part is not parts[-1]
            with self._fabric.no_backward_sync(self._model) if waits else _NO_CONTEXT:
                mine = self._losses(self._model, part)
                # Sums over the batch size of the whole, not means: parts and shares may be unequal.
                # Times the number of processes, as DDP takes the mean of their gradients.
                self._fabric.backward(mine.sum() * (self._group.size / self._settings.batch))
            losses.append(mine.detach())
        return losses

    def _losses(self, denoise: Denoise, step_batch: StepBatch) -> Tensor:
        """[B] losses, weighted so that the objective is the same for every noise-level sampler."""
        return (
            self._task.losses(denoise, step_batch.batch, step_batch.logsnr, step_batch.noise)
            * step_batch.weight
        )

    def _observe(self, step_batch: StepBatch, losses: Tensor) -> None:
        """Let an adaptive noise-level sampler update from the losses of this step."""
        if self._task.observant:
            # Of all processes, so that their samplers stay equal and draw the same next batch.
            # Divided by the weight: the density must follow the loss itself, not its own inverse.
            whole = [
                self._group.whole(part, self._settings.batch)
                for part in (step_batch.logsnr, losses / step_batch.weight)
            ]
            self._task.observe(*whole)

    def _clip(self) -> Tensor:
        """Clip the gradient as the settings ask for; returns its norm before that."""
        most = self._settings.gradient_clip
        norm = self._fabric.clip_gradients(
            self._model,
            self._optimizer,
            max_norm=float("inf") if most is None else most,
            # Raising would need the value now; `Meter` checks later without waiting for the device.
            error_if_nonfinite=False,
        )
        assert norm is not None  # clipped by norm, not by value
        return norm.detach()

    def state_dict(self) -> State:
        """Everything the next step depends on; no random state, see `batch_sampler`."""
        return {
            "model": self.network.state_dict(),
            "ema": self.averages[0].module.state_dict(),
            "more_ema": [average.module.state_dict() for average in self.averages[1:]],
            "halflives": [average.halflife for average in self.averages],
            "optimizer": self._optimizer.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
            "levels": self._task.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from such a state.

        An average whose half-life the state lacks starts from the one with the nearest. Raises
        UserError if the state belongs to another network.
        """
        kept = [state["ema"], *state["more_ema"]]
        try:
            self.network.load_state_dict(state["model"])
            for average in self.averages:
                average.module.load_state_dict(kept[_nearest(average, state["halflives"])])
            self._optimizer.load_state_dict(dict(self._with_our_options(state["optimizer"])))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                "the checkpoint belongs to another network",
                why=" ".join(str(error).split())[:200],
                do_this="train again from the start with --overwrite, or use another --run.",
            ) from error
        self._fabric.strategy.precision.load_state_dict(state["precision"])
        self._task.load_state_dict(state.get("levels", {}))

    def _with_our_options(self, saved: State) -> State:
        """A saved optimiser state with the options of the current settings and device."""
        groups = zip(saved["param_groups"], self._optimizer.param_groups, strict=True)
        options = ("weight_decay", "fused")
        merged = [{**old, **{key: new[key] for key in options}} for old, new in groups]
        return {**saved, "param_groups": merged}


_NO_CONTEXT: AbstractContextManager[None] = nullcontext()


def _seed_network(seed: int, device: torch.device) -> None:
    # Not torch.manual_seed: for every device not in use it records a traceback, at every step.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _nearest(average: Ema, halflives: list[float | None]) -> int:
    """Index of the half-life nearest to that of `average`."""
    if average.halflife is None or average.halflife in halflives:
        return halflives.index(average.halflife) if average.halflife in halflives else 0
    wanted = average.halflife
    return min(range(len(halflives)), key=lambda k: abs((halflives[k] or 0.0) - wanted))
