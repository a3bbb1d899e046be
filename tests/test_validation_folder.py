"""`--validation`: a folder that is held out, and may not overlap what is trained on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from latentdiff import cli, config, runs
from latentdiff.audio import find_split
from latentdiff.commands.encode import encode
from latentdiff.commands.preprocess import preprocess
from latentdiff.commands.train_diffusion import train_diffusion
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_model
from latentdiff.runs import Run
from latentdiff.training import checkpoint


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def held_out(tmp_path, write_wav, melody):
    """Two tunes that `audio_folder` does not have, one by a name that it has."""
    for i, name in enumerate(("a/same.wav", "new.wav")):
        write_wav(tmp_path / "held out" / name, melody(2, seed=50 + i))
    return tmp_path / "held out"


def project(**data):
    settings = {"sample_rate": 8000, "chunk": 4096, "workers": 1, **data}
    return config.build(Project, {"data": settings})


def typed(*words):
    done = CliRunner().invoke(cli.cli, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


# --- audio


def test_the_named_folder_is_what_preprocess_holds_out(run, audio_folder, held_out):
    words = ["preprocess", "--run", run.root, "data.sample_rate=8000", "data.chunk=4096"]
    typed(*words, "--audio", audio_folder, "--validation", held_out)
    rows = runs.read_jsonl(run.dataset / "manifest.jsonl")
    split = {row["key"]: row["split"] for row in rows}
    assert {key for key, side in split.items() if side == "validation"} == {
        "validation/a/same.wav",
        "validation/new.wav",
    }
    assert split["a/same.wav"] == "train" and len(split) == 8
    # The run remembers it: the same without --validation is the same.
    assert config.read_yaml(run.config)["data"]["validation_audio"] == [str(held_out)]
    before = (run.dataset / "run.json").read_bytes()
    typed("preprocess", "--run", run.root, "--audio", audio_folder)
    assert (run.dataset / "run.json").read_bytes() == before


def test_encode_holds_out_the_named_folder(run, codec, audio_folder, held_out):
    encode(run, project(validation_audio=[str(held_out)]), audio=[audio_folder])
    store = LatentStore.open(run.latents)
    assert [entry.key for entry in store.of("validation")] == [
        "validation/a/same.wav",
        "validation/new.wav",
    ]
    assert len(store.of("train")) == 6 and {e.label for e in store.of("train")} == {"a", "b"}


def test_encode_keeps_the_split_of_a_dataset(run, codec, audio_folder, held_out):
    preprocess(run, project(validation_audio=[str(held_out)]), audio=[audio_folder])
    encode(run, project(validation_audio=[str(held_out)]))
    assert len(LatentStore.open(run.latents).of("validation")) == 2
    with pytest.raises(UserError, match="a split of its own"):
        encode(Run(run.root.parent / "b"), project(validation_audio=["x"]), dataset=run.dataset)


@pytest.mark.parametrize(
    ("training", "validation"),
    [("music", "music"), ("music", "music/a"), ("music/a", "music"), ("music", "music/a/same.wav")],
)
def test_an_overlap_is_refused_before_anything_is_written(
    run, tmp_path, audio_folder, training, validation
):
    settings = project(validation_audio=[str(tmp_path / validation)])
    with pytest.raises(UserError, match=r"are also training files: .* overlap"):
        preprocess(run, settings, audio=[tmp_path / training])
    assert not run.root.exists()


def test_a_link_into_the_training_files_and_a_copy_are_refused(run, audio_folder, held_out):
    (held_out / "link.wav").symlink_to(audio_folder / "a" / "same.wav")
    with pytest.raises(UserError, match=r"link\.wav is .*same\.wav"):
        find_split([audio_folder], [held_out])
    (held_out / "link.wav").unlink()
    shutil.copy(audio_folder / "a" / "same.wav", held_out / "copy.wav")
    with pytest.raises(UserError, match="also in the training files"):
        preprocess(run, project(validation_audio=[str(held_out)]), audio=[audio_folder])


def test_silence_cannot_be_validated_on(run, tmp_path, audio_folder, write_wav):
    write_wav(tmp_path / "silent" / "x.wav", np.zeros(8000, np.float32))
    with pytest.raises(UserError, match="no sound in the validation files"):
        preprocess(run, project(validation_audio=[str(tmp_path / "silent")]), audio=[audio_folder])


def test_files_to_validate_on_must_be_readable(run, tmp_path, codec, audio_folder):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match="no sound in the validation files"):
        encode(run, project(validation_audio=[str(tmp_path / "broken")]), audio=[audio_folder])


def test_keys_of_a_training_folder_called_validation_stay_apart(tmp_path, write_wav, melody):
    for place in ("train/validation", "held out"):
        write_wav(tmp_path / place / "x.wav", melody(1))
    found = find_split([tmp_path / "train"], [tmp_path / "held out"])
    assert [key for key, _ in found.files] == ["validation-/x.wav", "validation/x.wav"]
    assert found.held_out == {"validation-/x.wav"}


# --- latents


def arrays(folder, count=4, dims=6, seed=0):
    """Files of latents that change slowly."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        noise = rng.standard_normal((dims, 208))
        slow = sum(noise[:, k : k + 200] for k in range(8))
        np.save(folder / f"{i}.npy", slow.astype(np.float32))
    return folder


