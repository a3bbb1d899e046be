"""Training in real processes: killed at any moment, interrupted, two at once, two together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from latentdiff import config, runs
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.errors import UserError
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.tracking import read_metrics
from latentdiff.training import checkpoint

SETTINGS = [
    "network.name=tiny",
    "network.channels=8",
    "training.batch=11",
    "training.window=16",
    "training.validation_windows=8",
    "training.validate_every=20",
    "training.checkpoint_every=10",
    "training.log_every=5",
    "training.demo_samples=0",
]
pytestmark = pytest.mark.processes
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

# Everything is imported once; each attempt is a process of its own, killed at the k-th moment at
# which a file has been written, or is about to get its name, or in the middle of a state.
KILLED = """
import os, signal, sys
from pathlib import Path
import lightning.fabric
import torch
from torch.utils.tensorboard import SummaryWriter
from latentdiff import config
from latentdiff.runs import Run
from latentdiff.training import checkpoint
from latentdiff.model.project import Project
from latentdiff.commands.train_diffusion import train_diffusion

torch.set_num_threads(1)
root, settings = Path(sys.argv[1]), sys.argv[2:]
project = config.build(Project, config.parse_overrides([*settings, "device=cpu"]))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def deadly(function, moment, counter):
    def wrapped(*args):
        counter.append(1)
        if len(counter) == moment:
            die()
        return function(*args)
    return wrapped

def half_written(values, handle, write=checkpoint._write):
    if values["step"] == 30:
        handle.write(b"PK" + bytes(1000))
        handle.flush()
        die()
    write(values, handle)

def attempt(run, moment):
    child = os.fork()
    if child == 0:
        if moment == "half":
            checkpoint._write = half_written
        elif moment:
            counter = []
            os.fsync = deadly(os.fsync, moment, counter)
            Path.replace = deadly(Path.replace, moment, counter)
        train_diffusion(Run(run), project, latents=root / "plain")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert attempt(root / "whole", None) == 0
codes = [attempt(root / "parts", moment) for moment in [5, 14, "half", 9, 20, None]]
print(codes)
"""


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "plain"
    folder.mkdir()
    for i in range(5):
        z = rng.standard_normal((3, 300)).cumsum(1) * 0.1
        np.save(folder / f"{i}.npy", (z - z.mean(1, keepdims=True)).astype(np.float32))
    return folder


def command(run, store, *words):
    """`latentdiff train-diffusion`, to be started."""
    start = [sys.executable, "-m", "latentdiff", "train-diffusion", "--device", "cpu"]
    return [*start, "--run", str(run), "--latents", str(store), *words, *SETTINGS]


def start(words, **environment):
    return subprocess.Popen(
        words,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_metrics(run, process):
    while not read_metrics(run.diffusion):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def train_here(run, store, *settings):
    values = config.parse_overrides([*SETTINGS, "device=cpu", *settings])
    return train_diffusion(run, config.build(Project, values), latents=store)


def state_of(run):
    return checkpoint.load_state(checkpoint.state(run.diffusion))


def farthest(a, b):
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def test_killed_at_any_moment_it_continues_bit_for_bit(tmp_path, store):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), *SETTINGS, "training.steps=50"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    codes = eval(done.stdout.splitlines()[-1])
    assert codes[-1] == 0 and codes.count(-signal.SIGKILL) >= 4
    whole, parts = (Run(tmp_path / name) for name in ("whole", "parts"))
    for group in ("model", "ema"):
        assert farthest(state_of(whole)[group], state_of(parts)[group]) == 0
    for kind in (checkpoint.last, checkpoint.best):
        a, b = (checkpoint.load_weights(kind(run.diffusion)) for run in (whole, parts))
        assert farthest(a.tensors, b.tensors) == 0 and a.header["step"] == b.header["step"]
    steps = [[row["step"] for row in read_metrics(run.diffusion)] for run in (whole, parts)]
    assert steps[0] == steps[1]
    left = {path.name for path in parts.diffusion.rglob("*") if "tfevents" not in path.name}
    assert left == {
        *("run.json", ".lock", "metrics.jsonl", "checkpoints"),
        *("last.safetensors", "best.safetensors", "last.state.pt", "previous.state.pt"),
    }


def test_two_trainers_interrupts_and_a_stale_lock(tmp_path, store):
    run = Run(tmp_path / "run")
    process = start(command(run.root, store, "training.steps=1000000"))
    try:
        wait_for_metrics(run, process)
        with pytest.raises(UserError, match=rf"in use by .*process {process.pid} on "):
            train_here(run, store)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "the same command continues" in output
    step = state_of(run)["step"]
    # Killed without a chance to tidy up: what it held is free again.
    process = start(command(run.root, store, "training.steps=1000000"))
    try:
        while read_metrics(run.diffusion)[-1]["step"] <= step:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    assert runs.read_run(run.diffusion).status == "running"
    step = state_of(run)["step"]
    train_here(run, store, f"training.steps={step + 1}")
    assert runs.read_run(run.diffusion).result["step"] == step + 1


@pytest.mark.parametrize("by", ["--devices", "torchrun"])
def test_two_processes_are_one(tmp_path, store, by):
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    if by == "torchrun":
        python, *words = command(two.root, store, "training.steps=25")
        # Without `--` torchrun takes our --run for one of its own options.
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        process = start([python, *torchrun, "-m", "--", *words[1:]])
    else:
        process = start(command(two.root, store, "--devices", "2", "training.steps=25"))
    train_here(one, store, "training.steps=25")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    a, b = state_of(one), state_of(two)
    for group in ("model", "ema"):
        assert farthest(a[group], b[group]) < 1e-5
    best = [checkpoint.load_weights(checkpoint.best(run.diffusion)) for run in (one, two)]
    values = [weights.header["validation"] for weights in best]
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    # The first process alone wrote and spoke.
    rows = [read_metrics(run.diffusion) for run in (one, two)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    losses = [[row["loss"] for row in side if "loss" in row] for side in rows]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert output.count("done at step 25") == 1


def pair(run, store, *words):
    """Two processes with what torchrun gives them, without torchrun's own start."""
    base = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    base |= {"MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    words = command(run.root, store, *words)
    return [start(words, **base, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, 2)], ids=["ctrl-c", "kill"]
)
def test_what_ends_one_of_two_ends_both(tmp_path, store, sent, code):
    run = Run(tmp_path / "run")
    first, second = processes = pair(run, store, "training.steps=1000000")
    try:
        wait_for_metrics(run, first)
        second.send_signal(sent)
        output = first.communicate(timeout=60)[0]
        second.communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
    assert first.returncode == code, output
    assert ("another process of this training has ended" in output) == (sent == signal.SIGKILL)
    assert state_of(run) is not None or sent == signal.SIGKILL
