"""A kind of condition features that the registry did not know before, from audio to samples."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Literal

import numpy as np
import pytest

from latentdiff import config, runs
from latentdiff.commands.encode import encode
from latentdiff.commands.sample import sample
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.conditions.kind import SpectralKind
from latentdiff.conditions.registry import KINDS, KindEntry
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.errors import UserError
from latentdiff.latents.store import MANIFEST, LatentStore
from latentdiff.model.data import features_of
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.training import checkpoint


@dataclass(frozen=True)
class Level(SpectralKind):
    """RMS level of the `hop` samples around each frame, in dBFS, K = 1."""

    name = "level"

    @classmethod
    def of(cls, condition: ConditionConfig) -> Level:
        return cls(sample_rate=8000, hop=100, size=1)

    def blocks(self, audio: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        rest = silence = np.zeros((1, self.hop // 2), np.float32)
        for block in chain(audio, [silence]):
            rest = np.concatenate([rest, block], axis=1)
            whole, rest = np.split(rest, [rest.shape[1] // self.hop * self.hop], axis=1)
            power = np.square(whole).reshape(-1, self.hop).mean(axis=1)
            yield 10 * np.log10(power + 1e-8)[None]


@pytest.fixture
def level(monkeypatch):
    """Registers it; settings that exist already are rebuilt with its name."""
    module = ModuleType("latentdiff.conditions.level")
    vars(module)["Level"] = Level
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(KINDS, "level", KindEntry("level.Level", "follows the level"))
        names = Literal["auto"] | tuple[Literal[tuple(KINDS)], ...]
        patch.setattr(ConditionConfig.model_fields["kinds"], "annotation", names)
        rebuild()
        yield
    rebuild()


def rebuild():
    for section in (ConditionConfig, Project):
        section.model_rebuild(force=True)


def project(kind="level"):
    return config.build(
        Project,
        {
            "data": {"sample_rate": 8000},
            "latents": {"keep": 4},
            "condition": {"kinds": kind},
            "network": {"name": "tiny", "channels": 8},
            "training": {"steps": 3, "batch": 4, "window": 16},
            "sampling": {"steps": 2, "autoguidance": 1},
            "device": "cpu",
        },
    )


@pytest.mark.parametrize("samples", [0, 49, 50, 99, 100, 151, 8000])
def test_the_toy_keeps_the_contract(samples):
    kind = Level.of(ConditionConfig())
    audio = np.ones((1, samples), np.float32)
    pieces = np.split(audio, range(30, samples, 70), axis=1)
    (level,) = np.concatenate(list(kind.blocks(pieces)), axis=1)
    assert len(level) == 1 + samples // kind.hop
    np.testing.assert_allclose(level[1:-1], 0, atol=1e-4)


def test_a_registered_kind_is_stored_trained_on_and_followed(
    level, codec, tmp_path, audio_folder, write_wav, melody
):
    run = Run(tmp_path / "run")
    encode(run, project(), audio=[audio_folder])
    store = LatentStore.open(run.latents)
    entry = store.entries[0]
    level = store.features(entry, "level")
    assert level.shape == (1, entry.frames) and -80 <= level.min() < level.max() < 0
    assert store.features(entry, "mel").shape == (80, entry.frames)
    recorded = runs.read_run(run.latents).inputs["condition.level"]
    assert recorded.path == '{"hop": 100, "sample_rate": 8000, "size": 1}'

    train_diffusion(run, project())
    model = Model.load(checkpoint.last(run.diffusion))
    assert list(model.kinds) == ["level"] and len(model.standardisers["level"].mean) == 1
    np.testing.assert_array_equal(features_of(model, store, entry)["level"], level)

    songs = [write_wav(tmp_path / f"{gain}.wav", gain * melody(1)) for gain in (0.01, 1)]
    sample(run, project(), n=1, condition=songs, name="first")
    quiet, loud = (np.load(path) for path in sorted((run.samples / "first").glob("*.npy")))
    assert quiet.shape == loud.shape == (8, 125) and np.abs(quiet - loud).max() > 0


def test_features_that_were_not_stored_are_named(level, codec, tmp_path, audio_folder):
    run = Run(tmp_path / "run")
    encode(run, project("mel"), audio=[audio_folder])
    # Stores of mel alone look as they did before there were other kinds.
    assert all("features" not in row for row in runs.read_jsonl(run.latents / MANIFEST))
    with pytest.raises(UserError, match="cannot follow the level of the recordings"):
        train_diffusion(run, project())
    encode(run, project(), audio=[audio_folder])
    train_diffusion(run, project())


def test_the_reference_lists_what_is_registered(level):
    (row,) = [row for row in config.reference(Project) if row[0] == "condition.kinds"]
    assert row[1].startswith("auto | tuple[style | beat |") and "| level" in row[1]
    assert "mel: follows a mel spectrogram" in row[3]
