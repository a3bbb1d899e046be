"""Scores from features clip by clip: fakes must fail, real clips must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentdiff.evaluation import controls, movement
from latentdiff.evaluation.places import Places
from latentdiff.evaluation.scores import Described, Reference, score, score_form

RATE = 20.0
VIEWS = ("timbre", "movement", "events", "direction", "seams")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def plucked(clips, seed, frames=200, channels=3):
    """Notes that start at once in all channels and die away; each clip has a tempo and a mix."""
    rng = np.random.default_rng(seed)
    z = 0.05 * rng.standard_normal((clips, channels, frames))
    for clip in z:
        fall, gap = rng.uniform(0.75, 0.9), rng.uniform(8, 16)
        note, level = fall ** np.arange(frames), rng.uniform(0.5, 1.5, channels)
        for start in np.arange(rng.uniform(0, gap), frames, gap).astype(int):
            clip[:, start:] += (level * rng.uniform(0.5, 1.5))[:, None] * note[: frames - start]
    return torch.from_numpy(z).float()


def describe(clips, *views, places=None):
    features = movement.describe_latents(clips, RATE)
    return Described({view: features[view] for view in views or VIEWS}, places)


def lines(sets, generator, count=64):
    """Scores of sets of clips by each view."""
    sets = {"training": plucked(count, seed=1), "held out": plucked(32, seed=2), **sets}
    described = {name: describe(clips) for name, clips in sets.items()}
    return score_form(described, "training", "white", "held out", {}, generator).views


class TestLines:
    def test_each_control_fails_where_it_should_and_real_clips_nowhere(self, generator):
        real = plucked(16, seed=3)
        found = lines(
            {
                "white": controls.white_noise(real, generator),
                "real": plucked(16, seed=4),
                "phases": controls.random_phases(real, generator),
                "process": controls.gaussian_process(real, generator),
                "shuffled": controls.shuffled_blocks(real, 1, generator),
                "reversed": controls.reversed_time(real),
                "spliced": controls.shuffled_blocks(real, 50, generator),
            },
            generator,
        )
        for name, line in found.items():
            assert line.one == "held-out clips"
            assert line.scores["real"].value == pytest.approx(1, abs=0.15), name
            assert line.scores["white"].value == pytest.approx(0, abs=0.15), name
        value = {k: {n: i.value for n, i in line.scores.items()} for k, line in found.items()}
        assert value["movement"]["shuffled"] < 0.5 and value["timbre"]["shuffled"] > 0.8
        assert value["events"]["phases"] < 0.5 and value["movement"]["phases"] > 0.8
        assert value["events"]["process"] < 0.5
        assert value["direction"]["reversed"] < 0 and value["events"]["reversed"] > 0.8
        told = {name: line.separation for name, line in found.items()}
        assert told["direction"]["reversed"].value > 0.95
        assert all(of["real"].value < 0.75 for of in told.values())

    def test_fewer_clips_give_no_other_score_on_average(self, generator):
        base = Reference(describe(plucked(64, seed=1), "movement"))
        noise = controls.white_noise(plucked(64, seed=2), generator)
        few = [
            float(base.distances(describe(noise[k::8], "movement"), generator)[0]) for k in range(8)
        ]
        whole = float(base.distances(describe(noise, "movement"), generator)[0])
        assert np.mean(few) == pytest.approx(whole, rel=0.02)

    def test_far_worse_than_noise_is_below_zero(self, generator):
        white = controls.white_noise(plucked(16, seed=3), generator)
        found = lines({"white": white, "loud": 9 + 20 * plucked(16, seed=5)}, generator)
        assert found["timbre"].scores["loud"].value < -0.2

    def test_too_few_clips_give_a_reason_instead_of_a_number(self, generator):
        found = lines({"white": plucked(4, seed=3)}, generator)["events"].scores["white"]
        assert found.value is None and "4 clips are too few" in found.reason

    def test_held_out_clips_of_another_kind_are_no_scale(self, generator):
        real = plucked(64, seed=1)
        white = controls.white_noise(real, generator)
        base = Reference(describe(real))
        sets = {"white": describe(white), "odd": describe(white.flip(0))}
        line = score(base, sets, "white", "odd", generator)
        assert line.one == "other training clips"

    def test_the_interval_holds_the_scores_of_other_draws(self, generator):
        sets = {f"{k}": plucked(24, seed=10 + k) for k in range(12)}
        sets["white"] = controls.white_noise(plucked(24, seed=3), generator)
        line = lines(sets, generator)["events"]
        inside = [
            line.scores["0"].low <= line.scores[f"{k}"].value <= line.scores["0"].high + 0.02
            for k in range(12)
        ]
        assert sum(inside) >= 7
        assert 0 < line.smallest_difference("0") < 0.2


class TestRepeats:
    def test_a_classifier_tells_repeats_and_noise_but_not_real_clips(self, generator):
        base = Reference(describe(plucked(48, seed=1)))
        six = controls.repeated(plucked(32, seed=4), 6)
        assert base.separation(describe(six)).value > 0.95
        assert base.separation(describe(controls.white_noise(six, generator))).value > 0.95
        assert 0.3 < base.separation(describe(plucked(32, seed=4))).value < 0.7

    def test_clips_cut_from_one_another_are_no_repeats(self, generator):
        base = Reference(describe(plucked(48, seed=1)))
        twice = controls.repeated(plucked(32, seed=4), 16)
        places = Places(tuple(f"{k % 16}" for k in range(32)), (0,) * 32, 200)
        known = describe(twice, places=places)
        assert base.separation(known).value < 0.75 < base.separation(describe(twice)).value
        assert base.variety(describe(twice), generator).value == pytest.approx(0, abs=1e-6)
        assert base.variety(known, generator).value > 0.8

    def test_clips_that_overlap_the_training_clips_are_not_nearer_for_that(self, generator):
        pieces = plucked(32, seed=4, frames=400)
        names = tuple(map(str, range(32)))
        base = Reference(describe(pieces[..., :200], places=Places(names, (0,) * 32, 200)))
        near = describe(pieces[..., 20:220], places=Places(names, (20,) * 32, 200))
        unknown = Described(near.features)
        fresh = describe(plucked(32, seed=5))
        apart, near_, far = (float(base.distances(x, generator)[0]) for x in (unknown, near, fresh))
        assert apart < near_ and abs(near_ - far) < 0.06

    def test_variety_of_real_clips_is_one(self, generator):
        base = Reference(describe(plucked(48, seed=1)))
        assert base.variety(describe(plucked(16, seed=4)), generator).value == pytest.approx(
            1, abs=0.15
        )


class TestControls:
    def test_white_noise_has_the_covariance_and_nothing_else(self, generator):
        clips = plucked(64, seed=1)
        noise = controls.white_noise(clips, generator)
        frames, white = (x.transpose(0, 1).flatten(1) for x in (clips, noise))
        assert torch.allclose(frames.cov(), white.cov(), atol=0.05)
        assert white.flatten()[1:].mul(white.flatten()[:-1]).mean().abs() < 0.3

    def test_random_phases_keep_mean_and_cross_spectra(self, generator):
        clips = plucked(4, seed=1, frames=51)
        turned = controls.random_phases(clips, generator)
        before, after = (torch.fft.rfft(x.double()) for x in (clips, turned))
        cross = [torch.einsum("bcf,bdf->bcdf", x, x.conj()) for x in (before, after)]
        assert torch.allclose(cross[0], cross[1], atol=1e-3)
        assert not torch.allclose(clips, turned, atol=0.1)

    def test_a_gaussian_process_has_the_mean_power_spectrum(self, generator):
        clips = plucked(256, seed=1, frames=40)
        drawn = controls.gaussian_process(clips, generator)
        power = [
            torch.fft.rfft(x - clips.mean((0, 2), keepdim=True)).abs().square().mean(0)
            for x in (clips, drawn)
        ]
        assert torch.allclose(power[0], power[1], rtol=0.5, atol=0.05 * float(power[0].max()))

    @pytest.mark.parametrize("frames", [1, 7, 100, 500])
    def test_shuffled_blocks_keep_the_frames(self, frames, generator):
        clips = plucked(3, seed=1)
        moved = controls.shuffled_blocks(clips, frames, generator)
        assert not torch.equal(clips, moved)
        assert torch.equal(clips.sort(dim=-1).values, moved.sort(dim=-1).values)

    def test_repeated_and_spliced(self):
        clips = torch.arange(8.0)[:, None, None].expand(8, 1, 4)
        assert len(controls.repeated(clips, 3).unique()) == 3
        assert controls.repeated(clips, 1).shape == clips.shape
        assert controls.spliced(clips)[1, 0].tolist() == [1, 1, 5, 5]


class TestFailures:
    def test_are_what_is_beyond_chance(self, generator):
        real = plucked(32, seed=3)
        sets = {
            "training": plucked(64, seed=1),
            "held out": plucked(32, seed=2),
            "real": real,
            "reversed": controls.reversed_time(real),
            "white": controls.white_noise(real, generator),
        }
        form = score_form(
            {name: describe(clips) for name, clips in sets.items()},
            *("training", "white", "held out", {}, generator),
        )
        assert form.failures("real") == []
        (direction,) = (f for f in form.failures("reversed") if f.view == "direction")
        assert direction.score < 0 and direction.auc > 0.95
        assert form.told_by("reversed")[0] == "direction"
        assert {f.view for f in form.failures("white")} == {"all views", *VIEWS}


class TestViews:
    @pytest.mark.parametrize("view", VIEWS)
    def test_a_clip_is_described_by_itself_and_constant_ones_are_finite(self, view):
        clips = plucked(5, seed=1)
        whole, one = (movement.describe_latents(x, RATE)[view] for x in (clips, clips[2:3]))
        assert torch.allclose(whole[2:3], one, atol=1e-4)
        for odd in (torch.zeros(2, 3, 200), torch.ones(2, 3, 8)):
            assert movement.describe_latents(odd, RATE)[view].isfinite().all()

    def test_direction_changes_sign_with_time(self):
        clips = plucked(3, seed=1)
        there, back = (movement.describe_latents(x, RATE) for x in (clips, clips.flip(-1)))
        assert torch.allclose(there["direction"], -back["direction"], atol=1e-4)

    def test_a_seam_stands_out(self):
        clips = plucked(16, seed=1)
        spliced = torch.cat([clips[..., :100], 3 - clips[..., 100:]], dim=-1)
        smooth, broken = (movement.describe_latents(x, RATE)["seams"] for x in (clips, spliced))
        # The last columns are the highest novelty of the longest windows, and how it stands out.
        assert (broken[:, -5] > smooth[:, -5]).float().mean() > 0.9

    def test_gain_does_not_count_in_sound(self):
        levels = plucked(3, seed=1, channels=32) - 30
        there, louder = (movement.describe_levels(x, RATE) for x in (levels, levels + 6))
        for view, features in there.items():
            assert torch.allclose(features, louder[view], atol=1e-3), view

    def test_clips_too_short_are_refused(self):
        with pytest.raises(ValueError, match="too short"):
            movement.describe_latents(torch.zeros(2, 3, 7), RATE)
