"""What files and folders of latents, weights and arrays hold, as lines for people."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np

from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore

log = logging.getLogger(__name__)

OURS = "latentdiff"
"""Metadata key under which a diffusion checkpoint describes itself."""


def describe_latents(folder: Path) -> list[str]:
    """Lines about a folder of `.npy` files from another program.

    Raises UserError if it is not a store of latents.
    """
    store = LatentStore.open(folder)
    frames = [entry.frames for entry in store.entries]
    axes = "[frames, dimensions]" if store.transposed else "[dimensions, frames]"
    lines = [
        f"{folder}: latents of {len(frames)} files, {store.latent_dim} dimensions, {axes}",
        f"  {sum(frames):,} frames; the shortest file has {min(frames):,}, the longest "
        f"{max(frames):,}",
        f"  {len(store.of('validation'))} would be held out",
    ]
    labels = sorted({entry.label for entry in store.entries if entry.label is not None})
    if labels:
        lines.append(f"  {len(labels)} folders, which are labels: {short(', '.join(labels))}")
    lines.append(_mels(store))
    try:
        lines.append(f"  {store.statistics().describe('auto')}")
    except UserError as error:
        log.warning("%s", error)
    return lines


def describe_array(path: Path) -> list[str]:
    """A line about a `.npy` file. Raises UserError if it is damaged."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a usable .npy file", why=str(error)) from error
    finite = "" if np.isfinite(array).all() else ", holds NaN or Inf"
    numbers = array.min(), array.max(), array.mean(), array.std()
    measured = "min {:.4g}, max {:.4g}, mean {:.4g}, std {:.4g}".format(*numbers)
    return [f"{path}: {array.dtype} {list(array.shape)}, {measured}{finite}"]


def describe_weights(path: Path) -> list[str]:
    """Lines about a `.safetensors` file. Raises UserError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            count = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a usable .safetensors file", why=str(error)) from error
    lines = [f"{path}: {len(names)} tensors, {count:,} numbers"]
    lines += [f"  {key}: {short(value)}" for key, value in metadata.items()]
    return lines + (describe_network(path) if OURS in metadata else [])


def describe_network(weights: Path) -> list[str]:
    """Lines about the network of a diffusion model; logs what its settings warn of."""
    from latentdiff.model.model import Model
    from latentdiff.networks.build import describe

    model = Model.load(weights)
    described = describe(
        model.denoiser.network,  # type: ignore[arg-type]
        frames=model.spec.window,
        frames_per_second=1 / model.spec.seconds(1),
    )
    for warning in model.spec.recipe.warnings:
        log.warning("%s", warning)
    distilled = model.spec.distilled
    return [
        f"  network: {described}",
        *([] if distilled is None else [f"  {distilled.describe()}"]),
    ]


def _mels(store: LatentStore) -> str:
    shapes = [
        (features.shape, entry.frames)
        for entry in store.entries
        if (features := store.features(entry, "mel")) is not None
    ]
    if not shapes:
        return "  no mel spectrograms (NAME.spec.npy beside NAME.npy)"
    (rows, columns), frames = shapes[0]
    return (
        f"  {len(shapes)} of {len(store.entries)} have a mel spectrogram; the first is "
        f"[{rows}, {columns}], {columns / frames:.3g} columns to each frame of the latents"
    )


def short(value: object) -> str:
    """A value in one line of at most 200 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
