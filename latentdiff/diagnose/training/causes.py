"""Every known cause of a bad training, held to the evidence of one run."""

from __future__ import annotations

from latentdiff.diagnose.training import causes_data as data
from latentdiff.diagnose.training import causes_fit as fit
from latentdiff.diagnose.training import causes_network as network
from latentdiff.diagnose.training.evidence import Evidence
from latentdiff.diagnose.training.findings import Finding, in_order
from latentdiff.diagnose.training.measure import Measured


def findings(evidence: Evidence) -> list[Finding]:
    """Those that show, heaviest first; empty where the run is healthy."""
    measured = evidence.measured
    if measured is None:
        return in_order(_of_course(evidence, None, None))
    return in_order(
        [
            *_of_data(measured),
            *_of_course(evidence, measured.skill, measured.growth),
            *_of_model(measured, evidence),
        ]
    )


def _of_data(m: Measured) -> list[Finding | None]:
    drawn = data.sampled_posteriors(m.directions)
    if drawn:
        # Of draws the others say what follows.
        return [drawn]
    share = network.condition_share(m.activations)
    return [
        data.kept_noise(m.directions, m.learnable),
        data.changed_latents(m.directions, m.same_files),
        *_of_pairs(m),
        data.ignored_condition(m.gains, m.pairing, share),
    ]


def _of_pairs(m: Measured) -> list[Finding | None]:
    held, pairs = m.held_out, m.pairing
    gain = None if held is None else held.conditioning_gain
    return [
        None if pairs is None else data.unpaired(pairs, gain),
        None if held is None else data.trained_unpaired(m.gains, pairs, held.loss, m.recorded),
    ]


def _of_course(e: Evidence, skill: float | None, growth: float | None) -> list[Finding | None]:
    return [
        fit.ran_away(e.curve, e.failure, skill, growth),
        fit.overfitting(e.curve),
        fit.clipped(e.curve, e.clip),
    ]


def _of_model(m: Measured, evidence: Evidence) -> list[Finding | None]:
    norms, known = m.batch_norms, m.train.baselines
    regression = m.model.denoiser.parametrisation == "regression"
    # As batches of one level saw them in training, where it makes a difference.
    losses = m.train.losses if norms is None else norms.own
    ratios = [loss / base for loss, base in zip(losses, known, strict=True)]
    return [
        None if norms is None else network.batch_norm(norms),
        fit.one_level_a_batch(evidence.curve, ratios),
        fit.untrained_levels(m.train.logsnr, m.train.losses, known),
        network.weak_schedule(m.model.schedule.warnings),
        network.growing_stream(m.activations),
        network.weak_condition(m.activations),
        network.shut_gates(m.activations),
        network.dead_output(m.activations),
        fit.underfit(m.skill, m.learnable, evidence.curve),
        # A regression puts out means, which are tame, and no samples.
        None if regression else network.strange_samples(m.samples),
    ]
