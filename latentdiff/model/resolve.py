"""Which model, latents and codec belong to a run, and to each other: the one rule for all commands.

What is named on the command line wins, then what the latents or the model recorded about their
origin, then the run's own folder.
"""

from __future__ import annotations

from pathlib import Path

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.latents.store import CodecFacts, LatentStore
from latentdiff.model.data import labelled, without_unknown_labels
from latentdiff.model.model import Model
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Run
from latentdiff.training import checkpoint


def open_model(
    run: Run, diffusion: Path | None, latents: Path | None, device: str
) -> tuple[Model, LatentStore]:
    """The model of a run, or of `diffusion`, and the latents to measure it on, with their labels.

    For the latents see `latents_path`. Raises UserError where one is missing, or where the latents
    are not of the model's codec.
    """
    model = Model.load(checkpoint.find(diffusion or run.diffusion), device)
    assert model.path is not None  # it was just loaded
    path = latents_path(run, latents, model.path.parent.parent)
    store = labelled(LatentStore.open(path), model.condition)
    there, wanted = store.codec, model.codec.fingerprint
    same = there is None or not wanted or there.fingerprint == wanted
    if store.latent_dim != model.whitening.dimensions or not same:
        raise UserError(
            f"the latents in {store.root} are of another codec than {model.path}",
            do_this="name the latents that the model was trained on with --latents.",
        )
    return model, without_unknown_labels(store, model.labels)


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
            why=f"and no model in {diffusion} that recorded which it was trained on",
            do_this="name them with --latents, or make some: `latentdiff encode`.",
        )
    return recorded


def open_codec(
    run: Run,
    store: LatentStore,
    rave: Path | None = None,
    ckpt: str | None = None,
    device: str = "cpu",
) -> RaveCodec | None:
    """The codec of `store`: the one given, the one it recorded, or the run's own; None without one.

    Raises UserError where the codec cannot be read, or where it is another than that of the
    latents.
    """
    codec = find_codec(run, codec_path(store), rave, ckpt, device)
    if codec is not None:
        require_codec(codec, store.codec, store.latent_dim, f"the latents in {store.root}")
    return codec


def find_codec(
    run: Run, recorded: Path | None, rave: Path | None, ckpt: str | None, device: str
) -> RaveCodec | None:
    """The codec given by `rave` and `ckpt`, the one at `recorded`, or the run's own; else None."""
    if rave is None and ckpt is None and recorded is not None and recorded.is_file():
        return RaveCodec.open(recorded, None, device)
    if rave is not None or ckpt is not None or run.rave.exists():
        return RaveCodec.open(rave or run.rave, ckpt, device)
    return None


def codec_path(store: LatentStore) -> Path | None:
    """Where the codec was when the latents were made; None where that was not recorded."""
    info = runs.read_run(store.root)
    return info.input_path("codec") if info else None


def require_codec(
    codec: RaveCodec, facts: CodecFacts | None, latent_dim: int, of_what: str
) -> None:
    """Raise UserError unless `codec` made latents of `latent_dim` dimensions and these facts."""
    if codec.latent_dim != latent_dim:
        raise UserError(
            f"{of_what} have {latent_dim} dimensions, the codec {codec.latent_dim}",
            why="they are of another codec, or stored as [frames, dimensions]",
            do_this="give their codec with --rave; arrays must be [dimensions, frames].",
        )
    if facts is not None and facts.fingerprint and facts.fingerprint != codec.fingerprint:
        raise UserError(
            f"{of_what} are of another codec than {codec.origin.path}",
            why=f"they are of {facts.fingerprint[:12]}..., this one is {codec.fingerprint[:12]}...",
            do_this="give theirs with --rave or --ckpt; a codec that was trained further needs "
            "`latentdiff encode` anew.",
        )
