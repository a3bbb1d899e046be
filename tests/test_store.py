"""The latent store: ours and plain folders, written in pieces, read as maps, damage named."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.latents.arrays import array_writer
from latentdiff.latents.store import (
    MANIFEST,
    Entry,
    LatentStore,
    read_array,
    same_fingerprint,
)


def latents(frames, dims=4, seed=0):
    return np.random.default_rng(seed).standard_normal((dims, frames)).astype(np.float32)


def make_store(root, frames=(5, 9, 7)):
    inputs = {"codec": runs.Input("codec.ckpt", "abc")}
    with runs.Stage(root, "encode", inputs=inputs) as stage:
        rows = []
        for i, count in enumerate(frames):
            for folder in ("mean", "std", "mel"):
                with array_writer(root / folder / f"{i}.npy") as writer:
                    writer.append(latents(count, seed=i, dims=6 if folder == "mel" else 4))
            split = "validation" if i == 1 else "train"
            paths = {name: f"{name}/{i}.npy" for name in ("mean", "std", "mel")}
            entry = Entry(f"a/{i}.wav", f"/m/{i}.wav", split, count * 10, count, label="a", **paths)
            rows.append(entry.row())
        runs.write_jsonl(root / MANIFEST, rows)
        stage.record(sample_rate=8000, hop=10, latent_dim=4, channels=1)
    return root


@pytest.mark.parametrize("pieces", [[1], [3, 4], [1, 1, 1, 250]])
def test_array_written_in_pieces_is_a_plain_npy(tmp_path, pieces):
    whole = latents(sum(pieces))
    with array_writer(tmp_path / "deep" / "x.npy") as writer:
        for piece in np.split(whole, np.cumsum(pieces)[:-1], axis=1):
            writer.append(piece)
    loaded = np.load(tmp_path / "deep" / "x.npy")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, whole)
    mapped = read_array(tmp_path / "deep" / "x.npy")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped[:, 1:3], whole[:, 1:3])


def test_interrupted_array_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), array_writer(tmp_path / "x.npy") as writer:
        writer.append(latents(3))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_our_store_round_trip(tmp_path):
    store = LatentStore.open(make_store(tmp_path / "latents"))
    assert (store.latent_dim, store.codec.fingerprint, store.codec.hop) == (4, "abc", 10)
    assert [entry.key for entry in store.entries] == ["a/0.wav", "a/1.wav", "a/2.wav"]
    assert [entry.key for entry in store.of("validation")] == ["a/1.wav"]
    entry = store.entries[2]
    assert (entry.samples, entry.label, entry.source) == (70, "a", "/m/2.wav")
    np.testing.assert_array_equal(store.mean(entry), latents(7, seed=2))
    np.testing.assert_array_equal(store.std(entry), latents(7, seed=2))
    assert store.features(entry, "mel").shape == (6, 7)


def test_folder_of_samples_is_a_store(tmp_path):
    inputs = {"codec": runs.Input("codec.ckpt", "abc")}
    with runs.Stage(tmp_path / "s", "sample", inputs=inputs) as stage:
        np.save(tmp_path / "s" / "seed3.npy", latents(8))
        row = {"key": "seed3", "mean": "seed3.npy", "frames": 8, "samples": 80, "seed": 3}
        runs.write_jsonl(tmp_path / "s" / MANIFEST, [row])
        stage.record(codec="abc", sample_rate=8000, hop=10, latent_dim=4, channels=1)
    store = LatentStore.open(tmp_path / "s")
    assert store.codec.fingerprint == "abc"
    np.testing.assert_array_equal(store.mean(store.entries[0]), latents(8))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_plain_folder_is_a_store(tmp_path, dtype):
    for i in range(12):
        array = latents(5 + i, seed=i).astype(dtype)
        (tmp_path / "in" / "sub").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "in" / ("sub" if i % 2 else ".") / f"{i}.npy", array[None])
    store = LatentStore.open(tmp_path / "in")
    assert store.codec is None and store.latent_dim == 4 and len(store.entries) == 12
    assert len(store.of("validation")) == 1 and len(store.of("train")) == 11
    assert {entry.label for entry in store.entries} == {None, "sub"}
    by_key = {entry.key: entry for entry in store.entries}
    entry = by_key["sub/3"]
    expected = latents(8, seed=3).astype(dtype)
    np.testing.assert_array_equal(store.mean(entry), expected)
    assert store.std(entry) is None and store.features(entry, "mel") is None
    assert store.fingerprint() == LatentStore.open(tmp_path / "in").fingerprint()


def test_one_file_is_a_store_of_one(tmp_path):
    np.save(tmp_path / "x.npy", latents(6))
    store = LatentStore.open(tmp_path / "x.npy")
    assert [(e.key, e.frames, e.split) for e in store.entries] == [("x", 6, "train")]


def test_one_file_of_our_store_knows_its_codec(tmp_path):
    root = make_store(tmp_path / "latents")
    store = LatentStore.open(root / "mean" / "1.npy")
    assert [entry.key for entry in store.entries] == ["a/1.wav"]
    assert store.codec.fingerprint == "abc"
    assert store.fingerprint() != LatentStore.open(root / "mean" / "2.npy").fingerprint()


def test_other_latents_under_the_same_names_have_another_fingerprint(tmp_path):
    root = make_store(tmp_path / "latents")
    before = LatentStore.open(root).fingerprint()
    np.save(root / "mean" / "1.npy", 2 * np.load(root / "mean" / "1.npy"))
    assert LatentStore.open(root).fingerprint() != before


def settle(root):
    """As if all files had been written a minute ago."""
    then = time.time() - 60
    for path in root.rglob("*.npy"):
        os.utime(path, (then, then))


def relabelled(store):
    return replace(store, entries=[replace(entry, label="b") for entry in store.entries])


def test_fingerprint_covers_labels_and_standard_deviations(tmp_path):
    root = make_store(tmp_path / "latents")
    store = LatentStore.open(root)
    before = store.fingerprint()
    assert relabelled(store).fingerprint() != before
    np.save(root / "std" / "1.npy", 2 * np.load(root / "std" / "1.npy"))
    assert store.fingerprint() != before
    # Neither changes what version 0.1 recorded: keys, splits, latents and mel features.
    latents = before.partition("+")[0]
    assert store.fingerprint().startswith(f"{latents}+")


def test_fingerprint_of_version_0_1_is_recognised(tmp_path):
    root = make_store(tmp_path / "latents")
    store = LatentStore.open(root)
    digest = hashlib.sha256()
    for i, entry in enumerate(store.entries):
        arrays = [runs.sha256_file(root / name / f"{i}.npy") for name in ("mean", "mel")]
        digest.update(f"{entry.key} {entry.split} {' '.join(arrays)}\n".encode())
    recorded = digest.hexdigest()
    now = store.fingerprint()
    assert recorded != now and same_fingerprint(recorded, now) and same_fingerprint(now, now)
    assert not same_fingerprint(now, relabelled(store).fingerprint())
    assert not same_fingerprint(now, recorded) and not same_fingerprint(None, now)
    np.save(root / "mel" / "1.npy", 2 * np.load(root / "mel" / "1.npy"))
    assert not same_fingerprint(recorded, store.fingerprint())


def test_without_labels_and_standard_deviations_the_fingerprint_is_that_of_version_0_1(tmp_path):
    np.save(tmp_path / "x.npy", latents(6))
    digest = hashlib.sha256(f"x train {runs.sha256_file(tmp_path / 'x.npy')}\n".encode())
    assert LatentStore.open(tmp_path / "x.npy").fingerprint() == digest.hexdigest()


def test_files_are_hashed_once_while_they_stay_the_same(tmp_path, monkeypatch):
    hashed = []
    real = runs.sha256_file
    monkeypatch.setattr(runs, "sha256_file", lambda path: hashed.append(path) or real(path))
    root = make_store(tmp_path / "latents")
    settle(root)
    store = LatentStore.open(root)
    first = store.fingerprint()
    assert len(hashed) == 9
    assert LatentStore.open(root).fingerprint() == first
    assert len(hashed) == 9
    np.save(root / "mean" / "1.npy", 2 * np.load(root / "mean" / "1.npy"))
    assert store.fingerprint() != first
    assert len(hashed) == 10


def test_split_of_a_plain_folder_survives_new_files(tmp_path):
    for i in range(40):
        np.save(tmp_path / f"{i}.npy", latents(5))
    before = {e.key for e in LatentStore.open(tmp_path).of("validation")}
    for i in range(40, 50):
        np.save(tmp_path / f"{i}.npy", latents(5))
    after = {e.key for e in LatentStore.open(tmp_path).of("validation")}
    assert len(before) == 4 and len(after) == 5 and len(before & after) >= 3


def test_missing_and_empty(tmp_path):
    with pytest.raises(UserError, match="no latents at"):
        LatentStore.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no \.npy file"):
        LatentStore.open(tmp_path)


def test_unfinished_store_is_refused(tmp_path):
    root = make_store(tmp_path / "latents")
    info = json.loads((root / "run.json").read_text())
    runs.write_json(root / "run.json", {**info, "status": "running"})
    with pytest.raises(UserError, match="not finished"):
        LatentStore.open(root)


def test_damaged_array_is_named(tmp_path):
    root = make_store(tmp_path / "latents")
    store = LatentStore.open(root)
    path = root / "mean" / "1.npy"
    whole = path.read_bytes()
    for data in (whole[:-4], whole[:40], b"", b"hello"):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"mean/1\.npy cannot be read"):
            store.mean(store.entries[1])
    path.unlink()
    with pytest.raises(UserError, match=r"mean/1\.npy"):
        store.mean(store.entries[1])
    np.save(path, latents(8))
    with pytest.raises(UserError, match="does not match the manifest"):
        store.mean(store.entries[1])


@pytest.mark.parametrize(
    "array",
    [np.zeros(5, np.float32), np.zeros((4, 0), np.float32), np.zeros((4, 5), np.int64)],
    ids=["1-d", "empty", "integers"],
)
def test_arrays_that_are_no_latents_are_named(tmp_path, array):
    np.save(tmp_path / "odd.npy", array)
    with pytest.raises(UserError, match=r"odd\.npy holds no latents"):
        LatentStore.open(tmp_path)


def test_pickled_array_is_not_opened(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"evil\.npy cannot be read"):
        LatentStore.open(tmp_path)


def test_mixed_dimensions_are_named(tmp_path):
    np.save(tmp_path / "a.npy", latents(5))
    np.save(tmp_path / "b.npy", latents(5, dims=3))
    with pytest.raises(UserError, match=r"b\.npy has 3 dimensions, a\.npy has 4"):
        LatentStore.open(tmp_path)


def test_transposed_latents_of_several_lengths_are_refused_with_the_remedy(tmp_path):
    for i, frames in enumerate((50, 70, 60)):
        np.save(tmp_path / f"{i}.npy", latents(frames).T)
    with pytest.raises(UserError, match=r"1\.npy has 70 dimensions, 0\.npy has 50") as error:
        LatentStore.open(tmp_path)
    assert "second axis of these is always 4" in str(error.value)
    # The remedy in the error message.
    command = error.value.do_this.partition(": ")[2]
    paths = " ".join(f"'{path}'" for path in sorted(tmp_path.glob("*.npy")))
    command = command.replace("python", shlex.quote(sys.executable), 1).replace("FILES", paths)
    subprocess.run(command, shell=True, check=True)
    assert LatentStore.open(tmp_path).latent_dim == 4


@pytest.mark.parametrize(
    ("shape", "warned"), [((50, 4), True), ((1, 50, 4), True), ((4, 50), False)]
)
def test_latents_that_may_be_transposed_are_warned_of(tmp_path, caplog, shape, warned):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.zeros(shape, np.float32))
    store = LatentStore.open(tmp_path)
    assert store.latent_dim == shape[-2]
    assert ("transpose them" in caplog.text) == warned


def test_short_clips_of_our_own_are_not_warned_of(tmp_path, caplog):
    LatentStore.open(make_store(tmp_path / "latents", frames=(2, 3, 2)))
    assert "transpose" not in caplog.text


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside.npy"])
def test_manifest_cannot_reach_outside(tmp_path, name):
    root = make_store(tmp_path / "latents")
    rows = runs.read_jsonl(root / MANIFEST)
    runs.write_jsonl(root / MANIFEST, [{**rows[0], "mean": name}])
    with pytest.raises(UserError, match="outside its folder"):
        LatentStore.open(root)
    runs.write_jsonl(root / MANIFEST, [{"key": "x"}])
    with pytest.raises(UserError, match="invalid line"):
        LatentStore.open(root)
