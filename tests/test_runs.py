"""Run directories: whole files or none, one writer, honest endings."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from latentdiff import runs, tracking
from latentdiff.errors import UserError
from latentdiff.runs import Run, Stage


def test_stage_records_how_it_ended(tmp_path):
    with Stage(tmp_path / "s", "encode", config={"a": 1}, seed=3) as stage:
        assert runs.read_run(stage.directory).status == "running"
        stage.record(frames=5)
    info = runs.read_run(tmp_path / "s")
    assert (info.status, info.seed, info.result) == ("done", 3, {"frames": 5})
    assert info.config == {"a": 1} and "python" in info.versions


@pytest.mark.parametrize(
    ("error", "expected"), [(ValueError("boom"), "boom"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_failed_stage_records_why_and_is_not_usable(tmp_path, error, expected):
    with pytest.raises(type(error)), Stage(tmp_path / "s", "encode"):
        raise error
    info = runs.read_run(tmp_path / "s")
    assert (info.status, info.error) == ("failed", expected)
    with pytest.raises(UserError, match="not finished"):
        runs.require_done(tmp_path / "s", "latents", "encode")


def test_missing_stage_names_its_command(tmp_path):
    with pytest.raises(UserError) as caught:
        runs.require_done(tmp_path / "none", "dataset", "preprocess")
    assert "latentdiff preprocess" in str(caught.value)


def test_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "song.wav").write_bytes(b"x")
    with pytest.raises(UserError, match="did not write"), Stage(tmp_path, "s", overwrite=True):
        pass
    assert (tmp_path / "song.wav").read_bytes() == b"x"
    assert not (tmp_path / "run.json").exists()


def test_overwrite_empties_only_our_own_folder(tmp_path):
    with Stage(tmp_path / "s", "a"):
        (tmp_path / "s" / "old.npy").write_bytes(b"x")
    with Stage(tmp_path / "s", "a", overwrite=True):
        assert not (tmp_path / "s" / "old.npy").exists()


def test_overwrite_spares_the_folder_of_another_stage(tmp_path):
    with Stage(tmp_path / "s", "latents"):
        (tmp_path / "s" / "old.npy").write_bytes(b"x")
    with pytest.raises(UserError, match="another stage: latents"):
        Stage(tmp_path / "s", "dataset", overwrite=True).__enter__()
    assert (tmp_path / "s" / "old.npy").exists()


def test_second_writer_is_refused_while_the_first_lives(tmp_path):
    code = (
        "from pathlib import Path; from latentdiff.runs import Stage\n"
        f"with Stage(Path({str(tmp_path / 's')!r}), 'a'): pass"
    )
    with Stage(tmp_path / "s", "a"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "in use by another latentdiff" in done.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    runs.write_json(path, {"v": 1})
    with pytest.raises(ZeroDivisionError), runs.atomic(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert json.loads(path.read_text()) == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_full_disk_is_an_error_with_advice(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(UserError, match="cannot write") as caught, runs.atomic(path) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert "No space left" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_why_a_stage_failed_is_not_hidden_by_a_full_disk(tmp_path, monkeypatch):
    def full(path):
        raise UserError(f"cannot write {path}")

    with pytest.raises(UserError, match="the reason"), Stage(tmp_path / "s", "encode"):
        monkeypatch.setattr(runs.files, "atomic", full)
        raise UserError("the reason")


class DiskFull:
    """Stands in for `atomic`: every write fails."""

    def __init__(self, path):
        raise UserError(f"cannot write {path}")


def test_a_stage_whose_last_write_fails_gives_back_lock_and_log(tmp_path, monkeypatch):
    handlers = list(logging.getLogger("latentdiff").handlers)
    with pytest.raises(UserError, match="cannot write"), Stage(tmp_path / "s", "encode"):
        monkeypatch.setattr(runs.files, "atomic", DiskFull)
    assert logging.getLogger("latentdiff").handlers == handlers
    monkeypatch.undo()
    assert not runs.is_locked(tmp_path / "s")
    with Stage(tmp_path / "s", "encode"):
        pass


def test_a_stage_that_fails_while_starting_gives_back_lock_and_log(tmp_path):
    class Failing(Stage):
        def _begin(self):
            super()._begin()
            raise UserError("the run's config.yaml cannot be written")

    handlers = list(logging.getLogger("latentdiff").handlers)
    with pytest.raises(UserError), Failing(tmp_path / "s", "encode"):
        pass
    assert logging.getLogger("latentdiff").handlers == handlers
    assert not runs.is_locked(tmp_path / "s")


def test_a_reader_makes_no_starting_stage_refuse(tmp_path):
    """`runs` looks by a shared lock; here one that is held for longer than an instant."""
    with Stage(tmp_path / "s", "encode"):
        pass
    handle = os.open(tmp_path / "s" / runs.LOCK_FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_SH)
    timer = threading.Timer(0.2, os.close, [handle])
    timer.start()
    with Stage(tmp_path / "s", "encode"):
        assert runs.is_locked(tmp_path / "s")
    timer.join()
    assert runs.read_run(tmp_path / "s").is_done


def test_run_info_answers_what_callers_ask(tmp_path):
    inputs = {"codec": runs.Input("best.ckpt", "c" * 64)}
    with Stage(tmp_path / "s", "encode", inputs=inputs, may_change=["latents.batch"]) as stage:
        stage.record(level_db=-13.5, skill=None)
    info = runs.require_done(tmp_path / "s", "latents", "encode")
    assert info.is_done and info.may_change == ("latents.batch",)
    assert info.input_path("codec") == Path("best.ckpt") and info.input_path("latents") is None
    assert info.fingerprint("codec") == "c" * 64 and info.fingerprint("latents") is None
    assert info.number("level_db") == -13.5 and info.number("skill") is None
    assert info.started.utcoffset() == timedelta(0)
    path = tmp_path / "s" / "run.json"
    before = path.read_text()
    runs.write_json(path, info.to_json())
    assert path.read_text() == before


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"codec": "no path"}},
        {"inputs": None},
        {"result": []},
        {"started": "yesterday"},
        {"status": "fine"},
        {"config": 3},
        {"wall_seconds": "long"},
        {"may_change": "latents"},
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_it(tmp_path, change):
    with Stage(tmp_path / "s", "encode"):
        pass
    info = runs.read_run(tmp_path / "s").to_json()
    runs.write_json(tmp_path / "s" / "run.json", info | change)
    with pytest.raises(UserError, match=r"run\.json is damaged") as caught:
        runs.read_run(tmp_path / "s")
    assert caught.value.why.startswith(next(iter(change)))


def test_places_outside_the_run_are_remembered(tmp_path):
    run = Run(tmp_path / "run", dataset_elsewhere=tmp_path / "dataset")
    assert run.read_elsewhere() == {}
    run.root.mkdir()
    run.write_elsewhere()
    Run(run.root, rave_elsewhere=tmp_path / "rave").write_elsewhere()
    places = {"dataset": tmp_path / "dataset", "rave": tmp_path / "rave"}
    assert Run(run.root).read_elsewhere() == places
    (run.root / "elsewhere.json").write_text("[1]")
    with pytest.raises(UserError, match="elsewhere"):
        run.read_elsewhere()


def test_damaged_run_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"stage": ')
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        runs.read_run(tmp_path)


def test_metrics_after_the_resumed_step_are_forgotten(tmp_path):
    with tracking.Tracker(tmp_path) as tracker:
        for step in range(5):
            tracker.scalars(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 5, "lo')  # killed in the middle of a line
    with tracking.Tracker(tmp_path, resume_step=2) as tracker:
        tracker.scalars(3, {"loss": 30.0})
    rows = tracking.read_metrics(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 0), (1, 1), (2, 2), (3, 30)]
