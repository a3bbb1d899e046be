"""Copies of training recordings among clips: found under every disguise, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentdiff.evaluation import copies, resemblance
from latentdiff.evaluation.resemblance import Place

RATE = 20.0
"""Latent frames per second."""
FRAMES = 120
"""Of a clip: 6 s."""


def smooth(generator, channels, frames):
    """[C, T], slow as latents are, of unit variance."""
    noise = torch.randn(channels, frames + 8, generator=generator)
    return noise.unfold(-1, 9, 1).sum(-1) / 3


@pytest.fixture(scope="module")
def files():
    """Eight pieces [4, T]; each plays motifs of its own, with variations."""
    generator = torch.Generator().manual_seed(0)
    pieces = []
    for _ in range(8):
        motifs = [smooth(generator, 4, 30) for _ in range(5)]
        order = torch.randint(5, (24,), generator=generator).tolist()
        piece = torch.cat([motifs[k] for k in order], dim=1)
        pieces.append(piece + 0.5 * smooth(generator, 4, piece.shape[1]))
    return pieces


def apart(files):
    """Every fifth clip of each piece, as new takes of it, and the pieces without them."""
    takes, rest = [], []
    for file in files:
        parts = list(file.split(FRAMES, dim=1))
        takes += [parts[1], parts[4]]
        rest += [file[:, :FRAMES], file[:, 2 * FRAMES : 4 * FRAMES], file[:, 5 * FRAMES :]]
    return torch.stack(takes), rest


def cut(files, offset=11):
    """Clips of training files."""
    return torch.stack([f[:, s : s + FRAMES] for f in files for s in (offset, 250 + offset)])


def half_new(clips):
    new = torch.stack(
        [smooth(torch.Generator().manual_seed(k), 4, FRAMES // 2) for k in range(len(clips))]
    )
    return torch.cat([clips[..., : FRAMES // 2], new], dim=-1)


def one_direction_flipped(clips):
    return clips * torch.tensor([1.0, -1.0, 1.0, 1.0])[:, None]


def noisy(clips):
    return clips + 0.3 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(1))


DISGUISES = {
    "none": lambda clips: clips,
    "gain": lambda clips: 1.3 * clips,
    "offset": lambda clips: clips + 0.4,
    "noise": noisy,
    "flipped": one_direction_flipped,
    "half": half_new,
    "all": lambda clips: 1.3 * one_direction_flipped(clips) + 0.4,
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_copies_are_found_under_every_disguise(files, disguise):
    found = copies.find_copies(DISGUISES[disguise](cut(files)), None, files, RATE)
    assert found.found and found.share > 0.5


def test_new_takes_of_the_same_pieces_are_no_copies(files):
    takes, rest = apart(files)
    found = copies.find_copies(takes, None, rest, RATE)
    assert not found.found and not found.copied
    assert found.ratio == pytest.approx(1, abs=0.5)


def test_a_few_copies_among_many_clips_are_named(files):
    takes, rest = apart(files)
    clips = torch.cat([takes, 0.8 * rest[4][None, :, 40 : 40 + FRAMES]])
    found = copies.find_copies(clips, None, rest, RATE)
    assert found.found and [copy.clip for copy in found.copied] == [len(takes)]
    (copy,) = found.copied
    assert copy.closeness.place == Place(4, 40 + copy.closeness.start)


def test_a_leak_is_named_and_does_not_hide_copies(files):
    takes, rest = apart(files)
    leak = torch.stack([file[:, :FRAMES] for file in rest])
    found = copies.find_copies(noisy(leak), torch.cat([takes, leak]), rest, RATE)
    assert found.found and len(found.leaked) >= 0.9 * len(leak)
    assert min(found.leaked) >= len(takes)
    assert copies.find_copies(takes, takes, rest, RATE).leaked == []


def test_too_few_real_clips_give_no_number(files):
    found = copies.find_copies(cut(files), None, [files[0][:, :400]], RATE)
    assert found.p is None and not found.found and found.copied == []


class TestNearest:
    def test_it_is_the_weighted_mean_of_squared_correlations(self, files):
        file, query = files[0][:, :100], files[1][:, 5:27]
        scores = []
        for start in range(100 - 22 + 1):
            pairs = zip(query.numpy(), file[:, start : start + 22].numpy(), strict=True)
            scores.append([np.corrcoef(a, b)[0, 1] ** 2 for a, b in pairs])
        weights = query.std(dim=1, correction=0).numpy()
        expected = np.average(scores, axis=1, weights=weights)
        (match,) = resemblance.nearest(query[None], [file], [[]])
        assert match.place == Place(0, int(expected.argmax()))
        assert match.resemblance == pytest.approx(expected.max(), abs=1e-4)

    def test_copies_are_found_wherever_they_lie(self):
        generator = torch.Generator().manual_seed(0)
        files = [smooth(generator, 3, 9000) for _ in range(2)]
        places = [Place(0, 0), Place(1, 4090), Place(1, 8980)]
        queries = torch.stack([files[p.file][:, p.start : p.start + 20] for p in places])
        found = resemblance.nearest(-2 * queries + 1, files, [[]] * 3)
        assert [match.place for match in found] == places
        assert min(match.resemblance for match in found) > 0.999

    def test_an_excluded_place_is_not_found(self, files):
        query = files[0][:, 50:80]
        (match,) = resemblance.nearest(query[None], files, [[Place(0, 50)]])
        assert match.resemblance < 0.99
        assert match.place.file != 0 or abs(match.place.start - 50) >= 30

    def test_constant_windows_resemble_nothing(self, files):
        still = [torch.ones(4, 200)]
        (match,) = resemblance.nearest(files[0][None, :, :30], still, [[]])
        assert match.resemblance < 1e-3
        (match,) = resemblance.nearest(torch.ones(1, 4, 30), files, [[]])
        assert match.resemblance < 1e-3

    def test_files_that_are_too_short_have_no_match(self):
        assert resemblance.nearest(torch.ones(1, 2, 16), [torch.ones(2, 15)], [[]]) == [(0.0, None)]
