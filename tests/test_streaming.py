"""Chunks, batches and buckets change nothing: a network with hard borders is the witness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latentdiff import streaming


class BorderCodec:
    """Two zero-padded layers with bias each way: silence in front is not the same as a border."""

    sample_rate, hop, latent_dim, channels, fingerprint = 1000, 10, 3, 2, "0"
    encode_context = decode_context = (3, 3)

    def __init__(self):
        torch.manual_seed(0)
        self.down = nn.Sequential(
            nn.Conv1d(2, 4, 30, 10, 10), nn.Tanh(), nn.Conv1d(4, 3, 5, padding=2)
        )
        self.up = nn.Sequential(
            nn.Conv1d(3, 4, 5, padding=2), nn.Tanh(), nn.ConvTranspose1d(4, 2, 30, 10, 10)
        )
        self.calls = []

    def encode(self, audio):
        self.calls.append(tuple(audio.shape))
        mean = self.down(nn.functional.pad(audio, (0, -audio.shape[-1] % 10)))
        return mean, mean.exp()

    def decode(self, z):
        self.calls.append(tuple(z.shape))
        return self.up(z)


@pytest.fixture
def codec():
    return BorderCodec()


def sound(samples, seed=0):
    return np.random.default_rng(seed).standard_normal((2, samples)).astype(np.float32)


def blocks_of(array, sizes):
    position = 0
    for size in sizes:
        yield array[:, position : position + size]
        position += size
    yield array[:, position:]


def collect(pieces):
    """Whole results by key, having seen that the pieces are in order and without gaps."""
    parts, sizes, closed = {}, {}, set()
    for piece in pieces:
        assert piece.key not in closed
        done = parts.setdefault(piece.key, [])
        assert piece.first == sum(arrays[0].shape[-1] for arrays in done)
        done.append(piece.arrays)
        sizes[piece.key] = sizes.get(piece.key, 0) + piece.size
        if piece.last:
            closed.add(piece.key)
    assert closed == set(parts)
    joined = {
        key: [np.concatenate(column, -1) for column in zip(*done, strict=True)]
        for key, done in parts.items()
    }
    return joined, sizes


@pytest.mark.parametrize("seconds", [0.01, 0.13, 0.3, 0.31, 0.5, 2.0])
@pytest.mark.parametrize("samples", [1, 9, 10, 299, 300, 301, 310, 1234, 3000])
def test_chunked_equals_whole_at_borders_too(codec, samples, seconds):
    audio = sound(samples)
    mean, std = codec.encode(torch.from_numpy(audio)[None])
    got_mean, got_std = streaming.encode(codec, audio, chunk_seconds=seconds, batch=3)
    np.testing.assert_allclose(got_mean, mean[0].detach(), atol=1e-6)
    np.testing.assert_allclose(got_std, std[0].detach(), atol=1e-5)
    whole = codec.decode(mean)[0].detach()
    got = streaming.decode(codec, mean[0].detach().numpy(), chunk_seconds=seconds, batch=2)
    np.testing.assert_allclose(got, whole, atol=1e-6)


def test_borders_do_matter_to_this_codec(codec):
    # The witness is worth something: a window padded with zeros would not do.
    audio = torch.from_numpy(sound(500))[None]
    padded = nn.functional.pad(audio, (100, 100))
    assert (codec.encode(padded)[0][..., 10:-10] - codec.encode(audio)[0]).abs().max() > 0.01


@pytest.mark.parametrize("batch", [1, 4])
def test_many_files_of_any_length_in_any_blocks(codec, batch):
    rng = np.random.default_rng(1)
    lengths = [int(n) for n in rng.integers(1, 2500, 40)] + [700] * 5
    files = {i: sound(n, seed=i) for i, n in enumerate(lengths)}
    source = (
        (key, blocks_of(audio, rng.integers(0, 400, 4).tolist())) for key, audio in files.items()
    )
    pieces = streaming.encode_files(codec, source, chunk_seconds=0.5, batch=batch)
    results, sizes = collect(pieces)
    assert sizes == {key: audio.shape[1] for key, audio in files.items()}
    for key, audio in files.items():
        expected = codec.encode(torch.from_numpy(audio)[None])[0][0].detach()
        np.testing.assert_allclose(results[key][0], expected, atol=1e-6)


def test_short_files_of_one_length_run_together(codec):
    files = [(i, [sound(70 + i % 3, seed=i)]) for i in range(24)]
    collect(streaming.encode_files(codec, files, chunk_seconds=0.5, batch=1))
    frames = sorted({(shape[0], shape[2]) for shape in codec.calls})
    # 71 and 72 samples both make 8 frames; 50 frames a call hold 6 files of 8 and 7 of 7.
    assert all(rows * samples <= 500 for rows, samples in frames)
    assert len(codec.calls) == 5


def test_a_call_never_sees_more_than_the_budget(codec):
    files = [(i, [sound(n, seed=i)]) for i, n in enumerate([5000, 40, 900, 40, 3000])]
    collect(streaming.encode_files(codec, files, chunk_seconds=0.5, batch=2))
    assert max(rows * samples for rows, _, samples in codec.calls) <= 1000


def test_memory_holds_a_window_and_not_the_file(codec):
    alive = []

    def endless():
        for i in range(2000):
            alive.append(i)
            yield sound(100, seed=i)

    pieces = streaming.encode_files(codec, [("long", endless())], chunk_seconds=0.5)
    for piece in pieces:
        # Never further ahead than the chunk in work and the next block.
        assert len(alive) * 10 - piece.first <= 50 + 50 + 20


def test_a_file_without_samples_yields_nothing(codec):
    files = [("empty", []), ("none", [np.zeros((2, 0), np.float32)]), ("some", [sound(5)])]
    assert [piece.key for piece in streaming.encode_files(codec, files)] == ["some"]


def test_an_error_in_a_file_reaches_the_caller(codec):
    def broken():
        yield sound(100)
        raise OSError("cable pulled")

    with pytest.raises(OSError, match="cable"):
        list(streaming.encode_files(codec, [("a", broken())]))


@pytest.mark.real
def test_real_rave_in_chunks_and_batches_equals_the_whole(rave_run):
    from latentdiff.rave.codec import RaveCodec

    codec = RaveCodec.from_run(rave_run)
    rng = np.random.default_rng(0)
    lengths = [1, 80, 640, 641, 9000, 30_011, 640]
    files = {
        n: (0.3 * rng.standard_normal((1, samples))).astype(np.float32)
        for n, samples in enumerate(lengths)
    }
    source = [(key, [audio]) for key, audio in files.items()]
    results, _ = collect(streaming.encode_files(codec, source, chunk_seconds=0.7, batch=2))
    for key, audio in files.items():
        mean, std = codec.encode(torch.from_numpy(audio)[None])
        assert abs(results[key][0] - mean[0].numpy()).max() < 1e-4
        assert abs(results[key][1] - std[0].numpy()).max() < 1e-4
        decoded = streaming.decode(codec, results[key][0], chunk_seconds=0.6)
        assert abs(decoded - codec.decode(mean)[0].numpy()).max() < 1e-4
