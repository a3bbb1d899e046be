"""Quickstart without its training: what it would run, how it stops, whether its report is true."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from latentdiff import audio, child, cli, config, runs, synth
from latentdiff.commands import quickstart as q
from latentdiff.commands.presets import preset_path
from latentdiff.commands.quickstart_form import OnsetPeriodicity, onset_periodicity
from latentdiff.errors import UserError
from latentdiff.model.evaluate.summary import FormSummary
from latentdiff.model.minutes import divide
from latentdiff.model.project import Project, resolve
from latentdiff.runs import Run

GOOD = q.QuickstartSummary(
    training=-16.0,
    original=-16.5,
    reconstruction=("r.wav", -18.0),
    clips={"a.wav": -18.0},
    skill=0.4,
    beat=OnsetPeriodicity(music=0.8, reconstruction=0.7, clips=0.6),
    form=FormSummary({"latents": 0.9, "sound": 1.0}, piece=4.0, beat=None, seconds=10.0),
)


def commands(caplog):
    """The `$ latentdiff ...` lines that were logged."""
    text = "\n".join(record.getMessage() for record in caplog.records)
    return [shlex.split(line) for line in re.findall(r"^\$ (.*)$", text, re.M)]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs with space" / "quick")


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO, "latentdiff")


def test_dry_run_shows_every_command_and_writes_nothing(run, caplog, tmp_path):
    assert q.quickstart(run, settings=["rave.steps=7"], seed=3, dry_run=True) == []
    shown = commands(caplog)
    assert [words[1] for words in shown] == [
        "preprocess",
        "train-rave",
        "encode",
        "train-diffusion",
        "sample",
        "decode",
        "evaluate",
    ]
    assert list(tmp_path.iterdir()) == []


def test_every_command_shown_is_one_the_command_line_takes(run, caplog):
    q.quickstart(run, settings=["rave.steps=7"], seed=3, device="cpu", dry_run=True)
    for words in commands(caplog):
        command = cli.cli.commands[words[1]]
        context = command.make_context(words[1], words[2:])
        assert context.params["run"] == run.root
        assert context.params["seed"] == 3 and context.params["device"] == "cpu"
        assert context.params["settings"] == ("rave.steps=7",)


def test_only_the_first_command_names_the_config(run, caplog):
    q.quickstart(run, dry_run=True)
    assert ["-c" in words for words in commands(caplog)] == [True] + 6 * [False]


def fake_commands(monkeypatch, remember):
    """Commands that do nothing, except that the first may leave the run's config; their words."""
    called = []

    def wait(words):
        called.append(words[2:])
        remember(words)
        return 0

    monkeypatch.setattr(child, "wait", wait)
    monkeypatch.setattr(q, "write_music", lambda *_: None)
    monkeypatch.setattr(q, "_held_out", lambda run: {"mean": "mean/a.npy"})
    for name in ("_write_original", "_measure", "_conclude"):
        monkeypatch.setattr(q, name, lambda *_: None)
    return called


def test_every_command_names_a_config_that_the_run_does_not_remember(run, monkeypatch):
    called = fake_commands(monkeypatch, lambda words: None)
    q.quickstart(run)
    assert len(called) == 8 and all("-c" in words for words in called)


def test_the_run_remembers_the_config_where_its_recordings_are_named_too(run, monkeypatch):
    def remember(words):
        values = config.read_yaml(preset_path("quickstart"))
        values["data"]["audio"] = ["recordings"]
        project = config.build(Project, config.merge(values, {"rave": {"steps": 7}}))
        run.root.mkdir(parents=True, exist_ok=True)
        run.config.write_text(config.to_yaml(project))

    called = fake_commands(monkeypatch, remember)
    q.quickstart(run, settings=["rave.steps=7"])
    assert ["-c" in words for words in called] == [True] + 7 * [False]


def test_overwrite_reaches_every_command(run, caplog):
    q.quickstart(run, overwrite=True, dry_run=True)
    assert all("--overwrite" in words for words in commands(caplog))


