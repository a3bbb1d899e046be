"""What can be wrong with the latents and conditions that a model was trained on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from latentdiff.diagnose.followed import Fit
from latentdiff.diagnose.training import advice
from latentdiff.diagnose.training.findings import Finding, Severity
from latentdiff.evaluation.directions import Directions
from latentdiff.evaluation.pairing import Pairing
from latentdiff.evaluation.permutation import CERTAIN, Exchange
from latentdiff.model.project import Project
from latentdiff.training.verdict import LITTLE_GAIN

SAMPLED = (0.5, 2.0)
"""Floor of the quickest changes over the posterior's own variance, between which latents are
posterior samples: those have 1 or a little more, as no codec fills all its directions at all
frequencies; means have less than 0.2. A floor far above 1 is that of posteriors so narrow that
drawing from them does not matter."""
FLAT = 0.2
"""Smallest over median variance of such directions above which they lie on one floor. Posterior
samples have a floor, the unit variance that a VAE's prior pulls them to, while means keep
falling."""
DEAD = 1e-3
"""Share of the strongest variance below which a direction is dead: rounding errors are as flat and
white as posterior samples are."""
FEW = 3
"""Directions without sound below which there is no telling a floor."""
MOSTLY = 0.8
"""Share of directions without sound that must look white."""
CHANGED = 1.1
"""Ratio of variances above which latents are not those that the model was made for."""
CHANGED_LOSS = 1.02
"""Ratio of losses of the same weights on the same windows that rounding cannot explain."""


def sampled_posteriors(measured: Directions, settings: Project) -> Finding | None:
    """The model is trained on posterior samples, which are mostly white noise."""
    stored = _stored_samples(measured)
    evidence = stored or _trained_on_samples(measured)
    if not evidence:
        return None
    return Finding(
        "sampled-posteriors",
        Severity.BREAKS,
        "the latents are samples from the encoder's posterior, not its means",
        evidence,
        advice.sampled_posteriors(settings, bool(stored)),
    )


def _stored_samples(measured: Directions) -> tuple[str, ...]:
    """Evidence that the latents lie on the floor that sampling adds; empty if not."""
    if measured.floor is None:
        return _on_a_floor(measured)
    if not SAMPLED[0] < measured.floor < SAMPLED[1]:
        return ()
    return (
        "in every direction the latents change from frame to frame at least "
        f"{measured.floor:.2g} times as much as draws from their posterior (posterior samples: "
        "1 or more; means: hardly at all in some)",
    )


def _on_a_floor(measured: Directions) -> tuple[str, ...]:
    """Evidence in the weak directions, where the posterior is not known."""
    white, weak = measured.white[measured.weak], measured.variance[measured.weak]
    if sum(white) < MOSTLY * len(white):
        return ()
    if len(weak) < FEW or statistics.median(weak) < DEAD * measured.variance[0]:
        return ()
    ratio = min(weak) / statistics.median(weak)
    if ratio < FLAT:
        return ()
    return (
        f"of {len(measured.variance)} directions, the weaker half is white noise along time: "
        f"{sum(white)} of {len(white)}",
        f"the weakest of these has {ratio:.2g} of their median variance, "
        f"{statistics.median(weak):.2g} (posterior samples: near 1; means: below a hundredth)",
        f"the model sees {len(measured.kept_white)} directions, {sum(measured.kept_white)} of them "
        "white (means: hardly any)",
    )


def _trained_on_samples(measured: Directions) -> tuple[str, ...]:
    """Evidence that the model was made for posterior samples while the store holds means."""
    if measured.taken_if_drawn is None:
        return ()
    means = statistics.median(measured.taken)
    samples = statistics.median(measured.taken_if_drawn)
    if means > 1 / CHANGED or not 1 / CHANGED < samples < CHANGED:
        return ()
    return (
        f"in a typical direction the stored latents have {means:.2g} of the variance that the "
        f"model was made for; samples from their posterior have {samples:.2f} of it (healthy: 1 "
        "and above 1)",
    )


def kept_noise(measured: Directions, learnable: float, settings: Project) -> Finding | None:
    """Most of the model's directions are noise, which cannot be learned."""
    white, kept = sum(measured.kept_white), len(measured.kept_white)
    if 2 * white <= kept:
        return None
    return Finding(
        "kept-noise",
        Severity.COSTS,
        "most directions that the model is trained on are white noise along time",
        (
            f"{white} of {kept} directions look white; a linear filter reaches skill "
            f"{learnable:.2f} (0: there is nothing to learn along time)",
        ),
        advice.kept_noise(settings, kept),
    )


