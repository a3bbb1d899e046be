"""`encode` into a finished store that lacks a kind of condition features."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from latentdiff import runs
from latentdiff.commands import encode_features
from latentdiff.commands.encode import encode
from latentdiff.commands.encode_addition import PROGRESS
from latentdiff.config import build
from latentdiff.errors import UserError
from latentdiff.latents.store import MANIFEST, LatentStore, same_fingerprint
from latentdiff.model.project import Project
from latentdiff.runs import Run


@pytest.fixture
def run(tmp_path, codec):
    """A run that has a codec."""
    run = Run(tmp_path / "run")
    run.rave.mkdir(parents=True)
    return run


@pytest.fixture
def encoded(run, audio_folder):
    """A run with a finished store of style and mel."""
    encode(run, project("style"), audio=[audio_folder])
    return run


@pytest.fixture
def writes(monkeypatch):
    """The keys of the recordings whose features were computed, in order."""
    keys, inner = [], encode_features.FeatureWriter.write

    def write(self, job, *rest):
        keys.append(job.key)
        return inner(self, job, *rest)

    monkeypatch.setattr(encode_features.FeatureWriter, "write", write)
    return keys


def project(kinds, **sections):
    condition = {"kinds": kinds, **sections.pop("condition", {})}
    values = {"data": {"sample_rate": 8000}, "device": "cpu", "condition": condition}
    return build(Project, {**values, **sections})


def contents(folder, without=("log.txt",)):
    """Path -> bytes of all files."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in without]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def interrupt_after(count, monkeypatch):
    """Let the features of `count` recordings be written, then press Ctrl-C."""
    inner, written = encode_features.FeatureWriter.write, []

    def write(self, job, *rest):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(job.key)
        return inner(self, job, *rest)

    monkeypatch.setattr(encode_features.FeatureWriter, "write", write)
    return written


