"""Demos: what is shown, that it is the same each time, and that it harms no training."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch

from latentdiff import audio, config, runs, tracking
from latentdiff.conditions.settings import ConditionConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.diffusion.settings import DiffusionConfig, SamplingConfig
from latentdiff.latents import statistics
from latentdiff.latents.store import CodecFacts, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model import demos
from latentdiff.model.demos import Demos
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.spec import ModelSpec
from latentdiff.networks.settings import NetworkConfig
from latentdiff.runs import Input, Run, Stage
from latentdiff.tracking import Tracker
from latentdiff.tracking import mosaic as pictures

SECONDS = 0.5
FRAMES = 62  # 0.5 s at 8000 Hz, 64 samples each, rounded


class Subject(NamedTuple):
    model: Model
    store: LatentStore


class Follower(torch.nn.Module):
    """Denoises towards the condition's first feature (or nothing): its samples reveal its input."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, z_t, logsnr, condition):
        self.seen.append(condition)
        if condition.features is None:
            return self.gain * torch.tanh(z_t)
        return self.gain * condition.features[:, :1].expand_as(z_t)


@pytest.fixture
def subject(tmp_path, audio_folder, fake_codec):
    """Six tunes, the first two held out, encoded by the fake codec, with a mel feature each."""
    root = tmp_path / "latents"
    inputs = {"codec": Input("codec", fake_codec.fingerprint)}
    accumulator, rows = statistics.StatisticsAccumulator(), []
    with Stage(root, "encode", inputs=inputs) as stage:
        for i, (key, path) in enumerate(audio.find([audio_folder]).files):
            samples, _ = audio.read(path, 8000, 1)
            mean, std = (x[0].numpy() for x in fake_codec.encode(torch.from_numpy(samples)[None]))
            np.save(root / f"{i}.npy", mean)
            np.save(root / f"mel{i}.npy", np.full((1, mean.shape[1]), i, np.float32))
            split = "validation" if i < 2 else "train"
            accumulator.update(mean, std)
            row = {"key": key, "source": str(path), "split": split, "label": "ab"[i % 2]}
            sizes = {"samples": samples.shape[1], "frames": mean.shape[1]}
            rows.append({**row, **sizes, "mean": f"{i}.npy", "mel": f"mel{i}.npy"})
        runs.write_jsonl(root / "manifest.jsonl", rows)
        stage.record(sample_rate=8000, hop=64, latent_dim=8, channels=1)
    spec = ModelSpec(
        NetworkConfig(name="tiny", channels=8),
        DiffusionConfig(),
        ConditionConfig(),
        CodecFacts(fake_codec.fingerprint, 8000, 64, 8, 1),
    )
    whitening = Whitening.from_statistics(accumulator.finish(), "all")
    return Subject(Model.create(spec, whitening), LatentStore.open(root))


@pytest.fixture
def build(tmp_path, subject, fake_codec):
    """Demos of two short samples in `tmp_path / "demos"`, every time they are asked for."""

    def build(subject=subject, codec=fake_codec, every=1, **options):
        return Demos(
            tmp_path / "demos",
            *subject,
            SamplingConfig(steps=3),
            lambda: codec,
            count=options.pop("count", 2),
            seconds=SECONDS,
            every=every,
            seed=5,
            **options,
        )

    return build


@pytest.fixture
def make(tmp_path, build):
    """The same, logged to a tracker in `tmp_path` that continues where the one before it ended."""

    @contextmanager
    def make(*subject, **options):
        before = tracking.latest_metrics(tmp_path).get("step")
        with Tracker(tmp_path, before) as tracker:
            yield partial(build(*subject, **options), tracker=tracker)

    return make


def conditioned(subject, standardiser=None, labels=()):
    kind = "mel" if standardiser else "label"
    condition = ConditionConfig(kinds=(kind,))
    spec = replace(subject.model.spec, labels=list(labels), condition=condition)
    standardisers = {kind: standardiser} if standardiser else {}
    model = replace(subject.model, standardisers=standardisers, spec=spec)
    return subject._replace(model=model)


