"""What a RAVE from elsewhere is: a run of `rave train`, a checkpoint, or an exported model."""

from __future__ import annotations

from pathlib import Path

import torch

from latentdiff.errors import UserError
from latentdiff.rave.checkpoint import RESULT_KEY, read_checkpoint
from latentdiff.rave.codec import RaveCodec, fingerprint_of
from latentdiff.rave.exported import load_export
from latentdiff.rave.load import Origin, codec_weights, origin_of
from latentdiff.rave.locate import CONFIG, find_run, find_weights, has_checkpoints


def holds_rave(folder: Path) -> bool:
    """Whether a folder is a run of RAVE, or holds runs."""
    return any(_configs(folder)) or has_checkpoints(folder)


def describe_runs(folder: Path) -> list[str]:
    """Lines about each run of RAVE in a folder: its checkpoints, and the codec that it gives.

    Raises UserError if there is no config.gin, or if the only run's codec cannot be used.
    """
    configs = _configs(folder)
    if not configs:
        find_run(folder)  # which says what is missing
    lines = []
    for config in configs:
        run = config.parent
        lines.append(f"{run}: a run of RAVE")
        for path in sorted(run.rglob("*.ckpt")):
            lines.append(f"  {_checkpoint(path)}")
        try:
            lines += [f"  {line}" for line in _codec(run)]
        except UserError as error:
            if len(configs) == 1:
                raise
            lines.append(f"  not usable: {error.what}")
    return lines


def describe_checkpoint(path: Path) -> list[str]:
    """Lines about a RAVE's .ckpt. Raises UserError if it is damaged, or not of a RAVE."""
    lines = [_checkpoint(path)]
    if find_weights(path).config is None:
        return [
            *lines,
            f"  no {CONFIG} beside it, so it can only be trained on (train-rave --ckpt)",
        ]
    return [*lines, *(f"  {line}" for line in _codec(path))]


def describe_export(path: Path) -> list[str]:
    """Lines about a model.ts. Raises UserError if it is damaged, or no RAVE that can be used."""
    net, weights = load_export(path, torch.device("cpu"))
    codec = RaveCodec(net, fingerprint_of(weights), Origin(path, None, None))
    kind = "for streaming" if net.streaming else "not for streaming"
    return [
        f"{path}: a RAVE, exported {kind} ({net.kind})",
        *(f"  {line}" for line in _facts(codec, path)),
    ]


def _configs(folder: Path) -> list[Path]:
    """The config.gin of a run, or of the runs in a folder."""
    own = folder / CONFIG
    return [own] if own.is_file() else sorted(folder.glob(f"*/{CONFIG}"))


def _checkpoint(path: Path) -> str:
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        return str(error).replace("\n", " ")
    if not codec_weights(checkpoint["state_dict"]):
        raise UserError(
            f"{path} is not a checkpoint of RAVE",
            why="it holds no encoder and no decoder",
            do_this="use a checkpoint as `rave train` or `latentdiff train-rave` writes it.",
        )
    writer = "train-rave" if RESULT_KEY in checkpoint else "rave train"
    return f"{origin_of(path, checkpoint).describe()} ({writer})"


def _codec(place: Path) -> list[str]:
    return _facts(RaveCodec.from_run(place), place)


def _facts(codec: RaveCodec, place: Path) -> list[str]:
    rate = codec.sample_rate / codec.hop
    reach = max(*codec.encode_context, *codec.decode_context)
    return [
        f"codec: {codec.describe()}",
        f"{rate:.4g} frames a second; a frame depends on at most {reach} to either side",
        f"use it: latentdiff encode --run RUN --rave {place} --audio RECORDINGS",
    ]
