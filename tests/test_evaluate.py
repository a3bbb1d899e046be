"""`evaluate` on small stores and models whose truth is known, with a codec of twenty lines."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import soundfile
import torch

from latentdiff import config, runs
from latentdiff.commands.encode import encode
from latentdiff.commands.evaluate import evaluate
from latentdiff.errors import UserError
from latentdiff.evaluation import embeddings
from latentdiff.latents.store import MANIFEST, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.clips import gather
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.training import checkpoint
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
    """A run with encoded tunes and a model that was not trained; returns `make(kind)`."""
    run.rave.mkdir(parents=True)

    def make(kind="none", gain=0.0, scale=1.0):
        for i in range(8):
            write_wav(tmp_path / "music" / f"{i}.wav", melody(3.0, seed=i))
        settings = project(condition={"kind": kind, "dropout": 0.0})
        encode(run, settings, audio=[tmp_path / "music"])
        write_model(make_model, run, settings, gain, scale)
        return settings

    return make


def write_model(make_model, run, settings, gain, scale):
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
    sets = found["mel"]["sets"]
    assert sets["samples"]["score"] < 0.5 < sets["training, other clips"]["score"]
    assert sets["white noise"]["score"] == 0
    assert found["latent"]["floor"] < found["latent"]["ceiling"]
    assert found["mel"]["sets"]["training, frames shuffled"]["score"] is not None
    assert found["spread"]["median"] == pytest.approx(1, abs=0.15)
    assert found["neighbours"]["ratio"] > 0.5
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


def test_the_table_says_what_its_numbers_mean(run, ready):
    evaluate(run, ready(), n=4, seconds=0.5, steps=(2,))
    text = (run.root / "evaluation" / "evaluation.txt").read_text(encoding="utf-8")
    for words in (
        "0: knows only how strong each direction is",
        "0: as far as white noise",
        "1: as the training latents",
        "0: as loud",
        "far below 1: learned by heart",
        "network calls",
    ):
        assert words in text


def test_the_same_seed_gives_the_same_numbers_and_the_same_command_does_nothing(run, ready, caplog):
    settings = ready()
    evaluate(run, settings, n=4, seconds=0.5)
    first = results(run)
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        evaluate(run, settings, n=4, seconds=0.5)
    assert "already done" in caplog.text and "far as white noise" in caplog.text
    evaluate(run, settings, n=4, seconds=0.5, overwrite=True)
    assert results(run) == first
    with pytest.raises(UserError, match="made otherwise"):
        evaluate(run, settings, n=5, seconds=0.5)


def test_samples_may_be_longer_than_any_recording(run, ready):
    evaluate(run, ready(), n=3, seconds=5.0)
    found = results(run)
    assert found["seconds"] == pytest.approx(5, abs=0.01) and found["clip_seconds"] < 3
    sound = run.root / "evaluation" / "audio" / "samples-0.wav"
    assert soundfile.info(sound).duration == pytest.approx(5, abs=0.01)


def test_a_dry_run_writes_nothing(run, ready):
    evaluate(run, ready(), n=4, seconds=0.5, dry_run=True)
    assert not (run.root / "evaluation").exists()


def test_silent_samples_are_said_aloud(run, ready, codec, monkeypatch, caplog):
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


def test_samples_copied_from_the_training_set_are_said_aloud(run, ready, monkeypatch, caplog):
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
    evaluate(run, settings, n=6, seconds=0.5)
    assert results(run)["neighbours"]["ratio"] < 0.1
    assert "learned recordings by heart" in caplog.text


def test_samples_that_follow_sound_are_held_to_it(run, ready):
    settings = ready("mel", gain=0.1)
    assert evaluate(run, settings, n=4, seconds=0.5) == []
    found = results(run)
    follows = found["condition"]
    assert follows["held_out"] and follows["codec_db"] < follows["right_db"]
    assert found["held_out"]["conditioning_gain"] is not None
    assert found["latent"]["sets"]["samples after held-out"]["distance_to_held_out"] > 0
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


def test_recordings_that_are_gone_are_a_loss_and_no_more(run, ready, tmp_path, caplog):
    settings = ready("mel")
    for path in (tmp_path / "music").glob("*.wav"):
        path.unlink()
    (loss,) = evaluate(run, settings, n=4, seconds=0.5)
    assert "not held to what they follow" in loss
    assert "recordings are not in the pictures" in caplog.text
    assert "condition" not in results(run)


def test_without_a_codec_the_latents_are_judged_all_the_same(run, ready):
    settings = ready()
    run.rave.rmdir()
    (loss,) = evaluate(run, settings, n=4, seconds=0.5)
    assert "no codec is known" in loss
    found = results(run)
    assert found["latent"]["sets"]["samples"]["score"] is not None and "mel" not in found


def test_without_held_out_files_skill_is_a_loss(run, ready):
    settings = ready()
    rows = runs.read_jsonl(run.latents / MANIFEST)
    runs.write_jsonl(run.latents / MANIFEST, [{**row, "split": "train"} for row in rows])
    (loss,) = evaluate(run, settings, n=4, seconds=0.5)
    assert "no file is held out" in loss
    found = results(run)
    assert found["held_out"] is None and found["neighbours"] is None
    assert not (run.root / "evaluation" / "loss.png").exists()


def test_an_embedding_has_its_own_scores(run, ready, monkeypatch):
    def energy(audio, rate):
        return np.abs(audio[: len(audio) // 100 * 100].reshape(-1, 100))

    monkeypatch.setattr(embeddings, "load", lambda name: energy)
    evaluate(run, ready(), n=4, seconds=0.5, embedding=["energy"])
    assert results(run)["embeddings"]["energy"]["sets"]["samples"]["distance"] > 0


def test_latents_of_another_codec_are_refused(run, ready):
    settings = ready()
    path = run.latents / "run.json"
    path.write_text(path.read_text().replace("f" * 64, "e" * 64))
    with pytest.raises(UserError, match="of another codec"):
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


class TestGather:
    def test_sets_do_not_overlap_and_are_of_one_size(self, run, ready):
        ready()
        model = Model.load(checkpoint.best(run.diffusion))
        clips = gather(model, LatentStore.open(run.latents), 10, 40)
        sets = [clips.reference, clips.other]
        assert len({len(s.places) for s in sets}) == 1 and len(sets[0].places) <= 10
        places = [(p.entry.key, p.start) for s in [*sets, clips.held_out] for p in s.places]
        assert len(places) == len(set(places))
        assert all(p.entry.split == "validation" for p in clips.held_out.places)
        store = LatentStore.open(run.latents)
        place = clips.other.places[1]
        np.testing.assert_array_equal(
            clips.other.raw[1], store.mean(place.entry)[:, place.start : place.start + 40]
        )

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
