"""Every known cause of a bad training, checked against the evidence of one run."""

from __future__ import annotations

from latentdiff.diagnose.training import causes_data as data
from latentdiff.diagnose.training import causes_files as files
from latentdiff.diagnose.training import causes_fit as fit
from latentdiff.diagnose.training import causes_network as network
from latentdiff.diagnose.training import causes_settings as far
from latentdiff.diagnose.training.evidence import RunEvidence
from latentdiff.diagnose.training.findings import Finding, most_serious_first
from latentdiff.diagnose.training.measure import ModelMeasurements
from latentdiff.model.project import Project


def findings(evidence: RunEvidence) -> list[Finding]:
    """The causes that show, most serious first; empty where the run is healthy."""
    measured = evidence.measured
    if measured is None:
        return most_serious_first(_of_course(evidence, None, None))
    return most_serious_first(
        [
            *files.outliers(measured.outliers, measured.files),
            files.leak(measured.leaks),
            *_of_data(measured, evidence.settings),
            *_of_course(evidence, measured.skill, measured.growth, measured.learnable),
            *_of_model(measured, evidence),
        ]
    )


def _of_data(m: ModelMeasurements, settings: Project) -> list[Finding | None]:
    sampled = data.sampled_posteriors(m.directions, settings)
    if sampled:
        # The other findings would only repeat its consequences.
        return [sampled]
    share = network.condition_share(m.activations)
    wrong = [
        found
        for kind, fit in m.fits.items()
        if (found := data.misaligned(kind, fit) or data.unpaired(kind, fit, m.exchanges.get(kind)))
    ]
    held = m.held_out
    return [
        data.kept_noise(m.directions, m.learnable, settings),
        data.changed_latents(m.directions, m.same_files),
        *wrong,
        None
        if held is None or wrong
        else data.trained_unpaired(m.gains, m.fits, held.loss, m.recorded, settings),
        data.ignored_condition(m.exchanges, m.fits, share, settings),
    ]


def _of_course(
    e: RunEvidence, skill: float | None, growth: float | None, learnable: float | None = None
) -> list[Finding | None]:
    if skill is None or learnable is None:
        underfitted = fit.no_skill(e.curve)
    else:
        underfitted = fit.is_underfit(skill, learnable)
    settings = far.far_settings(e.curve, e.settings, underfitted)
    return [
        *settings,
        None
        if far.blamed(settings)
        else fit.ran_away(e.curve, e.failure, skill, growth, e.settings),
        fit.overfitting(e.curve, e.settings),
        None if settings else fit.clipped(e.curve, e.settings),
        fit.worse_than_nothing(e.curve, e.settings),
    ]


def _of_model(m: ModelMeasurements, evidence: RunEvidence) -> list[Finding | None]:
    norms, baselines, settings = m.batch_norms, m.train.baselines, evidence.settings
    regression = m.model.spec.diffusion.parametrisation == "regression"
    # Where it makes a difference, as batches of one level saw them in training.
    losses = m.train.losses if norms is None else norms.own
    ratios = [loss / base for loss, base in zip(losses, baselines, strict=True)]
    return [
        None if norms is None else network.batch_norm(norms, settings),
        fit.one_level_a_batch(evidence.curve, ratios, settings),
        fit.untrained_levels(m.train.logsnr, m.train.losses, baselines, settings),
        network.weak_schedule(m.model.schedule.warnings, settings),
        network.growing_stream(m.activations, settings),
        network.weak_condition(m.activations, settings),
        network.shut_gates(m.activations, settings),
        network.dead_output(m.activations),
        fit.underfit(m.skill, m.learnable, evidence.curve, settings),
        None if regression else fit.no_form(m.form_skill, m.exchanges, settings),
        # A regression puts out means instead of samples: they are weaker by design.
        None if regression else network.strange_samples(m.samples, settings, m.sampling),
    ]
