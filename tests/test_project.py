"""What a run remembers, and what a later command may not contradict."""

from __future__ import annotations

import pytest
import yaml

from latentdiff import config
from latentdiff.errors import UserError
from latentdiff.model.project import Project, begin, check_upstream, resolve
from latentdiff.runs import Input, Run

SOURCE = {"audio": Input("recordings", "abc")}


def project(**sections):
    return config.build(Project, sections)


def start(run, settings, **options):
    options = {"inputs": SOURCE, "sections": ["training"], **options}
    return begin(run, settings, run.diffusion, "train-diffusion", **options)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_later_layers_win(run, tmp_path):
    run.root.mkdir()
    run.config.write_text("training: {steps: 5, batch: 2}\nseed: 1\n")
    (tmp_path / "c.yaml").write_text("training: {steps: 7}\n")
    resolved = resolve(run, tmp_path / "c.yaml", ["training.window=64"], {"seed": 9})
    training = resolved.training
    assert (training.steps, training.batch, training.window) == (7, 2, 64)
    assert resolved.seed == 9


def test_settings_are_remembered_once_a_stage_accepts_them(run):
    stage = start(run, project(training={"steps": 5}))
    assert not run.config.exists()
    with stage:
        assert yaml.safe_load(run.config.read_text())["training"]["steps"] == 5
    assert resolve(run).training.steps == 5


def test_done_is_done(run):
    with start(run, project()):
        pass
    assert start(run, project()) is None
    assert start(run, project(), overwrite=True) is not None


def test_other_settings_or_inputs_are_refused_with_the_difference(run):
    with start(run, project(training={"batch": 2})):
        pass
    with pytest.raises(UserError, match=r"training\.batch: 2 -> 4"):
        start(run, project(training={"batch": 4}))
    with pytest.raises(UserError, match="audio: another than then"):
        start(run, project(training={"batch": 2}), inputs={"audio": Input("elsewhere", "xyz")})
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        start(run, project(training={"batch": 2}, seed=1))


def test_what_may_change_continues_and_binds_nobody_downstream(run):
    allowed = {"may_change": ["training.steps"]}
    with start(run, project(training={"steps": 5}), **allowed):
        pass
    later = project(training={"steps": 9}, seed=4)
    assert start(run, project(training={"steps": 9}), **allowed) is not None
    check_upstream(later, [run.diffusion])
    with pytest.raises(UserError, match=r"made with other settings:\n +training\.batch"):
        check_upstream(project(training={"batch": 3}), [run.diffusion])


def test_harmless_settings_leave_a_done_stage_done_and_bind_nobody(run):
    harmless = {"harmless": ["training.log_every"]}
    with start(run, project(training={"log_every": 5}), **harmless):
        pass
    other = project(training={"log_every": 7})
    assert start(run, other, **harmless) is None
    check_upstream(other, [run.diffusion])
    with pytest.raises(UserError, match=r"training\.batch"):
        start(run, project(training={"batch": 3}), **harmless)


def test_a_stage_that_is_not_there_contradicts_nothing(run):
    check_upstream(project(), [run.dataset])
