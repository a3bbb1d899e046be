"""scripts/compare.py: cases as typed, runs read once, medians in one table."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from latentdiff import runs
from latentdiff.runs import Run, Stage

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("compare")


@pytest.fixture
def options(compare, tmp_path):
    def parse(*words):
        return compare.parse(["--latents", "z", "--out", str(tmp_path / "out"), *words])

    return parse


def fabricate(root, *, skill, steps=100, gain=None, score=None, validated=True):
    """A finished run, best at step 50, as far as `compare` reads one."""
    run = Run(root)
    with Stage(run.diffusion, "train-diffusion") as stage:
        weights = run.diffusion / "checkpoints" / "last.safetensors"
        weights.parent.mkdir()
        tensors = {"network.network.a": (3, 4), "network.variance": (2,), "whitening.mean": (9,)}
        save_file({key: np.zeros(shape, np.float32) for key, shape in tensors.items()}, weights)
        rows = [
            {"step": 25, "audio_seconds_per_second": 100.0},
            {"step": 50, "audio_seconds_per_second": 300.0},
            {"step": 100, "audio_seconds_per_second": 200.0},
        ]
        if validated:
            for step, drop in ((50, 0.0), (100, 0.1)):
                skills = {"skill": skill - drop, "training_skill": skill + 0.1}
                row = {f"validation/{name}": value for name, value in skills.items()}
                rows.append({"step": step, **row})
        runs.write_jsonl(run.diffusion / "metrics.jsonl", rows)
        stage.record(step=steps, best_step=50, validated=validated, loss=1 - skill, baseline=1.0)
        stage.record(skill=skill, **({} if gain is None else {"conditioning_gain": gain}))
    if score is not None:
        with Stage(root / "evaluation", "evaluate"):
            values = {"samples": {"value": score}}
            facts = {"joint": {"scores": values, "separation": values}}
            runs.write_json(root / "evaluation" / "evaluation.json", {"latents": facts})
    return run


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


class TestCases:
    def test_a_name_before_a_colon(self, compare):
        case = compare.Case.parse("wide: network.channels=128 network.name=unet1d")
        assert case == compare.Case("wide", ("network.channels=128", "network.name=unet1d"))
        assert compare.Case.parse("plain:") == compare.Case("plain", ())

    def test_settings_are_a_name_where_none_is_given(self, compare):
        case = compare.Case.parse("network.name=unet1d training.ema_halflives='[10, 20]'")
        assert case.name == "name=unet1d_ema_halflives=-10-20-"
        assert case.settings[1] == "training.ema_halflives=[10, 20]"
        assert compare.Case.parse("").name == "defaults"

    @pytest.mark.parametrize(
        "words,complaint",
        [
            (["--case", "wide: network.channels"], "'network.channels' is no KEY=VALUE"),
            (["--case", "a: x=1", "--case", "a: x=2"], "two cases have one name"),
        ],
    )
    def test_mistakes_are_usage_errors(self, options, capsys, words, complaint):
        with pytest.raises(SystemExit):
            options(*words)
        assert complaint in capsys.readouterr().err

    def test_every_case_is_trained_once_a_seed_by_the_clock(self, compare, options):
        given = options(
            *("--case", "a:", "--case", "b: x.y=1", "--seeds", "3", "4", "--minutes", "6"),
            *("--set", "c.d=2"),
        )
        jobs = compare.jobs_of(given)
        assert [job.run.root.name for job in jobs] == ["a-3", "b-3", "a-4", "b-4"]
        words = jobs[1].train
        assert "training.hours=0.1" in words and "training.steps=null" in words
        # A case has the last word.
        assert words[-2:] == ("c.d=2", "x.y=1")
        assert words[words.index("--seed") + 1] == "3"


def test_figures_of_a_run(compare, tmp_path):
    found = compare.figures(fabricate(tmp_path / "r", skill=0.6, gain=2.5, score=0.9))
    assert found == {
        "baseline of": "",
        "parameters": 12,
        "steps": 100,
        "loss": pytest.approx(0.4),
        "baseline": 1.0,
        "skill": 0.6,
        "skill at the end": pytest.approx(0.5),
        "training skill": pytest.approx(0.7),
        "conditioning gain": 2.5,
        "audio s/s": 200.0,
        "latents score": 0.9,
        "latents AUC": 0.9,
    }


def test_without_held_out_files_there_is_no_skill(compare, tmp_path):
    found = compare.figures(fabricate(tmp_path / "r", skill=0.9, validated=False))
    assert found["skill"] is None and found["loss"] is None and found["training skill"] is None


def test_the_table_has_medians_and_the_spread(compare, options, tmp_path):
    given = options("--case", "a:", "--case", "b: x=1", "--seeds", "0", "1", "2", "--threads", "1")
    for seed, skill in enumerate((0.5, 0.9, 0.6)):
        fabricate(tmp_path / "out" / f"a-{seed}", skill=skill, steps=10 * (seed + 1))
        fabricate(tmp_path / "out" / f"b-{seed}", skill=0.25, score=0.5)
    rows, failures = compare.work(compare.jobs_of(given), 2)
    assert failures == []
    lines = compare.report(rows, given).splitlines()
    assert "5 minutes each, 1 at a time with 1 threads" in lines[0]
    names, a, b = cells(lines[2]), cells(lines[4]), cells(lines[5])
    a, b = (dict(zip(names, line, strict=True)) for line in (a, b))
    assert a["case"] == "a" and a["runs"] == "3" and a["steps"] == "20"
    assert a["skill"] == "0.6" and a["skill from..to"] == "0.500..0.900"
    assert a["latents score"] == "" and b["latents score"] == "0.5"
    # Nobody was conditioned.
    assert "conditioning gain" not in names


def test_a_run_that_was_started_otherwise_is_not_taken_for_it(compare, options, tmp_path):
    fabricate(tmp_path / "out" / "a-0", skill=0.5)
    job = compare.jobs_of(options("--case", "a:"))[0]
    runs.write_json(job.run.root / compare.ASKED, {**job.asked, "threads": 7})
    rows, failures = compare.work([job], 1)
    assert rows == []
    assert "was started otherwise" in failures[0]


def test_one_failure_leaves_the_others(compare, options, tmp_path, monkeypatch):
    def call(command, *words, threads):
        if "x=1" in words:
            raise RuntimeError("x is no setting")
        fabricate(Path(words[1]), skill=0.5)

    monkeypatch.setattr(compare, "run_latentdiff", call)
    jobs = compare.jobs_of(options("--case", "a:", "--case", "b: x=1"))
    rows, failures = compare.work(jobs, 1)
    assert [row["case"] for row in rows] == ["a"]
    assert len(failures) == 1 and failures[0].endswith("x is no setting")


def test_evaluate_is_always_asked_for(compare, options, tmp_path, monkeypatch):
    fabricate(tmp_path / "out" / "a-0", skill=0.5, score=0.5)
    calls = []
    monkeypatch.setattr(compare, "run_latentdiff", lambda *words, threads: calls.append(words))
    job = compare.jobs_of(options("--case", "a:", "--evaluate", "--samples", "9"))[0]
    runs.write_json(job.run.root / compare.ASKED, job.asked)
    rows, failures = compare.work([job], 1)
    assert failures == [] and rows[0]["latents score"] == 0.5
    assert [words[0] for words in calls] == ["evaluate"]
    assert calls[0][-2:] == ("--n", "9")


def test_a_real_comparison_is_made_once(compare, tmp_path, monkeypatch, capsys):
    store, rng = tmp_path / "store", np.random.default_rng(0)
    store.mkdir()
    for number in range(4):
        np.save(store / f"{number}.npy", rng.standard_normal((3, 90)).astype(np.float32))
    words = [
        *("--latents", str(store), "--out", str(tmp_path / "out"), "--device", "cpu"),
        *("--threads", "1", "--case", "tiny: network.name=tiny network.channels=8"),
        *("--set", "training.window=16", "training.batch=8", "training.validation_windows=4"),
        *("training.steps=12", "training.validate_every=6"),
    ]
    monkeypatch.setattr("sys.argv", ["compare.py", *words])
    compare.main()
    first = capsys.readouterr().out
    assert "| tiny | 1 |" in first
    asked = json.loads((tmp_path / "out" / "tiny-0" / compare.ASKED).read_text())
    assert asked["threads"] == 1

    def refuse(*_, **__):
        raise AssertionError("it is done already")

    monkeypatch.setattr(compare, "run_latentdiff", refuse)
    compare.main()
    assert capsys.readouterr().out == first