def changed_latents(measured: Directions, same_files: bool | None) -> Finding | None:
    """The store is not what the model was trained on. `same_files` None: not known."""
    worst = max(measured.taken, key=lambda ratio: max(ratio, 1 / max(ratio, 1e-12)))
    scaled = max(worst, 1 / max(worst, 1e-12)) > CHANGED
    if not scaled and same_files is not False:
        return None
    evidence = [
        f"variance of the latents over the variance that the model expects: {worst:.3g} in the "
        "worst direction (1: the same latents)"
    ]
    if same_files is False:
        evidence.append("the files' fingerprint is not the one in run.json")
    return Finding(
        "changed-latents",
        Severity.BREAKS if scaled else Severity.COSTS,
        "these are not the latents that the model was trained on",
        tuple(evidence),
        advice.changed_latents(),
    )


def misaligned(kind: str, fit: Fit) -> Finding | None:
    """The stored features belong to these latents, but come too early or too late.

    A model trained on them follows them, so that no gain shows it.
    """
    found = fit.alignment
    if not fit.misaligned:
        return None
    late = "late" if found.best > 0 else "early"
    return Finding(
        "misaligned-conditions",
        Severity.BREAKS,
        f"the condition {kind} comes {abs(found.best):.2f} s too {late}",
        (
            f"a linear regression on {kind} predicts {max(found.explained):.1%} of the latents' "
            f"variance {abs(found.best):.2f} s from where it is stored, {found.now:.1%} as it is "
            f"(healthy: most within {found.tolerance:.2f} s; by chance with p={found.p:.2g})",
        ),
        advice.misaligned(),
    )


def unpaired(kind: str, fit: Fit, exchange: Exchange | None) -> Finding | None:
    """The stored condition features belong to other latents.

    `exchange` on held-out files; None: not measured. A model that follows its condition there
    outweighs the regression behind `fit`, which sees only linear relations.
    """
    followed = exchange is not None and exchange.grade == "followed"
    if fit.pairing.holds or followed:
        return None
    evidence = [_predicted(kind, fit.pairing)]
    if exchange is not None:
        evidence.append(_tested(kind, exchange))
    return Finding(
        "unpaired-conditions",
        Severity.BREAKS,
        f"latents and the condition {kind} do not belong together",
        tuple(evidence),
        advice.unpaired(),
    )


def trained_unpaired(
    gains: Sequence[float],
    fits: Mapping[str, Fit],
    now: float,
    then: float | None,
    settings: Project,
) -> Finding | None:
    """Conditions are right now but were wrong in training: the right ones raise the loss.

    `gains` on training and held-out files. `now`, `then`: held-out losses of the same weights,
    windows, levels and noise, measured now and recorded in training; `then` None: not recorded.
    `fits`: of the kinds that a regression can judge, which labels are not.
    """
    changed = then is not None and now > CHANGED_LOSS * then
    if not gains or max(gains) >= LITTLE_GAIN or not changed:
        return None
    return Finding(
        "unpaired-conditions",
        Severity.BREAKS,
        "the model was trained with conditions of other latents",
        (
            f"held-out loss {now:.4f} with the conditions as they are stored; the same weights and "
            f"windows had {then:.4f} in training (healthy: equal)",
            f"conditioning gain {_listed(gains)} (below 0: wrong conditions do better)",
            *(_predicted(kind, fit.pairing) for kind, fit in fits.items()),
        ),
        advice.trained_unpaired(settings),
    )


def ignored_condition(
    exchanges: Mapping[str, Exchange],
    fits: Mapping[str, Fit],
    share: float | None,
    settings: Project,
) -> Finding | None:
    """The model does as well with wrong conditions of some kind as with the right ones.

    `exchanges` by kind, on held-out files if there are any; empty for an unconditional model.
    `share`: magnitude of the condition over the signal that it joins; None where not known.
    """
    ignored = {kind: found for kind, found in exchanges.items() if found.grade == "ignored"}
    if not ignored:
        return None
    evidence = [_tested(kind, found) for kind, found in ignored.items()]
    evidence += [_predicted(kind, fits[kind].pairing) for kind in ignored if kind in fits]
    if share is not None:
        evidence.append(
            f"inside the network the condition is {share:.2g} of the signal that it joins "
            "(healthy: 0.1 to 2)"
        )
    return Finding(
        "ignored-condition",
        Severity.COSTS,
        f"the condition {' and '.join(ignored)} is ignored",
        tuple(evidence),
        advice.ignored_condition(settings),
    )


def _tested(kind: str, found: Exchange) -> str:
    return (
        f"{kind}: gain {found.gain:.3f}, which conditions without effect reach with "
        f"p={found.p:.2g} (healthy: up to {CERTAIN:g}); the right one fits best in "
        f"{found.identified:.0%} of {found.groups} cases (by chance {found.chance:.0%})"
    )


def _listed(gains: Sequence[float]) -> str:
    names = ("training", "held-out")
    return ", ".join(
        f"{gain:.2f} on {name} files" for name, gain in zip(names, gains, strict=False)
    )


def _predicted(kind: str, pairs: Pairing) -> str:
    return (
        f"a linear regression on a file's {kind} predicts {pairs.stored:.1%} of its latents' "
        f"variance; that of other files predicts {pairs.best_wrong:.1%} (healthy: far less)"
    )