def test_missing_features_are_added_and_latents_stay(encoded, audio_folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    before = contents(encoded.latents)
    times = {name: (encoded.latents / name).stat().st_mtime_ns for name in before}
    fingerprint = LatentStore.open(encoded.latents).fingerprint()
    info = runs.read_run(encoded.latents)
    assert encode(encoded, project("style,chroma,loudness"), audio=[audio_folder]) == []
    assert "features of chroma, loudness, added to the latents" in caplog.text
    assert "chroma: 6 of 6 files have it" in caplog.text
    after = contents(encoded.latents)
    for name in before.keys() - {MANIFEST, "run.json"}:
        assert after[name] == before[name]
        assert (encoded.latents / name).stat().st_mtime_ns == times[name]
    # The store is what encoding it all at once would have made.
    fresh = Run(tmp_path / "fresh")
    encode(fresh, project("style,chroma,loudness"), audio=[audio_folder])
    expected = contents(fresh.latents)
    assert after.keys() == expected.keys()
    assert all(after[name] == expected[name] for name in after if name.endswith(".npy"))
    assert runs.read_jsonl(encoded.latents / MANIFEST) == runs.read_jsonl(fresh.latents / MANIFEST)
    now, other = runs.read_run(encoded.latents), runs.read_run(fresh.latents)
    assert now.is_done and now.inputs == other.inputs and now.result == info.result
    # What was made from the store before is still up to date.
    store = LatentStore.open(encoded.latents)
    assert same_fingerprint(fingerprint, store.fingerprint())
    assert not same_fingerprint(store.fingerprint(), fingerprint)
    # The same command again has nothing to do.
    encode(encoded, project("style,chroma,loudness"), audio=[audio_folder])
    assert "already done" in caplog.text


def test_changed_features_have_another_fingerprint(encoded, audio_folder):
    encode(encoded, project("chroma"), audio=[audio_folder])
    store = LatentStore.open(encoded.latents)
    before = store.fingerprint()
    np.save(encoded.latents / store.entries[0].features["chroma"], np.zeros((12, 1)))
    assert not same_fingerprint(before, store.fingerprint())


def test_interruption_leaves_the_store_as_it_was(
    encoded, audio_folder, monkeypatch, writes, caplog
):
    caplog.set_level(logging.INFO)
    before = contents(encoded.latents)
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            encode(encoded, project("chroma"), audio=[audio_folder])
    during = contents(encoded.latents)
    assert {name: during[name] for name in before} == before
    assert not list(encoded.latents.rglob("*.partial"))
    store = LatentStore.open(encoded.latents)
    assert not store.entries[0].features
    with (encoded.latents / PROGRESS).open("a") as file:
        file.write('{"key": "cut in tw')
    done = writes.copy()
    # The same command continues with the other recordings.
    encode(encoded, project("chroma"), audio=[audio_folder])
    assert "continuing: 2 of 6 files are done" in caplog.text
    assert len(done) == 2 and len(writes) == 6 and len(set(writes)) == 6
    store = LatentStore.open(encoded.latents)
    assert all("chroma" in entry.features for entry in store.entries)
    assert not (encoded.latents / PROGRESS).exists()


def test_interrupted_features_of_other_settings_are_made_again(
    encoded, audio_folder, monkeypatch, writes
):
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            encode(encoded, project("chroma"), audio=[audio_folder])
    writes.clear()
    other = project("chroma", condition={"chroma": {"hop": 512}})
    encode(encoded, other, audio=[audio_folder])
    assert len(writes) == 6


def test_interruption_between_manifest_and_record(encoded, audio_folder, monkeypatch, writes):
    """The manifest comes first: a store that is recorded to have features has them all."""
    with monkeypatch.context() as patch:
        patch.setattr(runs.StageExtension, "_write", lambda self: None)
        encode(encoded, project("chroma"), audio=[audio_folder])
    assert runs.read_run(encoded.latents).is_done
    assert "condition.chroma" not in runs.read_run(encoded.latents).inputs
    encode(encoded, project("chroma"), audio=[audio_folder])
    assert "condition.chroma" in runs.read_run(encoded.latents).inputs


def test_dry_run_says_what_would_be_added(encoded, audio_folder, caplog):
    caplog.set_level(logging.INFO)
    before = contents(encoded.root)
    encode(encoded, project("chroma"), audio=[audio_folder], dry_run=True)
    assert "6 files, 12.0 s of audio -> features of chroma, added to the latents" in caplog.text
    assert contents(encoded.root) == before


def test_other_differences_are_refused(encoded, codec, audio_folder, write_wav, melody):
    before = contents(encoded.root)
    chroma = project("chroma")
    changed = project("chroma", latents={"keep_std": True})
    mel = project("chroma", condition={"mel": {"bands": 40}})
    for settings, line in ((changed, "latents.keep_std"), (mel, "condition.mel")):
        for dry_run in (False, True):
            with pytest.raises(UserError, match=f"other settings or inputs:\n    {line}"):
                encode(encoded, settings, audio=[audio_folder], dry_run=dry_run)
    codec.fingerprint = "e" * 64
    with pytest.raises(UserError, match="codec: another than then"):
        encode(encoded, chroma, audio=[audio_folder])
    codec.fingerprint = "f" * 64
    write_wav(audio_folder / "a" / "new.wav", melody(1))
    with pytest.raises(UserError, match="audio: another than then"):
        encode(encoded, chroma, audio=[audio_folder])
    assert contents(encoded.root) == before


def test_overwrite_still_encodes_everything(encoded, audio_folder, caplog):
    caplog.set_level(logging.INFO)
    encode(encoded, project("chroma"), audio=[audio_folder], overwrite=True)
    assert "added to the latents" not in caplog.text
    assert "condition.chroma" in runs.read_run(encoded.latents).inputs


def test_recordings_that_are_gone_leave_the_store_whole(encoded, audio_folder, monkeypatch):
    before = contents(encoded.latents)
    gone = audio_folder / "a" / "same.wav"
    inner = encode_features.FeatureWriter.write

    def write(self, job, *rest):
        gone.rename(gone.with_suffix(".old")) if gone.exists() else None
        return inner(self, job, *rest)

    monkeypatch.setattr(encode_features.FeatureWriter, "write", write)
    with pytest.raises(UserError, match="some recordings of the latents"):
        encode(encoded, project("chroma"), audio=[audio_folder])
    after = contents(encoded.latents)
    assert {name: after[name] for name in before} == before


def test_known_beats_come_with_the_beat(encoded, audio_folder, tmp_path):
    csv = tmp_path / "beats.csv"
    csv.write_text("key,time\n" + "".join(f"a/same.wav,{x / 4}\n" for x in range(1, 5)))
    data = {"sample_rate": 8000, "beats": str(csv)}
    encode(encoded, project("beat", data=data), audio=[audio_folder])
    store = LatentStore.open(encoded.latents)
    assert "beat" in store.entries[0].features
    assert "data.beats" in runs.read_run(encoded.latents).inputs
    csv.write_text(csv.read_text().replace("0.25", "0.2"))
    with pytest.raises(UserError, match=r"data\.beats: another than then"):
        encode(encoded, project("beat,chroma", data=data), audio=[audio_folder])


def test_names_of_an_earlier_version_are_kept(encoded, audio_folder):
    """A store whose files are called otherwise than today."""
    rows = runs.read_jsonl(encoded.latents / MANIFEST)
    (encoded.latents / rows[0]["mean"]).rename(encoded.latents / "mean/old-0a1b2c3d.npy")
    rows[0]["mean"] = "mean/old-0a1b2c3d.npy"
    runs.write_jsonl(encoded.latents / MANIFEST, rows)
    encode(encoded, project("chroma"), audio=[audio_folder])
    assert LatentStore.open(encoded.latents).entries[0].features == {
        "chroma": "chroma/old-0a1b2c3d.npy"
    }
