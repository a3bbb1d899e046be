"""What can be wrong with the latents and conditions that a model was trained on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from latentdiff.diagnose.training.findings import Finding, Weight
from latentdiff.evaluation.directions import Directions
from latentdiff.evaluation.pairing import Pairing
from latentdiff.training.verdict import LITTLE_GAIN

DRAWN = 0.5
"""Variance of directions without sound, over the posterior's own there, from which they are draws:
of draws it is 1 or more, of means hardly anything."""
FLAT = 0.2
"""Smallest over median variance of such directions from which they lie on one floor; draws have
one, the unit variance that a VAE's prior pulls them to, while means keep falling."""
DEAD = 1e-3
"""Share of the strongest variance below which a direction is dead: what rounding leaves is as flat
and white as draws are."""
FEW = 3
"""Directions without sound that make no floor."""
MOSTLY = 0.8
"""Share of directions without sound that must look white."""
CHANGED = 1.1
"""Factor between variances from which latents are not those that the model was made for."""
CHANGED_LOSS = 1.02
"""Factor between losses of the same weights on the same windows that rounding cannot make."""
FOLLOWED = 0.5
"""Conditioning gain on held-out files that only right pairs can give."""


def sampled_posteriors(found: Directions) -> Finding | None:
    """The model is trained on draws from the posterior, so that most of it is white noise."""
    evidence = _stored_draws(found) or _trained_on_draws(found)
    if not evidence:
        return None
    return Finding(
        "sampled-posteriors",
        Weight.BREAKS,
        "the latents are draws from the encoder's posterior, not its means",
        evidence,
        "encode again with `latentdiff encode`, which stores the means, and train on these.",
    )


def _stored_draws(found: Directions) -> tuple[str, ...]:
    """How the weak directions lie on the floor that drawing adds; empty where they do not."""
    white, weak = found.white[found.weak], found.variance[found.weak]
    if sum(white) < MOSTLY * len(white):
        return ()
    if found.posterior is None:
        if len(weak) < FEW or statistics.median(weak) < DEAD * found.variance[0]:
            return ()
        ratio, limit = min(weak) / statistics.median(weak), FLAT
        told = (
            f"of the variance of the typical one of them, {statistics.median(weak):.2g}, the "
            f"weakest has {ratio:.2g} (draws: near 1, on one floor; means: below a hundredth)"
        )
    else:
        noise = found.posterior[found.weak]
        ratio = statistics.median(v / max(p, 1e-30) for v, p in zip(weak, noise, strict=True))
        limit = DRAWN
        told = (
            f"they have {ratio:.2g} times the variance of the posterior itself (draws: about 1; "
            "means: far below)"
        )
    if ratio < limit:
        return ()
    return (
        f"the weaker half of {len(found.variance)} directions is white noise along time: "
        f"{sum(white)} of {len(white)}",
        told,
        f"the model sees {len(found.kept_white)} directions, {sum(found.kept_white)} of them white "
        "(of means: hardly any)",
    )


def _trained_on_draws(found: Directions) -> tuple[str, ...]:
    """How the model expects the variances of draws, of latents that are means by now."""
    if found.taken_if_drawn is None:
        return ()
    means, draws = statistics.median(found.taken), statistics.median(found.taken_if_drawn)
    if means > 1 / CHANGED or not 1 / CHANGED < draws < CHANGED:
        return ()
    return (
        f"the stored latents have {means:.2g} of the variance that the model was made for, in the "
        f"typical direction; draws from their posterior have {draws:.2f} of it (the same: 1)",
    )


def kept_noise(found: Directions, learnable: float) -> Finding | None:
    """Most of the directions that the model sees are noise, which nothing can learn."""
    white, kept = sum(found.kept_white), len(found.kept_white)
    if 2 * white <= kept:
        return None
    return Finding(
        "kept-noise",
        Weight.COSTS,
        "most directions that the model is trained on are white noise along time",
        (
            f"{white} of {kept} directions look white; a filter that knows their spectrum reaches "
            f"skill {learnable:.2f} (0: nothing to learn along time)",
        ),
        "set latents.keep=auto or a smaller number; where it is auto already, train the codec "
        "longer, or with a smaller beta.",
    )


