"""`diagnose training`: findings and advice on made-up numbers; tiny trainings broken on purpose."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from latentdiff import config, runs
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.conditions.kind import condition_kind
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.diagnose.followed import Fit
from latentdiff.diagnose.report import read_results
from latentdiff.diagnose.training import advice
from latentdiff.diagnose.training import causes_data as data
from latentdiff.diagnose.training import causes_files as files
from latentdiff.diagnose.training import causes_fit as fit
from latentdiff.diagnose.training import causes_network as network
from latentdiff.diagnose.training import causes_settings as far
from latentdiff.diagnose.training.causes_network import BatchNormLosses, SampleStatistics
from latentdiff.diagnose.training.curve import Curve, TrainingRow, ValidationRow
from latentdiff.diagnose.training.diagnose import diagnose_training
from latentdiff.diagnose.training.findings import Finding, Severity, lines_of, most_serious_first
from latentdiff.diagnose.training.results import Results
from latentdiff.errors import UserError
from latentdiff.evaluation import activations, directions, pairing, whiteness
from latentdiff.evaluation.activations import Activations, BlockActivity
from latentdiff.evaluation.alignment import Alignment
from latentdiff.evaluation.directions import Directions
from latentdiff.evaluation.leaks import Leak
from latentdiff.evaluation.pairing import Pairing
from latentdiff.evaluation.permutation import Exchange
from latentdiff.latents import statistics
from latentdiff.latents.outliers import Outliers
from latentdiff.latents.store import Entry
from latentdiff.latents.whitening import Whitening
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.networks.build import NETWORKS, build
from latentdiff.networks.settings import NetworkConfig
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Condition, ConditionSize
from latentdiff.training import verdict
from latentdiff.training.validation import Validation


def resonance(rng, frames, channels=2):
    """[channels, T] of an AR(2) process with a resonance, of about unit variance."""
    noise = rng.standard_normal((channels, frames + 200))
    z = np.zeros_like(noise)
    for t in range(2, frames + 200):
        z[:, t] = 1.815 * z[:, t - 1] - 0.9025 * z[:, t - 2] + noise[:, t]
    return z[:, 200:] / 8.4


DEFAULT = Project()


class TestFindings:
    def test_the_most_serious_come_first_and_among_equals_the_earliest_cause(self):
        def finding(cause, severity):
            return Finding(cause, severity, f"title of {cause}", ("1 (sound: 2)",), "this.")

        a, b = finding("a", Severity.SYMPTOM), finding("b", Severity.COSTS)
        c, d = finding("c", Severity.BREAKS), finding("d", Severity.COSTS)
        found = most_serious_first([a, None, b, c, d])
        assert [f.cause for f in found] == ["c", "b", "d", "a"]
        text = "\n".join(lines_of(found))
        assert text.index("title of c") < text.index("1 (sound: 2)") < text.index("title of b")
        assert "do: this." in text and "4 findings" in text

    def test_a_healthy_run_has_none(self):
        assert lines_of([])[0].startswith("nothing found")

    def test_a_run_whose_model_could_not_be_looked_at_is_not_called_healthy(self):
        assert lines_of([], judged=False)[0].startswith("could not be judged")


def curve(losses=(), validations=(), every=10, norm=0.3):
    return Curve(
        [
            TrainingRow((k + 1) * every, float(loss), 1.0, norm, 1e-3)
            for k, loss in enumerate(losses)
        ],
        [ValidationRow(k, *values) for k, values in enumerate(validations)],
    )


class TestCourse:
    def test_a_metrics_file_is_read(self):
        found = Curve.of(
            [
                {"step": 10, "loss": 0.5, "baseline": 1.0, "gradient_norm": 2, "learning_rate": 1},
                {"step": 20, "validation/loss": 0.4, "validation/baseline": 0.8},
            ]
        )
        assert found.training == [TrainingRow(10, 0.5, 1.0, 2, 1)]
        assert found.training[0].ratio == 0.5
        assert found.validations == [ValidationRow(20, 0.4, 0.8, None, None)]
        assert found.best.step == 20
        assert Curve.of([]).best is None

    def test_running_away(self):
        burst, calm = curve([1.0, 25.0, 1.0]), curve([1.0, 0.5])

        def ran_away(*evidence):
            return fit.ran_away(*evidence, DEFAULT)

        assert ran_away(burst, None, 0.0, 20.0).cause == "learning-rate-too-high"
        assert ran_away(calm, None, 0.0, 20.0)  # useless, and blown up
        assert ran_away(calm, "the loss became NaN or infinite at step 3\n  why", None, None)
        assert ran_away(burst, None, None, None)  # before its first checkpoint
        assert ran_away(calm, None, 0.6, 20.0) is None  # large weights that are of use
        assert ran_away(burst, None, 0.6, 1.5) is None  # recovered
        assert ran_away(calm, "interrupted", 0.0, 1.0) is None

    def test_overfitting_is_a_held_out_loss_that_rises_while_the_other_falls(self):
        falls = [(0.5 - 0.02 * k, 1.0, 0.5 - 0.04 * k, 1.0) for k in range(6)]
        rises = [(0.5 + 0.02 * k, 1.0, 0.5 - 0.04 * k, 1.0) for k in range(6)]
        both = [(0.5 + 0.02 * k, 1.0, 0.5 + 0.04 * k, 1.0) for k in range(6)]
        found = fit.overfitting(curve(validations=rises), DEFAULT)
        assert "rose from 0.5000 at step 0 to 0.6000 at step 5" in found.evidence[0]
        assert "0.70 on training and 0.40 on held-out" in found.evidence[1]
        for healthy in (falls, both, rises[:2], []):
            assert fit.overfitting(curve(validations=healthy), DEFAULT) is None

    @pytest.mark.parametrize("seed", range(5))
    def test_one_level_a_batch_makes_the_loss_jump(self, seed):
        rng = np.random.default_rng(seed)
        ratios = np.linspace(0.1, 0.9, 12)
        drawn = rng.choice(ratios, (60, 10)).mean(axis=1)
        spread = ratios.mean() + 0.02 * rng.standard_normal(60)
        falling = np.linspace(2, 1, 60) * ratios.mean()
        assert fit.one_level_a_batch(curve(drawn), ratios.tolist(), DEFAULT)
        assert fit.one_level_a_batch(curve(spread), ratios.tolist(), DEFAULT) is None
        assert fit.one_level_a_batch(curve(falling), ratios.tolist(), DEFAULT) is None
        assert fit.one_level_a_batch(curve(drawn[:10]), ratios.tolist(), DEFAULT) is None
        assert fit.one_level_a_batch(curve(drawn), [0.5] * 12, DEFAULT) is None

    def test_levels_worse_than_knowing_nothing(self):
        found = fit.untrained_levels([4.0, 0.0, -4.0], [0.5, 0.4, 1.3], [1.0, 1.0, 1.0], DEFAULT)
        assert "1 of 3" in found.title and "log-SNR -4.0: loss 1.300" in found.evidence[0]
        assert fit.untrained_levels([4.0, 0.0], [0.5, 1.05], [1.0, 1.0], DEFAULT) is None
        # Where nothing was learned anywhere, that is the finding.
        assert fit.untrained_levels([4.0, 0.0], [1.0, 1.3], [1.0, 1.0], DEFAULT) is None

    def test_no_skill_on_held_out_files(self):
        worse = curve(validations=[(1.2, 1.0, None, None), (1.1, 1.0, None, None)])
        found = fit.worse_than_nothing(worse, DEFAULT)
        assert found.cause == "no-held-out-skill" and "skill -0.10" in found.evidence[0]
        better = curve(validations=[(1.2, 1.0, None, None), (0.9, 1.0, None, None)])
        assert fit.worse_than_nothing(better, DEFAULT) is None
        assert fit.worse_than_nothing(curve([1.0]), DEFAULT) is None

    def test_less_than_a_filter(self):
        assert fit.underfit(0.0, 0.3, curve([1.0]), DEFAULT).title == "nothing was learned"
        assert "than a filter" in fit.underfit(0.1, 0.3, curve([1.0]), DEFAULT).title
        assert fit.underfit(0.5, 0.3, curve([1.0]), DEFAULT) is None
        assert fit.underfit(0.0, 0.01, curve([1.0]), DEFAULT) is None

    def test_clipping_that_is_the_rule(self):
        unclipped = project(training={"gradient_clip": None})
        assert fit.clipped(curve([1.0] * 4, norm=9.0), DEFAULT)
        assert fit.clipped(curve([1.0] * 4, norm=1.2), DEFAULT) is None
        assert fit.clipped(curve([1.0] * 4, norm=9.0), unclipped) is None


def made(variance, floor=None, white=None, kept_white=None, taken=1.0, if_drawn=None):
    count = len(variance)
    return Directions(
        list(variance),
        floor,
        [True] * count if white is None else white,
        [False] * 2 if kept_white is None else kept_white,
        [taken] * 2,
        None if if_drawn is None else [if_drawn] * 2,
    )


MEANS = (8.0, 4.0, 0.01, 0.002, 0.0001, 0.00001)
DRAWS = (8.9, 4.9, 1.1, 1.0, 0.95, 0.9)
IN_TIME = Alignment([-0.1, 0.0, 0.1], [0.01, 0.2, 0.01], 1.0, 0.05)
LATE = Fit(Pairing(0.01, [0.0]), Alignment([-0.1, 0.0, 0.1], [0.0, 0.01, 0.2], 0.004, 0.05))
RIGHT = Fit(Pairing(0.2, [0.01, 0.0]), IN_TIME)
WRONG = Fit(Pairing(0.001, [0.002, -0.01]), IN_TIME)
FOLLOWED = Exchange(gain=0.02, p=1e-4, least_p=1e-9, identified=0.9, chance=0.2, groups=12)
IGNORED = Exchange(gain=0.02, p=0.4, least_p=1e-9, identified=0.2, chance=0.2, groups=12)
UNKNOWN = Exchange(gain=0.02, p=0.25, least_p=0.25, identified=1.0, chance=0.5, groups=2)


class TestData:
    @pytest.mark.parametrize(
        ("floor", "cause"), [(0.1, None), (1.1, "sampled-posteriors"), (30.0, None)]
    )
    def test_draws_lie_on_the_posterior_s_floor(self, floor, cause):
        # However few directions are white: a small codec has none to spare.
        found = data.sampled_posteriors(made(DRAWS, floor, white=[False] * 6), DEFAULT)
        assert (found and found.cause) == cause
        assert not found or "1.1 times as much as draws" in found.evidence[0]

    def test_draws_are_known_without_the_posterior_too(self):
        assert data.sampled_posteriors(made(DRAWS), DEFAULT)
        assert data.sampled_posteriors(made(MEANS), DEFAULT) is None
        # Directions of sound may be as strong as the posterior, but follow themselves.
        assert data.sampled_posteriors(made(DRAWS, white=[False] * 6), DEFAULT) is None
        # One white channel shows no floor; that it was kept is a finding of its own.
        assert data.sampled_posteriors(made([1.0]), DEFAULT) is None
        rounding = (*MEANS[:3], 1.1e-12, 1e-12, 0.9e-12)
        assert data.sampled_posteriors(made(rounding), DEFAULT) is None

    def test_a_model_of_draws_is_known_where_the_means_are_stored(self):
        found = made(MEANS, 0.0, taken=0.01, if_drawn=1.02)
        assert "0.01 of the variance" in data.sampled_posteriors(found, DEFAULT).evidence[0]
        assert data.sampled_posteriors(made(MEANS, 0.0, taken=0.01, if_drawn=3.0), DEFAULT) is None
        assert data.sampled_posteriors(made(MEANS, 0.0, taken=1.0, if_drawn=1.02), DEFAULT) is None

    def test_noise_that_is_kept(self):
        assert data.kept_noise(made(MEANS, kept_white=[True, True, False]), 0.0, DEFAULT)
        assert data.kept_noise(made(MEANS, kept_white=[True, False]), 0.0, DEFAULT) is None

    def test_other_latents_than_it_was_trained_for(self):
        assert data.changed_latents(made(MEANS, taken=1.3), True).severity is Severity.BREAKS
        assert data.changed_latents(made(MEANS, taken=0.7), True).severity is Severity.BREAKS
        assert data.changed_latents(made(MEANS), False).severity is Severity.COSTS
        assert data.changed_latents(made(MEANS), True) is None
        assert data.changed_latents(made(MEANS), None) is None

    def test_wrong_pairs(self):
        assert data.unpaired("mel", RIGHT, None) is None
        found = data.unpaired("mel", WRONG, IGNORED)
        assert found.cause == "unpaired-conditions" and "mel" in found.title
        # A condition that is followed on held-out files outweighs a linear regression.
        assert data.unpaired("mel", WRONG, FOLLOWED) is None

    def test_pairs_at_the_wrong_time(self):
        found = data.misaligned("beat", LATE)
        assert found.cause == "misaligned-conditions" and "0.10 s too late" in found.title
        assert data.misaligned("beat", RIGHT) is None
        assert data.misaligned("beat", WRONG) is None
        # Features of other files predict as much, so that these are wrong rather than late.
        assert data.misaligned("beat", Fit(Pairing(0.01, [0.3]), LATE.alignment)) is None

    def test_pairs_that_were_wrong_in_training(self):
        def trained_unpaired(gains, now, then):
            return data.trained_unpaired(gains, {"mel": RIGHT}, now, then, DEFAULT)

        found = trained_unpaired([-0.1, -0.2], 0.6, 0.5)
        assert found.cause == "unpaired-conditions" and "0.5000 in training" in found.evidence[0]
        assert trained_unpaired([0.5, 0.3], 0.6, 0.5) is None
        assert trained_unpaired([-0.1, -0.2], 0.5, 0.5) is None
        assert trained_unpaired([-0.1, -0.2], 0.6, None) is None

    def test_a_condition_that_is_ignored(self):
        tested = {"style": FOLLOWED, "label": IGNORED, "beat": UNKNOWN}
        found = data.ignored_condition(tested, {}, 0.01, DEFAULT)
        assert found.cause == "ignored-condition" and "condition label is" in found.title
        assert "p=0.4" in found.evidence[0] and "0.01 of the signal" in found.evidence[1]
        # However small the gain is, and where nothing can be said.
        for healthy in ({"label": FOLLOWED}, {"label": UNKNOWN}, {}):
            assert data.ignored_condition(healthy, {}, None, DEFAULT) is None


def outlier(kind, value=9.0, keys=("a.wav",)):
    return Outliers(kind, keys, value, 1.0)


class TestFiles:
    @pytest.mark.parametrize(
        ("kind", "cause"),
        [
            ("codecs", "mixed-codecs"),
            ("offset", "offset-files"),
            ("scale", "scaled-files"),
            ("level", "loud-files"),
            ("constant", "silence"),
        ],
    )
    def test_files_that_do_not_belong(self, kind, cause):
        (found,) = files.outliers([outlier(kind)], 10)
        assert found.cause == cause and "a.wav" in found.evidence[1]

    def test_silence_breaks_a_training_where_it_is_most_of_it(self):
        (some,) = files.outliers([outlier("constant")], 10)
        silent = outlier("constant", keys=("a", "b", "c"))
        (most,) = files.outliers([outlier("offset"), silent], 4)
        assert some.severity is Severity.COSTS and most.severity is Severity.BREAKS

    def test_held_out_files_that_are_trained_on(self):
        found = files.leak([Leak("a.wav", "b.wav", "sound", 0.97)])
        assert found.severity is Severity.BREAKS and "a.wav is b.wav" in found.evidence[0]
        assert files.leak([]) is None

    def test_held_out_files_too_few_to_say_anything(self):
        held_out = Validation([0.0], [0.5], [1.0], None)
        assert "too few" in files.uncertain(held_out, [0.5] * 3)
        assert "between 0.1" in files.uncertain(held_out, [0.2, 0.9, 0.1, 0.8])
        assert files.uncertain(held_out, [0.45, 0.55] * 20) is None


class TestFarSettings:
    @pytest.mark.parametrize(
        ("training", "cause"),
        [
            ({"weight_decay": 100.0}, "weight-decay-too-strong"),
            ({"gradient_clip": 1e-6}, "gradient-clip-too-low"),
            ({"learning_rate": 1e-6}, "learning-rate-too-low"),
            ({"warmup_steps": 90}, "warm-up-too-long"),
        ],
    )
    def test_a_setting_far_from_its_default_is_a_cause_where_little_was_learned(
        self, training, cause
    ):
        course, settings = curve([1.0] * 10), project(training={"steps": 100, **training})
        (found,) = far.far_settings(course, settings, underfitted=True)
        assert found.cause == cause and found.severity is Severity.BREAKS
        assert "training." in found.do_this
        learned = far.far_settings(course, settings, underfitted=False)
        # A clip that small is odd even where AdamW, which rescales gradients, copes with it.
        clips = [(cause, Severity.COSTS)] if "gradient_clip" in training else []
        assert [(found.cause, found.severity) for found in learned] == clips

    def test_usual_settings_are_no_cause(self):
        usual = project(training={"weight_decay": 0.1, "gradient_clip": 0.1, "learning_rate": 1e-4})
        assert far.far_settings(curve([1.0] * 10), usual, underfitted=True) == []


class TestForm:
    def test_no_skill_where_form_is_decided(self):
        found = fit.no_form(0.03, {"label": FOLLOWED}, DEFAULT)
        assert found.cause == "no-form" and "no beat" in found.title
        assert fit.no_form(0.4, {}, DEFAULT) is None
        assert fit.no_form(None, {}, DEFAULT) is None
        # A beat explains little of the latents where they are free otherwise.
        assert fit.no_form(0.1, {"beat": FOLLOWED}, DEFAULT) is None
        assert fit.no_form(0.03, {"beat": IGNORED}, DEFAULT)

    def test_a_style_alone_keeps_to_a_piece_but_has_no_beat(self):
        titles = [
            fit.no_form(0.03, {"style": tested}, DEFAULT).title for tested in (FOLLOWED, IGNORED)
        ]
        assert titles == [
            "samples will have no beat",
            "samples will have no beat and wander from piece to piece",
        ]

    def test_what_to_turn_on_is_advised(self):
        free = config.build(Project, {"condition": {"kinds": "none"}})
        label = config.build(Project, {"condition": {"kinds": "label"}})
        assert "condition.kinds=style,beat." in advice.no_form(free)
        assert "condition.kinds=style,beat,label." in advice.no_form(label)
        assert "kinds=" not in advice.no_form(DEFAULT)

    def test_only_the_noisiest_levels_count(self):
        levels = [3.0, -3.0, -5.0]
        free = Validation(levels, [0.3, 0.6, 0.97], [1.0] * 3, None)
        followed = Validation(levels, [0.3, 0.6, 0.6], [1.0] * 3, None)
        assert verdict.form_skill(free) == pytest.approx(0.03)
        assert verdict.form_skill(Validation([0.0], [0.5], [1.0], None)) is None
        assert "condition.kinds=style,beat" in verdict.form(free)
        assert verdict.form(followed) is None
        assert verdict.form(replace(free, exchanged={"beat": 1.0})) is None


def inside(*, stream_in=1.0, stream_out=2.0, signal=1.0, condition=0.5, saturated=0.2, output=0.8):
    blocks = [
        BlockActivity(f"blocks.{k}", stream_in, stream_out, signal, condition, saturated)
        for k in range(3)
    ]
    return {4.7: Activations(blocks, output), -4.9: Activations(blocks, output / 2)}


class TestNetwork:
    def test_batch_norm_shows_where_it_does_most_harm(self):
        found = network.batch_norm(
            BatchNormLosses(["norm"], [4.0, -4.0], [0.5, 1.3], [0.5, 1.0]), DEFAULT
        )
        assert found.severity is Severity.BREAKS
        assert "log-SNR -4.0: loss 1.300 in use, 1.000" in found.evidence[1]

    def test_a_stream_that_grows(self):
        found = network.growing_stream(inside(stream_out=3000.0), DEFAULT)
        assert "1 into blocks.0, 3e+03 out of blocks.2, 3000 times" in found.evidence[0]
        assert network.growing_stream(inside(), DEFAULT) is None
        assert network.growing_stream({0.0: Activations([], 0.5)}, DEFAULT) is None

    def test_a_condition_that_is_too_weak(self):
        assert network.weak_condition(inside(condition=0.001), DEFAULT)
        assert network.weak_condition(inside(), DEFAULT) is None
        assert network.weak_condition(inside(condition=None), DEFAULT) is None

    def test_gates_that_are_stuck(self):
        assert network.shut_gates(inside(saturated=1.0), DEFAULT)
        assert network.shut_gates(inside(saturated=0.6), DEFAULT) is None
        assert network.shut_gates(inside(saturated=None), DEFAULT) is None

    def test_an_output_of_nothing(self):
        assert network.dead_output(inside(output=0.01))
        assert network.dead_output(inside()) is None

    @pytest.mark.parametrize(
        ("spread", "offset", "title"),
        [
            ([0.4, 0.5], [0.0, 0.0], "weaker and more alike"),
            ([300.0, 2.0], [0.0, 0.0], "vary more"),
            ([1.0, 1.0], [0.9, -0.8], "another mean"),
            ([math.nan, math.nan], [math.nan, math.nan], "vary more"),
        ],
    )
    def test_samples_unlike_latents(self, spread, offset, title):
        samples = SampleStatistics(spread, offset, 4)
        found = network.strange_samples(samples, DEFAULT, DEFAULT.sampling)
        assert found.severity is Severity.SYMPTOM and title in found.title

    def test_samples_like_latents(self):
        samples = SampleStatistics([0.8, 1.1], [0.2, -0.1], 4)
        assert network.strange_samples(samples, DEFAULT, DEFAULT.sampling) is None

    def test_a_schedule_that_warns(self):
        assert network.weak_schedule(["never reaches pure noise"], DEFAULT).evidence
        assert network.weak_schedule([], DEFAULT) is None


def resolved(settings):
    """Sampling settings of a model that was not calibrated."""
    found = settings.sampling
    return found.model_copy(update={"autoguidance": 1.0}) if found.autoguidance == "auto" else found


ADVICE = {
    "sampled-posteriors, stored": lambda s: advice.sampled_posteriors(s, True),
    "sampled-posteriors, trained": lambda s: advice.sampled_posteriors(s, False),
    "kept-noise": lambda s: advice.kept_noise(s, 8),
    "kept-noise, one": lambda s: advice.kept_noise(s, 1),
    "trained-unpaired": advice.trained_unpaired,
    "ignored-condition": advice.ignored_condition,
    "ran-away": advice.ran_away,
    "clipped": advice.clipped,
    "overfitting": advice.overfitting,
    "one-level-a-batch": advice.one_level_a_batch,
    "untrained-levels": advice.untrained_levels,
    "underfit": advice.underfit,
    "batch-norm": advice.batch_norm,
    "growing-stream": advice.growing_stream,
    "weak-condition": advice.weak_condition,
    "shut-gates": advice.shut_gates,
    "schedule": advice.schedule,
    "weak-samples": lambda s: advice.weak_samples(s, resolved(s)),
    "wild-samples": lambda s: advice.wild_samples(s, resolved(s)),
    "displaced-samples": advice.displaced_samples,
}
MISTAKES = {
    "data": {"posterior": "sampled", "pairing": "shuffled"},
    "network": {"norm": "batch"},
    "training": {"levels": "batch", "t_range": [0.1, 0.9]},
    "sampling": {"clamp": 1.0, "normalise": True},
}
IN_FORCE = {
    "default": {},
    "regression": {"condition": {"kinds": "mel"}, "diffusion": {"parametrisation": "regression"}},
    "label": {"condition": {"kinds": "label", "dropout": 0.5}},
    "no guidance": {"condition": {"kinds": "mel", "dropout": 0.0}},
    "mistakes": {
        "experiment": MISTAKES,
        "network": {"name": "unet1d"},
        "condition": {"kinds": "mel"},
    },
    "as advised": {
        "latents": {"keep": "all"},
        "network": {"name": "tiny", "channels": 8},
        "training": {"gradient_clip": 1e-6, "patience": 10, "weight_decay": 100.0, "batch": 1},
        "sampling": {"steps": 200, "autoguidance": 1.5},
    },
    "unclipped": {
        "diffusion": {"precondition": False, "levels": {"name": "edm"}, "weighting": "edm"},
        "training": {"gradient_clip": None, "steps": None, "hours": 3},
    },
    "short schedule": {"diffusion": {"schedule": {"name": "flow", "logsnr_min": -3}}},
    "chain": {"diffusion": {"schedule": {"name": "diffwave"}}, "latents": {"keep": 4}},
}


class TestAdvice:
    """A14: what cannot help is not advised."""

    @pytest.mark.parametrize("name", ADVICE)
    @pytest.mark.parametrize("case", IN_FORCE)
    def test_no_setting_is_advised_that_is_in_force(self, name, case):
        settings = config.build(Project, IN_FORCE[case])
        if name == "clipped" and settings.training.gradient_clip is None:
            return  # nothing is clipped
        text = ADVICE[name](settings)
        assert text.endswith(".") and text[0].islower()
        for key, value in re.findall(r"([a-z]+(?:\.[a-z_]+)+)=(\[[^\]]*\]|[^\s;,:]+)", text):
            assert setting(settings, key) != yaml.safe_load(value.rstrip(".")), text
        for key, value in re.findall(r"([a-z]+(?:\.[a-z_]+)+)(?:,| \()now ([^);]+)", text):
            now = setting(settings, key)
            # What `auto` stands for is not in the settings.
            assert now == "auto" or now == pytest.approx(float(value)), text

    @pytest.mark.parametrize(
        ("name", "sections", "advised", "not_advised"),
        [
            ("wild-samples", {}, ["sampling.steps (now 8)"], ["guidance"]),
            ("wild-samples", {"sampling": {"guidance": 4}}, ["lower sampling.guidance"], []),
            ("wild-samples", {"sampling": {"steps": 1000}}, ["train longer"], ["sampling.steps"]),
            (
                "wild-samples",
                {"sampling": {"autoguidance": 2}},
                ["lower sampling.autoguidance (now 2)"],
                ["sampling.guidance"],
            ),
            (
                "weak-samples",
                {"condition": {"kinds": "none"}},
                ["train longer", "raise sampling.autoguidance"],
                [".guidance"],
            ),
            ("weak-samples", {"sampling": {"autoguidance": 2}}, ["longer"], ["autoguidance"]),
            ("weak-samples", {"condition": {"kinds": "mel"}}, ["raise sampling.guidance"], []),
            (
                "weak-samples",
                {"condition": {"kinds": "mel", "dropout": 0}},
                ["train longer"],
                ["sampling.guidance"],
            ),
            ("weak-samples", {"experiment": MISTAKES}, ["experiment.sampling.clamp=null"], []),
            ("ignored-condition", {"condition": {"dropout": 0}}, ["longer"], ["dropout"]),
            ("ignored-condition", {"condition": {"dropout": 0.5}}, ["lower condition.dropout"], []),
            (
                "ignored-condition",
                {"experiment": {"data": {"pairing": "shuffled"}}},
                ["experiment.data.pairing=key"],
                ["train longer"],
            ),
            ("clipped", {}, ["learning_rate=0.0001"], ["raise"]),
            (
                "clipped",
                {"training": {"gradient_clip": 1e-6}},
                ["raise training.gradient_clip (now 1e-06"],
                ["learning_rate"],
            ),
            ("clipped", {"diffusion": {"weighting": "edm"}}, ["weighting edm"], []),
            ("ran-away", {}, ["learning_rate=0.0001"], ["gradient_clip", "weight_decay"]),
            ("ran-away", {"training": {"gradient_clip": None}}, ["gradient_clip=1"], []),
            ("ran-away", {"training": {"weight_decay": 100}}, ["training.weight_decay=0"], []),
            ("underfit", {"training": {"weight_decay": 100}}, ["training.weight_decay=0"], []),
            ("overfitting", {}, ["below 64", "training.patience=10"], []),
            ("overfitting", {"network": {"channels": 8}}, ["add recordings"], ["smaller"]),
            ("overfitting", {"training": {"patience": 20}}, ["add recordings"], ["patience"]),
            ("kept-noise", {}, ["below 8", "smaller beta"], ["keep=auto"]),
            ("kept-noise", {"latents": {"keep": "all"}}, ["latents.keep=auto"], ["beta"]),
            ("kept-noise, one", {}, ["smaller beta"], ["below"]),
            (
                "sampled-posteriors, trained",
                {"experiment": {"data": {"posterior": "sampled"}}},
                ["experiment.data.posterior=mean"],
                ["encode"],
            ),
            ("sampled-posteriors, trained", {}, ["train again"], ["encode"]),
            ("sampled-posteriors, stored", {}, ["latentdiff encode"], ["experiment"]),
            ("growing-stream", {}, ["learning_rate"], ["network.name"]),
            ("growing-stream", {"network": {"name": "unet1d"}}, ["network.name=diffwave"], []),
            ("untrained-levels", {}, ["train longer"], ["precondition", "levels.name"]),
            ("one-level-a-batch", {"training": {"batch": 1}}, ["training.batch (now 1)"], []),
            ("batch-norm", {"experiment": MISTAKES}, ["experiment.network.norm=own"], []),
            ("schedule", {}, ["diagnose schedule"], ["cosine"]),
            (
                "schedule",
                {"diffusion": {"schedule": {"name": "diffwave"}}},
                ["diffusion.schedule.name=cosine"],
                ["logsnr_min"],
            ),
            (
                "schedule",
                {"diffusion": {"schedule": {"logsnr_min": -3}}},
                ["logsnr_min=-10"],
                ["cosine"],
            ),
        ],
    )
    def test_advice_depends_on_the_settings(self, name, sections, advised, not_advised):
        if "experiment" in sections:
            sections = {"condition": {"kinds": "mel"}, **sections}
        text = ADVICE[name](config.build(Project, sections))
        assert all(part in text for part in advised), text
        assert not any(part in text for part in not_advised), text


def setting(project, key):
    """The value in force, as YAML has it."""
    value = project.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


MEL_OF_FIVE = {"mel": ConditionSize(features=5)}


class TestMeasures:
    @pytest.mark.parametrize("seed", range(5))
    def test_white_directions(self, seed):
        rng = np.random.default_rng(seed)
        files = [
            torch.from_numpy(
                np.concatenate([resonance(rng, 400, 1), rng.standard_normal((1, 400))])
            )
            for _ in range(4)
        ]
        assert whiteness.white(files).tolist() == [False, True]

    def test_autocorrelation_of_a_known_process(self):
        rng = np.random.default_rng(0)
        z, kept = np.zeros((1, 40_000)), 0.8
        for t in range(1, z.shape[1]):
            z[:, t] = kept * z[:, t - 1] + rng.standard_normal()
        correlation, frames = whiteness.autocorrelation([torch.from_numpy(z)])
        assert frames == 40_000
        wanted = torch.tensor([kept**lag for lag in whiteness.LAGS])
        torch.testing.assert_close(correlation[:, 0].float(), wanted, atol=0.03, rtol=0)

    @pytest.mark.parametrize("seed", range(5))
    def test_right_pairs_predict_what_they_share(self, seed):
        rng = np.random.default_rng(seed)

        def file():
            features = rng.standard_normal((5, 600))
            z = mixing @ features + rng.standard_normal((2, 600))
            return torch.from_numpy(z), torch.from_numpy(features)

        mixing = np.linalg.qr(rng.standard_normal((5, 2)))[0].T
        files = [file() for _ in range(4)]
        right = pairing.pairing(files)
        # Signal and noise have variance 1 each; the ridge costs a little.
        assert 0.4 < right.stored < 0.5 and right.best_wrong < 0.02 and right.holds
        others = files[1:] + files[:1]
        wrong = pairing.pairing([(z, f) for (z, _), (_, f) in zip(files, others, strict=True)])
        assert wrong.stored < 0.02 and not wrong.holds

    def test_what_sets_files_apart_does_not_pass_for_a_pair(self):
        rng = np.random.default_rng(0)
        files = [
            (torch.from_numpy(rng.standard_normal((2, 300)) + k), torch.full((3, 300), float(k)))
            for k in range(4)
        ]
        assert not pairing.pairing(files).holds

    def test_magnitudes_in_a_network_and_no_trace_left(self):
        torch.manual_seed(0)
        net = build(NetworkConfig(name="diffwave", channels=16, blocks=3), 4, MEL_OF_FIVE)
        z, level = torch.randn(2, 4, 20), torch.zeros(2)
        condition = Condition({"mel": torch.randn(2, 5, 20)})
        with torch.no_grad():
            plain = activations.measure(net, lambda: net(z, level, condition))
            net.blocks[1].condition.weight.mul_(100)
            net.blocks[1].condition.bias.mul_(100)
            loud = activations.measure(net, lambda: net(z, level, condition))
        assert [block.name for block in plain.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
        assert plain.blocks[1].stream_in == pytest.approx(plain.blocks[0].stream_out)
        assert loud.blocks[1].condition == pytest.approx(100 * plain.blocks[1].condition, rel=1e-4)
        assert plain.blocks[1].saturated == 0 and loud.blocks[1].saturated > 0.5
        assert plain.output == 0  # untrained
        assert plain.growth == pytest.approx(plain.blocks[2].stream_out / plain.blocks[0].stream_in)
        assert not any(module._forward_hooks for module in net.modules())

    @pytest.mark.parametrize("name", NETWORKS)
    @pytest.mark.parametrize("features", [0, 5])
    def test_every_network_has_blocks_that_are_known(self, name, features):
        net = build(NetworkConfig(name=name, channels=16), 4, MEL_OF_FIVE if features else {})
        condition = Condition({"mel": torch.randn(2, 5, 20)} if features else {})
        z, level = torch.randn(2, 4, 20), torch.zeros(2)
        found = activations.measure(net, lambda: net(z, level, condition))
        assert found.blocks and all(block.signal > 0 for block in found.blocks)
        assert all((block.condition is not None) == bool(features) for block in found.blocks)

    def test_directions_of_a_whitening_s_own_latents(self):
        rng = np.random.default_rng(0)
        mixing = np.linalg.qr(rng.standard_normal((6, 6)))[0][:, :2]
        files = [
            ((3 * mixing @ resonance(rng, 400)).astype(np.float32), np.full((6, 400), 0.5))
            for _ in range(4)
        ]
        whitening = Whitening.from_statistics(statistics.fit(files), 2)
        found = directions.measure(files, whitening)
        assert found.taken == pytest.approx([1, 1], rel=1e-4)
        assert found.kept_white == [False, False]
        drawn = [1 + 0.25 / v for v in found.variance[:2]]
        assert found.taken_if_drawn == pytest.approx(drawn, rel=1e-4)
        assert found.floor == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("spare", [0, 4], ids=["no spare", "4 spare directions"])
    @pytest.mark.parametrize("frames", [400, 100])
    def test_the_floor_of_draws_is_that_of_the_posterior(self, spare, frames):
        rng = np.random.default_rng(frames)
        std = np.array([1.0, 0.3] + [1.0] * spare)[:, None].repeat(frames, axis=1)
        means = [
            np.concatenate([3 * resonance(rng, frames), np.zeros((spare, frames))])
            for _ in range(3)
        ]
        drawn = [(z + std * rng.standard_normal(z.shape), std) for z in means]
        whitening = Whitening.from_statistics(statistics.fit(drawn), "all")
        assert 0.8 < directions.measure(drawn, whitening).floor < 1.6
        assert directions.measure([(z, std) for z in means], whitening).floor < 0.35

    def test_the_floor_is_not_that_of_one_loud_file(self):
        rng = np.random.default_rng(0)
        means = [
            np.concatenate([resonance(rng, 300), np.zeros((4, 300))])
            + 0.1 * rng.standard_normal((6, 300))
            for _ in range(9)
        ]
        files = [(z * (30 if k == 4 else 1), np.ones((6, 300))) for k, z in enumerate(means)]
        whitening = Whitening.from_statistics(statistics.fit(files), "all")
        assert directions.measure(files, whitening).floor < 0.05

    def test_there_is_no_floor_of_too_few_frames(self):
        files = [(np.random.default_rng(0).standard_normal((6, 20)), np.ones((6, 20)))]
        whitening = Whitening.from_statistics(statistics.fit(files), "all")
        assert directions.measure(files, whitening).floor is None


SMALL = {
    "condition": {"kinds": "none"},
    "network": {"name": "tiny", "channels": 32, "kernel": 5},
    "training": {
        "steps": 200,
        "batch": 16,
        "window": 32,
        "learning_rate": 4e-3,
        "validation_windows": 16,
        "calibration_samples": 0,
        "demo_samples": 0,
    },
    "sampling": {"steps": 8},
    "device": "cpu",
}
MEL = {"condition": {"kinds": "mel"}}
SEED = 0


def project(**sections):
    return config.build(Project, config.merge(SMALL, sections, {"seed": SEED}))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def make_store(run):
    """Writes latents with 2 directions of sound in 8, and one of the two as their condition.

    `drawn`: from the posterior, of variance 1. `shuffled`: conditions of other files.
    """

    def make(*, files=10, held_out=3, frames=300, drawn=False, shuffled=False, std=True):
        rng = np.random.default_rng(SEED)
        mixing = np.linalg.qr(np.random.default_rng(99).standard_normal((8, 8)))[0][:, :2]
        settings = json.dumps(condition_kind("mel", ConditionConfig(kinds=("mel",))).identity())
        inputs = {"codec": Input("codec", "c" * 64), "condition.mel": Input(settings, "m")}
        sounds = [resonance(rng, frames) for _ in range(files)]
        with Stage(run.latents, "encode", inputs=inputs) as stage:
            accumulator, rows = statistics.StatisticsAccumulator(), []
            for i, sound in enumerate(sounds):
                z = 5 * mixing @ sound + 0.01 * rng.standard_normal((8, frames))
                z += rng.standard_normal(z.shape) if drawn else 0
                features = sounds[(i + 1) % files if shuffled else i][:1]
                entry = Entry(
                    f"{i}.wav",
                    None,
                    "validation" if i < held_out else "train",
                    frames * 64,
                    frames,
                    f"{i}.npy",
                    std=f"std{i}.npy" if std else None,
                    mel=f"mel{i}.npy",
                )
                np.save(run.latents / entry.mean, z.astype(np.float32))
                np.save(run.latents / f"std{i}.npy", np.ones_like(z, dtype=np.float32))
                np.save(run.latents / entry.mel, features.astype(np.float32))
                if entry.split == "train":
                    accumulator.update(z, np.ones_like(z) if std else None)
                rows.append(entry.row())
            accumulator.finish().save(run.latents / "stats.safetensors")
            runs.write_jsonl(run.latents / "manifest.jsonl", rows)
            stage.record(sample_rate=8000, hop=64, latent_dim=8, channels=1)

    return make


def diagnosed(run, settings, **options):
    """The causes found in a run, most serious first."""
    diagnose_training(run, settings, **options)
    text = (run.root / "diagnosis" / "training" / "training.json").read_text(encoding="utf-8")
    return [finding["cause"] for finding in json.loads(text)["findings"]]


class TestRuns:
    """Each takes seconds, and holds for the seeds 0 to 4."""

    def test_nothing_is_found_in_a_healthy_run(self, run, make_store, caplog):
        make_store()
        settings = project(**MEL)
        train_diffusion(run, settings)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            assert diagnosed(run, settings) == []
        assert "nothing found" in caplog.text
        for part in ("baseline", "gradient norm", "directions", "the stream", "spread", "lag of"):
            assert part in caplog.text
        assert "mel: gain" in caplog.text and "- followed" in caplog.text

    def test_a_healthy_run_without_conditions_has_no_form(self, run, make_store, caplog):
        make_store()
        with caplog.at_level(logging.WARNING, logger="latentdiff"):
            train_diffusion(run, project())
        assert "no form: skill" in caplog.text and "condition.kinds=style,beat" in caplog.text
        assert diagnosed(run, project()) == ["no-form"]

    def test_conditions_that_come_too_late(self, run, make_store):
        make_store()
        for path in run.latents.glob("mel*.npy"):
            np.save(path, np.roll(np.load(path), 40, axis=1))
        train_diffusion(run, project(**MEL))
        assert diagnosed(run, project(**MEL))[0] == "misaligned-conditions"

    def test_held_out_files_that_are_trained_on(self, run, make_store):
        make_store()
        np.save(run.latents / "0.npy", np.load(run.latents / "7.npy"))
        settings = project(training={"leaks": "allow"})
        train_diffusion(run, settings)
        assert diagnosed(run, settings)[0] == "leak"

    def test_posteriors_that_the_store_has_no_more(self, run, make_store, caplog):
        make_store(drawn=True)
        settings = project(experiment={"data": {"posterior": "sampled"}}, latents={"keep": "all"})
        train_diffusion(run, settings)
        rows = runs.read_jsonl(run.latents / "manifest.jsonl")
        bare = [{**row, "std": None} for row in rows]
        runs.write_jsonl(run.latents / "manifest.jsonl", bare)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            found = diagnosed(run, settings)
        assert "nothing found" not in caplog.text
        assert found[0] == "sampled-posteriors"

    @pytest.mark.parametrize("std", [True, False], ids=["std", "no std"])
    def test_draws_from_the_posterior(self, run, make_store, std):
        make_store(drawn=True, std=std)
        train_diffusion(run, project())
        assert diagnosed(run, project())[0] == "sampled-posteriors"

    def test_draws_that_only_training_saw(self, run, make_store):
        make_store()
        settings = project(experiment={"data": {"posterior": "sampled"}}, latents={"keep": "all"})
        train_diffusion(run, settings)
        assert diagnosed(run, settings)[0] == "sampled-posteriors"

    def test_conditions_of_other_files(self, run, make_store):
        make_store(shuffled=True)
        train_diffusion(run, project(**MEL))
        assert diagnosed(run, project(**MEL))[0] == "unpaired-conditions"

    def test_conditions_that_only_training_took_from_other_files(self, run, make_store):
        make_store()
        settings = project(**MEL, experiment={"data": {"pairing": "shuffled"}})
        train_diffusion(run, settings)
        assert diagnosed(run, settings)[0] in ("unpaired-conditions", "ignored-condition")

    def test_batch_norm_and_one_level_a_batch(self, run, make_store):
        make_store()
        wrong = {"network": {"norm": "batch"}, "training": {"levels": "batch"}}
        network = {"name": "diffwave", "channels": 16, "blocks": 3}
        settings = project(network=network, experiment=wrong)
        train_diffusion(run, settings)
        assert diagnosed(run, settings)[0] == "batch-norm"

    def test_a_learning_rate_a_hundred_times_too_high(self, run, make_store):
        make_store()
        network = {"name": "diffwave", "channels": 16, "blocks": 3}
        settings = project(network=network, training={"learning_rate": 0.4})
        train_diffusion(run, settings)
        assert diagnosed(run, settings)[0] == "learning-rate-too-high"

    def test_files_learned_by_heart(self, run, make_store):
        make_store(files=4, held_out=3, frames=80)
        training = {"steps": 500, "validate_every": 50}
        settings = project(network={"channels": 64}, training=training)
        train_diffusion(run, settings)
        assert diagnosed(run, settings)[0] == "overfitting"


class TestCommand:
    @pytest.fixture
    def trained(self, run, make_store):
        make_store()
        train_diffusion(run, project(training={"steps": 20}))
        return run

    def test_no_training(self, run, make_store):
        make_store()
        with pytest.raises(UserError, match="there is no training in"):
            diagnose_training(run, project())

    def test_dry_run_writes_nothing(self, trained):
        assert diagnose_training(trained, project(), dry_run=True) == []
        assert not (trained.root / "diagnosis").exists()

    def test_it_is_made_once(self, trained, caplog):
        diagnose_training(trained, project())
        path = trained.root / "diagnosis" / "training" / "training.txt"
        before = path.stat().st_mtime_ns
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            diagnose_training(trained, project())
        assert path.stat().st_mtime_ns == before and "already done" in caplog.text

    def test_results_are_read_back_as_they_were_measured(self, trained):
        diagnose_training(trained, project())
        path = trained.root / "diagnosis" / "training" / "training.json"
        results = read_results(path, Results)
        assert results.measured.step == 20 and "skill" in results.measured.training
        assert all(isinstance(found, Finding) for found in results.findings)

    def test_another_checkpoint_of_the_same_training_is_not_already_done(self, trained):
        diagnose_training(trained, project())
        weights = trained.diffusion / "checkpoints" / "best.safetensors"
        other = weights.with_name("other.safetensors")
        model = Model.load(weights)
        replace(model, step=7).save(other)
        with pytest.raises(UserError, match="diffusion: another"):
            diagnose_training(trained, project(), diffusion=other)

    def test_settings_that_cannot_be_read_leave_the_rest(self, trained):
        info = runs.read_run(trained.diffusion).to_json()
        info["config"]["training"]["gone"] = 1
        runs.write_json(trained.diffusion / "run.json", info)
        (problem,) = diagnose_training(trained, project())
        assert "the settings of the training" in problem

    def test_latents_that_are_gone_leave_the_metrics(self, trained, caplog):
        (trained.latents / "manifest.jsonl").unlink()
        for path in trained.latents.glob("*.npy"):
            path.unlink()
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            (lost,) = diagnose_training(trained, project())
        assert "there are no latents" in lost and "gradient norm" in caplog.text
        assert "nothing found" not in caplog.text

    def test_other_latents_are_reported(self, trained):
        path = trained.latents / "5.npy"
        np.save(path, 2 * np.load(path))
        assert "changed-latents" in diagnosed(trained, project())

    def test_a_missing_held_out_file_is_reported(self, run, make_store):
        make_store(held_out=0)
        train_diffusion(run, project(training={"steps": 20}))
        (lost,) = diagnose_training(run, project())
        assert "no file is held out" in lost

    def test_a_training_that_ended_in_nan_before_its_first_checkpoint(self, trained):
        info = runs.read_run(trained.diffusion).to_json()
        info.update(status="failed", error="the loss became NaN or infinite at step 3, in 2 of 16")
        runs.write_json(trained.diffusion / "run.json", info)
        for path in (trained.diffusion / "checkpoints").iterdir():
            path.unlink()
        assert diagnosed(trained, project()) == ["learning-rate-too-high"]
