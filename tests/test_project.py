"""What a run remembers, and what a later command may not contradict."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from latentdiff import config
from latentdiff.errors import ConfigError, UserError
from latentdiff.model.project import Project, already_done, begin, check_upstream, resolve
from latentdiff.notebook import entry
from latentdiff.runs import Input, Run, Stage

ROOT = Path(__file__).parent.parent
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


UNREAD = [
    (["network.name=tiny", "network.blocks=4"], "network.blocks", "network.name=tiny"),
    (["network.name=tiny", "network.multipliers=[1,3]"], "network.multipliers", "kernel"),
    (["network.name=tiny", "network.attention_every=2"], "network.attention_every", "channels"),
    (["network.heads=8"], "network.heads", "network.name=diffwave"),
    (
        ["diffusion.schedule.name=diffwave", "diffusion.schedule.shift=-1"],
        "diffusion.schedule.shift",
        "no setting of its own",
    ),
    (["diffusion.schedule.beta_end=0.05"], "diffusion.schedule.beta_end", "logsnr_max"),
    (["sampling.sampler=heun", "sampling.eta=0.5"], "sampling.eta", "sampling.sampler=heun"),
    (["sampling.eta=0.5"], "sampling.eta", "sampling.sampler=dpmpp-2m"),
    (["sampling.sampler=ddim", "sampling.variance=beta"], "sampling.variance", "which reads eta"),
    (
        ["condition.kinds=mel", "condition.beat.dropout=0.2"],
        "condition.beat.dropout",
        "not read by condition.kinds=mel, which reads mel; leave it at its default, 0.1 (got 0.2)",
    ),
    (["condition.kinds=none", "condition.mel.dropout=0.2"], "condition.mel.dropout", "kinds=none"),
    (["condition.chroma.hop=512"], "condition.chroma.hop", "which reads beat, mel, style"),
]


@pytest.mark.parametrize(("words", "key", "expected"), UNREAD)
def test_a_setting_that_the_method_does_not_read_is_refused(words, key, expected):
    with pytest.raises(ConfigError) as caught:
        resolve(None, None, words)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key}: ") and expected in problem


def test_unread_settings_are_reported_with_all_other_problems(run, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "network: {name: tiny, blocks: 4}\nsampling: {sampler: euler, eta: 1}\n"
    )
    with pytest.raises(ConfigError) as caught:
        resolve(run, tmp_path / "c.yaml", ["training.batch=-1", "diffusion.schedule.name=cosin"])
    keys = {problem.partition(":")[0] for problem in caught.value.problems}
    assert keys == {"network.blocks", "sampling.eta", "training.batch", "diffusion.schedule.name"}


def test_defaults_may_be_written_down_and_read_settings_given():
    words = ["network.name=tiny", "network.blocks=null", "network.multipliers=[1,2,2]"]
    assert resolve(None, None, words).network.name == "tiny"
    words = ["network.attention_every=2", "network.heads=8", "sampling.sampler=ddim"]
    assert resolve(None, None, [*words, "sampling.eta=0.5"]).sampling.eta == 0.5
    words = [
        "condition.kinds=style,chroma",
        "condition.beat.dropout=0.1",
        "condition.chroma.hop=512",
    ]
    # `encode` stores mel spectrograms whatever samples follow.
    condition = resolve(None, None, [*words, "condition.mel.bands=40"]).condition
    assert (condition.chroma.hop, condition.mel.bands) == (512, 40)


def test_what_a_run_remembers_is_not_refused(run):
    run.root.mkdir()
    run.config.write_text(config.to_yaml(project(network={"name": "unet1d", "factor": 3})))
    assert resolve(run, None, ["network.name=tiny"]).network.factor == 3
    # Given again, it is.
    with pytest.raises(ConfigError, match=r"network\.factor"):
        resolve(run, None, ["network.name=tiny", "network.factor=3"])
    followed = project(condition={"kinds": "beat,style", "style": {"noise": 0.3}})
    run.config.write_text(config.to_yaml(followed))
    words = ["condition.kinds=beat", "condition.style.dropout=0.1"]
    assert resolve(run, None, words).condition.style.noise == 0.3
    with pytest.raises(ConfigError, match=r"condition\.style\.noise"):
        resolve(run, None, ["condition.kinds=beat", "condition.style.noise=0.3"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_preset_resolves(path):
    resolve(None, path)


@pytest.mark.parametrize("name", entry.load_all())
def test_every_case_of_the_notebook_gives_only_what_is_read(name):
    experiment = entry.load_all()[name]
    for case in experiment.story.entries[name].cases:
        values = config.merge(experiment.sections, case.settings)
        config.build(Project, values, name, given=values)


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


def test_latents_recorded_by_version_0_1_are_the_same_input(run):
    old, new = {"latents": Input("l", "abc")}, {"latents": Input("l", "abc+def")}
    with start(run, project(), inputs=old):
        pass
    assert start(run, project(), inputs=new) is None
    with pytest.raises(UserError, match="latents: another than then"):
        start(run, project(), inputs={"latents": Input("l", "xyz+def")})


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


def recorded(run, settings):
    """A finished stage of the run with these settings in its run.json."""
    with Stage(run.diffusion, "probe", config=settings, seed=0):
        pass


def is_done(run, settings):
    return already_done(run.diffusion, "probe", settings, {})


def test_a_run_of_before_is_compared_by_todays_names_and_defaults(run):
    old = {"condition": {"kind": "mel", "labels": None, "mel": {"bands": 4}}, "seed": 0}
    recorded(run, old)
    today = project(condition={"kinds": ["mel"], "mel": {"bands": 4}})
    settings = today.sections(["condition", "seed"])
    assert is_done(run, settings)
    check_upstream(today, [run.diffusion])
    other = project(condition={"kinds": ["mel", "chroma"], "mel": {"bands": 4}})
    difference = r"^    condition\.kinds: \['mel'\] -> \['chroma', 'mel'\]$"
    with pytest.raises(UserError) as refused:
        is_done(run, other.sections(["condition", "seed"]))
    lines = [x for x in str(refused.value).splitlines() if "->" in x]
    assert len(lines) == 1 and re.match(difference, lines[0])
    with pytest.raises(UserError, match=difference[1:-1]):
        check_upstream(other, [run.diffusion])


def test_a_setting_newer_than_the_run_counts_once_it_is_changed(run):
    recorded(run, {"condition": {"kind": "none"}, "seed": 0})
    today = project(condition={"kinds": [], "beat": {"dropout": 0.5}})
    with pytest.raises(UserError, match=r"condition\.beat\.dropout: 0\.1 -> 0\.5"):
        is_done(run, today.sections(["condition", "seed"]))


def test_a_part_of_a_section_is_compared_as_a_part(run):
    recorded(run, {"training": {"validation_levels": 8}, "condition": ["song.wav"]})
    assert is_done(run, {"training": {"validation_levels": 8}, "condition": ["song.wav"]})
    with pytest.raises(UserError, match=r"training\.validation_levels: 8 -> 9"):
        is_done(run, {"training": {"validation_levels": 9}, "condition": ["song.wav"]})


def test_a_recorded_section_that_is_no_longer_valid_is_shown_as_it_was(run):
    recorded(run, {"network": {"name": "gone"}})
    with pytest.raises(UserError, match=r"network\.name: gone -> tiny"):
        is_done(run, {"network": {"name": "tiny"}})


def test_a_stage_that_is_not_there_contradicts_nothing(run):
    check_upstream(project(), [run.dataset])
