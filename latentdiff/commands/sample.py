"""`sample`: a diffusion model -> new latents, in a folder that `decode` turns into sound.

Shapes: B samples drawn together, C latent channels, D latent dimensions, T latent
frames.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import UserError
from latentdiff.latents.store import MANIFEST, Entry, array_writer
from latentdiff.model.condition_inputs import ConditionInput, condition_inputs
from latentdiff.model.model import Model
from latentdiff.model.project import Project, already_done, folder_name
from latentdiff.notebook.experiments import descriptions as told
from latentdiff.notebook.experiments import sampling
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Condition, Denoise
from latentdiff.tracking import progress
from latentdiff.training import checkpoint
from latentdiff.training.data import generator_for
from latentdiff.training.fabric import pick_device

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 1 << 16
"""Frames of all samples drawn together, so that memory does not grow with their length."""
FAR_OFF = 2.0
"""Factor between the spread of samples and of latents beyond which a warning is given."""


@dataclass(frozen=True)
class Order:
    """One sample to be drawn."""

    name: str
    seed: int
    frames: int
    guide: ConditionInput


def sample(
    run: Run,
    project: Project,
    *,
    diffusion: Path | None = None,
    n: int = 4,
    seconds: float | None = None,
    condition: list[Path] | tuple[Path, ...] = (),
    name: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Draw `n` samples (for each condition) with seeds `project.seed`, `project.seed` + 1, ...

    A sample depends on the model, the sampler, its seed, length and condition, and on nothing
    else. Returns "path: reason" for conditions that could not be read.
    """
    model = Model.load(checkpoint.find(diffusion or run.diffusion), pick_device(project.device))
    model = model.sampled_as(project.experiment)
    guides, losses = condition_inputs(model, condition, seconds)
    orders = _orders(model, guides, n, project.seed, seconds or project.sampling.seconds)
    directory = run.samples / folder_name(name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    settings = {
        "sampling": project.sampling.model_dump(mode="json"),
        "seed": project.seed,
        "n": n,
        "seconds": seconds,
        "condition": [str(path) for path in condition],
    }
    if model.experiment.on:
        settings["experiment"] = model.experiment.model_dump(mode="json")
    inputs = {
        "diffusion": Input(str(model.path), runs.sha256_file(model.path)),
    }
    if model.codec.fingerprint:
        inputs["codec"] = Input(model.codec_path, model.codec.fingerprint)
    _announce(model, orders, project.sampling, directory)
    if already_done(directory, "sample", settings, inputs, overwrite):
        return losses
    if dry_run:
        log.info("dry run: nothing was written")
        return losses
    with Stage(
        directory, "sample", config=settings, inputs=inputs, seed=project.seed, overwrite=overwrite
    ) as stage:
        stage.record(**_facts(model))
        tally, calls = _draw_all(model, orders, project.sampling, directory)
        stage.record(network_calls=calls, spread=[round(x, 4) for x in tally.spread().tolist()])
        _judge(tally, calls)
    log.info("%d samples in %s; hear them: latentdiff decode", len(orders), directory)
    return losses


def _orders(
    model: Model, guides: list[ConditionInput], n: int, seed: int, seconds: float
) -> list[Order]:
    free = model.frames(seconds)
    return [
        Order(f"seed{seed + k}-{guide.name}", seed + k, guide.frames or free, guide)
        for guide in guides
        for k in range(n)
    ]


def _announce(model: Model, orders: list[Order], settings: SamplingConfig, directory: Path) -> None:
    longest = max(model.seconds(order.frames) for order in orders)
    log.info("model: %s, step %d", model.path, model.step)
    log.info(
        "%d samples of up to %.1f s, %s, %d steps, autoguidance %.3g -> %s",
        len(orders),
        longest,
        settings.sampler,
        settings.steps,
        model.draws(settings).autoguidance,
        directory,
    )
    for warning in [*told.warnings(model.experiment), *model.schedule.warnings]:
        log.warning("%s", warning)


def _facts(model: Model) -> dict[str, Any]:
    """What `decode` asks of a folder of latents; no fingerprint where none is known."""
    facts = asdict(model.codec)
    fingerprint = facts.pop("fingerprint")
    return {**facts, "codec": fingerprint or None, "step": model.step}


class Tally:
    """Mean squares per channel of all frames drawn, beside the variance [C] of the training."""

    def __init__(self, variance: Tensor) -> None:
        self._variance = variance.double().cpu()
        self._squares = torch.zeros_like(self._variance)
        self._frames = 0

    def add(self, x: Tensor) -> None:
        """Final latents [B, C, T]."""
        self._squares += x.double().square().sum(dim=(0, 2)).cpu()
        self._frames += len(x) * x.shape[-1]

    def spread(self) -> Tensor:
        """[C] root mean square over that of the training latents."""
        return (self._squares / self._frames / self._variance).sqrt()


class Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoise: Denoise) -> None:
        self._denoise = denoise
        self.calls = 0

    def __call__(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        self.calls += 1
        return self._denoise(z_t, logsnr, condition)


def _draw_all(
    model: Model, orders: list[Order], settings: SamplingConfig, directory: Path
) -> tuple[Tally, int]:
    """Draw and write every sample and the manifest; also network calls for each sample."""
    tally, rows, calls = Tally(model.whitening.variance), [], 0
    settings = model.draws(settings)
    with progress(total=len(orders), unit="sample", what="sampling") as bar:
        for part in _batches(orders, settings.batch):
            counted = Counted(sampling.as_sampled(model.experiment, model.denoiser, settings.steps))
            x = _draw(model, counted, part, settings)
            calls = counted.calls
            tally.add(x)
            for order, latents in zip(part, x, strict=True):
                rows.append(_write(model, order, latents, settings, directory))
                bar.update()
    runs.write_jsonl(directory / MANIFEST, rows)
    return tally, calls


def _batches(orders: list[Order], most: int) -> Iterator[list[Order]]:
    """Neighbours of equal length, as many as `most` and memory allow."""
    part: list[Order] = []
    for order in orders:
        room = min(most, max(1, FRAMES_AT_ONCE // order.frames))
        if part and (len(part) >= room or part[0].frames != order.frames):
            yield part
            part = []
        part.append(order)
    yield part


def _draw(model: Model, denoise: Denoise, orders: list[Order], settings: SamplingConfig) -> Tensor:
    """Final latents [B, C, T]."""
    device = next(model.denoiser.parameters()).device
    features = [order.guide.features for order in orders]
    labels = [order.guide.label for order in orders]
    condition = Condition(
        features=None if features[0] is None else torch.from_numpy(np.stack(features)).to(device),  # type: ignore[arg-type]
        label=None if labels[0] is None else torch.tensor(labels, device=device),
    )
    x = sampling.sample(
        model.experiment,
        denoise,
        model.schedule,
        settings,
        [order.seed for order in orders],
        model.whitening.channels,
        orders[0].frames,
        condition,
        device,
        variance=model.whitening.variance,
    )
    if not torch.isfinite(x).all():
        raise UserError(
            "the samples hold NaN or infinite values",
            why=f"of {model.path}, with {settings.sampler} and guidance {settings.guidance:g}",
            do_this="lower sampling.guidance, raise sampling.steps, or train longer.",
        )
    return x.float().cpu()


def _write(
    model: Model, order: Order, x: Tensor, settings: SamplingConfig, directory: Path
) -> dict[str, Any]:
    """One raw latent file [D, T]; its row of the manifest."""
    noise = generator_for(order.seed, "fill")
    latents = model.whitening.unwhiten(x, settings.fill, noise).numpy()
    file = f"{order.name}.npy"
    with array_writer(directory / file) as writer:
        writer.append(latents)
    return Entry(
        key=order.name,
        source=order.guide.source,
        split="train",
        samples=order.frames * model.codec.hop,
        frames=order.frames,
        mean=file,
    ).row()


def _judge(tally: Tally, calls: int) -> None:
    spread = tally.spread()
    middle, low, high = spread.median(), spread.min(), spread.max()
    log.info(
        "%d network calls a sample; spread per direction %.2f to %.2f, median %.2f "
        "(training latents: 1.00)",
        calls,
        low,
        high,
        middle,
    )
    if not 1 / FAR_OFF <= middle <= FAR_OFF:
        log.warning(
            "the samples are %s than the training latents: expect %s. Try more sampling.steps, "
            "sampling.guidance=1, or train longer.",
            "far weaker" if middle < 1 else "far stronger",
            "near silence" if middle < 1 else "noise or distortion",
        )
