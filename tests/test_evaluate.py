"""`evaluate` on small stores and models whose truth is known, with a codec of twenty lines."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from latentdiff import config, runs
from latentdiff.commands.encode import encode
from latentdiff.commands.evaluate import evaluate
from latentdiff.commands.evaluate_report import to_json
from latentdiff.errors import UserError
from latentdiff.evaluation import embeddings, sets
from latentdiff.evaluation.coherence import Coherence, Horizon
from latentdiff.evaluation.scores import FormScores, Interval, Line
from latentdiff.evaluation.wandering import RelativeDeviation, Wandering
from latentdiff.latents.store import MANIFEST, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.clips import gather, places_in
from latentdiff.model.data import windows_of
from latentdiff.model.evaluate import EvaluationSettings, choose_clips, evaluate_model
from latentdiff.model.evaluate.advice import advice
from latentdiff.model.evaluate.findings import findings
from latentdiff.model.evaluate.results import (
    Copying,
    EvaluationResult,
    HeldOutSkill,
    LabelSpread,
    SamplingFacts,
    Spread,
)
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_model
from latentdiff.runs import Run
from latentdiff.training import checkpoint
from latentdiff.training.data import Recording, Windows
from latentdiff.training.recipe import Recipe

MEL = {"sample_rate": 8000, "n_fft": 256, "hop": 128, "bands": 5}
SMALL = {
    "data": {"sample_rate": 8000, "validation": 0.3},
    "network": {"name": "tiny", "channels": 8},
    "condition": {"mel": MEL},
    "training": {"window": 16, "validation_windows": 8},
    "sampling": {"steps": 4},
    "device": "cpu",
}


def project(**sections):
    return config.build(Project, config.merge(SMALL, sections))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def ready(run, codec, tmp_path, write_wav, melody, make_model):
    """A run with encoded tunes and a model that was not trained; returns `make(kind)`.

    `labels`: names of the folders that the tunes lie in, in turn.
    """
    run.rave.mkdir(parents=True)

    def make(kind="none", gain=0.0, scale=1.0, labels=(), **sections):
        for i in range(8):
            folder = labels[i % len(labels)] if labels else ""
            write_wav(tmp_path / "music" / folder / f"{i}.wav", melody(3.0, seed=i))
        settings = project(condition={"kinds": kind, "dropout": 0.0}, **sections)
        encode(run, settings, audio=[tmp_path / "music"])
        write_model(make_model, run, settings, gain, scale, labels)
        return settings

    return make


def write_model(make_model, run, settings, gain, scale, labels=()):
    """A checkpoint as training would leave it, of an untrained network."""
    store = LatentStore.open(run.latents)
    train = np.concatenate([np.asarray(store.mean(e)) for e in store.of("train")], axis=1)
    deviation = torch.from_numpy(scale * train.std(axis=1)).float()
    whitening = Whitening(
        torch.from_numpy(train.mean(axis=1)).float(), torch.eye(8)[:3], deviation[:3]
    )
    make_model(
        checkpoint.best(run.diffusion),
        network=settings.network.model_dump(),
        diffusion=settings.diffusion.model_dump(),
        condition=settings.condition.model_dump(),
        codec=store.codec,
        window=settings.training.window,
        whitening=whitening,
        gain=gain,
        labels=labels,
    )


def results(run):
    return json.loads((run.root / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))


def test_everything_is_measured_and_written(run, ready):
    settings = config.merge(ready().model_dump(), {"sampling": {"steps": 32}})
    settings = config.build(Project, settings)
    assert evaluate(run, settings, n=16, seconds=0.5, steps=(2,)) == []
    found = results(run)
    # An untrained network knows variances and no more: its samples sound like noise.
    assert found["held_out"]["skill"] == pytest.approx(0, abs=0.05)
    assert found["held_out"]["training_skill"] == pytest.approx(0, abs=0.05)
    for kind in ("latents", "sound"):
        line = found[kind]["joint"]
        far = line["distances"]
        assert far["training, other clips"] < far["samples"] / 2
        assert line["scores"]["white noise"]["value"] == 0
        assert line["separation"]["samples"]["value"] > 0.9
        fakes = {"Gaussian process", "reversed", "six clips repeated", "4 s blocks shuffled"}
        assert fakes < far.keys() == found[kind]["variety"].keys()
    # Half a second is too short for rhythm and harmony.
    assert found["sound"]["views"].keys() == found["latents"]["views"].keys()
    assert found["coherence"].keys() > {"samples", "spliced"}
    assert found["spread"]["median"] == pytest.approx(1, abs=0.15)
    assert found["copying"]["ratio"] > 0.5 and not found["copying"]["found"]
    assert found["level"]["samples"]["clips"] == 16 and found["samples"] == 16
    assert [(row["steps"], row["calls"]) for row in found["steps"]] == [(2, 2)]
    folder = run.root / "evaluation"
    for name in ("scores.png", "loss.png", "spectrograms.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    sounds = sorted(path.name for path in (folder / "audio").glob("*.wav"))
    assert {"samples-0.wav", "training-0.wav", "held-out-files-0.wav"} <= set(sounds)
    seconds = found["seconds"]
    assert soundfile.info(folder / "audio" / "samples-0.wav").duration == pytest.approx(seconds)
    assert runs.read_run(folder).status == "done"
    assert not list(folder.rglob("*.partial"))


def test_the_table_explains_its_numbers(run, ready):
    evaluate(run, ready(), n=4, seconds=0.5, steps=(2,))
    text = (run.root / "evaluation" / "evaluation.txt").read_text(encoding="utf-8")
    for words in (
        "0: knows only the level of each direction",
        "0: as far as white noise",
        "AUC of a classifier",
        "1: like the training latents",
        "0: equally loud",
        "near 0: copies",
        "network calls",
    ):
        assert words in text


def test_the_same_seed_gives_the_same_numbers_and_the_same_command_does_nothing(run, ready, caplog):
    settings = ready()
    evaluate(run, settings, n=4, seconds=0.5)
    first = results(run)
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        evaluate(run, settings, n=4, seconds=0.5)
    assert "already done" in caplog.text and "as far as white noise" in caplog.text
    evaluate(run, settings, n=4, seconds=0.5, overwrite=True)
    assert results(run) == first
    with pytest.raises(UserError, match="made with other settings or inputs"):
        evaluate(run, settings, n=5, seconds=0.5)


def test_samples_may_be_longer_than_any_recording(run, ready):
    evaluate(run, ready(), n=3, seconds=5.0)
    found = results(run)
    assert found["seconds"] == pytest.approx(5, abs=0.01) and found["clip_seconds"] < 3
    sound = run.root / "evaluation" / "audio" / "samples-0.wav"
    assert soundfile.info(sound).duration == pytest.approx(5, abs=0.01)


def test_samples_too_short_to_be_described_are_refused(run, ready):
    settings = ready()
    with pytest.raises(UserError, match=r"samples of 0\.0\d+ s are too short") as error:
        evaluate(run, settings, n=4, seconds=0.04)
    assert "--seconds 0.07" in str(error.value)
    assert evaluate(run, settings, n=4, seconds=0.07) == []


def test_a_dry_run_writes_nothing(run, ready):
    evaluate(run, ready(), n=4, seconds=0.5, dry_run=True)
    assert not (run.root / "evaluation").exists()


def test_silent_samples_cause_a_warning(run, ready, codec, monkeypatch, caplog):
    settings = ready()
    whole = codec.decode
    # Samples are drawn with a seed each; those of this test decode to nothing.
    monkeypatch.setattr(
        Recipe,
        "sample",
        lambda recipe, denoise, settings, seeds, channels, frames, *_: torch.full(
            (len(seeds), channels, frames), 1e9
        ),
    )
    monkeypatch.setattr(codec, "decode", lambda z: whole(z) * (z.abs().amax() < 1e6))
    evaluate(run, settings, n=4, seconds=0.5)
    assert results(run)["level"]["samples"]["silent"] == 4
    assert "4 of 4 samples are silent" in caplog.text


def test_samples_copied_from_the_training_set_cause_a_warning(run, ready, monkeypatch, caplog):
    settings = ready()
    model = Model.load(checkpoint.best(run.diffusion))
    store = LatentStore.open(run.latents)
    raw = torch.from_numpy(np.array(store.mean(store.of("train")[0])))
    copies = model.whitening.whiten(raw)
    monkeypatch.setattr(
        Recipe,
        "sample",
        lambda recipe, denoise, settings, seeds, channels, frames, *_: torch.stack(
            [copies[:, 9 + k : 9 + k + frames] for k in range(len(seeds))]
        ),
    )
    evaluate(run, settings, n=6, seconds=2.0)
    assert results(run)["copying"]["found"] and results(run)["copying"]["share"] > 0.9
    assert "copy training recordings" in caplog.text


def test_samples_that_follow_recordings_are_compared_with_them(run, ready):
    settings = ready("mel", gain=0.1)
    assert evaluate(run, settings, n=4, seconds=0.5) == []
    found = results(run)
    follows = found["condition"]
    assert follows["held_out"] and follows["codec_db"] < follows["right_db"]
    assert found["held_out"]["conditioning_gain"] is not None
    assert found["latents"]["joint"]["distances"]["samples after held-out"] > 0
    sounds = {path.name for path in (run.root / "evaluation" / "audio").glob("*.wav")}
    assert "samples-after-held-out-0.wav" in sounds


def test_latents_of_unequal_variance_have_their_own_baseline(run, ready):
    settings = ready()
    path = checkpoint.best(run.diffusion)
    weights = checkpoint.load_weights(path)
    whitening = weights.group("whitening")
    stretch = torch.tensor([2.0, 1.0, 0.5])
    # As with latents.scaling=global: the same directions, in other units.
    whitening["scale"], whitening["variance"] = whitening["scale"] / stretch, stretch.square()
    tensors = {**weights.tensors, **checkpoint.pack(whitening=whitening)}
    checkpoint.save_weights(path, tensors, weights.header)
    evaluate(run, settings, n=4, seconds=0.5)
    assert results(run)["held_out"]["skill"] == pytest.approx(0, abs=0.01)


def test_recordings_that_are_gone_are_skipped(run, ready, tmp_path, caplog):
    settings = ready("mel")
    for path in (tmp_path / "music").glob("*.wav"):
        path.unlink()
    (skipped,) = evaluate(run, settings, n=4, seconds=0.5)
    assert "not compared with the recordings they follow" in skipped
    assert "no row of recordings" in caplog.text
    assert "condition" not in results(run)


def test_without_a_codec_latents_are_still_scored(run, ready):
    settings = ready()
    run.rave.rmdir()
    (skipped,) = evaluate(run, settings, n=4, seconds=0.5)
    assert "the codec is unknown" in skipped
    found = results(run)
    assert found["latents"]["joint"]["distances"]["samples"] > 0 and "sound" not in found
    assert found["coherence"]["samples"]["beat"] is None


def test_without_held_out_files_skill_is_skipped(run, ready):
    settings = ready()
    rows = runs.read_jsonl(run.latents / MANIFEST)
    runs.write_jsonl(run.latents / MANIFEST, [{**row, "split": "train"} for row in rows])
    (skipped,) = evaluate(run, settings, n=4, seconds=0.5)
    assert "no file is held out" in skipped
    found = results(run)
    assert found["held_out"] is None
    assert found["latents"]["joint"]["one"] == "other training clips"
    assert not (run.root / "evaluation" / "loss.png").exists()


def test_an_embedding_has_its_own_scores(run, ready, monkeypatch):
    def energy(audio, rate):
        return np.abs(audio[: len(audio) // 100 * 100].reshape(-1, 100))

    monkeypatch.setattr(embeddings, "load", lambda name: energy)
    evaluate(run, ready(), n=4, seconds=0.5, embedding=["energy"])
    found = results(run)["embeddings"]["energy"]
    assert found["joint"]["distances"]["samples"] > 0 and found["frechet"]["samples"] > 0


def test_latents_of_another_codec_are_refused(run, ready):
    settings = ready()
    path = run.latents / "run.json"
    path.write_text(path.read_text().replace("f" * 64, "e" * 64))
    with pytest.raises(UserError, match="from another codec"):
        evaluate(run, settings, n=4)


def test_the_models_own_latents_are_found(run, ready, tmp_path):
    settings = ready()
    other = Run(tmp_path / "other")
    with runs.Stage(
        other.diffusion, "train-diffusion", inputs={"latents": runs.Input(str(run.latents), "x")}
    ):
        write_model_to = checkpoint.best(other.diffusion)
        write_model_to.parent.mkdir(parents=True)
        write_model_to.write_bytes(checkpoint.best(run.diffusion).read_bytes())
    evaluate(other, settings, n=4, seconds=0.5, dry_run=True)


def test_from_python_nothing_is_written(run, ready, codec):
    settings = ready()
    model, store = open_model(run, None, None, "cpu")
    asked = EvaluationSettings(settings.sampling, settings.training, n=4, seconds=0.5)
    result = evaluate_model(model, store, choose_clips(model, store, asked), codec, asked)
    assert not (run.root / "evaluation").exists()
    assert result.skipped == [] and result.held_out.windows == 8
    assert result.examples[sets.SAMPLES][0].shape[0] == codec.channels
    # The command gives the same numbers, under keys that programs rely on.
    evaluate(run, settings, n=4, seconds=0.5)
    found = results(run)
    assert found == json.loads(json.dumps(to_json(result)))
    keys = "checkpoint step samples seconds clip_seconds window_seconds clips held_out calls"
    keys += " latents sound embeddings coherence wandering copying spread level steps"
    assert set(keys.split()) <= set(found)
    line = found["latents"]["joint"]
    assert line.keys() == {"one", "scores", "distances", "separation"}
    assert line["scores"]["samples"].keys() == {"value", "low", "high", "reason"}


class TestSettingsAreRemembered:
    def test_those_of_validation_too(self, run, ready):
        settings = ready()
        evaluate(run, settings, n=4, seconds=0.5)
        training = {**SMALL["training"], "validation_windows": 2}
        with pytest.raises(UserError, match=r"training\.validation_windows: 8 -> 2"):
            evaluate(run, project(training=training), n=4, seconds=0.5)

    def test_but_not_those_of_an_interrupted_evaluation(self, run, ready, monkeypatch):
        settings = ready()

        def interrupt(*args, **options):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("latentdiff.commands.evaluate.evaluate_model", interrupt)
            evaluate(run, settings, n=8, seconds=0.5)
        assert evaluate(run, settings, n=4, seconds=0.5) == []
        assert results(run)["samples"] == 4


class TestLabels:
    def test_files_with_labels_the_model_never_saw_are_left_out(
        self, run, ready, tmp_path, write_wav, melody, monkeypatch, caplog
    ):
        settings = ready("label", labels=("drums", "voice"))
        for i in range(4):
            write_wav(tmp_path / "music" / "flute" / f"{i}.wav", melody(3.0, seed=9 + i))
        encode(run, settings, audio=[tmp_path / "music"], overwrite=True)
        drawn, sample = [], Recipe.sample

        def record(recipe, denoise, settings, seeds, channels, frames, condition, *rest):
            drawn.append((len(seeds), condition.values["label"]))
            return sample(recipe, denoise, settings, seeds, channels, frames, condition, *rest)

        monkeypatch.setattr(Recipe, "sample", record)
        assert evaluate(run, settings, n=6, seconds=0.5) == []
        assert "4 files are left out" in caplog.text and "flute" in caplog.text
        assert all(len(label) == count for count, label in drawn)
        # Every window has the label of its own file.
        model, store = open_model(run, None, None, "cpu")
        labels = {entry.key: model.labels.index(entry.label) for entry in store.entries}
        for split in ("train", "validation"):
            windows = windows_of(model, store, split)
            batch = windows.spread(99)
            of_files = [labels[windows.describe(batch, k)] for k in range(len(batch.files))]
            assert batch.condition.values["label"].tolist() == of_files

    def test_recordings_with_and_without_a_label_do_not_mix(self):
        latents = np.zeros((2, 40), np.float32)
        files = [Recording("a.wav", latents, categories={"label": 1}), Recording("b.wav", latents)]
        with pytest.raises(UserError, match=r"b\.wav has no label"):
            Windows(files, 16, whiten=lambda x: x)

    def test_the_strength_of_samples_is_reported_by_label(self, run, ready, monkeypatch):
        settings = ready("label", labels=("drums", "voice"))

        def sample(recipe, denoise, settings, seeds, channels, frames, condition, *_):
            noise = torch.randn(len(seeds), channels, frames)
            return noise * torch.where(condition.values["label"] == 0, 0.5, 1.5)[:, None, None]

        monkeypatch.setattr(Recipe, "sample", sample)
        evaluate(run, settings, n=8, seconds=0.5)
        labels = results(run)["spread"]["labels"]
        assert sum(each["samples"] for each in labels.values()) == 8
        assert labels["voice"]["median"] > 2 * labels["drums"]["median"]
        text = (run.root / "evaluation" / "evaluation.txt").read_text(encoding="utf-8")
        assert "median spread by label: drums" in text and "sample labels separately" in text


NOTHING = FormScores(Line("other training clips", {}, {}, {}), {}, {}, {})
"""Scores of no set."""


class TestAdvice:
    """Only what can help and is not done already."""

    @staticmethod
    def advised(gain=None, spread=1.0, labels=(), **sampling):
        """The advice for an evaluation without anything else worth mentioning."""
        return advice(TestAdvice.evaluated(gain, spread, labels, **sampling))

    @staticmethod
    def evaluated(gain=None, spread=1.0, labels=(), **sampling):
        """An evaluation with nothing worth mentioning but this."""
        facts = {"steps": 32, "guidance": 1.0, "can_guide": True, "autoguidance": 1.0}
        by_label = {str(k): LabelSpread(9, median) for k, median in enumerate(labels)}
        return EvaluationResult(
            checkpoint="best.safetensors",
            step=7,
            samples=9,
            seconds=1.0,
            clip_seconds=1.0,
            window_seconds=1.0,
            clips=9,
            held_out=HeldOutSkill(0.5, 1.0, 0.5, gain, 0.5, 8, [0.0], [0.5], [1.0], [1.0], [0.9]),
            calls=32,
            sampling=SamplingFacts(**{**facts, "fixed_calls": False, **sampling}),
            latents=NOTHING,
            sound=None,
            embeddings={},
            coherence={},
            wandering={},
            spread=Spread(spread, [spread], by_label),
            copying=Copying(False, 0.0, None, 1.0, 0, 1.0),
            level=None,
            condition=None,
            steps=[],
            skipped=[],
        )

    def test_guidance_where_a_condition_is_followed_weakly(self):
        (line,) = self.advised(0.2)
        assert "sampling.guidance above 1" in line
        assert self.advised(0.2, guidance=3.0) == self.advised(0.2, can_guide=False) == []
        assert self.advised(0.9) == self.advised(0.001) == self.advised(None) == []

    def test_labels_of_unequal_strength(self):
        (line,) = self.advised(labels=(0.63, 1.0, 1.43), autoguidance=1.2)
        assert "0 0.63, 2 1.43" in line and "now 1.20" in line
        assert self.advised(labels=(0.9, 1.1)) == self.advised(labels=(0.5,)) == []

    @pytest.mark.parametrize(
        ("spread", "sampling", "expected", "unexpected"),
        [
            (1.1, {}, [], ["samples"]),
            (0.5, {}, ["weaker", "train longer", "raise sampling.autoguidance"], ["guidance=1"]),
            (0.5, {"fixed_calls": True}, ["train longer"], ["autoguidance", "steps"]),
            (2.0, {}, ["stronger", "sampling.steps (now 32)"], ["lower"]),
            (2.0, {"guidance": 3.0}, ["lower sampling.guidance (now 3)"], ["autoguidance"]),
            (2.0, {"fixed_calls": True}, ["train longer"], ["sampling."]),
        ],
    )
    def test_samples_of_another_strength(self, spread, sampling, expected, unexpected):
        text = "\n".join(self.advised(spread=spread, **sampling))
        assert all(words in text for words in expected)
        assert not any(words in text for words in unexpected)

    def test_a_regression_has_no_steps(self, run, ready):
        settings = ready("mel", gain=0.1, diffusion={"parametrisation": "regression"})
        (skipped,) = evaluate(run, settings, n=4, seconds=0.5, steps=(2, 8))
        assert "1 network call" in skipped and results(run)["steps"] == []
        text = (run.root / "evaluation" / "evaluation.txt").read_text(encoding="utf-8")
        assert "1 network call each" in text and "sampling.steps" not in text

    @pytest.mark.parametrize(
        ("guidance", "remedies"),
        [
            (1.0, "raise sampling.steps, or train longer."),
            (3.0, "lower sampling.guidance, or raise sampling.steps, or train longer."),
        ],
    )
    def test_samples_that_are_not_finite(self, run, ready, monkeypatch, guidance, remedies):
        settings = ready("mel", sampling={"steps": 4, "guidance": guidance})
        monkeypatch.setattr(Recipe, "sample", lambda *_: torch.full((4, 3, 8), torch.nan))
        with pytest.raises(UserError) as error:
            evaluate(run, settings, n=4, seconds=0.5)
        assert error.value.do_this == remedies


class TestFindings:
    """What is wrong with the samples, and only beyond chance."""

    @staticmethod
    def found(score=(0.9, 0.8, 1.0), auc=(0.6, 0.5, 0.7), variety=(0.9, 0.8, 1.0), **changes):
        line = Line(
            "other training clips", {"samples": Interval(*score)}, {}, {"samples": Interval(*auc)}
        )
        form = FormScores(line, {"rhythm": line}, {"samples": Interval(*variety)}, {})
        values = {"coherence": {"samples": Coherence(None, None)}, **changes}
        return findings(replace(TestAdvice.evaluated(), latents=form, **values))

    def test_nothing_is_said_of_what_chance_may_explain(self):
        assert self.found() == []
        assert self.found(score=(0.4, 0.2, 0.6), auc=(0.8, 0.7, 0.9)) == []

    def test_low_scores_and_what_a_classifier_tells(self):
        everything, rhythm = self.found(score=(0.3, 0.2, 0.4), auc=(0.9, 0.8, 1.0))
        assert rhythm == (
            "by rhythm of latents they are unlike training clips: their score is 0.30 (below 0.5), "
            "and a classifier tells them, AUC 0.90 (above 0.75)"
        )
        assert everything.startswith("by all views of latents")

    def test_repeats_and_copies(self):
        (alike,) = self.found(variety=(0.1, 0.0, 0.3))
        assert "they are alike: variety of latents is 0.10" in alike
        copies = Copying(True, 0.4, 1e-6, 0.01, 0, 3.0)
        assert "they copy training recordings: 40% of them" in self.found(copying=copies)[0]

    def test_pieces_and_beats_that_do_not_last(self):
        short, whole = Horizon(2.0, 1.0, 3.0, 10.0), Horizon(9.0, 5.0, 10.0, 10.0)
        (line,) = self.found(coherence={"samples": Coherence(short, whole)})
        assert line == "they stay one piece for 2.0 s of 10.0 s, then change"
        (line,) = self.found(coherence={"samples": Coherence(whole, short)})
        assert line == "they keep time for 2.0 s of 10.0 s"
        wander = Wandering(RelativeDeviation(1.5, 1.2, 1.8), RelativeDeviation(0.4, 0.2, 0.6))
        (line,) = self.found(wandering={"samples": wander})
        assert "they wander: clips move 1.5 times as far" in line


class TestGather:
    def test_sets_do_not_overlap_and_are_of_one_size(self, run, ready):
        ready()
        model = Model.load(checkpoint.best(run.diffusion))
        clips = gather(model, LatentStore.open(run.latents), 10, 40)
        assert len(clips.reference) == len(clips.other) == 10
        places = [x.overlapping for x in (clips.reference, clips.other, clips.held_out)]
        for k, place in enumerate(places):
            assert place.distinct() == len(place.files)
            assert not any(place.overlaps(other).any() for other in places[:k])
        assert all(p.entry.split == "validation" for p in clips.held_out.places)
        store = LatentStore.open(run.latents)
        place = clips.other.places[1]
        np.testing.assert_array_equal(
            clips.other.raw[1], store.mean(place.entry)[:, place.start : place.start + 40]
        )

    def test_neither_set_has_the_beginnings_of_all_files(self, run, ready):
        ready()
        model = Model.load(checkpoint.best(run.diffusion))
        clips = gather(model, LatentStore.open(run.latents), 6, 170)
        for one in (clips.reference, clips.other):
            assert len({place.start for place in one.places}) > 1

    def test_where_recordings_are_few_clips_overlap_by_half(self, run, ready):
        ready()
        model = Model.load(checkpoint.best(run.diffusion))
        clips = gather(model, LatentStore.open(run.latents), 64, 100)
        whole = len(places_in(LatentStore.open(run.latents).of("train"), clips.frames))
        assert len(clips.reference) + len(clips.other) > whole
        starts = {place.start for place in clips.reference.places + clips.other.places}
        assert all(start % (clips.frames // 2) == 0 for start in starts)

    def test_clips_are_shortened_where_files_are(self, run, ready):
        ready()
        model = Model.load(checkpoint.best(run.diffusion))
        clips = gather(model, LatentStore.open(run.latents), 64, 10_000)
        assert len(clips.reference.places) >= 8 and clips.frames < 375

    def test_too_little_sound_is_refused(self, run, ready):
        ready()
        rows = runs.read_jsonl(run.latents / MANIFEST)
        rows = [{**row, "split": "validation"} for row in rows]
        runs.write_jsonl(run.latents / MANIFEST, rows)
        model = Model.load(checkpoint.best(run.diffusion))
        with pytest.raises(UserError, match="too short to compare"):
            gather(model, LatentStore.open(run.latents), 64, 50)
