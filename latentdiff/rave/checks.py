"""What would go wrong in a RAVE training after minutes or hours, found before its first step.

Shapes: N samples per record; D latent dimensions.
"""

from __future__ import annotations

import logging
import math

from latentdiff.errors import UserError
from latentdiff.rave.gin_config import Assembly, smallest_signal
from latentdiff.rave.settings import RaveConfig

log = logging.getLogger(__name__)


def check(
    assembly: Assembly,
    config: RaveConfig,
    field: tuple[int, int],
    record: int,
    training: int,
    validation: int,
) -> None:
    """Refuse settings that cannot train, naming the smallest value that does.

    `field`: receptive field (left, right) in samples; `record`: N; `training`, `validation`:
    numbers of records. Raises UserError.
    """
    smallest = smallest_signal(assembly.model, field, assembly.hop)
    _check_signal(assembly, config, field, smallest)
    _check_record(config, record, smallest, assembly.hop)
    _check_counts(config, training, validation)
    _check_latents(assembly, config, training, validation)


def _check_signal(
    assembly: Assembly, config: RaveConfig, field: tuple[int, int], smallest: int
) -> None:
    n, hop = config.n_signal, assembly.hop
    crop = (
        ""
        if not assembly.model.valid_signal_crop
        else (
            f"; with rave.overrides=['RAVE.valid_signal_crop=False'] "
            f"{smallest_signal(assembly.model, (0, 0), hop)} are enough"
        )
    )
    if n < smallest:
        span = sum(field) // assembly.model.n_channels
        raise UserError(
            f"rave.n_signal: {n} samples are too few for this RAVE",
            why=f"its receptive field is {span} samples, and what is left of a crop must fill the "
            "longest spectrum of the loss in every band",
            do_this=f"set rave.n_signal={smallest} or more, in multiples of {hop}{crop}.",
        )
    if n % hop:
        raise UserError(
            f"rave.n_signal: {n} is not a whole number of latent frames",
            why=f"one frame of this RAVE is {hop} samples",
            do_this=f"set rave.n_signal={max(smallest, math.ceil(n / hop) * hop)}.",
        )


def _check_record(config: RaveConfig, record: int, smallest: int, hop: int) -> None:
    if record >= config.n_signal:
        return
    fits = record // hop * hop
    lower = f"set rave.n_signal={fits}, or " if fits >= smallest else ""
    raise UserError(
        f"rave.n_signal: {config.n_signal} samples are more than a record of the dataset has",
        why=f"its records are {record} samples long",
        do_this=f"{lower}make the dataset again with data.chunk={2 * config.n_signal}.",
    )


def _check_counts(config: RaveConfig, training: int, validation: int) -> None:
    if training < 1 or validation < 1:
        raise UserError(
            "the dataset is too small to train on",
            why=f"it has {training} records for training and {validation} for validation",
            do_this="add recordings, or make the dataset again with a smaller data.chunk; one "
            "record for each is the least.",
        )
    if config.batch * config.devices > training:
        log.warning(
            "rave.batch: a step takes %d crops, but there are only %d records to crop from; the "
            "model will learn them by heart (rave.batch=%d uses each once a step)",
            *(config.batch * config.devices, training, max(1, training // config.devices)),
        )


def _check_latents(assembly: Assembly, config: RaveConfig, training: int, validation: int) -> None:
    """The principal directions of D dimensions want at least D frames."""
    per_record = config.n_signal // assembly.hop
    dimensions = assembly.model.latent_size
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
        why=f"{frames} frames is all that validation sees, and the principal directions of "
        f"{dimensions} dimensions want at least as many",
        do_this=do_this,
    )
