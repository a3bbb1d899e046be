"""`sample`: a diffusion model -> new latents, in a folder that `decode` turns into sound.

Shapes: B samples drawn together, C latent channels, D latent dimensions, T latent frames.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from torch import Tensor

from latentdiff import runs
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation.spread import SpreadMeter
from latentdiff.latents.arrays import array_writer
from latentdiff.latents.store import MANIFEST, Entry
from latentdiff.model.condition_inputs import ConditionInput, as_condition
from latentdiff.model.condition_maker import ConditionMaker, Options
from latentdiff.model.model import Model
from latentdiff.model.project import Project, already_done, folder_name
from latentdiff.model.resolve import find_codec, require_codec
from latentdiff.model.variation import STRENGTH, Variation
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Codec
from latentdiff.tracking import progress
from latentdiff.training import checkpoint
from latentdiff.training.data import generator_for
from latentdiff.training.fabric import pick_device

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 1 << 16
"""Frames of all samples drawn together, so that memory does not grow with their length."""
FAR_OFF = 2.0
"""Factor between the spread of samples and of training latents beyond which to warn."""


@dataclass(frozen=True)
class Order:
    """One sample to be drawn."""

    name: str
    seed: int
    frames: int
    follows: ConditionInput
    varies: Variation | None = None


def sample(
    run: Run,
    project: Project,
    *,
    diffusion: Path | None = None,
    n: int = 4,
    seconds: float | None = None,
    condition: Sequence[Path] = (),
    options: Options | None = None,
    init: Path | None = None,
    strength: float = STRENGTH,
    rave: Path | None = None,
    ckpt: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Draw `n` samples (for each condition) with seeds `project.seed`, `project.seed` + 1, ...

    `condition`: recordings and labels; `options`: what the options of condition kinds ask for.
    `init`: a recording to vary, by as much as `strength` says (0: not at all; 1: a new sample).
    `rave` and `ckpt` name the codec, which recordings to sound like need. A sample depends on the
    model, the sampler, its seed, length and conditions, and on nothing else. Returns
    "path: reason" for conditions that could not be read.
    """
    model = Model.load(checkpoint.find(diffusion or run.diffusion), pick_device(project.device))
    model = model.with_sampling_of(project)
    codec = cache(lambda: _codec(run, model, rave, ckpt))
    maker = ConditionMaker(model, options or {}, codec)
    varies = None if init is None else Variation.of(model, codec(), init, strength, seconds)
    if varies is not None and not condition:
        follows, skipped = [ConditionInput()], list[str]()
    else:
        follows, skipped = maker.given(condition, seconds)
    orders = _orders(maker, follows, n, project, seconds, varies)
    directory = run.samples / folder_name(name or new_name())
    settings = {
        "sampling": project.sampling.model_dump(mode="json"),
        "seed": project.seed,
        "n": n,
        "seconds": seconds,
        "condition": [str(path) for path in condition],
        **{name: list(words) for name, words in (options or {}).items() if words},
        **({} if init is None else {"init": str(init), "strength": strength}),
        **model.spec.experiment.to_section(),
    }
    inputs = {"diffusion": model.as_input()}
    if model.codec.fingerprint:
        inputs["codec"] = Input(model.spec.codec_path, model.codec.fingerprint)
    _log_plan(model, orders, project.sampling, directory)
    if already_done(directory, "sample", settings, inputs, overwrite):
        return skipped
    if dry_run:
        log.info("dry run: nothing was written")
        return skipped
    with Stage(
        directory, "sample", config=settings, inputs=inputs, seed=project.seed, overwrite=overwrite
    ) as stage:
        stage.record(**_codec_record(model))
        spread, calls = _draw_all(model, orders, project.sampling, directory)
        stage.record(network_calls=calls, spread=[round(x, 4) for x in spread.tolist()])
        asked = any(order.follows.source is not None for order in orders)
        _judge(spread, calls, model, project.sampling, asked)
    log.info("%d samples in %s; to listen: decode, or sample --decode", len(orders), directory)
    return skipped