def test_a_wrong_setting_is_refused_before_anything_is_made(run, tmp_path):
    with pytest.raises(UserError, match="stpes"):
        q.quickstart(run, settings=["training.stpes=3"])
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_user_must_exist(run, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        q.quickstart(run, audio_dir=tmp_path / "nowhere")


def test_music_is_written_once_and_again_with_overwrite(tmp_path):
    q.write_music(tmp_path, 8000, seed=0)
    files = sorted(tmp_path.iterdir())
    assert len(files) == q.PIECES == synth.TEMPI  # every tempo once
    assert sum(soundfile.info(path).duration for path in files) > 180
    first = soundfile.read(files[0])[0]
    files[1].unlink()
    files[0].write_bytes(files[2].read_bytes())
    q.write_music(tmp_path, 8000, seed=0)
    assert files[1].exists() and files[0].read_bytes() == files[2].read_bytes()
    q.write_music(tmp_path, 8000, seed=0, overwrite=True)
    np.testing.assert_array_equal(soundfile.read(files[0])[0], first)


def test_little_audio_and_much_audio_are_reported(tmp_path, caplog, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    project = Project()
    q._warn_of_amount(q.sound.find([tmp_path]), project)
    assert "only 1 s of audio" in caplog.text
    caplog.clear()
    monkeypatch.setattr(q, "FEW_SECONDS", 0.5)
    q._warn_of_amount(q.sound.find([tmp_path]), project)
    assert not caplog.text
    short = config.build(Project, {"rave": {"steps": 1, "batch": 1, "n_signal": 1024}})
    q._warn_of_amount(q.sound.find([tmp_path]), short)
    assert "uses" in caplog.text


def test_no_verdict_on_a_good_run():
    assert q.verdicts(GOOD) == []


def test_music_without_a_beat_asks_for_none():
    assert q.verdicts(replace(GOOD, beat=OnsetPeriodicity(0.2, 0.2, 0.05))) == []


def test_the_form_of_the_samples_in_one_line():
    assert str(GOOD.form) == (
        "scores of form (1: as real clips, 0: as noise): latents 0.90, sound 1.00; samples of 10 s "
        "stay one piece for 4.0 s"
    )


def test_periodicity_tells_clicks_from_noise(tmp_path):
    rng = np.random.default_rng(0)
    clicks = np.zeros((1, 48_000), np.float32)
    clicks[:, ::4000] = 0.9
    noise = rng.uniform(-0.5, 0.5, (1, 48_000)).astype(np.float32)
    paths = {name: tmp_path / f"{name}.wav" for name in ("clicks", "noise")}
    for path, samples in zip(paths.values(), (clicks, noise), strict=True):
        audio.write(path, [samples], 8000)
    found = onset_periodicity([paths["clicks"]], paths["noise"], [paths["clicks"], paths["noise"]])
    assert found.music > 0.9 and found.reconstruction < 0.4
    assert found.clips in (found.music, found.reconstruction)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reconstruction": ("r.wav", -math.inf)}, "reconstruction is silent"),
        ({"reconstruction": ("r.wav", -30.0)}, "-13.5 dB off its original"),
        ({"clips": {"a.wav": -math.inf}}, "a.wav is silent"),
        ({"clips": {"a.wav": -30.0, "b.wav": -17.0}}, "a.wav is -14.0 dB off"),
        ({"skill": 0.0}, "has learned only the variance"),
        ({"beat": OnsetPeriodicity(0.8, 0.7, 0.2)}, "hardly a beat"),
        ({"form": FormSummary({"sound": 0.1}, 1.0, 1.0, 10.0)}, "unlike the music (sound below"),
    ],
)
def test_a_bad_run_is_called_one(changes, expected):
    (verdict,) = q.verdicts(replace(GOOD, **changes))
    assert expected in verdict


def test_the_first_failure_stops_the_chain(run, monkeypatch):
    codes = {"preprocess": 3, "train-rave": 2}
    called = []

    def wait(words):
        called.append(words[3])
        return codes[words[3]]

    monkeypatch.setattr(child, "wait", wait)
    monkeypatch.setattr(q, "PIECES", 1)
    with pytest.raises(UserError, match=r"train-rave.*exit code 2"):
        q.quickstart(run)
    assert called == ["preprocess", "train-rave"]


def test_skipped_files_are_passed_on_and_interrupts_are_interrupts(monkeypatch):
    monkeypatch.setattr(child, "wait", lambda words: 3)
    (skipped,) = q._call(["latentdiff", "preprocess"])
    assert "preprocess" in skipped
    monkeypatch.setattr(child, "wait", lambda words: 130)
    with pytest.raises(KeyboardInterrupt):
        q._call(["latentdiff", "preprocess"])
    monkeypatch.setattr(child, "wait", lambda words: -signal.SIGKILL)
    with pytest.raises(UserError, match="signal 9") as caught:
        q._call(["latentdiff", "preprocess"])
    assert "memory" in caught.value.why


