"""Files whose latents do not belong with the others are found, and healthy files are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from latentdiff import runs
from latentdiff.latents.outliers import find_outliers
from latentdiff.latents.store import LatentStore


@pytest.fixture
def store(make_store, tmp_path):
    """Ten files of 6 dimensions, 2 of them sound; files 0 and 1 are held out."""
    return make_store(tmp_path / "latents")


def change(root, chosen, alter):
    for k in chosen:
        path = root / f"{k}.npy"
        np.save(path, alter(np.load(path)).astype(np.float32))


def found(root):
    return {one.kind: one.keys for one in find_outliers(LatentStore.open(root))}


@pytest.mark.parametrize("seed", range(5))
def test_healthy_files_are_left_alone(make_store, tmp_path, seed):
    assert found(make_store(tmp_path / "latents", seed=seed)) == {}
    assert found(make_store(tmp_path / "white", seed=seed, white=True, frames=60)) == {}


def test_recordings_that_differ_in_what_they_hold_are_healthy(store):
    """A file may be louder than the others, and its mean may lie elsewhere along the sound."""
    sound = np.linalg.qr(np.random.default_rng(99).standard_normal((6, 6)))[0][:, :2]
    change(store, [3], lambda z: 5 + 2.5 * (z - 5))
    change(store, [4], lambda z: z + 2 * sound.sum(axis=1, keepdims=True))
    assert found(store) == {}


@pytest.mark.parametrize("chosen", [[1, 3, 5, 7, 9], [2], [4, 6]])
def test_a_constant_offset(store, chosen):
    change(store, chosen, lambda z: z + 2)
    assert found(store) == {"offset": tuple(f"a/{k}.wav" for k in chosen)} or len(chosen) == 5
    assert set(found(store)) == {"offset"} and len(found(store)["offset"]) == len(chosen)


def test_one_file_ten_times_as_strong(store):
    change(store, [6], lambda z: 5 + 10 * (z - 5))
    assert found(store)["scale"] == ("a/6.wav",)


def test_latents_of_two_codecs(store):
    turned = np.linalg.qr(np.random.default_rng(7).standard_normal((6, 6)))[0]
    change(store, [2, 5, 8], lambda z: turned @ z)
    assert found(store) == {"codecs": ("a/2.wav", "a/5.wav", "a/8.wav")}


def test_frames_that_stand_still(store):
    def still(z):
        z[:, 100:] = z[:, 100:101]
        return z

    change(store, [3, 4], still)
    assert found(store)["constant"] == ("a/3.wav", "a/4.wav")


def test_a_recording_far_louder_than_the_others(store):
    rows = runs.read_jsonl(store / "manifest.jsonl")
    levels = [-20.0 - k % 5 for k in range(len(rows))]
    levels[7] = -2.0
    rows = [{**row, "level_db": level} for row, level in zip(rows, levels, strict=True)]
    runs.write_jsonl(store / "manifest.jsonl", rows)
    assert found(store) == {"level": ("a/7.wav",)}
