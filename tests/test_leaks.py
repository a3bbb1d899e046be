"""Held-out recordings that are also in the training files are an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latentdiff.errors import UserError
from latentdiff.evaluation.leaks import find_leaks, refuse_leaks
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.project import Project
from latentdiff.model.train import plan_training
from latentdiff.runs import Run

RATE = 20.0
"""Latent frames per second, so that the files of 300 frames last 15 s."""


@pytest.fixture
def root(make_store, tmp_path):
    """Ten files; 0 and 1 are held out."""
    return make_store(tmp_path / "run" / "latents")


def leaks(root, **changes):
    store = LatentStore.open(root)
    entries = [replace(entry, **changes) for entry in store.entries]
    whitening = Whitening.from_statistics(store.statistics())
    found = find_leaks(replace(store, entries=entries), whitening.whiten, RATE)
    return [(leak.held_out, leak.training, leak.by) for leak in found]


def copy_into_training(root, alter):
    """File 5, which is trained on, becomes a version of file 1, which is held out."""
    rng = np.random.default_rng(0)
    copy = alter(np.load(root / "1.npy"), rng)
    np.save(root / "5.npy", copy.astype(np.float32))


def shifted_with_noise(z, rng):
    return np.roll(z, 40, axis=1) + 0.3 * rng.standard_normal(z.shape)


@pytest.mark.parametrize(
    ("alter", "by"),
    [
        (lambda z, _: z, "content"),
        (lambda z, _: 5 + 0.5 * (z - 5), "sound"),
        (shifted_with_noise, "sound"),
    ],
    ids=["the same", "half as loud", "shifted with noise"],
)
def test_a_leak_is_found_by_content_and_by_sound(root, alter, by):
    assert leaks(root) == []
    copy_into_training(root, alter)
    assert leaks(root) == [("a/1.wav", "a/5.wav", by)]


def test_the_two_ends_of_one_file_are_no_leak(root):
    copy_into_training(root, shifted_with_noise)
    assert leaks(root, source="/music/one.wav") == []


@pytest.mark.parametrize("seed", range(3))
def test_other_recordings_of_one_kind_are_no_leak(make_store, tmp_path, seed):
    assert leaks(make_store(tmp_path / "latents", held_out=5, seed=seed)) == []


def test_training_refuses_a_leak_unless_told_to_go_on(root, caplog):
    copy_into_training(root, lambda z, _: z)
    run, settings = Run(root.parent), {"window": 16, "batch": 4}
    project = Project.model_validate({"training": settings})
    with pytest.raises(UserError, match="also in the training files") as refused:
        plan_training(run, project)
    assert "a/1.wav is a/5.wav" in refused.value.why
    allowed = Project.model_validate({"training": {**settings, "leaks": "allow"}})
    plan_training(run, allowed)
    assert "a/1.wav is a/5.wav" in caplog.text


def test_no_leak_no_word(caplog):
    refuse_leaks([], allowed=True)
    refuse_leaks([], allowed=False)
    assert caplog.text == ""
