"""`diagnose conditioning` of models that follow, ignore or misread their condition."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import numpy as np
import pytest
import soundfile
import torch

from latentdiff import config, runs
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.diagnose.conditioning import measure as conditioning
from latentdiff.diagnose.conditioning.losses import exchanged
from latentdiff.diagnose.conditioning.measure import diagnose_conditioning
from latentdiff.diagnose.conditioning.results import GuidanceRow, Results
from latentdiff.diagnose.report import read_results
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.settings import DiffusionConfig
from latentdiff.errors import UserError
from latentdiff.evaluation.difference import UNRELATED, relative
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.spec import ModelSpec
from latentdiff.networks.settings import NetworkConfig
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Condition
from latentdiff.training import verdict

FRAMES = 200
SMALL = {"training": {"validation_windows": 8}, "sampling": {"steps": 3}, "device": "cpu"}


def spectrogram(index):
    """[3, T] of unit variance."""
    return np.random.default_rng(index).standard_normal((3, FRAMES))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def store(run, codec):
    """Eight files: three directions are 0.6 of their spectrogram, 0.6 by label, and noise."""
    run.rave.mkdir(parents=True)
    with Stage(run.latents, "encode", inputs={"codec": Input("codec", "f" * 64)}) as stage:
        rows = []
        for i in range(8):
            mel, z = spectrogram(i), np.zeros((8, FRAMES))
            z[:3] = 0.6 * mel + (0.6 if i % 2 else -0.6)
            z[:3] += 0.5 * np.random.default_rng(100 + i).standard_normal((3, FRAMES))
            np.save(run.latents / f"{i}.npy", z.astype(np.float32))
            np.save(run.latents / f"mel{i}.npy", mel.astype(np.float32))
            split = "validation" if i < 4 else "train"
            label = "odd" if i % 2 else "even"
            entry = Entry(f"{i}.wav", None, split, FRAMES * 64, FRAMES, f"{i}.npy", label=label)
            rows.append({**entry.row(), "mel": f"mel{i}.npy"})
        runs.write_jsonl(run.latents / "manifest.jsonl", rows)
        stage.record(sample_rate=8000, hop=64, latent_dim=8, channels=1)
    return LatentStore.open(run.latents)


class Following(torch.nn.Module):
    """Estimates clean latents as multiples of its condition; zero without a condition.

    `free`: the share of its input that it passes on, which depends on the sampler's noise.
    """

    def __init__(self, spectrogram=0.0, label=0.0, free=0.0):
        super().__init__()
        self.amounts = spectrogram, label, free
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, z, logsnr, condition):
        spectrogram, label, free = self.amounts
        z_0 = free * z
        for kind, amount in {"mel": spectrogram, "label": label}.items():
            if kind in condition.values:
                value = condition.values[kind]
                features = value if value.ndim == 3 else 2.0 * value[:, None, None] - 1
                given = condition.given.get(kind, torch.ones(len(z), dtype=torch.bool))
                z_0 = z_0 + amount * features * given[:, None, None]
        return z_0


@pytest.fixture
def diagnose(run, store, tmp_path, monkeypatch):
    """`diagnose(network, kind, dropout)`: the results for such a model, and what is `missing`."""

    def make(network, kind, dropout=0.1, overwrite=False, **sections):
        both = Standardiser(np.zeros(3, np.float32), np.ones(3, np.float32))
        (tmp_path / "m.safetensors").write_bytes(b"")
        spec = ModelSpec(
            NetworkConfig(),
            DiffusionConfig(parametrisation="x0", precondition=False),
            config.build(ConditionConfig, {"kinds": kind, "dropout": dropout}),
            store.codec,
            labels=["even", "odd"] if kind in ("label", "both") else [],
            window=16,
        )
        model = Model(
            spec,
            Denoiser(network, "x0", precondition=False).eval(),
            Whitening(torch.zeros(8), torch.eye(8)[:3], torch.ones(3)),
            {"mel": both} if kind in ("mel", "both") else {},
            path=tmp_path / "m.safetensors",
            step=7,
        )
        monkeypatch.setattr(conditioning, "open_model", lambda *_: (model, store))
        missing = diagnose_conditioning(
            run,
            config.build(Project, config.merge(SMALL, sections)),
            n=4,
            seconds=0.3,
            overwrite=overwrite,
        )
        found = json.loads((folder(run) / "conditioning.json").read_text(encoding="utf-8"))
        return {**found, "missing": missing}

    return make


def folder(run):
    return run.root / "diagnosis" / "conditioning"


def verdicts(found):
    return {kind: judged["verdict"] for kind, judged in found["judged"].items()}


def report_of(run):
    return (folder(run) / "conditioning.txt").read_text(encoding="utf-8")


def test_unrelated_latents_differ_by_the_root_of_two():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 3, 5000, generator=g)
    assert relative(a, a) == 0
    assert relative(a, b) == pytest.approx(UNRELATED, rel=0.02)
    assert relative(3 * a, 3 * b) == pytest.approx(relative(a, b))


def test_every_condition_is_exchanged_for_another():
    features, label = torch.arange(4.0)[:, None, None].expand(4, 2, 3), torch.tensor([0, 1, 1, 2])
    own = Condition({"mel": features, "label": label})
    wrong = exchanged(own, 3).values
    assert (wrong["label"] != label).all() and int(wrong["label"].max()) == 2
    assert (wrong["mel"] != features).all()
    assert torch.equal(exchanged(own, 3, "label").values["mel"], features)
    assert torch.equal(exchanged(own, 3, "mel").values["label"], label)


@pytest.mark.parametrize("gain", [-1.0, 0.04, 0.06, 0.4, 0.6, 9.0])
def test_a_grade_is_the_verdict_in_one_word(gain):
    grade = verdict.grade(gain)
    others = {"ignored", "weak", "followed"} - {grade}
    assert grade in verdict.conditioning(gain)
    assert not any(other in verdict.conditioning(gain).partition(":")[0] for other in others)


def test_a_spectrogram_that_is_followed(run, diagnose):
    found = diagnose(Following(spectrogram=0.6), "mel")
    assert verdicts(found) == {"mel": "followed"} and found["held_out"] and found["missing"] == []
    # Of 0.25 + 0.36 by label; wrong spectrograms add twice 0.36.
    assert found["losses"]["gain"] == pytest.approx(0.72 / 0.61, rel=0.1)
    assert found["losses"]["gains"]["none"] == pytest.approx(0.36 / 0.61, rel=0.15)
    assert found["changes"]["other condition"]["latents"] == pytest.approx(UNRELATED, rel=0.1)
    assert found["changes"]["other noise"]["latents"] == pytest.approx(0, abs=1e-5)
    near = found["to_followed"]
    assert near["right"]["latents"] < near["other condition"]["latents"]
    assert near["right"]["sound_db"] < near["other condition"]["sound_db"]
    assert "mel: followed" in report_of(run)


def test_a_spectrogram_that_comes_at_the_wrong_time(run, store, diagnose):
    for i in range(8):
        rng = np.random.default_rng(i)
        noise = rng.standard_normal((3, FRAMES + 4))
        mel = np.stack([np.convolve(row, np.ones(5), "valid") for row in noise]) / 5**0.5
        z = np.zeros((8, FRAMES), np.float32)
        z[:3] = 0.6 * mel + 0.5 * rng.standard_normal((3, FRAMES))
        np.save(run.latents / f"{i}.npy", z)
        np.save(run.latents / f"mel{i}.npy", np.roll(mel, 20, axis=1).astype(np.float32))

    class Late(Following):
        """Follows what comes 20 frames later, as a model trained on such features does."""

        def forward(self, z, logsnr, condition):
            if condition:
                moved = condition.values["mel"].roll(-20, dims=-1)
                condition = condition.with_kind("mel", moved, condition.given.get("mel"))
            return super().forward(z, logsnr, condition)

    found = diagnose(Late(spectrogram=0.6), "mel")
    assert verdicts(found) == {"mel": "misaligned"}
    assert found["judged"]["mel"]["fit"]["alignment"]["p"] < 0.01
    assert "too early or too late" in report_of(run)


def test_guidance_exaggerates_what_is_followed(run, diagnose):
    rows = {row["scale"]: row for row in diagnose(Following(spectrogram=0.6), "mel")["guidance"]}
    assert rows[0]["spread"] == pytest.approx(0, abs=1e-6)
    assert rows[2]["spread"] == pytest.approx(2 * rows[1]["spread"], rel=1e-3)
    assert rows[4]["level_db"] == pytest.approx(rows[2]["level_db"] + 6.02, abs=0.1)
    assert "guidance" in report_of(run)


def test_a_spectrogram_that_is_ignored(run, diagnose):
    found = diagnose(Following(free=0.5), "mel")
    assert verdicts(found) == {"mel": "ignored"}
    assert found["losses"]["gain"] == pytest.approx(0, abs=1e-6)
    assert found["changes"]["other condition"]["latents"] == pytest.approx(0, abs=1e-5)
    assert found["changes"]["other noise"]["latents"] > 1
    assert "mel: ignored" in report_of(run)
    assert "Yet another condition" not in report_of(run)


def test_a_spectrogram_that_is_followed_the_wrong_way(run, diagnose):
    found = diagnose(Following(spectrogram=-0.6), "mel")
    assert verdicts(found) == {"mel": "ignored"} and found["losses"]["gain"] < 0
    assert "Yet another condition does change a sample, and without any" in report_of(run)


def test_labels_are_judged_by_the_other_label(run, diagnose):
    found = diagnose(Following(label=0.6), "label")
    # Of 0.25 + 0.36 by spectrogram; a wrong label adds 1.2 squared.
    assert found["losses"]["gains"]["other label"] == pytest.approx(1.44 / 0.61, rel=0.1)
    # Two labels in four held-out files: 1 in 16 by chance.
    assert verdicts(found) == {"label": "not judged"} and found["to_followed"] == {}
    assert found["judged"]["label"]["exchange"]["identified"] == 1


def test_of_both_each_is_judged_by_itself(run, diagnose):
    found = diagnose(Following(spectrogram=0.6), "both")
    gains, changes = found["losses"]["gains"], found["changes"]
    assert gains["other mel"] > 0.5 and gains["other label"] == pytest.approx(0, abs=1e-6)
    assert changes["other label"]["latents"] == pytest.approx(0, abs=1e-5)
    assert changes["other mel"] == changes["other condition"]
    assert verdicts(found) == {"mel": "followed", "label": "not judged"}
    assert "mel: followed" in report_of(run)


def test_without_dropout_there_is_no_guidance(run, diagnose):
    found = diagnose(Following(spectrogram=0.6), "mel", dropout=0.0)
    assert found["guidance"] == [] and found["losses"]["gains"] == {}
    assert "guidance" not in report_of(run)


def test_pictures_and_sounds_are_left_and_the_same_command_does_nothing(run, diagnose, caplog):
    diagnose(Following(spectrogram=0.6), "mel")
    assert (folder(run) / "conditioning.png").read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in (folder(run) / "audio").glob("*.wav")}
    assert {"followed-0.wav", "right-0.wav", "other-condition-1.wav", "guidance-4-0.wav"} <= names
    assert soundfile.info(folder(run) / "audio" / "right-0.wav").samplerate == 8000
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        diagnose(Following(spectrogram=0.6), "mel")
    assert "already done" in caplog.text and "mel: followed" in caplog.text


@pytest.mark.parametrize("setting", [{"validation_windows": 2}, {"validation_levels": 10}])
def test_other_windows_or_levels_are_not_already_done(diagnose, setting):
    diagnose(Following(spectrogram=0.6), "mel")
    with pytest.raises(UserError, match=next(iter(setting))):
        diagnose(Following(spectrogram=0.6), "mel", training=setting)


def test_results_are_read_back_as_they_were_measured(run, diagnose):
    found = diagnose(Following(spectrogram=0.6), "both")
    results = read_results(folder(run) / "conditioning.json", Results)
    assert isinstance(results, Results) and isinstance(results.guidance[0], GuidanceRow)
    del found["missing"]
    assert asdict(results) == found


def test_without_a_codec_latents_are_compared_all_the_same(run, diagnose):
    run.rave.rmdir()
    found = diagnose(Following(spectrogram=0.6), "mel")
    assert "the codec is unknown" in found["missing"][0]
    assert found["changes"]["other condition"]["sound_db"] is None
    assert verdicts(found) == {"mel": "followed"} and not (folder(run) / "audio").exists()


def test_a_model_without_condition_is_refused(diagnose):
    with pytest.raises(UserError, match="follows no condition"):
        diagnose(Following(free=0.5), "none")
