"""A real, tiny RAVE trained for a few steps: checks, checkpoints, resume, validation, export."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from latentdiff import config, tracking
from latentdiff.commands.train_rave import train_rave
from latentdiff.errors import UserError
from latentdiff.model.project import Project
from latentdiff.rave import callbacks
from latentdiff.rave.checkpoint import read_checkpoint, read_result
from latentdiff.rave.codec import RaveCodec
from latentdiff.rave.database import DatabaseWriter
from latentdiff.rave.dataset import EndlessBatches, FixedCrops, TrainingCrops, rotate_phase
from latentdiff.rave.locate import Weights
from latentdiff.rave.result import BestValidation, RaveSchedule
from latentdiff.rave.settings import RaveConfig
from latentdiff.rave.train import RaveTraining
from latentdiff.rave.validation import LatentSpread
from latentdiff.runs import Run

RATE, RECORD = 16000, 32768
TINY = {
    "configs": ["v2"],
    "capacity": 4,
    "ratios": [4, 4, 2],
    "n_band": 8,
    "latent_size": 16,
    "n_signal": 16384,
    "batch": 2,
    "steps": 8,
    "phase_2_share": 0.5,
    "validate_every": 4,
    "workers": 0,
    "validation_chunks": 2,
}
# `rave ...` beside any build of torch; a folder called configs on the path would confuse gin.
UPSTREAM = """
import sys
from latentdiff.rave import compat
compat.prepare()
sys.path[:] = [p for p in sys.path if "site-packages" in p or "lib/python" in p]
from scripts import main_cli
main_cli.main()
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Twelve records of decaying tones, the last tenth held out."""
    directory = tmp_path_factory.mktemp("database")
    rng = np.random.default_rng(0)
    time_axis = np.arange(RECORD) / RATE
    with DatabaseWriter(directory, RATE, 1) as writer:
        for _ in range(12):
            decay = np.exp(-6 * (time_axis * rng.uniform(1, 4) % 1))
            tone = np.sin(2 * np.pi * rng.uniform(80, 2000) * time_axis) * decay
            writer.append((tone * 20000).astype(np.int16)[None])
    return directory


def rave_project(rate=RATE, **settings):
    data = {"sample_rate": rate, "workers": 1}
    return config.build(Project, {"data": data, "rave": {**TINY, **settings}})


def train(database, directory, **settings):
    with RaveTraining(RaveConfig(**{**TINY, **settings}), database, directory, seed=3) as training:
        return training.fit()


@pytest.fixture(scope="module")
def trained(database, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "rave"
    train(database, directory)
    return directory


def refusal(database, tmp_path, **settings):
    with pytest.raises(UserError) as caught:
        train(database, tmp_path / "rave", **settings)
    assert not (tmp_path / "rave").exists()
    return str(caught.value)


# --- data


def test_batches_are_shuffles_without_loss_and_continue_anywhere():
    def take(count, **where):
        batches = iter(EndlessBatches(range(5, 15), 4, seed=1, **where))
        return [next(batches) for _ in range(count)]

    whole = take(10)
    records = [record for batch in whole for record, _ in batch]
    assert [number for batch in whole for _, number in batch] == list(range(40))
    for start in range(0, 40, 10):
        assert sorted(records[start : start + 10]) == list(range(5, 15))
    assert records[:10] != records[10:20]
    assert take(3, start=7) == whole[7:]
    first, second = (take(5, rank=rank, world=2) for rank in (0, 1))
    both = [sorted(a + b, key=lambda item: item[1]) for a, b in zip(first, second, strict=True)]
    flat = [record for batch in both for record, _ in batch]
    assert flat == records


def test_training_crops_depend_on_their_number_alone(database):
    crops = TrainingCrops(database, 4096, seed=1, augmentations=["gain", "mute"])
    assert torch.equal(crops[3, 17], crops[3, 17])
    assert not torch.equal(crops[3, 17], crops[3, 18])
    assert all(bool(crops[3, number].any()) for number in range(60))  # dither even where muted
    assert crops[0, 0].dtype == torch.float32 and crops[0, 0].shape == (1, 4096)


def test_fixed_crops_are_the_unchanged_middle_of_evenly_spread_records(database):
    from latentdiff.rave.database import FULL_SCALE, RaveDatabase

    crops = FixedCrops(database, list(range(12)), 4096, limit=3)
    assert len(crops) == 3
    middle = RaveDatabase(database).read(4)[:, (RECORD - 4096) // 2 :][:, :4096]
    assert np.allclose(crops[1].numpy() * FULL_SCALE, middle, atol=1e-3)


def test_phase_rotation_keeps_the_spectrum():
    rng = np.random.default_rng(0)
    impulse = np.zeros((1, 1 << 14))
    impulse[0, 0] = 1
    turned = rotate_phase(impulse, RATE, rng)
    assert np.allclose(np.abs(np.fft.rfft(turned)), 1, atol=1e-6)
    assert not np.allclose(turned, impulse)


def test_latent_spread_is_the_principal_component_analysis():
    torch.manual_seed(0)
    mixing = torch.diag(torch.tensor([3.0, 1.0, 0.5])) @ torch.linalg.qr(torch.randn(3, 3))[0]
    latents = (torch.randn(4, 50, 3) @ mixing + torch.tensor([1.0, 2.0, 3.0])).transpose(1, 2)
    spread = LatentSpread()
    for part in latents.split(1):
        spread.add(part)
    mean, directions, share = spread.principal()
    rows = latents.transpose(1, 2).flatten(0, 1).double()
    _, singular, basis = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert torch.allclose(mean, rows.mean(0))
    assert torch.allclose((directions @ basis.T).abs(), torch.eye(3, dtype=torch.double), atol=1e-6)
    assert torch.allclose(share, (singular**2).cumsum(0) / (singular**2).sum())


# --- checks before the first step


@pytest.mark.real
def test_settings_that_cannot_train_are_refused_with_the_value_that_can(database, tmp_path):
    short = refusal(database, tmp_path, n_signal=8192)
    assert "too few" in short and "set rave.n_signal=15104 or more" in short
    train(database, tmp_path / "smallest", n_signal=15104, steps=1)
    uneven = refusal(database, tmp_path, n_signal=16000)
    assert "set rave.n_signal=16128" in uneven
    long = refusal(database, tmp_path, n_signal=65536)
    assert "set rave.n_signal=32768" in long and "data.chunk=131072" in long
    wide = refusal(database, tmp_path, latent_size=512, validation_chunks=1, n_signal=15104)
    assert "set rave.validation_chunks=9" in wide


@pytest.mark.real
def test_a_dataset_of_one_record_is_refused(tmp_path):
    with DatabaseWriter(tmp_path / "db", RATE, 1) as writer:
        writer.append(np.ones((1, RECORD), np.int16))
    assert "too small" in refusal(tmp_path / "db", tmp_path)


@pytest.mark.real
def test_what_encode_would_refuse_is_not_trained(database, tmp_path):
    """v1's noise comes in blocks of 64 band samples: with 32 a latent they have no frame."""
    settings = {"configs": ["v1"], "n_band": 16, "ratios": [4, 4, 2], "n_signal": RECORD}
    message = refusal(database, tmp_path, **settings)
    assert "`latentdiff encode` could not use it" in message
    assert "16 frames of noise for 32 latents" in message and "multiple of" in message
    with pytest.raises(UserError, match="could not use it"):
        train_rave(Run(tmp_path), rave_project(**settings), dataset=database, dry_run=True)


