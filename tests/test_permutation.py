"""Permutation tests and lags on numbers whose distribution is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentdiff.evaluation.alignment import alignment
from latentdiff.evaluation.permutation import SIGNIFICANT, exchange_test, sign_flip

FRAME = 0.1
LONGEST = 3.0


class TestSignFlip:
    @pytest.mark.parametrize("count", [6, 40])
    def test_chance_is_found_as_often_as_promised(self, count):
        rng = np.random.default_rng(count)
        p = np.array([sign_flip(rng.standard_normal(count)) for _ in range(200)])
        assert (p <= 0.1).mean() <= 0.16
        assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.12)

    def test_all_of_one_sign_is_as_unlikely_as_can_be(self):
        assert sign_flip([1.0, 2.0, 0.5]) == 1 / 8
        assert sign_flip([-1.0, -2.0, -0.5]) == 1.0
        assert sign_flip(np.ones(40)) == 1 / 4096


def losses(effect, windows=40, wrong=5, seed=0):
    """Losses [B] and [M, B] of unlike windows; wrong conditions add `effect`."""
    rng = np.random.default_rng(seed)
    hard = 1 + rng.random(windows)
    noise = 0.05 * rng.standard_normal((wrong + 1, windows))
    return hard + noise[0], hard + noise[1:] + effect


class TestExchange:
    def test_chance_is_found_as_often_as_promised(self):
        tests = [exchange_test(*losses(0.0, seed=seed), np.arange(40)) for seed in range(200)]
        p = np.array([test.p for test in tests])
        assert 0.005 < (p <= SIGNIFICANT).mean() < 0.1
        assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.12)
        grades = [test.grade for test in tests]
        assert grades.count("ignored") > 180 and "followed" not in grades
        assert grades.count("weak") <= 4

    @pytest.mark.parametrize(
        ("right", "grade"), [(5, "followed"), (4, "not judged"), (2, "ignored")]
    )
    def test_what_chance_may_explain_is_not_judged(self, right, grade):
        own, wrong = np.ones(5), np.full((2, 5), 2.0)
        wrong[0, right:] = 0.5
        test = exchange_test(own, wrong, np.arange(5))
        assert test.grade == grade, test

    @pytest.mark.parametrize(("effect", "grade"), [(0.5, "followed"), (0.02, "weak")])
    def test_the_size_of_a_gain_does_not_matter_but_what_it_tells(self, effect, grade):
        for scale in (1.0, 0.001):
            own, wrong = losses(effect, windows=200)
            test = exchange_test(1 + scale * own, 1 + scale * wrong, np.arange(200))
            assert test.grade == grade, test

    def test_windows_of_one_file_are_one_case(self):
        own, wrong = losses(0.0, windows=40, wrong=3)
        files = np.repeat([4, 7], 20)
        # Each file has its own condition that happens to suit it: two cases, however many windows.
        test = exchange_test(own, wrong + 0.5, files)
        assert test.groups == 2 and test.p == test.least_p == 1 / 16
        assert test.grade == "not judged"

    def test_a_model_without_effect_has_no_rank(self):
        own, _ = losses(0.0)
        test = exchange_test(own, np.stack([own] * 3), np.arange(40))
        assert test.p == 1 and test.gain == 0 and test.grade == "ignored"


def shared(seed, delay=0, beat=False, files=8, frames=300):
    """Files of latents [3, T] that follow features [2, T], which come `delay` frames too late."""
    rng, found = np.random.default_rng(seed), []
    for k in range(files):
        if beat:
            turn = 2 * np.pi * np.arange(frames) / (9 + k)
            features = np.stack([np.sin(turn), np.cos(turn)])
        else:
            noise = rng.standard_normal((2, frames + 4))
            features = np.stack([np.convolve(row, np.ones(5), "valid") for row in noise]) / 5**0.5
        hidden = rng.standard_normal((3, frames))
        mixing = np.random.default_rng(99).standard_normal((3, 2))
        latents = mixing @ features + hidden
        found.append(
            (torch.from_numpy(latents), torch.from_numpy(np.roll(features, delay, axis=1)))
        )
    return found


class TestAlignment:
    @pytest.mark.parametrize("beat", [False, True], ids=["noise", "beat"])
    @pytest.mark.parametrize("seed", range(3))
    def test_features_in_time(self, seed, beat):
        found = alignment(shared(seed, beat=beat), FRAME, LONGEST)
        assert found.holds and abs(found.best) <= found.tolerance
        assert len(found.lags) == len(found.explained) > 30

    @pytest.mark.parametrize("delay", [20, -20, 6])
    @pytest.mark.parametrize("beat", [False, True], ids=["noise", "beat"])
    def test_features_too_early_or_too_late(self, delay, beat):
        found = alignment(shared(0, delay, beat), FRAME, LONGEST)
        assert not found.holds and found.best == pytest.approx(delay * FRAME, abs=0.01)
        assert found.now < 0.8 * max(found.explained)

    def test_features_that_say_little_may_come_too_late_too(self):
        rng = np.random.default_rng(0)
        noisy = [(z + 7 * rng.standard_normal(z.shape), f) for z, f in shared(0, 20, files=40)]
        found = alignment(noisy, FRAME, LONGEST)
        assert max(found.explained) < 0.05 and not found.holds
        assert found.best == pytest.approx(2.0)

    def test_features_of_something_else_are_at_no_other_time(self):
        found = [
            alignment(
                [(z, f) for (z, _), (_, f) in zip(shared(seed), shared(seed + 50), strict=True)],
                FRAME,
                LONGEST,
            )
            for seed in range(20)
        ]
        # However many lags are tried.
        assert all(each.holds for each in found)
