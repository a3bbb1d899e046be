"""Measures of musical form: real music passes, fakes that have lost it fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from latentdiff import synth
from latentdiff.evaluation import coherence, harmony, rhythm, wandering
from latentdiff.evaluation.coherence import Beat, Continuity
from latentdiff.evaluation.heard import hear
from latentdiff.evaluation.rhythm import OnsetEnvelopes

RATE = 16000
SECONDS = 6
LATENT_RATE = 25.0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    """Clips [32, N] from the second to the fourth part of 16 pieces."""
    clips, size = [], RATE * SECONDS
    for index in range(16):
        piece = torch.from_numpy(synth.compose(5, index, RATE, seconds=27.0))
        clips += [piece[start : start + size] for start in (size // 2, size // 2 + size)]
    return torch.stack(clips)


@pytest.fixture(scope="module")
def envelopes(music: torch.Tensor) -> OnsetEnvelopes:
    return rhythm.onset_envelopes(music, RATE)


def phase_randomised(clips: torch.Tensor) -> torch.Tensor:
    spectrum = torch.fft.rfft(clips)
    phase = 2 * math.pi * torch.rand(spectrum.shape, generator=generator())
    return torch.fft.irfft(torch.polar(spectrum.abs(), phase), n=clips.shape[-1])


def metronome(bpm: float, count: int = 1) -> torch.Tensor:
    """Decaying bursts of noise, one a beat, [count, N]."""
    time = np.arange(RATE * SECONDS) / RATE
    since = (time + 0.13) % (60 / bpm)
    noise = np.random.default_rng(0).standard_normal((count, len(time)))
    return torch.from_numpy(noise * np.exp(-since / 0.03)).float()


def pieces(count: int, seed: int, frames: int = 250) -> torch.Tensor:
    """Latents [count, 4, frames]: each clip has its own mean and level, and slow movement."""
    own = torch.randn(count, 4, 1, generator=generator(seed))
    level = torch.randn(count, 4, 1, generator=generator(seed + 1)).mul(0.5).exp()
    return own + level * torch.randn(count, 4, frames, generator=generator(seed + 2))


@pytest.mark.parametrize("bpm", [63.0, 97.0, 125.0, 158.0])
def test_a_metronome_is_periodic_at_its_tempo(bpm):
    clip = metronome(bpm)
    found = rhythm.measure(rhythm.onset_envelopes(clip, RATE))
    octaves = torch.log2(found.tempo / bpm)
    assert abs(octaves - octaves.round()).item() < 0.01
    assert found.periodicity > 0.9 and found.clarity > 0.8
    assert rhythm.periodicity_at(clip, RATE, bpm) > 0.9
    assert rhythm.periodicity_at(clip, RATE, 1.3 * bpm) < 0.2


def test_music_keeps_the_tempo_that_it_was_composed_in():
    piece = synth.compose(3, 1, RATE, seconds=20.0)
    found = rhythm.tempo_of(torch.from_numpy(piece)[None, : 8 * RATE], RATE).item()
    octaves = math.log2(found / synth.tempo(3, 1))
    assert abs(octaves - round(octaves)) < 0.01


def test_onsets_are_counted_and_gain_does_not_matter():
    clip = metronome(120.0)
    loud, quiet = (
        rhythm.features(rhythm.onset_envelopes(gain * clip, RATE)) for gain in (1.0, 1e-3)
    )
    assert torch.allclose(loud, quiet, atol=1e-3)
    density = rhythm.measure(rhythm.onset_envelopes(clip, RATE)).density
    assert abs(density.item() - 2.0) < 0.4


def test_music_has_a_beat_and_its_phase_randomised_version_has_not(music, envelopes):
    real = rhythm.measure(envelopes)
    fake = rhythm.measure(rhythm.onset_envelopes(phase_randomised(music), RATE))
    assert real.periodicity.median() > 0.55 and fake.periodicity.median() < 0.3
    assert real.clarity.median() > 0.4 and fake.clarity.median() < 0.3


def test_what_is_heard_is_finite_and_of_one_clip_alone(music):
    clips = [clip.numpy()[None] for clip in (music[0], music[9], torch.zeros_like(music[0]))]
    together = hear(clips, RATE).describe()
    alone = [hear([clip], RATE).describe() for clip in clips]
    assert together.keys() > {"timbre", "seams", "rhythm", "harmony"}
    for view, features in together.items():
        assert features.dtype == torch.float32 and features.isfinite().all()
        of_one = torch.cat([one[view] for one in alone])
        assert features.shape == of_one.shape
        assert torch.allclose(features, of_one, atol=2e-3), view


def tones(*semitones: float) -> torch.Tensor:
    """A chord on C4, [1, N]."""
    time = torch.arange(3 * RATE) / RATE
    pitches = [261.63 * 2 ** (step / 12) for step in semitones]
    return sum(torch.sin(2 * math.pi * pitch * time) for pitch in pitches)[None]


@pytest.mark.parametrize("detuned", [0.0, 0.3, -0.4])
def test_chroma_names_the_notes_whatever_the_tuning(detuned):
    found = harmony.chromagrams(tones(*(step + detuned for step in (0, 4, 7))), RATE)
    strongest = found.values.mean(dim=-1)[0].topk(3).indices
    assert set(strongest.tolist()) == {0, 4, 7}
    assert found.tuning.item() == pytest.approx(detuned, abs=0.05)


def test_a_scale_is_in_its_key_and_all_semitones_in_none():
    scale = harmony.measure(harmony.chromagrams(tones(0, 2, 4, 5, 7, 7, 9, 11, 0), RATE))
    cluster = harmony.measure(harmony.chromagrams(tones(*range(12)), RATE))
    assert scale.key_clarity > 0.7 and cluster.key_clarity < 0.5
    assert cluster.entropy > 0.95 and scale.entropy < 0.85


def test_entropy_rises_from_a_note_to_music_to_noise(music):
    def entropy(clips: torch.Tensor) -> torch.Tensor:
        return harmony.measure(harmony.chromagrams(clips, RATE)).entropy.median()

    noise = torch.randn(4, 3 * RATE, generator=generator())
    assert entropy(tones(0)) < 0.1
    assert entropy(music) < 0.8 < entropy(phase_randomised(music)) < entropy(noise)
    assert entropy(torch.zeros(1, RATE)) == 1


def test_chords_that_change_move_and_held_ones_do_not():
    held, other = tones(0, 4, 7), tones(2, 6, 9)
    parts = [x[:, :RATE] for x in (held, other, held)]
    moving = harmony.measure(harmony.chromagrams(torch.cat(parts, dim=1), RATE))
    still = harmony.measure(harmony.chromagrams(held, RATE))
    assert moving.movement > 5 * still.movement and moving.change > 3 * still.change


def test_exchanged_blocks_are_whole_and_come_from_elsewhere():
    clips = torch.arange(40.0)[:, None, None].expand(-1, 2, 64) * 64 + torch.arange(64.0)
    mixed = coherence.exchanged(clips, 16, generator())
    steps = mixed[:, 0].diff(dim=-1)
    assert mixed.shape == clips.shape and (mixed[:, 0] == mixed[:, 1]).all()
    # At most a border every 16 frames, and the frames between follow each other.
    assert 3 <= (steps != 1).sum(dim=-1).float().mean() <= 4


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_spliced_music_has_a_beat_as_long_as_its_blocks(envelopes, seconds):
    real, held_out = envelopes.values[::2], envelopes.values[1::2]
    found = []
    for seed in range(5):
        spliced = coherence.exchanged(
            held_out, round(seconds * envelopes.rate), generator(seed + 10)
        )
        beat = Beat(OnsetEnvelopes(real, envelopes.rate), generator(seed))
        horizon = beat.horizon(OnsetEnvelopes(spliced, envelopes.rate))
        assert horizon is not None and horizon.low <= horizon.seconds <= horizon.high
        found.append(horizon.seconds)
    assert seconds / 2 < np.median(found) < seconds * 2


def test_the_beat_of_real_clips_is_whole_backwards_too_and_that_of_fakes_is_short(music, envelopes):
    rate = envelopes.rate
    real = OnsetEnvelopes(envelopes.values[::2], rate)
    held_out = envelopes.values[1::2]
    for clips in (held_out, held_out.flip(-1)):
        horizon = Beat(real, generator()).horizon(OnsetEnvelopes(clips, rate))
        assert horizon is not None and horizon.whole
    fake = rhythm.onset_envelopes(phase_randomised(music[1::2]), RATE)
    horizon = Beat(real, generator()).horizon(fake)
    assert horizon is not None and not horizon.whole and horizon.high < 2


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_spliced_latents_are_continuous_for_as_long_as_their_blocks(seconds):
    real, held_out = pieces(48, 0), pieces(48, 100)
    spliced = coherence.exchanged(held_out, round(seconds * LATENT_RATE), generator(3))
    horizon = Continuity(real, LATENT_RATE, generator()).horizon(spliced)
    assert horizon is not None
    assert seconds / 1.6 < horizon.seconds < seconds * 1.6 and not horizon.whole


def test_whole_latents_are_continuous_to_the_end_and_noise_is_not():
    real, held_out = pieces(48, 0), pieces(48, 100)
    whole = Continuity(real, LATENT_RATE, generator()).horizon(held_out)
    noise = Continuity(real, LATENT_RATE, generator()).horizon(torch.randn(held_out.shape))
    assert whole is not None and whole.whole and whole.longest == pytest.approx(9.84, abs=0.2)
    assert noise is not None and noise.seconds < 0.3
    both = coherence.Coherence(whole, noise)
    assert both.horizon == noise
    assert coherence.Coherence(None, None).horizon is None


def test_there_is_no_horizon_without_coherence_to_compare_with_or_enough_clips():
    noise = torch.randn(32, 4, 250, generator=generator())
    assert Continuity(noise.flip(0), LATENT_RATE, generator()).horizon(noise) is None
    few = pieces(7, 0)
    assert Continuity(pieces(48, 0), LATENT_RATE, generator()).horizon(few) is None


def test_wandering_is_too_much_within_and_too_little_between():
    real, held_out = pieces(48, 0), pieces(48, 100)
    fair = wandering.wandering(held_out, real, LATENT_RATE, generator())
    assert fair.within.low < 1 < fair.within.high and fair.between.low < 1 < fair.between.high
    assert not fair.found
    spliced = coherence.exchanged(held_out, round(2 * LATENT_RATE), generator())
    moving = wandering.wandering(spliced, real, LATENT_RATE, generator())
    assert moving.found and moving.between.ratio < 0.7 and moving.within.ratio > 1.5
    alike = wandering.wandering(held_out[:1].expand(48, -1, -1), real, LATENT_RATE, generator())
    assert alike.between.ratio == 0 and not alike.found


def test_wandering_needs_clips_that_hold_two_stretches():
    with pytest.raises(ValueError, match="2 stretches"):
        wandering.wandering(pieces(8, 0, 30), pieces(8, 1, 30), LATENT_RATE, generator())


def test_drift_sees_a_sample_that_ends_in_another_piece_or_never_moves():
    recordings = [x.contiguous() for x in pieces(24, 0, 2500)]
    one, other = pieces(2, 200, 2500)
    stayed = wandering.drift(one, recordings, LATENT_RATE)
    moved = wandering.drift(torch.cat([one, other], dim=1), recordings, LATENT_RATE)
    frozen = wandering.drift(one[:, :1].expand(-1, 2500), recordings, LATENT_RATE)
    assert stayed is not None and moved is not None and frozen is not None
    assert stayed.p_value > 0.05 and stayed.like_another_piece < 0.05
    assert moved.p_value < 0.05 and moved.like_another_piece > 0.2
    assert frozen.p_value < 0.05 and frozen.distance == 0


def test_drift_needs_real_pieces_of_two_stretches():
    sample = pieces(1, 0, 2500)[0]
    assert wandering.drift(sample, [sample], LATENT_RATE) is None
    assert wandering.drift(sample, [sample[:, :600], sample[:, 600:1200]], LATENT_RATE) is None