def small(validation):
    values = {
        "network": {"name": "tiny", "channels": 16, "kernel": 3},
        "training": {
            "steps": 10,
            "batch": 8,
            "window": 32,
            "validation_latents": str(validation),
        },
        "condition": {"kinds": "none"},
        "device": "cpu",
    }
    return config.build(Project, values)


def test_latents_are_validated_on_another_folder(run, tmp_path):
    train, other = arrays(tmp_path / "train"), arrays(tmp_path / "other", 2, seed=1)
    train_diffusion(run, small(other), latents=train)
    assert runs.require_done(run.diffusion, "x", "x").result["validated"]
    # Whoever measures the model later gets the same split.
    _, store = open_model(run, None, None, "cpu")
    assert [entry.key for entry in store.of("train")] == ["0", "1", "2", "3"]
    assert [entry.key for entry in store.of("validation")] == ["validation/0", "validation/1"]
    np.testing.assert_array_equal(store.mean(store.of("validation")[1]), np.load(other / "1.npy"))
    assert len(LatentStore.open(train).of("validation")) == 1  # without it, a tenth


def test_stores_of_encode_can_be_one_for_each_side(tmp_path, make_store):
    first = LatentStore.open(make_store(tmp_path / "a", mel=True))
    both = first.with_validation(make_store(tmp_path / "b", files=3, mel=True, seed=1))
    assert (len(both.of("train")), len(both.of("validation"))) == (10, 3)
    held_out = both.of("validation")[0]
    assert both.features(held_out, "mel").shape == (1, 300)
    assert both.fingerprint() != first.fingerprint()


@pytest.mark.parametrize(
    ("validation", "dims", "message"),
    [
        ("train", None, "overlap"),
        ("train/below", 6, "overlap"),
        (".", None, "overlap"),
        ("other", 5, "they have 5 dimensions, and the others 6"),
    ],
)
def test_folders_of_latents_that_cannot_be_used_together(run, tmp_path, validation, dims, message):
    train = arrays(tmp_path / "train")
    if dims is not None:
        arrays(tmp_path / validation, dims=dims, seed=1)
    with pytest.raises(UserError, match=message):
        train_diffusion(run, small(tmp_path / validation), latents=train)
    assert not run.diffusion.exists()


def test_a_copy_among_the_training_files_is_refused(run, tmp_path):
    train, other = arrays(tmp_path / "train"), arrays(tmp_path / "other", seed=1)
    shutil.copy(train / "2.npy", other / "3.npy")
    with pytest.raises(UserError, match="also in the training files") as caught:
        train_diffusion(run, small(other), latents=train)
    assert "validation/3 is 2" in caught.value.why


def test_the_option_is_remembered(run, tmp_path, monkeypatch):
    train, other = arrays(tmp_path / "train"), arrays(tmp_path / "other", 2, seed=1)
    monkeypatch.chdir(tmp_path)
    words = ["network.name=tiny", "training.steps=4", "training.batch=8", "training.window=32"]
    start = ["train-diffusion", "--run", run.root, "--latents", train]
    typed(*start, "--validation", "other", "condition.kinds=none", *words)
    remembered = config.read_yaml(run.config)["training"]["validation_latents"]
    assert remembered == str(other)
    assert checkpoint.best(run.diffusion).exists()
    before = (run.diffusion / "run.json").read_bytes()
    typed(*start)
    assert (run.diffusion / "run.json").read_bytes() == before