def test_a_demo_is_sound_pictures_and_numbers(tmp_path, make):
    with make() as show:
        show(0, Follower())
        show(500, Follower())
    for step in ("step-000000", "step-000500"):
        folder = tmp_path / "demos" / step
        names = ["latents.png", "sample-0.wav", "sample-1.wav", "spectrograms.png"]
        assert sorted(path.name for path in folder.iterdir()) == names
        samples, rate = soundfile.read(folder / "sample-0.wav")
        assert rate == 8000 and len(samples) == FRAMES * 64
        assert np.abs(samples).max() > 0.01
    rows = tracking.read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 500]
    assert all(row["demo/seconds"] > 0 and row["demo/level_db"] > -60 for row in rows)


def test_tensorboard_gets_all_of_it(tmp_path, make):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with make() as show:
        for step in (0, 10):
            show(step, Follower())
    board = EventAccumulator(str(tmp_path), {"audio": 0, "images": 0, "histograms": 0})
    board.Reload()
    tags = board.Tags()
    heard = ("sample 0", "sample 1", "reference 0 original", "reference 1 reconstruction")
    assert {f"demo/{name}" for name in heard} <= set(tags["audio"])
    seen = ("latents", "spectrograms", "references latents")
    assert {f"demo/{name}" for name in seen} <= set(tags["images"])
    assert [event.step for event in board.Audio("demo/sample 0")] == [0, 10]
    assert [event.step for event in board.Audio("demo/reference 0 original")] == [0]
    # Whitened training latents have unit variance, of which the histogram is to convince.
    histogram = board.Histograms("latents of training files/channel 00")[0].histogram_value
    assert histogram.sum_squares / histogram.num == pytest.approx(1, abs=0.5)


def test_reconstruction_and_original_stand_beside(tmp_path, make):
    with make(count=5) as show:  # of two files: also from within them
        show(0, Follower())
    folder = tmp_path / "demos" / "references"
    for k in range(5):
        original, _ = soundfile.read(folder / f"reference-{k}-original.wav")
        reconstruction, _ = soundfile.read(folder / f"reference-{k}-reconstruction.wav")
        assert len(original) == len(reconstruction)
        # The fake codec keeps slow sounds, and these tunes are slow.
        assert np.square(original - reconstruction).mean() < 0.05 * np.square(original).mean()


def test_a_lost_recording_costs_its_original_only(tmp_path, make, subject):
    for entry in subject.store.entries:
        (tmp_path / entry.source).unlink()
    with make() as show:
        show(0, Follower())
    names = {path.name for path in (tmp_path / "demos" / "references").iterdir()}
    assert "reference-0-reconstruction.wav" in names and "reference-0-original.wav" not in names


def test_the_same_model_gives_the_same_demo(tmp_path, make):
    torch.manual_seed(1)
    with make() as show:
        show(0, Follower())
        torch.randn(5)
        show(7, Follower())
    first, second = (
        (tmp_path / "demos" / f"step-{step:06d}" / "sample-1.wav").read_bytes() for step in (0, 7)
    )
    assert first == second
    with make(count=3) as show:
        show(9, Follower())
    assert (tmp_path / "demos" / "step-000009" / "sample-1.wav").read_bytes() == first