CHILD = """
import signal, sys, time
interrupts = []
signal.signal(signal.SIGINT, lambda *_: interrupts.append(1))
open(sys.argv[1], "w").close()
while not interrupts: time.sleep(0.01)
time.sleep(0.3)  # saving
open(sys.argv[1], "w").write(str(len(interrupts)))
"""


def test_an_interrupt_reaches_the_child_once_and_is_waited_for(tmp_path):
    mark = tmp_path / "mark"

    def interrupt():
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell starts background jobs with interrupts ignored, these tests among them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            child.wait([sys.executable, "-c", CHILD, str(mark)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert mark.read_text() == "1"


@pytest.mark.real
def test_the_preset_builds_a_rave_that_fits_its_crops():
    from latentdiff.rave import compat, gin_config

    project = config.build(Project, config.read_yaml(preset_path("quickstart")))
    with compat.isolated_gin():
        built = gin_config.assemble(project.rave, project.data.sample_rate, project.data.channels)
        field = gin_config.receptive_field(built.model)
        assert gin_config.smallest_signal(built.model, field, built.hop) <= project.rave.n_signal
    assert 20 < project.data.sample_rate / built.hop < 45
    assert built.schedule.phase_1_steps >= project.rave.steps


def test_the_preset_names_the_commands_that_use_it():
    comment = preset_path("quickstart").read_text("utf-8").split("\ndata:")[0]
    for name in ("quickstart", "preprocess", "train-rave", "encode", "train-diffusion", "sample"):
        assert re.search(rf"^# +latentdiff {name}\b", comment, re.M)


def test_minutes_become_budgets_that_settings_still_override(run, caplog):
    q.quickstart(run, minutes=10, settings=["rave.hours=0.01"], dry_run=True)
    assert "of 10 minutes: 4.9 minutes for train-rave, 2.6 for train-diffusion" in caplog.text
    for words in commands(caplog):
        context = cli.cli.commands[words[1]].make_context(words[1], words[2:])
        project = resolve(None, preset_path("quickstart"), context.params["settings"])
        assert (project.rave.steps, project.rave.hours) == (None, 0.01)
        assert (project.training.steps, project.training.hours) == (None, 0.04375)


@pytest.mark.parametrize("minutes", [0.3, 10, 60])
def test_minutes_are_divided_without_a_rest(minutes):
    parts = divide(minutes)
    assert parts.rave + parts.diffusion + parts.rest == pytest.approx(minutes)
    assert min(parts.rest, parts.diffusion) > 0 and parts.rave > parts.diffusion


@pytest.mark.real
@pytest.mark.timeout(900)
def test_both_trainings_end_by_their_budgets(run, monkeypatch):
    """The commands up to the last training, for real; those after it do not depend on budgets."""
    call = q._call
    trained = ("preprocess", "train-rave", "encode", "train-diffusion")
    monkeypatch.setattr(q, "_call", lambda words: call(words) if words[1] in trained else [])
    for name in ("_write_original", "_measure", "_conclude"):
        monkeypatch.setattr(q, name, lambda *_: None)
    monkeypatch.setattr(q, "PIECES", 6)
    tiny = ["rave.capacity=4", "rave.validation_chunks=2", "rave.workers=0", "network.channels=16"]
    # After so few steps no direction carries more sound than noise, and `auto` would refuse.
    tiny += ["latents.keep=4", "training.demo_samples=0", "training.calibration_samples=0"]
    assert q.quickstart(run, minutes=0.3, settings=tiny, device="cpu") == []
    parts = divide(0.3)
    rave = runs.require_done(run.rave, "train-rave", "train-rave")
    assert rave.config["rave"]["hours"] == pytest.approx(parts.rave / 60, rel=1e-3)
    assert rave.config["rave"]["steps"] is None and rave.result["phase"] == 1
    assert rave.result["step"] > 0 and rave.result["elapsed"] > 0
    diffusion = runs.require_done(run.diffusion, "train-diffusion", "train-diffusion")
    assert diffusion.config["training"]["hours"] == pytest.approx(parts.diffusion / 60, rel=1e-3)
    assert diffusion.config["training"]["steps"] is None and diffusion.result["step"] > 0
