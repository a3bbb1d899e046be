"""Which model, latents and codec belong to a run, and to each other."""

from __future__ import annotations

from pathlib import Path

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.data import labelled
from latentdiff.model.model import Model
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Run
from latentdiff.training import checkpoint


def open_model(
    run: Run, diffusion: Path | None, latents: Path | None, device: str
) -> tuple[Model, LatentStore]:
    """The model of a run, or of `diffusion`, and its labelled latents (see `latents_path`).

    Raises UserError where one is missing or the latents are not of the codec of the model's.
    """
    model = Model.load(checkpoint.find(diffusion or run.diffusion), device)
    path = latents_path(run, latents, model.path.parent.parent)
    store = labelled(LatentStore.open(path), model.condition)
    there, made = store.codec, model.codec.fingerprint
    same = there is None or not made or there.fingerprint == made
    if store.latent_dim != model.whitening.dimensions or not same:
        raise UserError(
            f"the latents in {store.root} are not of the codec that {model.path} was trained on",
            do_this="name the model's own with --latents.",
        )
    return model, store


def latents_path(run: Run, given: Path | None, diffusion: Path) -> Path:
    """The latents that were given, the run's own, or those that `diffusion` was trained on.

    Raises UserError where there are none of these.
    """
    if given is not None or run.latents.exists():
        return given or run.latents
    info = runs.read_run(diffusion)
    recorded = info.input_path("latents") if info else None
    if recorded is None:
        raise UserError(
            f"there are no latents in {run.latents}",
            why=f"and no model in {diffusion} that tells which it was trained on",
            do_this="name them with --latents, or make some: `latentdiff encode`.",
        )
    return recorded


def codec_of(
    run: Run, store: LatentStore, rave: Path | None, ckpt: str | None, device: str
) -> RaveCodec | None:
    """The codec of the latents; None where nobody can say which it is.

    Raises UserError where the one that is named or in the run is another one.
    """
    info = runs.read_run(store.root)
    recorded = info.input_path("codec") if info else None
    if rave is None and ckpt is None and recorded is not None and recorded.is_file():
        codec = RaveCodec.open(recorded, None, device)
    elif rave is not None or ckpt is not None or run.rave.exists():
        codec = RaveCodec.open(rave or run.rave, ckpt, device)
    else:
        return None
    wanted = store.codec.fingerprint if store.codec else codec.fingerprint
    if codec.latent_dim != store.latent_dim or codec.fingerprint != wanted:
        raise UserError(
            f"{codec.origin.path} is not the codec of the latents in {store.root}",
            do_this="give theirs with --rave or --ckpt.",
        )
    return codec
