"""`encode` in two processes: the store of one process, and nothing half-written on any end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import soundfile

from latentdiff import runs
from latentdiff.commands.encode import encode
from latentdiff.commands.encode_jobs import EncodeJob
from latentdiff.commands.encode_pass import share_out
from latentdiff.config import build
from latentdiff.errors import EXIT_FAILURE, EXIT_USER_ERROR, UserError
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import MANIFEST, LatentStore
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.streaming import files_together
from latentdiff.training.process_group import ProcessGroup

RECORDINGS = 9


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Noise of many lengths, some alike, and one file that is no sound."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for i in range(RECORDINGS - 1):
        samples = 0.2 * rng.standard_normal(2000 * (1 + i % 4)).astype(np.float32)
        soundfile.write(str(folder / f"{i}.wav"), samples, 8000)
    (folder / "text.wav").write_text("not a sound")
    return folder


def start(run, rave_run, recordings, *words, environment=MappingProxyType({})):
    command = [sys.executable, "-m", "latentdiff", "encode", "--run", run, "--rave", rave_run]
    return subprocess.Popen(
        [*command, "--audio", recordings, "--device", "cpu", *words, "data.sample_rate=8000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
    )


def encode_here(run, rave_run, recordings, kinds="auto"):
    settings = {"data": {"sample_rate": 8000}, "device": "cpu", "condition": {"kinds": kinds}}
    project = build(Project, settings)
    skipped = encode(Run(run), project, rave=rave_run, audio=[recordings])
    assert len(skipped) == 1


def files(latents):
    found = (path.relative_to(latents) for path in latents.rglob("*") if path.is_file())
    return {path for path in found if path.name != "log.txt"}


def jobs_of(*seconds):
    return [EncodeJob(str(i), Path(str(i)), x) for i, x in enumerate(seconds)]


def alone(job):
    return 1


def test_shares_are_of_equal_length_and_whole():
    jobs = jobs_of(9, 1, 5, 4, 1, 6, 2)
    parts = share_out(jobs, 2, alone)
    assert sorted(job.key for part in parts for job in part) == [job.key for job in jobs]
    assert [sum(job.seconds for job in part) for part in parts] == [14, 14]
    for part in parts:
        assert [job.key for job in part] == sorted(job.key for job in part)
    assert share_out(jobs[:1], 3, alone) == [[jobs[0]], [], []]
    assert share_out(jobs, 1, alone) == [jobs]


def test_files_that_the_codec_sees_together_stay_together(fake_codec):
    jobs = jobs_of(*[1, 2] * 5)
    parts = share_out(jobs, 2, lambda job: 2)
    keys = [{job.key for job in part} for part in parts]
    for pair in ("0", "2"), ("4", "6"), ("1", "3"), ("5", "7"):
        assert any(part >= set(pair) for part in keys)
    chunk = fake_codec.sample_rate // fake_codec.hop
    options = {"chunk_seconds": 1.0, "batch": 2}
    wanted = {chunk + 1: 1, chunk: 2, chunk // 2: 4}
    assert {k: files_together(fake_codec, k, **options) for k in wanted} == wanted


@pytest.mark.parametrize("leads", [True, False])
def test_every_process_of_a_failed_encode_fails(leads):
    """The leader by the error itself, whoever had it; the others silently."""
    outcomes = [UserError("disk full"), ([], [])]
    group = SimpleNamespace(leads=leads, gather=lambda outcome: outcomes)
    with pytest.raises(UserError if leads else SystemExit) as caught:
        ProcessGroup.everywhere(group, list)
    assert leads or caught.value.code == EXIT_FAILURE


@pytest.mark.real
def test_followers_fail_where_nothing_could_be_encoded(tmp_path, rave_run):
    """Two processes as torchrun starts them, whose exit codes are seen."""
    silent = tmp_path / "recordings"
    silent.mkdir()
    for i in range(2):
        # Its header is that of audio; only decoding it fails.
        soundfile.write(
            str(silent / f"{i}.wav"), np.full(4000 + i, np.nan, np.float32), 8000, "FLOAT"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "x"}
    processes = [
        start(
            tmp_path / "run",
            rave_run,
            silent,
            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    stderr = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [EXIT_USER_ERROR, EXIT_FAILURE], stderr
    assert "nothing could be encoded" in stderr[0] and "error" not in stderr[1]


@pytest.mark.real
def test_two_processes_make_the_store_of_one(tmp_path, rave_run, recordings):
    encode_here(tmp_path / "one", rave_run, recordings)
    process = start(tmp_path / "two", rave_run, recordings, "--devices", "2")
    _, err = process.communicate(timeout=120)
    # Done, but for the file that is no sound.
    assert process.returncode == 3 and err.count("text.wav: ") == 1, err
    one, two = (LatentStore.open(tmp_path / name / "latents") for name in ("one", "two"))
    assert (one.root / MANIFEST).read_bytes() == (two.root / MANIFEST).read_bytes()
    assert files(one.root) == files(two.root)
    for entry in one.entries:
        for name in (entry.mean, entry.mel):
            assert (one.root / name).read_bytes() == (two.root / name).read_bytes()
    expected, found = (LatentStatistics.load(s.root / "stats.safetensors") for s in (one, two))
    assert found.frames == expected.frames
    for name in ("mean", "covariance", "minimum", "maximum", "posterior_variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-9)
    result = runs.read_run(two.root).result
    assert result == runs.read_run(one.root).result and result["files"] == RECORDINGS - 1


@pytest.mark.real
def test_two_processes_add_the_features_that_one_would(tmp_path, rave_run, recordings):
    encode_here(tmp_path / "one", rave_run, recordings, "chroma")
    encode_here(tmp_path / "two", rave_run, recordings, "none")
    words = ("--devices", "2", "condition.kinds=chroma")
    process = start(tmp_path / "two", rave_run, recordings, *words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3 and "chroma: 8 of 8 files have it" in out, err
    one, two = (tmp_path / name / "latents" for name in ("one", "two"))
    assert files(one) == files(two)
    for name in files(one):
        if name.suffix == ".npy":
            assert (one / name).read_bytes() == (two / name).read_bytes()
    assert runs.read_jsonl(one / MANIFEST) == runs.read_jsonl(two / MANIFEST)


@pytest.mark.real
def test_a_killed_leader_takes_the_others_along_and_the_next_run_continues(
    tmp_path, rave_run, recordings
):
    latents = tmp_path / "run" / "latents"
    process = start(tmp_path / "run", rave_run, recordings, "--devices", "2")
    while len(list(latents.glob("encoded*.jsonl"))) == 0:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    # Its pipes close when the last process that holds them has ended.
    process.communicate(timeout=60)
    assert runs.read_run(latents).status == "running"
    whole = {p: p.stat().st_mtime_ns for p in (latents / "mean").glob("*.npy")}
    assert whole
    encode_here(tmp_path / "run", rave_run, recordings)
    assert not list(latents.rglob("*.partial")) and not list(latents.glob("encoded*"))
    store = LatentStore.open(latents)
    assert len(store.entries) == RECORDINGS - 1
    assert any(path.stat().st_mtime_ns == then for path, then in whole.items())
