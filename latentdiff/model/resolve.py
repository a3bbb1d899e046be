"""Which model, latents and codec belong to a run, and to each other: the one rule for all commands.

What is named on the command line wins, then what the latents or the model recorded about their
origin, then the run's own folder.
"""

from __future__ import annotations

import logging
from pathlib import Path

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.latents.store import CodecFacts, LatentStore
from latentdiff.model.condition_data import labelled, without_unknown_labels
from latentdiff.model.model import Model
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Input, Run
from latentdiff.training import checkpoint

log = logging.getLogger(__name__)


def open_model(
    run: Run, diffusion: Path | None, latents: Path | None, device: str
) -> tuple[Model, LatentStore]:
    """The model of a run, or of `diffusion`, and the latents to measure it on, with their labels.

    For the latents see `latents_path`. Raises UserError where one is missing, or where the latents
    are not of the model's codec.
    """
    model = Model.load(checkpoint.find(diffusion or run.diffusion), device)
    assert model.path is not None  # it was just loaded
    store = open_latents(run, latents, model.path.parent.parent)
    store = labelled(store, model.condition)
    there, wanted = store.codec, model.codec.fingerprint
    same = there is None or not wanted or there.fingerprint == wanted
    if store.latent_dim != model.whitening.dimensions or not same:
        raise UserError(
            f"the latents in {store.root} come from another codec than those of {model.path}",
            do_this="name the latents that the model was trained on with --latents.",
        )
    return model, without_unknown_labels(store, model.labels)


def open_latents(run: Run, given: Path | None, diffusion: Path) -> LatentStore:
    """The latents at `latents_path`, with those that `diffusion` was validated on if these are
    what it was trained on."""
    store = LatentStore.open(latents_path(run, given, diffusion))
    info = runs.read_run(diffusion)
    if info is None or info.input_path("latents") != store.root.resolve():
        return store
    validation = info.input_path("validation")
    return store if validation is None else store.with_validation(validation)


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
            why=f"no model in {diffusion} records the latents it was trained on either",
            do_this="make some with `latentdiff encode`, or name others with --latents.",
        )
    return recorded


def open_codec(
    run: Run,
    store: LatentStore,
    rave: Path | None = None,
    ckpt: str | None = None,
    device: str = "cpu",
    *,
    force: bool = False,
) -> RaveCodec | None:
    """The codec of `store`: the one given, the one it recorded, or the run's own; None without one.

    Raises UserError if the codec cannot be read, or is not that of the latents; `force` accepts
    another one of the same number of dimensions.
    """
    codec = find_codec(run, codec_path(store), rave, ckpt, device)
    if codec is None:
        return None
    what, dimensions = f"the latents in {store.root}", codec.latent_dim
    if store.latent_dim != dimensions and all(e.frames == dimensions for e in store.entries):
        raise UserError(
            f"{what} are transposed",
            why=f"they are [{store.latent_dim}, {dimensions}], and the codec has {dimensions} "
            "dimensions: arrays must be [dimensions, frames]",
            do_this="save their transpose: numpy.save(path, array.T).",
        )
    require_codec(codec, store.codec, store.latent_dim, what, force=force)
    return codec


def inputs_of(model: Model, store: LatentStore, codec: RaveCodec | None) -> dict[str, Input]:
    """What a measurement of a model on latents is made from, for its `run.json`."""
    inputs = {
        "diffusion": model.as_input(),
        "latents": Input(str(store.root.resolve()), store.fingerprint()),
    }
    if codec is not None:
        inputs["codec"] = Input(str(codec.origin.path.resolve()), codec.fingerprint)
    return inputs


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
    """Path of the codec when the latents were made; None if it was not recorded."""
    info = runs.read_run(store.root)
    return info.input_path("codec") if info else None


def require_codec(
    codec: RaveCodec, facts: CodecFacts | None, latent_dim: int, what: str, *, force: bool = False
) -> None:
    """Raise UserError unless `codec` made the latents that `what` names.

    `facts`: the codec they recorded; None and an unknown one are accepted with a warning. `force`:
    accept another codec of `latent_dim` dimensions.
    """
    if codec.latent_dim != latent_dim:
        raise UserError(
            f"{what} have {latent_dim} dimensions, the codec {codec.latent_dim}",
            why="they are of another codec, or transposed: arrays must be [dimensions, frames]",
            do_this="name their codec with --rave, or save the transpose of each array.",
        )
    if facts is None or not facts.fingerprint:
        log.warning("%s: the codec is unknown; assuming that it is %s", what, codec.origin.path)
    elif facts.fingerprint != codec.fingerprint:
        error = UserError(
            f"{what} are of another codec",
            why=f"they were made with {facts.fingerprint[:12]}..., and {codec.origin.path} is "
            f"{codec.fingerprint[:12]}...",
            do_this="name their codec with --rave or --ckpt; if it was trained further, run "
            "`latentdiff encode` again. `decode --force` decodes them anyway.",
        )
        if not force:
            raise error
        log.warning("forced: %s", error.what)
