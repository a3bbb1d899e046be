"""Style: the mean and deviation of stretches of a piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentdiff.conditions.kind import Target
from latentdiff.conditions.settings import ConditionConfig, StyleConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.conditions.style import STEP, StepSums, Style, in_memory
from latentdiff.errors import UserError
from latentdiff.training.data import Recording, Windows

RATE = 20.0
CHANNELS = 3
UNSCALED = Standardiser(np.zeros(2 * CHANNELS, np.float32), np.ones(2 * CHANNELS, np.float32))


def files(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((CHANNELS, n)) * rng.uniform(0.5, 2) + rng.normal()).astype(np.float32)
        for n in lengths
    ]


def plain(latents):
    return np.concatenate([latents.mean(axis=1), latents.std(axis=1)])


def style_of(noise=0.0, seconds=(4.0, 10.0)):
    return Style(StyleConfig(noise=noise, seconds=seconds))


def windows_of(pieces, **settings):
    rows = torch.from_numpy(np.concatenate([piece.T for piece in pieces]))
    lengths = torch.tensor([piece.shape[1] for piece in pieces])
    return style_of(**settings).windows(rows, lengths, RATE, UNSCALED, in_memory)


def target(options, reference=None, known=None, recordings=None, frames=4):
    def of_file(kind, key):
        return (known or {})[key]

    def latents(path):
        return recordings[str(path)]

    return Target(RATE, frames, options, {"style": reference}, None, latents, of_file)


class TestStepSums:
    @pytest.mark.parametrize(("start", "length"), [(0, 1), (2, 5), (0, 8)])
    def test_a_stretch_has_the_mean_and_deviation_of_its_frames(self, start, length):
        first, second = files(7 * STEP, 8 * STEP)
        sums = StepSums.of([first, second], [first.shape[1], second.shape[1]])
        style = sums.style(np.array([1]), np.array([start]), np.array([length]))[0]
        stretch = second[:, start * STEP : (start + length) * STEP]
        assert np.allclose(style, plain(stretch), atol=1e-5)

    def test_the_last_step_of_a_file_may_be_short(self):
        (piece,) = files(2 * STEP + 3)
        sums = StepSums.of([piece], [piece.shape[1]])
        assert sums.steps.tolist() == [3]
        style = sums.style(np.array([0]), np.array([0]), np.array([3]))[0]
        assert np.allclose(style, plain(piece), atol=1e-5)

    def test_latents_far_from_zero_lose_no_digits(self):
        piece = (1000 + 1e-2 * files(400)[0]).astype(np.float32)
        style = style_of().describe(piece, RATE)
        assert np.allclose(style[CHANNELS:], piece[:, 400 - 12 * STEP :].std(axis=1), rtol=1e-3)


class TestWindows:
    def test_without_randomness_it_is_the_files_style(self):
        pieces = files(150, 60)
        cut = windows_of(pieces).cut(torch.tensor([1, 0]), torch.tensor([0, 5]), 7, None)
        assert cut.shape == (2, 2 * CHANNELS, 7)
        assert torch.equal(cut, cut[..., :1].expand_as(cut))
        for row, piece in zip(cut[..., 0].numpy(), pieces[::-1], strict=True):
            assert np.allclose(row, plain(piece), atol=1e-4)

    def test_of_a_long_file_it_is_that_of_its_end(self):
        (piece,) = files(40 * STEP)
        # 10 s at 20 frames/s are 12.5 steps, rounded to 12.
        cut = windows_of([piece]).cut(torch.tensor([0]), torch.tensor([0]), 1, None)
        assert np.allclose(cut[0, :, 0].numpy(), plain(piece[:, -12 * STEP :]), atol=1e-4)

    def test_stretches_lie_within_their_file_and_have_the_lengths_asked_for(self):
        lengths = [3 * STEP, 40 * STEP]
        windows = windows_of(files(*lengths))
        random = windows.random(2000, torch.Generator().manual_seed(0))[:, :2].numpy()
        of = np.arange(2000) % 2
        start, length = windows._stretch(of, random)
        steps = np.array([3, 40])[of]
        assert (start >= 0).all() and (start + length <= steps).all()
        assert set(length[of == 0]) == {3}
        # 4 s are 5 steps, 10 s are 12.
        assert set(length[of == 1]) == set(range(5, 13))
        assert start[of == 1].min() == 0 and (start + length)[of == 1].max() == 40

    def test_the_same_generator_gives_the_same_styles_and_another_others(self):
        windows = windows_of(files(2000, 900), noise=0.3)
        of, start = torch.tensor([0, 1, 1]), torch.zeros(3, dtype=torch.long)

        def drawn(seed):
            random = windows.random(3, torch.Generator().manual_seed(seed))
            return windows.cut(of, start, 5, random)

        assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))

    def test_noise_has_the_deviation_asked_for(self):
        windows, quiet = windows_of(files(5 * STEP), noise=0.3), windows_of(files(5 * STEP))
        random = windows.random(4000, torch.Generator().manual_seed(0))
        of = torch.zeros(4000, dtype=torch.long)
        noise = windows.cut(of, of, 1, random) - quiet.cut(of, of, 1, random)
        assert noise.std().item() == pytest.approx(0.3, rel=0.02)
        assert abs(noise.mean().item()) < 0.01


def test_a_process_draws_its_share_of_the_styles_of_all():
    recordings = [Recording(f"{k}.wav", piece) for k, piece in enumerate(files(400, 900))]

    def derive(rows, lengths, allocate):
        return style_of(noise=0.3).windows(rows, lengths, RATE, UNSCALED, allocate)

    windows = Windows(recordings, 16, whiten=lambda z: z, derive={"style": derive})
    whole, share = (
        windows.draw(8, torch.Generator().manual_seed(0), part).condition.values["style"]
        for part in (slice(None), slice(5, 8))
    )
    assert whole.shape == (8, 2 * CHANNELS, 16)
    assert torch.equal(whole[5:], share)


def test_fit_standardises_over_stretches():
    pieces = files(500, 700, 900, 300)
    standardiser, rows = style_of().fit(pieces, RATE)
    assert rows.shape == (4, 2 * CHANNELS)
    assert np.allclose(rows[3], style_of().describe(pieces[3], RATE))
    # Four unlike pieces: their stretches spread more than the least deviation.
    assert (standardiser.std > Style.least_std).all()


def test_one_even_piece_is_not_blown_up():
    piece = np.tile(files(STEP)[0], 60)
    standardiser, _ = style_of().fit([piece], RATE)
    assert np.allclose(standardiser.std, Style.least_std)


class TestMake:
    known = {"a": np.arange(6, dtype=np.float32), "b": np.full(6, 10, np.float32)}

    def make(self, *words, **given):
        return style_of().make(target({"style": words}, known=self.known, **given))

    def test_nothing_asked_for_takes_the_reference(self):
        reference = np.arange(6, dtype=np.float32)
        made = style_of().make(target({}, reference))
        assert made.shape == (6, 4) and (made == reference[:, None]).all()
        assert style_of().make(target({})) is None

    def test_a_training_file_is_found_by_its_key(self):
        assert (self.make("a") == self.known["a"][:, None]).all()

    def test_a_recording_is_described(self):
        (piece,) = files(100)
        made = self.make("song.wav", recordings={"song.wav": piece})
        assert np.allclose(made[:, 0], plain(piece), atol=1e-4)

    def test_several_mix_by_their_weights(self):
        made = self.make("a=3", "b=1")
        assert np.allclose(made[:, 0], 0.75 * self.known["a"] + 0.25 * self.known["b"])
        assert np.allclose(self.make("a", "b")[:, 0], (self.known["a"] + self.known["b"]) / 2)

    def test_a_colon_moves_from_one_to_the_other(self):
        made = self.make("a:b", frames=101)
        middle = (self.known["a"] + self.known["b"]) / 2
        assert np.allclose(made[:, 50], middle, atol=1e-4)
        assert np.allclose(made[:, 0], self.known["a"], atol=0.06)
        assert np.allclose(made[:, -1], self.known["b"], atol=0.06)

    def test_a_word_that_is_a_key_is_that_file(self):
        known = {**self.known, "a:b": np.full_like(self.known["a"], 5), "a=3": self.known["b"]}
        assert (style_of().make(target({"style": ["a:b"]}, known=known)) == 5).all()
        assert (known["b"] == style_of().make(target({"style": ["a=3"]}, known=known)).T).all()

    @pytest.mark.parametrize("word", ["a=x", "a=0", "a=-1", "a=inf", "a=nan"])
    def test_a_weight_that_is_none(self, word):
        with pytest.raises(UserError, match="cannot understand the weight"):
            self.make(word, "b=1")

    def test_the_file_that_it_names_is_the_heaviest(self):
        def named(*words, keys=()):
            return style_of().names_file({"style": words} if words else {}, keys.__contains__)

        assert named("a=0.3", "b=0.7") == "b" and named("a:b") == "a" and named() is None
        assert named("a:b", keys=["a:b"]) == "a:b" and named("a=3", keys=["a=3"]) == "a=3"
        assert named("a:b:c", keys=["a:b", "c"]) == "a:b" and named("a:b:c") == "a"


def test_sums_go_to_disk_with_the_latents(tmp_path):
    recordings = [Recording(f"{k}.wav", piece) for k, piece in enumerate(files(400, 900))]
    kept = []

    def derive(rows, lengths, allocate):
        derived = style_of(noise=0.3).windows(rows, lengths, RATE, UNSCALED, allocate)
        kept.append(derived.sums.sums)
        return derived

    memory, disk = (
        Windows(
            recordings,
            16,
            whiten=lambda z: z,
            derive={"style": derive},
            memory_gb=memory_gb,
            scratch=tmp_path,
        )
        for memory_gb in (1, 0)
    )
    assert [isinstance(sums, np.memmap) for sums in kept] == [False, True]
    drawn = [
        windows.draw(8, torch.Generator().manual_seed(0)).condition.values["style"]
        for windows in (memory, disk)
    ]
    assert torch.equal(*drawn)


def test_settings_reach_it():
    style = Style.of(ConditionConfig(style={"noise": 0.5}))
    assert style.config.noise == 0.5 and style.size(9) == 18


@pytest.mark.parametrize("seconds", [(60.0, 20.0), (0.0, 20.0), (-1.0, 20.0)])
def test_stretches_are_longer_than_nothing_and_the_shortest_comes_first(seconds):
    with pytest.raises(ValueError, match="shortest stretch comes first"):
        StyleConfig(seconds=seconds)
