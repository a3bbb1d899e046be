"""`runs`: its lines for stages that are done, running, killed, failed and damaged."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
import torch
from click.testing import CliRunner

from latentdiff import cli, runs
from latentdiff.commands import runs_table
from latentdiff.commands.runs_table import list_runs
from latentdiff.errors import UserError
from latentdiff.runs import Input, Stage
from latentdiff.training import checkpoint


@pytest.fixture
def folder(tmp_path):
    """Two runs, the second of which uses the codec of the first."""
    root = tmp_path / "runs"
    codec = root / "techno" / "rave" / "checkpoints" / "best.ckpt"
    with Stage(root / "techno" / "rave", "train-rave") as stage:
        codec.parent.mkdir()
        codec.write_bytes(b"x" * 2_000_000)
        stage.record(step=1000)
    inputs = {"codec": Input(str(codec), "c"), "condition.mel": Input("{}", "m")}
    with Stage(root / "other" / "latents", "encode", inputs=inputs):
        pass
    latents = {"latents": Input(str(root / "other" / "latents"), "l")}
    with Stage(root / "other" / "diffusion", "train-diffusion", inputs=latents) as stage:
        stage.record(step=20000, skill=0.4567, best_step=18000)
    with Stage(root / "other" / "samples" / "first", "sample"):
        pass
    return root


def test_skills_of_different_baselines_are_not_set_side_by_side_without_a_word(tmp_path, caplog):
    for name, shift in {"a": 0.0, "b": 0.0, "c": -2.0}.items():
        schedule = {"name": "cosine", "shift": shift}
        settings = {"diffusion": {"schedule": schedule, "parametrisation": "v"}}
        with Stage(tmp_path / name, "train-diffusion", config=settings) as stage:
            stage.record(step=1, skill=0.5)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            caplog.clear()
            runs_table.show(tmp_path)
        assert ("not comparable" in caplog.text) == (name == "c")
    assert "diffusion.schedule.shift=0.0: a, b" in caplog.text
    assert "diffusion.schedule.shift=-2.0: c" in caplog.text


def test_skills_of_distilled_models_are_a_group_of_their_own(tmp_path, caplog):
    settings = {"diffusion": {"parametrisation": "v"}}
    distilled = {**settings, "distill": {"levels": [-6.9, -1.5]}}
    for name, config in {"a": settings, "b": settings, "c": distilled}.items():
        with Stage(tmp_path / name, "train-diffusion", config=config) as stage:
            stage.record(step=1, skill=0.5)
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        runs_table.show(tmp_path)
    assert "distill.levels=-6.9,-1.5: c" in caplog.text and "the rest: a, b" in caplog.text


def of(rows, run):
    (row,) = [row for row in rows if row.run == run]
    return row


def test_sorted_and_traced_to_what_they_came_from(folder):
    rows = list_runs(folder)
    names = ["other/diffusion", "other/latents", "other/samples/first", "techno/rave"]
    assert [row.run for row in rows] == names
    assert of(rows, "other/latents").came_from == {"codec": "techno/rave"}
    assert of(rows, "other/diffusion").came_from == {"latents": "other/latents"}
    diffusion = of(rows, "other/diffusion")
    found = (diffusion.stage, diffusion.status, diffusion.step, diffusion.best_step)
    assert found == ("train-diffusion", "done", 20000, 18000)
    assert of(rows, "techno/rave").bytes > 2_000_000


def test_an_input_from_elsewhere_keeps_its_path(folder):
    with Stage(folder / "a", "encode", inputs={"codec": Input("/elsewhere/model.ts", "c")}):
        pass
    assert of(list_runs(folder), "a").came_from == {"codec": "/elsewhere/model.ts"}


def test_columns_are_aligned(folder):
    lines = runs_table.as_table(list_runs(folder))
    heading = lines[0]
    assert len(lines) == 5
    for line in lines[1:]:
        for column in ("stage", "status", "came from"):
            start = heading.index(column)
            assert line[start - 1] == " " and line[start] != " "
    assert "20,000" in lines[1] and "0.457" in lines[1] and "18,000" in lines[1]
    assert "2.0 MB" in lines[4]


CODE = """
import sys, time
from pathlib import Path
from latentdiff.runs import Stage
with Stage(Path(sys.argv[1]), "train-diffusion") as stage:
    (stage.directory / "metrics.jsonl").write_text('{"step": 40, "skill": 0.1}\\n')
    print("in", flush=True)
    time.sleep(60)
"""


def test_running_is_distinguished_from_killed(folder):
    path = folder / "live" / "diffusion"
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "in\n"
        tensors = {"network.w": torch.zeros(2)}
        checkpoint.save_weights(checkpoint.best(path), tensors, {"step": 30})
        row = of(list_runs(folder), "live/diffusion")
        assert (row.status, row.step, row.skill, row.best_step) == ("running", 40, 0.1, 30)
        with pytest.raises(UserError, match="in use"), Stage(path, "train-diffusion"):
            pass  # having looked has not opened the lock
    finally:
        process.kill()
        process.wait()
    assert of(list_runs(folder), "live/diffusion").status == "stale"
    assert runs.read_run(path).status == "running"


def test_failed_shows_why(folder, caplog):
    with pytest.raises(UserError), Stage(folder / "bad", "encode"):
        raise UserError("no audio", why="the folder is empty")
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        runs_table.show(folder)
    assert of(list_runs(folder), "bad").status == "failed"
    assert "bad: no audio" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"stage": ',
        "[1]",
        b"\xff\xfe",
        '{"stage": "x"}',
        {"inputs": {"codec": "no path"}},
        {"inputs": None},
        {"result": None},
        {"started": "yesterday"},
    ],
)
def test_a_damaged_run_is_listed_as_damaged(folder, content):
    path = folder / "techno" / "rave" / "run.json"
    if isinstance(content, dict):
        content = json.dumps({**runs.read_run(path.parent).to_json(), **content})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = list_runs(folder)
    row = of(rows, "techno/rave")
    assert row.status == "damaged" and "run.json" in row.problem and row.bytes >= 2_000_000
    assert len(rows) == 4 and runs_table.as_table(rows)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x05\0\0\0\0\0\0\0{}", b"\x02\0\0"])
def test_damaged_weights_have_no_best_step(folder, content):
    path = checkpoint.best(folder / "techno" / "rave")
    path.write_bytes(content)
    assert of(list_runs(folder), "techno/rave").best_step is None


def test_json_is_for_programs(folder):
    done = CliRunner().invoke(cli.cli, ["runs", str(folder), "--json"])
    assert done.exit_code == 0
    rows = json.loads(done.output)
    assert rows[0]["run"] == "other/diffusion" and rows[0]["skill"] == 0.4567
    assert rows[1]["came_from"] == {"codec": "techno/rave"}


def test_no_folder_and_an_empty_one(tmp_path, caplog):
    with pytest.raises(UserError, match="no folder"):
        list_runs(tmp_path / "none")
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        runs_table.show(tmp_path)
    assert "no runs below" in caplog.text


def test_a_single_stage_may_be_named(folder):
    (row,) = list_runs(folder / "techno" / "rave")
    assert row.run == "rave" and row.status == "done"


@pytest.mark.parametrize(("seconds", "expected"), [(5, "5 s"), (90, "2 min"), (7200, "2 h")])
def test_ages_and_sizes_are_short(seconds, expected):
    now = datetime.now(timezone.utc)
    assert runs_table._age((now - timedelta(seconds=seconds)).isoformat(), now) == expected
    assert [runs_table._bytes(n) for n in (12, 1500, 10**12)] == ["12 B", "1.5 kB", "1.0 TB"]