def test_no_random_number_of_the_training_is_used(make):
    with make() as show:
        torch.manual_seed(3)
        show(0, Follower())
        after = torch.rand(4)
    assert torch.equal(after, torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_conditions_are_those_of_held_out_files(make, subject):
    standardiser = Standardiser(np.zeros(1, np.float32), np.ones(1, np.float32))
    model = Follower()
    with make(conditioned(subject, standardiser=standardiser)) as show:
        show(0, model)
    held = {subject.store.entries.index(entry) for entry in subject.store.of("validation")}
    features = model.seen[0].values["mel"]
    assert {int(row.unique()) for row in features} == held
    assert "label" not in model.seen[0].values


def test_labels_are_those_of_held_out_files(make, subject):
    model = Follower()
    with make(conditioned(subject, labels=["a", "b"])) as show:
        show(0, model)
    assert sorted(model.seen[0].values["label"].tolist()) == [0, 1]


def test_without_held_out_files_training_files_are_the_reference(subject):
    entries = [e for e in subject.store.entries if e.split == "train"]
    store = LatentStore(subject.store.root, entries, 8)
    found = demos.references(subject.model, store, 6, SECONDS)
    assert len(found) == 6 and {r.entry.split for r in found} == {"train"}
    assert len({r.latents.shape for r in found}) == 1


def test_one_file_gives_one_stretch_after_the_other(subject):
    (longest,) = sorted(subject.store.of("validation"), key=lambda e: e.frames)[-1:]
    store = LatentStore(subject.store.root, [longest], 8)
    found = demos.references(subject.model, store, 4, SECONDS)
    last = longest.frames - FRAMES
    assert [r.first for r in found] == [min(k * FRAMES, last) for k in range(4)]
    for r in found:
        assert np.array_equal(r.latents, store.mean(longest)[:, r.first : r.first + FRAMES])


def test_recordings_shorter_than_asked_for(subject):
    found = demos.references(*subject, 2, 1000.0)
    assert found[0].latents.shape[1] == min(e.frames for e in subject.store.of("validation"))


def test_without_a_codec_latents_are_shown(tmp_path, make):
    with make(codec=None) as show:
        show(0, Follower())
    folder = tmp_path / "demos"
    assert (folder / "step-000000" / "latents.png").exists()
    assert not list(folder.rglob("*.wav"))


def test_a_missing_codec_is_reported(tmp_path, subject, caplog):
    assert demos._codec(Run(tmp_path), subject.store, "cpu") is None
    assert "make no sound: their codec was not found" in caplog.text


def test_a_codec_that_was_trained_further_is_not_used(tmp_path, subject, rave_run, caplog):
    (path,) = (rave_run / "version_0" / "checkpoints").glob("*.ckpt")
    facts = CodecFacts("f", 8000, 64, 6, 1)
    store = LatentStore(tmp_path / "latents", subject.store.entries, 6, facts)
    info = json.loads((store.root / runs.RUN_FILE).read_text())
    info["inputs"]["codec"]["path"] = str(path)
    (store.root / runs.RUN_FILE).write_text(json.dumps(info))
    assert demos._codec(Run(tmp_path), store, "cpu") is None
    assert "make no sound: the latents in" in caplog.text
    assert "are of another codec" in caplog.text


def test_a_failing_demo_is_reported_once_and_training_continues(tmp_path, make, caplog):
    model = Follower()
    model.gain.data.fill_(float("nan"))
    with caplog.at_level(logging.WARNING, logger="latentdiff"), make() as show:
        show(0, model)
        show(1, model)
        show(2, Follower())
    (message,) = [r.message for r in caplog.records if "no demo" in r.message]
    assert "step 0" in message and "NaN" in message
    assert (tmp_path / "demos" / "step-000002" / "sample-0.wav").exists()


def test_settings_decide(tmp_path, subject):
    training = {"demo_samples": 3, "demo_seconds": 0.25, "demo_every": 10}
    project = config.build(Project, {"training": training, "device": "cpu", "seed": 4})
    show = demos.demos_of(Run(tmp_path), project, *subject)
    with Tracker(tmp_path) as tracker:
        show(10, Follower(), tracker)
    folder = tmp_path / "diffusion" / "demos" / "step-000010"
    assert [path.name for path in folder.iterdir()] == ["latents.png"]
    assert len(show._seeds) == 3 and show._seeds[0] == 4
    assert show._references[0].latents.shape[1] == round(0.25 * 8000 / 64)


def test_ctrl_c_is_not_swallowed(make):
    class Interrupted(Follower):
        def forward(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), make() as show:
        show(0, Interrupted())


def test_no_samples_means_no_demos(tmp_path, make):
    with make(count=0) as show:
        show(0, Follower())
    assert not (tmp_path / "demos").exists()


class TestPace:
    """With `every` None demos take no more than their share of the time; the clock is ours."""

    @pytest.fixture
    def clock(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(demos.time, "monotonic", lambda: now[0])
        return now

    def shown(self, build, clock, monkeypatch, cost, steps, seconds_a_step):
        show, taken = build(every=None), []

        def work(model, tracker):
            taken.append(model.step)
            clock[0] += cost
            show._last_cost = cost

        monkeypatch.setattr(show, "_show", work)
        for step in range(0, steps + 1, 10):
            show(step, Follower(), None)
            clock[0] += 10 * seconds_a_step
        return show, taken

    def test_cheap_demos_come_as_training_goes_on(self, build, clock, monkeypatch):
        _, taken = self.shown(build, clock, monkeypatch, 0.001, 20_000, 0.1)
        assert taken[:3] == [0, 10, 20]
        assert all(b >= demos.GROWTH * a for a, b in pairwise(taken))
        assert 50 < len(taken) < 200

    def test_costly_demos_wait(self, build, clock, monkeypatch):
        show, taken = self.shown(build, clock, monkeypatch, 5.0, 20_000, 0.1)
        assert taken[0] == 0 and 5 < len(taken) < 20
        assert show.spent <= demos.SHARE * clock[0]

    def test_a_short_training_has_the_first_only(self, build, clock, monkeypatch):
        _, taken = self.shown(build, clock, monkeypatch, 2.0, 300, 0.1)
        assert taken == [0]

    def test_what_the_first_one_loads_does_not_delay_the_others(self, build, clock, monkeypatch):
        def shown(first):
            show = build(every=None)
            taken = []

            def work(model, tracker):
                taken.append(model.step)
                show._last_cost = 1.0
                clock[0] += first if len(taken) == 1 else 1.0

            monkeypatch.setattr(show, "_show", work)
            for step in range(0, 3000, 10):
                show(step, Follower(), None)
                clock[0] += 1.0
            return taken

        assert shown(60.0) == shown(1.0) and len(shown(60.0)) > 5


def test_a_continued_training_shows_references_once(tmp_path, make):
    for steps in ((0, 10), (20, 30)):
        with make() as show:
            for step in steps:
                show(step, Follower())
    rows = tracking.read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 10, 20, 30]
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    tags = []
    for path in sorted(tmp_path.glob("events.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            tags += [(event.step, value.tag) for value in event.summary.value]
    assert tags.count((0, "demo/references latents")) == 1
    assert [step for step, tag in tags if tag == "demo/sample 0"] == [0, 10, 20, 30]


class TestPictures:
    def test_dark_is_low_and_light_is_high(self):
        light = pictures.colours(np.linspace(-1, 2, 31)[None]).astype(int).sum(axis=-1)[0]
        assert (np.diff(light) >= 0).all() and light[0] < 10 and light[-1] > 600

    def test_samples_lie_under_each_other(self):
        x = np.stack([np.full((3, 10), -3.0), np.full((3, 10), 3.0)])
        image = pictures.stacked_latents(x)
        assert image.dtype == np.uint8 and image.shape == (2 * 96 + pictures.GAP, 400, 3)
        assert (image[0] == pictures.ANCHORS[0]).all() and (image[-1] == pictures.ANCHORS[-1]).all()

    def test_low_bands_lie_below_and_short_ones_are_filled_up(self):
        low = np.zeros((4, 500))
        low[0] = 1
        image = pictures.stacked_spectrograms([low, np.zeros((4, 450))])
        assert (image[95, 0] == pictures.ANCHORS[-1]).all()
        assert (image[0, 0] == pictures.ANCHORS[0]).all()
        assert (image[-1, -1] == 255).all() and image.shape[1] == 500
