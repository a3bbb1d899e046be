"""The words of RAVE and of its encode and decode scripts: each is accepted, or answered."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from latentdiff import cli, runs
from latentdiff.cli import rave_line, rave_words
from latentdiff.cli.base import _long_options
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore

OWN = {name: _long_options(command) for name, command in cli.cli.commands.items()}
RATE = 16000
TINY = (
    "--override CAPACITY=4 --override LATENT_SIZE=16 --override N_BAND=8 "
    "--override RATIOS=[4,4,2] --override SAMPLING_RATE=16000 --n_signal 16384 --batch 2"
)


def translated(line):
    return rave_line.translate(shlex.split(line), OWN)


def ours(line):
    return shlex.join(translated(line).words)


def refusal(line):
    with pytest.raises(UserError) as caught:
        translated(line)
    return str(caught.value)


def typed(line):
    """Run a command line of `latentdiff` in this process; its stderr."""
    done = CliRunner().invoke(cli.cli, shlex.split(line), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "preprocess --input_path a --input_path=b --output_path db --channels 2",
            "preprocess --audio a --audio b --run db --dataset db data.channels=2",
        ),
        (
            "preprocess --output_path db --num_signal 8 --nolazy --dyndb --max_db_size 3",
            "preprocess --run db --dataset db data.chunk=16",
        ),
        (
            "train --config v2 --config wasserstein.gin --db_path db --name z --gpu -1",
            "train-rave --dataset db --run runs/z --device cpu "
            '\'rave.configs=["v2", "wasserstein"]\'',
        ),
        ("train --name runs/z", "train-rave --run runs/z"),
        ("train --name z --out_path other/", "train-rave --run other/z"),
        ("train --name /a/z", "train-rave --run /a/z"),
        ("train --name z --channels 0 --gpu 0", "train-rave --run runs/z --device cuda"),
        (
            "train --name z --gpu 0 --gpu 1",
            "train-rave --run runs/z --device cuda rave.devices=2",
        ),
        (
            "train --name z --max_steps 9 --val_every 3 --batch 2 --workers 0 --n_signal 5",
            "train-rave --run runs/z rave.steps=9 rave.validate_every=3 rave.batch=2 "
            "rave.workers=0 rave.n_signal=5",
        ),
        (
            "train --name z --override PHASE_1_DURATION=5 --override a.b='c d' --augment mute",
            "train-rave --run runs/z rave.phase_1_steps=5 'rave.overrides=[\"a.b=c d\"]' "
            "'rave.augmentations=[\"mute\"]'",
        ),
        ("train --name z -ckpt other", "train-rave --run runs/z --ckpt other --continue"),
        (
            "train_rave --db_path d --run r rave.batch=2",
            "train_rave --run r rave.batch=2 --dataset d",
        ),
        ("train-rave -ckpt best --run r", "train-rave --ckpt best --run r"),
        ("sample -run r --seed -1", "sample --run r --seed -1"),
        (
            "encode --run r --db_path a --encoded_output_path e --batch 3",
            "encode --rave r --audio a --run e --latents e latents.batch=3",
        ),
        ("encode --run r --db_path a", "encode --run r --audio a"),
        (
            "decode --run r --latents_path l --decoded_output_path d",
            "decode --rave r --latents l --run d --output d",
        ),
        ("train --config my.yaml --run r", "train-rave --config my.yaml --run r"),
    ],
)
def test_words_of_rave_in_ours(line, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ours(line) == expected
    assert translated(line).notes[0] == f"run as: latentdiff {expected}"
    # What it is run as can be typed, and stays what it is.
    assert ours(expected) == expected and not translated(expected).notes


def test_our_own_words_stay_as_they_are():
    for command in cli.cli.commands.values():
        for line in getattr(command, "example", "").splitlines():
            assert translated(line.removeprefix("latentdiff ")).notes == []
    assert translated("").words == [] and translated("--version").words == ["--version"]
    assert translated("sample -v -q -c x -- -run").words == shlex.split("sample -v -q -c x -- -run")


def test_every_flag_of_rave_is_known():
    scripts = Path(importlib.util.find_spec("scripts.main_cli").origin).parent
    flags = {
        **{
            name: _defined(scripts / f"{name}.py")
            for name in ("preprocess", "train", "export", "generate")
        },
        "encode": {"db_path", "encoded_output_path", "run", "workers", "batch"},
        "decode": {"latents_path", "decoded_output_path", "run", "workers", "batch"},
    }
    assert {"name", "override", "smoke_test"} < flags["train"]
    for name, expected in flags.items():
        assert {flag.replace("_", "-") for flag in expected} <= set(
            rave_words.COMMANDS[name].flags
        ), name
    listed = ast.literal_eval(
        re.search(r"AVAILABLE_SCRIPTS = (\[.*?\])", (scripts / "main_cli.py").read_text(), re.S)[1]
    )
    assert {name.replace("_", "-") for name in listed} <= set(rave_words.COMMANDS)


def _defined(script):
    """Names of the flags that an absl script defines."""
    return {
        call.args[0].value
        for call in ast.walk(ast.parse(script.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "").startswith("DEFINE_")
    }


def test_none_of_these_words_is_in_the_help():
    for name, command in cli.cli.commands.items():
        text = command.get_help(click.Context(command, info_name=name)).replace("_", "-")
        known = next((c for c in rave_words.COMMANDS.values() if c.ours == name), None)
        for flag in set(known.flags if known else ()) - OWN[name]:
            assert f"--{flag}" not in text
    assert not {"train", "export", "generate"} & set(cli.cli.commands)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("preprocess --lazy --output_path x", "leave it out"),
        ("preprocess --ext wav", "a folder of their own"),
        ("train --name z --ema .999", "leave it out"),
        ("train --name z --normalize", "normalise the recordings"),
        ("train --name z --gpu 2 --gpu 3", "put CUDA_VISIBLE_DEVICES=2,3 before"),
        ("train --out_path x", "--name"),
        ("export --run a/b --streaming", "rave export --run a/b --name b --output . --streaming"),
        ("train_prior --model x", "latentdiff train-diffusion"),
        ("export_onnx --run x", "rave export_onnx"),
    ],
)
def test_what_is_missing_is_answered_with_what_to_type(line, expected):
    assert expected in refusal(line)


def test_unknown_words_get_a_suggestion():
    with pytest.raises(click.NoSuchOption, match="db_pth") as caught:
        translated("train --db_pth x")
    assert caught.value.possibilities == ["--db_path"]
    done = CliRunner().invoke(cli.cli, ["train", "--nonsense", "x"])
    assert done.exit_code == 2 and "No such option" in done.stderr
    done = CliRunner().invoke(cli.cli, ["trian"])
    assert done.exit_code == 2 and "did you mean 'train'?" in done.stderr


def test_a_run_of_rave_itself_is_not_written_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/z_abc").mkdir(parents=True)
    (tmp_path / "runs/z_abc/config.gin").touch()
    assert (
        ours("train --name runs/z_abc -ckpt runs/z_abc")
        == "train-rave --run runs/z_abc-latentdiff --ckpt runs/z_abc --continue"
    )


def test_a_checkpoint_of_the_run_itself_is_what_it_continues_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--ckpt runs/z/rave" in ours("train --name z --ckpt runs/z/rave")  # which is missing
    (tmp_path / "runs/z/rave").mkdir(parents=True)
    result = translated("train --name z --ckpt runs/z/rave")
    assert result.words == ["train-rave", "--run", "runs/z"]
    assert "continues from its last step" in result.notes[1]


def test_a_long_dash_is_refused_before_anything_else(monkeypatch, capsys):
    words = shlex.split("train --config v2 --db_path db --name z \u2014ckpt runs/z")
    monkeypatch.setattr("sys.argv", ["latentdiff", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and "type --ckpt" in capsys.readouterr().err


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A folder with chunks of 5 s, and a model trained on them by RAVE's words."""
    import soundfile

    root = tmp_path_factory.mktemp("notebook")
    rng = np.random.default_rng(0)
    time = np.arange(5 * RATE) / RATE
    for split, count in (("train", 3), ("validation", 2)):
        (root / "chunks" / split).mkdir(parents=True)
        for i in range(count):
            tone = np.sin(2 * np.pi * rng.uniform(80, 2000) * time) * np.exp(-6 * (time % 0.4))
            soundfile.write(root / f"chunks/{split}/{i}.wav", 0.5 * tone, RATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        typed(
            "preprocess --input_path chunks/train --output_path datasets/techno --channels 1 "
            "--sampling_rate 16000 --num_signal 16384"
        )
        typed(
            f"train --config v2 --db_path datasets/techno --name techno --max_steps 2 "
            f"--val_every 2 --save_every 2 --channels 1 --workers 0 --gpu -1 {TINY}"
        )
    return root


@pytest.mark.real
def test_the_commands_of_the_notebook(notebook, monkeypatch):
    monkeypatch.chdir(notebook)
    kept = runs.require_done(Path("datasets/techno"), "dataset", "preprocess").result
    assert kept["seconds_kept"] == kept["seconds_in"] == 15  # RAVE kept 2.97 s of each 5, or none
    # Continue from its own checkpoint, with RAVE's single dash and the folder in the name.
    told = typed(
        "train --config v2 --db_path datasets/techno --name runs/techno --max_steps 4 --val_every "
        f"2 --workers 0 --gpu -1 {TINY} -ckpt runs/techno"
    )
    assert "run as: latentdiff train-rave" in told and "continues from its last step" in told
    assert runs.read_run(Path("runs/techno/rave")).result["step"] == 4
    assert not Path("runs/runs").exists()
    # As it should have been typed: from the checkpoint of another run, which RAVE goes on with.
    typed(
        "train --config v2 --db_path datasets/techno --name again --max_steps 5 --val_every 1 "
        f"--workers 0 --gpu -1 {TINY} --ckpt runs/techno"
    )
    assert runs.read_run(Path("runs/again/rave")).result["step"] == 5
    assert runs.read_jsonl(Path("runs/again/rave/metrics.jsonl"))[0]["step"] >= 4
    for split in ("train", "validation"):
        typed(
            f"encode --run runs/techno --db_path chunks/{split} --encoded_output_path "
            f"latents/{split} --workers 10 --batch 8"
        )
    assert len(LatentStore.open(Path("latents/train")).entries) == 3
    # Latents that were encoded, as a control.
    typed(
        "decode --run runs/techno --latents_path latents/validation --decoded_output_path "
        "decoded/validation --workers 10 --batch 1"
    )
    assert sorted(path.name for path in Path("decoded/validation").glob("*.wav")) == [
        "0.wav",
        "1.wav",
    ]


@pytest.mark.real
def test_latents_of_another_program_are_decoded_with_the_rave_that_is_named(notebook, monkeypatch):
    monkeypatch.chdir(notebook)
    Path("diffusion").mkdir()
    for i in range(2):
        np.save(f"diffusion/{i}_0.npy", np.zeros((1, 16, 40), np.float32))
    typed(
        "decode --run runs/techno --latents_path diffusion --decoded_output_path decoded/diffusion"
    )
    assert len(list(Path("decoded/diffusion").glob("*.wav"))) == 2


@pytest.mark.real
def test_what_generate_answers_with_can_be_typed(notebook, monkeypatch):
    monkeypatch.chdir(notebook)
    answer = refusal("generate --model runs/techno --input chunks/validation --out_path made")
    lines = re.search(r"type: (.*)", answer)[1].split(" && ")
    assert len(lines) == 2
    for line in lines:
        typed(line.removeprefix("latentdiff "))
    assert len(list(Path("made/audio/latents").glob("*.wav"))) == 2
