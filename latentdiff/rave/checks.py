"""What would go wrong in a RAVE training after minutes or days, found before its first step.

Shapes: N samples per record, D latent dimensions.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.rave.codec import RaveCodec
from latentdiff.rave.dataset import FixedCrops
from latentdiff.rave.gin_config import Assembly, smallest_signal
from latentdiff.rave.load import Origin
from latentdiff.rave.net import RunNet
from latentdiff.rave.settings import RaveConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetFacts:
    """Facts about the dataset that the checks need."""

    record: int
    """N."""
    training: int
    """Number of records to train on."""
    validation: int
    """Number of held-out records."""


def check(
    assembly: Assembly, config: RaveConfig, field: tuple[int, int], dataset: DatasetFacts
) -> None:
    """Refuse settings that cannot train, naming the smallest value that does.

    `field`: receptive field (left, right) in samples. Raises UserError.
    """
    smallest = smallest_signal(assembly.model, field, assembly.hop)
    _check_signal(assembly, config, field, smallest)
    _check_record(config, dataset.record, smallest, assembly.hop)
    _check_counts(config, dataset.training, dataset.validation)
    _check_latents(assembly, config, dataset.training, dataset.validation)


def check_codec() -> None:
    """Refuse a RAVE that trains but that `encode` could not use afterwards.

    Must run inside `compat.isolated_gin()` after `assemble`: it builds a second model from the same
    bindings, because making a codec of a model changes it. Raises UserError.
    """
    import rave

    cpu = torch.device("cpu")
    with compat.quiet(), torch.random.fork_rng(devices=[]):
        model = rave.RAVE().eval()
    try:
        # Measures its context, which runs the encoder, and the decoder with the noise it shapes.
        RaveCodec(RunNet(model, cpu), "", Origin(Path(), 0, 1))
    except UserError as error:
        raise UserError(
            "this RAVE would train, but `latentdiff encode` could not use it: " + error.what,
            why=error.why,
            do_this=error.do_this,
        ) from error


def check_sound(crops: FixedCrops) -> None:
    """Refuse held-out crops without any sound: a codec that puts out nothing would look perfect.

    Raises UserError.
    """
    if any(bool(crops[index].any()) for index in range(len(crops))):
        return
    raise UserError(
        "the held-out records are silent",
        why=f"all {len(crops)} crops that validation would reconstruct are digital silence",
        do_this="make the dataset again: `latentdiff preprocess --overwrite` holds out sound.",
    )


def _check_signal(
    assembly: Assembly, config: RaveConfig, field: tuple[int, int], smallest: int
) -> None:
    n, hop = config.n_signal, assembly.hop
    crop = ""
    if assembly.model.valid_signal_crop:
        uncropped = smallest_signal(assembly.model, (0, 0), hop)
        crop = f"; with rave.overrides=['RAVE.valid_signal_crop=False'] {uncropped} are enough"
    if n < smallest:
        span = sum(field) // assembly.model.n_channels
        raise UserError(
            f"rave.n_signal: {n} samples are too few for this RAVE",
            why=f"its receptive field is {span} samples, and the rest of a crop must fill the "
            "longest window of the spectral loss in every band",
            do_this=f"set rave.n_signal={smallest} or more, in multiples of {hop}{crop}.",
        )
    if n % hop:
        raise UserError(
            f"rave.n_signal: {n} is not a whole number of latent frames",
            why=f"one latent frame of this RAVE is {hop} samples",
            do_this=f"set rave.n_signal={max(smallest, math.ceil(n / hop) * hop)}.",
        )


def _check_record(config: RaveConfig, record: int, smallest: int, hop: int) -> None:
    if record >= config.n_signal:
        return
    fits = record // hop * hop
    lower = f"set rave.n_signal={fits}, or " if fits >= smallest else ""
    raise UserError(
        f"rave.n_signal: {config.n_signal} samples are longer than a record of the dataset",
        why=f"its records are {record} samples long",
        do_this=f"{lower}make the dataset again with data.chunk={2 * config.n_signal}.",
    )


def _check_counts(config: RaveConfig, training: int, validation: int) -> None:
    if training < 1 or validation < 1:
        raise UserError(
            "the dataset is too small to train on",
            why=f"it has {training} records for training and {validation} for validation",
            do_this="add recordings, or make the dataset again with a smaller data.chunk; each "
            "side needs at least one record.",
        )
    if config.batch * config.devices > training:
        log.warning(
            "rave.batch: a step takes %d crops, but there are only %d records to crop from; the "
            "model will overfit (rave.batch=%d uses each record once a step)",
            *(config.batch * config.devices, training, max(1, training // config.devices)),
        )


def _check_latents(assembly: Assembly, config: RaveConfig, training: int, validation: int) -> None:
    """Validation measures the principal directions of D dimensions, which takes D frames."""
    per_record = config.n_signal // assembly.hop
    dimensions = assembly.model.latent_size
    # At its end the training measures them on training crops too, as many as on held-out ones.
    limit = config.validation_chunks
    frames = (min(limit, training) + min(limit, validation)) * per_record
    if frames >= dimensions:
        return
    everything = (training + validation) * per_record
    if everything >= dimensions:
        do_this = f"set rave.validation_chunks={math.ceil(dimensions / per_record)} or more."
    else:
        do_this = f"set rave.latent_size={everything} or less, or add recordings."
    raise UserError(
        f"rave.latent_size: {dimensions} dimensions cannot be measured on {frames} latent frames",
        why=f"validation sees {frames} frames, and the principal directions of {dimensions} "
        "dimensions need at least as many",
        do_this=do_this,
    )
