"""The command line itself: fast help, strict words, exit codes. The work is tested elsewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from latentdiff import cli, errors
from latentdiff.cli import base
from latentdiff.conditions.registry import KINDS
from latentdiff.runs import Run


def leaves(group, path=()):
    """Every command that does something, by its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(leaves(cli.cli))


def run(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "latentdiff", *words], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_needs_no_torch(name):
    code = (
        f"import sys; sys.argv = ['latentdiff', *{name.split()!r}, '--help']\n"
        "from latentdiff.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'rave'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example(name):
    command = COMMANDS[name]
    text = command.get_help(click.Context(command, info_name=name))
    assert re.search(rf"\nExample:\n(  .*\n)*  latentdiff {name}.*$", text.rstrip())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train-rave", "\u2014run", "x"], "type --run"),
        (["train-rave", "--run", "x", "\u2013ckpt", "y"], "type --ckpt"),
        (["tran-rave"], "did you mean 'train-rave'"),
        (["train-rave", "--run", "x", "--stepz", "3"], "No such option"),
        (["train-rave"], "--run"),
        (["train-rave", "--run", "x", "stray"], "'stray'"),
        (["train-rave", "--run", "x", "rave.stepz=3"], "did you mean 'steps'"),
        (["config", "validate", "none.yaml"], "no config file"),
        (["inspect", "nothing-here"], "nothing at"),
    ],
)
def test_wrong_words_are_explained_without_a_traceback(tmp_path, words, expected):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_config_problem_comes_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("rave: {stepz: 3, batch: no}\ntraining: {steps: -1}\nx: 1\n")
    done = run("config", "validate", "c.yaml", cwd=tmp_path)
    assert done.returncode == 2
    for key in ("rave.stepz", "rave.batch", "training.steps", "x: unknown key"):
        assert key in done.stderr


def test_underscores_are_dashes(tmp_path):
    done = run("train_rave", "--dry_run", "--run", "nothing", cwd=tmp_path)
    assert done.returncode == 2 and "latentdiff preprocess" in done.stderr


def test_verbose_shows_the_traceback(tmp_path):
    done = run("inspect", "-v", "nothing-here", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_help_lists_every_exit_code():
    text = cli.cli.get_help(click.Context(cli.cli))
    listed = {int(code) for code in re.findall(r"^  (\d+)  ", text, re.M)}
    assert listed == set(errors.EXIT_CODES) == {0, 1, 2, 3, 130}


@pytest.mark.parametrize(
    ("skipped", "expected"),
    [(["a: x"], "finished; 1 file skipped:"), (["a: x", "b: y"], "finished; 2 files skipped:")],
)
def test_skipped_files_are_counted_and_listed(skipped, expected, caplog):
    assert base.finish(skipped) == 3
    assert [record.getMessage().strip() for record in caplog.records] == [expected, *skipped]
    assert base.finish([]) == 0


@pytest.fixture
def worker(monkeypatch):
    """A command's worker that only remembers what it is called with."""
    calls = []

    def work(run, project, **options):
        calls.append((run, options))
        run.root.mkdir(exist_ok=True)
        run.write_elsewhere()
        return []

    for name in ("preprocess", "train_rave", "encode", "sample"):
        module = importlib.import_module(f"latentdiff.commands.{name}")
        monkeypatch.setattr(module, name, work)
    return calls


def invoke(*words):
    done = CliRunner().invoke(cli.cli, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_run_remembers_a_dataset_given_before(tmp_path, worker):
    invoke("preprocess", "--run", tmp_path / "run", "--dataset", tmp_path / "dataset")
    for command in ("preprocess", "train-rave", "encode"):
        invoke(command, "--run", tmp_path / "run")
        assert worker[-1][1]["dataset"] == tmp_path / "dataset"
    (tmp_path / "run" / "dataset").mkdir()
    invoke("train-rave", "--run", tmp_path / "run")
    assert worker[-1][1]["dataset"] is None


def test_the_run_remembers_a_rave_given_before(tmp_path, worker):
    invoke("encode", "--run", tmp_path / "run", "--rave", tmp_path / "model.ts")
    invoke("encode", "--run", tmp_path / "run")
    run, options = worker[-1]
    # Not as --rave, which would go before the codec that the latents name.
    assert options["rave"] is None and run.rave == tmp_path / "model.ts"
    invoke("train-rave", "--run", tmp_path / "run")
    assert worker[-1][0].rave == tmp_path / "run" / "rave"
    (tmp_path / "run" / "rave").mkdir()
    invoke("encode", "--run", tmp_path / "run")
    assert worker[-1][0].rave == tmp_path / "run" / "rave"


def test_a_rave_with_a_checkpoint_of_its_own_is_not_remembered(tmp_path, worker):
    invoke("encode", "--run", tmp_path / "run", "--rave", tmp_path / "rave", "--ckpt", "best")
    invoke("encode", "--run", tmp_path / "run")
    assert worker[-1][0] == Run(tmp_path / "run")


def test_options_of_condition_kinds_reach_the_worker(tmp_path, worker):
    invoke("sample", "--run", tmp_path / "run", "--bpm", "90:140", "--style", "a=2", "--style", "b")
    assert worker[-1][1]["options"] == {"style": ("a=2", "b"), "bpm": ("90:140",)}
    invoke("sample", "--run", tmp_path / "run")
    assert worker[-1][1]["options"] == {}
    text = COMMANDS["sample"].get_help(click.Context(COMMANDS["sample"]))
    declared = [option for kind in KINDS.values() for option in kind.options]
    assert declared and all(f"--{each.name} {each.metavar}" in text for each in declared)


def test_latents_are_diagnosed_without_a_run(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    folder, out = tmp_path / "arrays", tmp_path / "report"
    folder.mkdir()
    for i in range(3):
        np.save(folder / f"{i}.npy", rng.standard_normal((4, 200)).astype(np.float32))
    invoke("diagnose", "latents", "--latents", folder, "--out", out)
    assert (out / "latents.json").exists()
    assert sorted(path.suffix for path in folder.iterdir()) == [".npy"] * 3


def test_presets_are_valid_and_annotated_config_equals_the_defaults(tmp_path):
    from latentdiff import config
    from latentdiff.commands import presets
    from latentdiff.model.project import Project

    for name in ("quickstart", "laptop", "gpu"):
        path = presets.preset_path(name)
        config.build(Project, config.read_yaml(path))
        assert re.search(r"# +latentdiff \w+", path.read_text()), "opens with its commands"
    presets.init(tmp_path / "all.yaml", None, overwrite=False)
    assert config.build(Project, config.read_yaml(tmp_path / "all.yaml")) == Project()
    with pytest.raises(Exception, match="exists"):
        presets.init(tmp_path / "all.yaml", None, overwrite=False)