def changed_latents(found: Directions, same_files: bool | None) -> Finding | None:
    """The store is not what the model was trained on. `same_files` None: not known."""
    worst = max(found.taken, key=lambda ratio: max(ratio, 1 / max(ratio, 1e-12)))
    scaled = max(worst, 1 / max(worst, 1e-12)) > CHANGED
    if not scaled and same_files is not False:
        return None
    evidence = [
        f"variance along the directions seen, over what the model takes it to be: {worst:.3g} "
        "where it is farthest off (1: the same latents)"
    ]
    if same_files is False:
        evidence.append("the fingerprint of the files is another than run.json recorded")
    return Finding(
        "changed-latents",
        Weight.BREAKS if scaled else Weight.COSTS,
        "the latents are not those that the model was trained for",
        tuple(evidence),
        "name the store it was trained on with --latents, or train anew with --overwrite.",
    )


def unpaired(pairs: Pairing, gain: float | None) -> Finding | None:
    """Condition features do not belong to the latents they lie beside.

    `gain` on held-out files, None where there are none: a regression sees straight lines only, and
    a model that follows its condition is the better witness.
    """
    if pairs.holds or (gain is not None and gain > FOLLOWED):
        return None
    evidence = [
        f"a regression on the spectrogram stored with a file predicts {pairs.stored:.1%} of its "
        f"latents' variance; on the same moved elsewhere in the file, {pairs.best_displaced:.1%} "
        "(right pairs: well above that)"
    ]
    if gain is not None:
        evidence.append(
            f"conditioning gain on held-out files {gain:.2f} (0: wrong conditions serve as well)"
        )
    return Finding(
        "unpaired-conditions",
        Weight.BREAKS,
        "latents and conditions do not belong together",
        tuple(evidence),
        "pair them by file name, never by the order of a folder: `latentdiff encode` writes both "
        "from one recording.",
    )


def trained_unpaired(
    gains: Sequence[float], pairs: Pairing | None, now: float, then: float | None
) -> Finding | None:
    """Conditions are right now, but were not in training: right ones make it worse.

    `gains` on training and held-out files, losses on held-out windows measured `now` and recorded
    `then` of the same weights, windows, levels and noise; None where nothing was recorded.
    `pairs` None: conditions that a regression cannot judge, such as labels.
    """
    told = pairs is None or pairs.holds
    changed = then is not None and now > CHANGED_LOSS * then
    if not gains or max(gains) >= LITTLE_GAIN or not (told and changed):
        return None
    return Finding(
        "unpaired-conditions",
        Weight.BREAKS,
        "the model was trained with conditions of other latents",
        (
            f"held-out loss {now:.4f} with the conditions as they are stored, {then:.4f} of the "
            "same weights and windows in training (the same conditions: equal)",
            f"conditioning gain {_listed(gains)} (below 0: wrong conditions serve better)",
            *_pairs_told(pairs),
        ),
        "train anew, with each window's own condition.",
    )


def ignored_condition(
    gains: Sequence[float], pairs: Pairing | None, heard: float | None
) -> Finding | None:
    """The model does as well with wrong conditions as with the right ones.

    `gains` on training and, where there are any, held-out files; empty: it has no condition.
    `heard`: condition over the signal that it joins, None where that is not known.
    """
    if not gains or max(gains) >= LITTLE_GAIN:
        return None
    share = "" if heard is None else f"inside the network it is {heard:.2g} of the signal it joins"
    return Finding(
        "ignored-condition",
        Weight.COSTS,
        "the condition is ignored",
        (
            f"conditioning gain {_listed(gains)} (below {LITTLE_GAIN}: ignored)",
            *_pairs_told(pairs),
            *([share] if share else []),
        ),
        "train longer; see that training gave each window its own condition; lower "
        "condition.dropout.",
    )


def _listed(gains: Sequence[float]) -> str:
    names = ("training", "held-out")
    return ", ".join(
        f"{gain:.2f} on {name} files" for name, gain in zip(names, gains, strict=False)
    )


def _pairs_told(pairs: Pairing | None) -> list[str]:
    if pairs is None:
        return []
    return [
        f"the stored conditions predict {pairs.stored:.1%} of the latents' variance in straight "
        f"lines, moved elsewhere {pairs.best_displaced:.1%} (right pairs: well above that)"
    ]