@pytest.mark.real
def test_silent_held_out_records_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    with DatabaseWriter(tmp_path / "db", RATE, 1) as writer:
        for _ in range(19):
            writer.append(rng.integers(-9999, 9999, (1, RECORD)).astype(np.int16))
        writer.append(np.zeros((1, RECORD), np.int16))
    assert "held-out records are silent" in refusal(tmp_path / "db", tmp_path)


def test_a_device_that_is_not_there_is_refused(database, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(UserError, match="--device cuda"):
        RaveTraining(RaveConfig(), database, tmp_path, device="cuda")


# --- training


@pytest.mark.real
def test_a_run_leaves_all_it_promises(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.gin", "metrics.jsonl", "checkpoints"} <= names
    assert any(name.startswith("events.") for name in names)
    result = read_result(trained / "checkpoints" / "last.ckpt")
    assert (result.step, result.phase, result.sample_rate) == (8, 2, RATE)
    assert not result.pretrained and result.start_name == "untrained"
    rows = tracking.read_metrics(trained)
    validated = [row["step"] for row in rows if "validation/spectral_distance" in row]
    assert validated == [0, 4, 8]
    steps = [row for row in rows if "train/multiband_spectral_distance" in row]
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert [row["train/phase"] for row in steps] == [1] * 4 + [2] * 4
    assert "train/adversarial" in steps[4] and "train/adversarial" not in steps[3]


@pytest.mark.real
def test_the_crop_and_the_principal_directions_are_in_the_checkpoint(trained):
    weights = read_checkpoint(trained / "checkpoints" / "last.ckpt")["state_dict"]
    assert weights["receptive_field"].sum() > 1000
    identity = torch.eye(16)
    assert torch.allclose(weights["latent_pca"] @ weights["latent_pca"].T, identity, atol=1e-5)
    assert not torch.allclose(weights["latent_pca"], identity, atol=0.1)
    assert weights["fidelity"][-1] == pytest.approx(1)
    assert weights["latent_mean"].any()


@pytest.mark.real
def test_a_continued_run_equals_an_uninterrupted_one(trained, database, tmp_path):
    """Weights, optimisers, phase, beta, crops and noise: stopped after 3 of 8, phase 1 being 4."""
    schedule = {"phase_1_steps": 4, "beta_warmup_steps": 1}
    train(database, tmp_path / "rave", steps=3, **schedule)
    raised = train(database, tmp_path / "rave", steps=8, **schedule)
    assert raised.step == 8
    whole = train(database, tmp_path / "whole", steps=8, **schedule)
    parts, once = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("rave", "whole")
    )
    for name, value in once["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], value), name
    assert parts["lr_schedulers"] == once["lr_schedulers"]
    assert parts["callbacks"]["BetaWarmupCallback"] == once["callbacks"]["BetaWarmupCallback"]
    assert raised.last == whole.last
    steps = [
        row["step"]
        for row in tracking.read_metrics(tmp_path / "rave")
        if "train/beta_factor" in row
    ]
    assert steps == list(range(1, 9))


@pytest.mark.real
def test_a_run_at_its_budget_does_nothing(trained, database):
    before = (trained / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert train(database, trained).step == 8
    assert (trained / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.real
def test_one_interrupt_stops_between_steps_and_keeps_them(database, tmp_path, monkeypatch):
    hook = callbacks.Supervisor.on_train_batch_end

    def press_ctrl_c(self, trainer, *rest):
        hook(self, trainer, *rest)
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(callbacks.Supervisor, "on_train_batch_end", press_ctrl_c)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(database, tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert read_result(tmp_path / "checkpoints" / "last.ckpt").step == 3
    monkeypatch.undo()
    assert train(database, tmp_path).step == 8


@pytest.mark.real
def test_best_restarts_in_phase_2(database, tmp_path, monkeypatch):
    """A phase-1 best that phase 2 cannot beat must not stay the best."""
    distances = iter([9.0, 1.0, 5.0, 4.0, 6.0])
    original = callbacks.validate

    def scripted(*args, **kwargs):
        return replace(original(*args, **kwargs), distance=next(distances))

    monkeypatch.setattr(callbacks, "validate", scripted)
    result = train(database, tmp_path, steps=8, phase_1_steps=2, validate_every=2)
    assert result.best == BestValidation(distance=4.0, phase=2, step=6)
    assert read_result(tmp_path / "checkpoints" / "best.ckpt").step == 6


def test_the_phase_of_a_step():
    def phases(*schedule):
        return [RaveSchedule(*schedule).phase(step) for step in (0, 4, 5, 9)]

    assert phases(4, 1) == [1, 1, 2, 2]
    assert phases(4, 1, False) == phases(None, None) == [1, 1, 1, 1]


@pytest.mark.real
@pytest.mark.parametrize("damage", ["cut", "foreign", "nonsense"])
def test_a_checkpoint_that_cannot_be_continued_is_refused(trained, database, tmp_path, damage):
    whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    if damage == "foreign":
        torch.save({"state_dict": {}, "global_step": 4}, last)
    else:
        last.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"nonsense")
    with pytest.raises(UserError, match=r"cannot be (read|continued)|refused"):
        train(database, tmp_path)


@pytest.mark.real
def test_weights_of_another_run_can_begin_a_new_one(trained, database, tmp_path):
    ckpt = trained / "checkpoints" / "last.ckpt"
    kind = {"seed": 3, "initial_weights": Weights(ckpt, None)}
    with RaveTraining(RaveConfig(**{**TINY, "steps": 1}), database, tmp_path, **kind) as training:
        result = training.fit()
    assert result.first == read_result(ckpt).last.distance
    assert result.pretrained and result.start_name == "start"
    other = RaveConfig(**{**TINY, "capacity": 6})
    with (
        pytest.raises(UserError, match="do not fit"),
        RaveTraining(other, database, tmp_path / "other", **kind),
    ):
        pass


@pytest.mark.real
def test_two_devices_train_one_model(database, tmp_path):
    """Averaged gradients: both processes end with the same weights, the second one checks it."""
    code = f"""
import torch
from pathlib import Path
from latentdiff.rave import callbacks
from latentdiff.rave.settings import RaveConfig
from latentdiff.rave.train import RaveTraining
hook = callbacks.Supervisor.on_train_end
def compare(self, trainer, model):
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    both = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(both, mine)
    assert torch.equal(*both)
    hook(self, trainer, model)
callbacks.Supervisor.on_train_end = compare
config = RaveConfig(**{ {**TINY, "devices": 2, "steps": 4, "validation_chunks": 1}!r})
database, out = Path({str(database)!r}), Path({str(tmp_path)!r})
with RaveTraining(config, database, out, device="cpu") as training:
    print(training.fit().step)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("4"), done.stderr[-2000:]


# --- the command, and upstream's own programs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a dataset that `preprocess` made."""
    import soundfile

    root = tmp_path_factory.mktemp("run")
    audio = root / "audio"
    audio.mkdir()
    rng = np.random.default_rng(1)
    time_axis = np.arange(RATE * 9) / RATE
    for number in range(3):
        tone = np.sin(2 * np.pi * rng.uniform(80, 900) * time_axis) * np.exp(-5 * (time_axis % 0.5))
        soundfile.write(audio / f"{number}.wav", 0.5 * tone, RATE)
    settings = json.dumps({"data": {"sample_rate": RATE, "workers": 1}, "rave": TINY})
    (root / "config.yaml").write_text(settings)  # JSON is YAML
    done = latentdiff(root, "preprocess", "--audio", audio)
    assert done.returncode == 0, done.stderr
    return root


def latentdiff(root, command, *words):
    line = [sys.executable, "-m", "latentdiff", command, "--run", root / "r"]
    line += ["-c", root / "config.yaml", *words]
    return subprocess.run([str(word) for word in line], capture_output=True, text=True, timeout=180)


@pytest.mark.real
def test_train_rave_dry_killed_continued_and_done(run):
    dry = latentdiff(run, "train-rave", "--dry-run")
    assert dry.returncode == 0 and "receptive field" in dry.stdout, dry.stderr
    assert not (run / "r" / "rave").exists()
    command = [sys.executable, "-m", "latentdiff", "train-rave", "--run", str(run / "r")]
    command += ["-c", str(run / "config.yaml")]
    process = subprocess.Popen(
        [*command, "rave.steps=100000"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics = run / "r" / "rave" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) > 4:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output and "the same command continues" in output
    kept = read_result(run / "r" / "rave" / "checkpoints" / "last.ckpt").step
    assert f"stopped at step {kept}" in output
    again = latentdiff(run, "train-rave", f"rave.steps={kept + 2}")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"steps {kept} to {kept + 2}" in again.stdout
    result = json.loads((run / "r" / "rave" / "run.json").read_text())["result"]
    assert result["step"] == kept + 2 and result["hop"] == 256 and result["latent_dim"] == 16


@pytest.mark.real
def test_train_rave_done_or_begun_otherwise(run, trained, database, tmp_path, caplog):
    """Within one process: what the command logs about a finished run, and other settings."""

    def work(dataset=database, **settings):
        return train_rave(Run(tmp_path), rave_project(**settings), dataset=dataset)

    with caplog.at_level(logging.INFO, logger="latentdiff"):
        assert work(steps=1) == []
        assert "its last records are held out" in caplog.text
        assert "spectral distance" in caplog.text and "untrained" in caplog.text
        work(steps=1)
        assert "already done" in caplog.text
        work(steps=2)
        assert "steps 1 to 2" in caplog.text
        work(steps=1)
        assert "is at step 2 already" in caplog.text
        assert "`encode` will need the recordings" in caplog.text
    with pytest.raises(UserError, match=r"rave\.capacity: 4 -> 6"):
        work(capacity=6)
    with pytest.raises(UserError, match="dataset: another than then"):
        work(dataset=run / "r" / "dataset")


@pytest.mark.real
def test_a_dataset_at_another_rate_is_refused(database, tmp_path):
    with pytest.raises(UserError, match=r"set data\.sample_rate=16000"):
        train_rave(Run(tmp_path), rave_project(8000), dataset=database)


OF_A_RUN = {"capacity": None, "ratios": None, "n_band": None, "latent_size": None}
"""Settings that leave the architecture to the config.gin of a run."""


@pytest.mark.real
def test_a_run_of_rave_train_is_started_from_by_its_folder(
    database, make_rave_run, tmp_path, caplog
):
    """Its config.gin decides the architecture, and its newest checkpoint gives the weights."""
    upstream = make_rave_run(
        tmp_path / "up" / "tiny",
        configs=["v2", "causal"],
        steps=(5, 30),
        names=("a.ckpt", "b.ckpt"),
    )
    project, run = rave_project(steps=1, **OF_A_RUN), Run(tmp_path / "run")
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        train_rave(run, project, dataset=database, ckpt=upstream)
    newest = upstream / "version_0" / "checkpoints" / "b.ckpt"
    assert f"starting at step 0 from the weights of {newest} (trained for 30 steps)" in caplog.text
    assert f"the architecture is that of {upstream / 'config.gin'}" in caplog.text
    assert "trained at 8000 Hz" in caplog.text
    assert "(start " in caplog.text and "untrained" not in caplog.text
    result = read_result(run.rave / "checkpoints" / "last.ckpt")
    assert (result.step, result.hop, result.latent_dim, result.pretrained) == (1, 64, 6, True)
    # The dataset is at another rate, and that is the codec's.
    assert RaveCodec.from_run(run.rave).sample_rate == RATE
    # Continued without --ckpt, the run still knows what it is.
    train_rave(run, rave_project(steps=2, **OF_A_RUN), dataset=database)
    again = read_result(run.rave / "checkpoints" / "last.ckpt")
    assert (again.step, again.hop, again.pretrained, again.first) == (2, 64, True, result.first)
    assert "get_padding.mode = 'causal'" in (run.rave / "config.gin").read_text()


@pytest.mark.real
def test_a_folder_without_checkpoints_cannot_be_started_from(database, tmp_path):
    for place, message in ((tmp_path, "no checkpoint in"), (tmp_path / "gone", "no checkpoint at")):
        with pytest.raises(UserError, match=message):
            train_rave(Run(tmp_path / "run"), rave_project(), dataset=database, ckpt=place)


@pytest.mark.real
@pytest.mark.parametrize(
    ("distances", "advice"),
    [
        ([2.201, 2.5, 2.804], "raise rave.steps"),
        ([2.201, 1.9, 2.804], "`--ckpt best` uses step 1 instead, which is better (1.900)"),
        ([2.201, 2.5, 1.5], None),
    ],
)
def test_a_codec_worse_than_untrained_is_a_warning(
    database, tmp_path, monkeypatch, caplog, distances, advice
):
    script, original = iter(distances), callbacks.validate

    def scripted(*args, **kwargs):
        return replace(original(*args, **kwargs), distance=next(script))

    monkeypatch.setattr(callbacks, "validate", scripted)
    project = rave_project(steps=2, validate_every=1, phase_1_steps=2)
    train_rave(Run(tmp_path), project, dataset=database)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    worse = [text for text in warnings if "worse than it did before training" in text]
    assert len(worse) == bool(advice)
    if advice:
        assert "distance 2.804, untrained 2.201" in worse[0] and advice in worse[0]


@pytest.mark.real
def test_upstream_exports_what_we_trained_and_the_export_decodes(trained, tmp_path):
    words = ["export", "--run", trained, "--name", "model", "--output", tmp_path]
    done = upstream(words, tmp_path)
    assert (tmp_path / "model.ts").exists(), done.stderr[-2000:]
    exported = torch.jit.load(str(tmp_path / "model.ts"))
    with torch.no_grad():
        latents = exported.encode(torch.randn(1, 1, 8192))
        assert 1 < latents.shape[1] <= 16 and latents.shape[2] == 32
        sound = exported.decode(latents)
    assert sound.shape == (1, 1, 8192) and torch.isfinite(sound).all()


@pytest.mark.real
def test_upstream_trains_on_our_dataset_and_we_go_on_from_there(run, tmp_path, caplog):
    words = ["train", "--config", "v2", "--db_path", run / "r" / "dataset", "--name", "up"]
    words += [
        "--out_path",
        tmp_path / "runs",
        "--gpu",
        "-1",
        "--max_steps",
        "3",
        "--val_every",
        "2",
    ]
    words += ["--batch", "2", "--workers", "0", "--n_signal", "16384", "--channels", "1"]
    for binding in ("CAPACITY=4", "LATENT_SIZE=4", f"SAMPLING_RATE={RATE}", "N_BAND=8"):
        words += ["--override", binding]
    words += ["--override", "RAVE.valid_signal_crop=False"]
    done = upstream(words, tmp_path)
    assert list((tmp_path / "runs").rglob("*.ckpt")), done.stderr[-2000:]
    # And back: its folder is enough to start from what it trained.
    mine = Run(tmp_path / "mine")
    project = rave_project(steps=1, overrides=["RAVE.valid_signal_crop=False"], **OF_A_RUN)
    train_rave(mine, project, dataset=run / "r" / "dataset", ckpt=tmp_path / "runs")
    result = read_result(mine.rave / "checkpoints" / "last.ckpt")
    assert (result.step, result.hop, result.latent_dim) == (1, 8 * 128, 4)
    # `rave train` has not written what only phase 2 uses; v2 needs it.
    assert "mean_difference.relative = True" in (mine.rave / "config.gin").read_text()
    # Or to go on where it stopped.
    longer = Run(tmp_path / "longer")
    kind = {"dataset": run / "r" / "dataset", "ckpt": tmp_path / "runs", "resume": True}
    with pytest.raises(UserError, match="nothing is left to do"):
        train_rave(longer, project, **kind)
    settings = {**OF_A_RUN, "overrides": ["RAVE.valid_signal_crop=False"], "steps": 5}
    caplog.set_level(logging.INFO)
    train_rave(longer, rave_project(**settings), **kind)
    done = read_checkpoint(next(tmp_path.glob("runs/**/epoch*.ckpt")))
    assert f"0000.ckpt after step {done['global_step']}" in caplog.text
    last = read_checkpoint(longer.rave / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 5
    assert adam_steps(last) == adam_steps(done) + 5 - done["global_step"] > 5 - done["global_step"]
    assert last["latentdiff"]["schedule"]["phase_1_steps"] == 1_000_000


def adam_steps(checkpoint):
    """Steps that the generator's optimiser has taken."""
    state = checkpoint["optimizer_states"][0]["state"]
    return max(int(values["step"]) for values in state.values())


def test_weights_alone_cannot_be_continued(trained, database, tmp_path):
    checkpoint = read_checkpoint(trained / "checkpoints" / "last.ckpt")
    torch.save({"state_dict": checkpoint["state_dict"], "global_step": 8}, tmp_path / "bare.ckpt")
    kind = {"dataset": database, "ckpt": tmp_path / "bare.ckpt", "resume": True}
    with pytest.raises(UserError, match=r"no config.gin near it"):
        train_rave(Run(tmp_path / "run"), rave_project(steps=20), **kind)
    (tmp_path / "config.gin").write_bytes((trained / "config.gin").read_bytes())
    with pytest.raises(UserError, match="no loops, lr_schedulers, optimizer_states"):
        train_rave(Run(tmp_path / "run"), rave_project(steps=20), **kind)


def test_another_run_of_ours_is_continued_with_its_step_and_schedule(trained, database, tmp_path):
    run = Run(tmp_path / "run")
    project = rave_project(steps=10, **OF_A_RUN)
    train_rave(run, project, dataset=database, ckpt=trained, resume=True)
    result = read_result(run.rave / "checkpoints" / "last.ckpt")
    assert result.step == 10
    assert result.schedule == read_result(trained / "checkpoints" / "last.ckpt").schedule
    # Its best was the other run's; here it is the best since.
    assert result.best is None or result.best.step > 8


def upstream(words, cwd):
    line = [sys.executable, "-c", UPSTREAM, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        line, capture_output=True, text=True, timeout=180, cwd=cwd, env=environment
    )