def new_name() -> str:
    """A folder for samples that were given none: the time."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _orders(
    maker: ConditionMaker,
    follows: Sequence[ConditionInput],
    n: int,
    project: Project,
    seconds: float | None,
    varies: Variation | None,
) -> list[Order]:
    free = maker.model.spec.frames(seconds or project.sampling.seconds)
    if varies is not None:
        follows, free = varies.following(follows), varies.frames
    ending = "" if varies is None else f"-varied{varies.strength:g}"
    orders = []
    for each in follows:
        frames = each.frames or free
        for number in range(project.seed, project.seed + n):
            whole = maker.complete(each, number, frames)
            name = f"seed{number}-{whole.name}{ending}"
            orders.append(Order(name, number, frames, whole, varies))
    return orders


def _codec(run: Run, model: Model, rave: Path | None, ckpt: str | None) -> Codec | None:
    recorded = Path(model.spec.codec_path) if model.spec.codec_path else None
    codec = find_codec(run, recorded, rave, ckpt, str(model.device))
    if codec is not None:
        dimensions = model.whitening.dimensions
        require_codec(codec, model.codec, dimensions, f"the latents of {model.name}")
    return codec


def _log_plan(model: Model, orders: list[Order], settings: SamplingConfig, directory: Path) -> None:
    longest = max(model.spec.seconds(order.frames) for order in orders)
    log.info("model: %s, step %d", model.path, model.step)
    own = model.resolve(settings)
    how = (
        "one call of a regression"
        if model.spec.is_regression
        else f"{own.sampler}, {own.steps} steps, autoguidance {own.autoguidance:.3g}"
    )
    log.info("%d samples of up to %.1f s, %s -> %s", len(orders), longest, how, directory)
    for warning in model.spec.recipe.warnings:
        log.warning("%s", warning)


def _codec_record(model: Model) -> dict[str, str | int | None]:
    """The codec information that `decode` needs; no fingerprint if it is unknown."""
    facts = asdict(model.codec)
    fingerprint = facts.pop("fingerprint")
    return {**facts, "codec": fingerprint or None, "step": model.step}


def _draw_all(
    model: Model, orders: list[Order], settings: SamplingConfig, directory: Path
) -> tuple[Tensor, int]:
    """Draw and write every sample and the manifest. Returns spread [C] and calls per sample."""
    meter, rows, calls = SpreadMeter(model.whitening.variance), [], 0
    with progress(total=len(orders), unit="sample", what="sampling") as bar:
        for part in _batches(orders, settings.batch):
            condition = as_condition([order.follows for order in part])
            seeds = [order.seed for order in part]
            varies = part[0].varies
            start = None if varies is None else varies.start(len(part))
            drawn = model.sample(settings, seeds, part[0].frames, condition, start)
            calls = drawn.network_calls
            meter.add(drawn.latents)
            for order, latents in zip(part, drawn.latents, strict=True):
                rows.append(_write(model, order, latents, settings, directory))
                bar.update()
    runs.write_jsonl(directory / MANIFEST, [row.row() for row in rows])
    return meter.spread(), calls


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


def _write(
    model: Model, order: Order, x: Tensor, settings: SamplingConfig, directory: Path
) -> Entry:
    """One raw latent file [D, T]; its entry of the manifest."""
    if order.varies is None:
        latents = model.unwhiten(x, settings.fill, generator_for(order.seed, "fill")).numpy()
    else:
        latents = order.varies.raw(model, x).numpy()
    file = f"{order.name}.npy"
    with array_writer(directory / file) as writer:
        writer.append(latents)
    return Entry(
        key=order.name,
        source=order.follows.source,
        split="train",
        samples=order.frames * model.codec.hop,
        frames=order.frames,
        mean=file,
    )


def _judge(spread: Tensor, calls: int, model: Model, settings: SamplingConfig, asked: bool) -> None:
    """Log the strength of samples; `asked`: whether they follow what was asked for."""
    middle, low, high = spread.median(), spread.min(), spread.max()
    log.info(
        "%d network calls per sample; spread per direction %.2f to %.2f, median %.2f "
        "(training latents: 1.00)",
        calls,
        low,
        high,
        middle,
    )
    if middle < 1 / FAR_OFF and asked:
        # As strong as they should be, for all that is known.
        log.info("the samples are far weaker than the training latents: is what they follow quiet?")
    elif not 1 / FAR_OFF <= middle <= FAR_OFF:
        log.warning(
            "the samples are %s than the training latents: expect %s. Try: %s.",
            "far weaker" if middle < 1 else "far stronger",
            "near silence" if middle < 1 else "noise or distortion",
            ", ".join(_advice(model, settings)),
        )


def _advice(model: Model, settings: SamplingConfig) -> list[str]:
    """Settings that could bring the spread of samples closer to 1 and are not in use yet."""
    advice = []
    if not model.spec.has_fixed_calls:
        advice.append("more sampling.steps")
    if settings.guidance != 1:
        advice.append("sampling.guidance=1")
    return [*advice, "longer training"]
