"""The command line itself: fast help, strict words, exit codes. The work is tested elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from latentdiff import cli


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
    ("words", "says"),
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
def test_wrong_words_are_explained_without_a_traceback(tmp_path, words, says):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
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
