"""What a run logs, and that each entry is logged once however often the run is killed."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import types
import zlib

import numpy as np
import pytest
import torch

from latentdiff import tracking
from latentdiff.errors import UserError
from latentdiff.tracking import Tracker, board

PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
TONE = np.sin(np.arange(800) / 5).astype(np.float32)


def events(directory):
    """(step, tag, value) of every summary in a folder's event files, file by file."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found = []
    for path in sorted(directory.glob(board.EVENTS)):
        for event in LegacyEventFileLoader(str(path)).Load():
            found += [(event.step, value.tag, value) for value in event.summary.value]
    return found


def curve(directory, tag):
    return [(step, value.simple_value) for step, name, value in events(directory) if name == tag]


def test_everything_logged_is_in_the_events(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.scalars(1, {"loss": 0.5}, prefix="validation/")
        tracker.audio(2, "sound", np.stack([TONE, TONE]), 8000)
        tracker.histogram(3, "latents", torch.randn(2, 3, requires_grad=True))
        tracker.picture(4, "picture", PICTURE)
        tracker.hparams({"training": {"steps": 5, "tail": None}}, {"skill": 0.25})
    found = {tag: (step, value) for step, tag, value in events(tmp_path)}
    assert found["validation/loss"][1].simple_value == 0.5
    assert found["sound"][0] == 2 and found["sound"][1].audio.sample_rate == 8000
    assert found["latents"][1].histo.num == 6
    image = found["picture"][1].image
    assert (image.height, image.width) == (4, 5)
    assert image.encoded_image_string == tracking.encode_png(PICTURE)
    assert found["result/skill"][1].simple_value == 0.25
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = found["_hparams_/session_start_info"][1].metadata.plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["training.steps"].number_value == 5
    assert start.hparams["training.tail"].string_value == "None"
    assert tracking.read_metrics(tmp_path) == [{"step": 1, "validation/loss": 0.5}]


def test_a_killed_attempt_leaves_no_doubled_curve(tmp_path):
    with Tracker(tmp_path) as tracker:
        for step in range(6):
            tracker.scalars(step, {"loss": step})
    with Tracker(tmp_path, resume_step=2) as tracker:
        for step in (3, 4):
            tracker.scalars(step, {"loss": 10 * step})
    wanted = [(0, 0), (1, 1), (2, 2), (3, 30), (4, 40)]
    assert curve(tmp_path, "loss") == wanted
    assert [(r["step"], r["loss"]) for r in tracking.read_metrics(tmp_path)] == wanted


def test_an_attempt_without_a_checkpoint_is_forgotten(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.scalars(1, {"loss": 1})
        tracker.hparams({"seed": 1}, {"skill": 0.0})
    with Tracker(tmp_path) as tracker:
        tracker.scalars(1, {"loss": 2})
    assert curve(tmp_path, "loss") == [(1, 2)]
    assert [tag for _, tag, _ in events(tmp_path)] == ["loss"]


def test_an_event_cut_in_two_is_cut_off(tmp_path):
    with Tracker(tmp_path) as tracker:
        for step in range(3):
            tracker.scalars(step, {"loss": step})
    (path,) = tmp_path.glob(board.EVENTS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    board.rewind(tmp_path, 10)
    assert curve(tmp_path, "loss") == [(0, 0), (1, 1)]
    path.write_bytes(whole + struct.pack("<Q", 4) + b"crc_" + b"\xff" * 8)
    board.rewind(tmp_path, 10)
    assert path.read_bytes() == whole


def test_results_replace_those_of_a_shorter_training(tmp_path):
    for step in (None, 5):
        with Tracker(tmp_path, resume_step=step) as tracker:
            tracker.hparams({"steps": step or 1}, {"skill": 0.1 * (step or 1)})
    assert [value for _, value in curve(tmp_path, "result/skill")] == [0.5]


def test_killed_at_any_line_and_resumed_logs_each_step_once(tmp_path):
    """SIGKILL between a line and its checkpoint: the same lines as without."""
    code = f"""
import os, signal, sys
from pathlib import Path
from latentdiff.tracking.metrics import Metrics
start, kill = int(sys.argv[1]), int(sys.argv[2])
metrics = Metrics(Path({str(tmp_path)!r}), start or None)
for step in range(start + 1, 21):
    metrics.scalars(step, {{"loss": 1 / step}})
    if step == kill:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    for start, kill in ((0, 7), (5, 6), (5, 13), (10, 0)):
        subprocess.run([sys.executable, "-c", code, str(start), str(kill)], check=False)
    rows = tracking.read_metrics(tmp_path)
    assert rows == [{"step": step, "loss": 1 / step} for step in range(1, 21)]


def test_latest_metrics_reads_the_end_of_a_long_file(tmp_path):
    assert tracking.latest_metrics(tmp_path) == {}
    with Tracker(tmp_path) as tracker:
        tracker.scalars(1, {"only at first": 1})
        for step in range(2000):
            tracker.scalars(step, {"loss": step, "skill": 0.5})
        tracker.scalars(1999, {"loss": 7}, prefix="validation/")
    with (tmp_path / tracking.METRICS_FILE).open("a") as file:
        file.write('{"step": 2000, "lo')
    latest = tracking.latest_metrics(tmp_path)
    assert latest == {"step": 1999, "loss": 1999, "skill": 0.5, "validation/loss": 7}


def test_png_holds_the_picture():
    data = tracking.encode_png(PICTURE)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, rest = {}, data[8:]
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        kind, body = rest[4:8], rest[8 : 8 + length]
        assert struct.unpack(">I", rest[8 + length : 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind], rest = body, rest[12 + length :]
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (5, 4)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(4, 1 + 15)
    assert (rows[:, 0] == 0).all() and (rows[:, 1:].reshape(4, 5, 3) == PICTURE).all()


@pytest.mark.parametrize("bad", [PICTURE[:, :, :2], PICTURE[0], PICTURE.astype(float)])
def test_png_refuses_what_is_no_picture(bad):
    with pytest.raises(ValueError, match="uint8"):
        tracking.encode_png(bad)


class FakeRun:
    def __init__(self, **options):
        self.options, self.logged, self.finished = options, [], False
        self.config, self.summary = FakeConfig(), {}

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


class FakeConfig(dict):
    def update(self, values, allow_val_change):
        super().update(values)


@pytest.fixture
def fake_wandb(monkeypatch):
    """Records what the backend would send to W&B."""
    fake = types.ModuleType("wandb")
    fake.runs = []
    fake.Error = type("Error", (Exception,), {})
    fake.Settings = dict
    fake.Audio = lambda samples, sample_rate: ("audio", len(samples), sample_rate)
    fake.Image = lambda image: ("image", image.shape)
    fake.Histogram = lambda values: ("histogram", values.shape)

    def init(**options):
        fake.runs.append(FakeRun(**options))
        return fake.runs[-1]

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


class TestWandb:
    def test_everything_logged_is_sent(self, tmp_path, fake_wandb):
        with Tracker(tmp_path, wandb="techno") as tracker:
            tracker.scalars(1, {"loss": 0.5})
            tracker.audio(2, "sound", TONE, 8000)
            tracker.histogram(2, "latents", np.zeros((2, 3)))
            tracker.picture(2, "picture", PICTURE)
            tracker.hparams({"training": {"steps": 5}}, {"skill": 0.25})
        (run,) = fake_wandb.runs
        assert run.options["project"] == "techno"
        assert run.logged == [
            (1, {"loss": 0.5}),
            (2, {"sound": ("audio", 800, 8000)}),
            (2, {"latents": ("histogram", (2, 3))}),
            (2, {"picture": ("image", (4, 5, 3))}),
        ]
        assert run.config == {"training.steps": 5} and run.summary == {"skill": 0.25}
        assert run.finished and tracking.read_metrics(tmp_path)

    def test_a_resumed_run_is_the_same_run_and_a_new_one_is_not(self, tmp_path, fake_wandb):
        for step in (None, 10, None):
            Tracker(tmp_path, step, wandb="techno").close()
        first, resumed, anew = (run.options["id"] for run in fake_wandb.runs)
        assert first == resumed != anew

    def test_a_refusal_is_an_error_with_advice_and_forgets_nothing(self, tmp_path, fake_wandb):
        with Tracker(tmp_path) as tracker:
            tracker.scalars(1, {"loss": 0.5})

        def refuse(**_):
            raise fake_wandb.Error("api_key not configured")

        fake_wandb.init = refuse
        with pytest.raises(UserError, match="could not start") as caught:
            Tracker(tmp_path, wandb="techno")
        assert "api_key" in str(caught.value) and "WANDB_MODE=offline" in str(caught.value)
        assert tracking.read_metrics(tmp_path)

    def test_a_missing_package_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(UserError, match="not installed") as caught:
            Tracker(tmp_path, wandb="techno")
        assert "latentdiff[wandb]" in str(caught.value)

    def test_offline_without_account_or_network(self, tmp_path):
        pytest.importorskip("wandb")
        code = f"""
import numpy as np
from pathlib import Path
from latentdiff.tracking import Tracker
with Tracker(Path({str(tmp_path)!r}), wandb="techno") as tracker:
    tracker.scalars(1, {{"loss": 0.5}})
    tracker.audio(1, "sound", np.zeros(800, np.float32), 8000)
    tracker.histogram(1, "latents", np.arange(6.0))
    tracker.picture(1, "picture", np.zeros((4, 5, 3), np.uint8))
    tracker.hparams({{"training": {{"steps": 5}}}}, {{"skill": 0.25}})
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "WANDB_MODE": "offline"},
        )
        assert done.returncode == 0, done.stderr
        (run,) = (tmp_path / "wandb").glob("offline-run-*")
        assert list(run.glob("*.wandb"))
        assert json.loads((tmp_path / tracking.METRICS_FILE).read_text())["loss"] == 0.5
