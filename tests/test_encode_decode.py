"""`encode` and `decode` from files to files, with a codec of twenty lines."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from latentdiff import audio as sound
from latentdiff import runs
from latentdiff.commands import decode as decoding
from latentdiff.commands.decode import decode
from latentdiff.commands.encode import encode
from latentdiff.commands.encode_progress import PROGRESS
from latentdiff.config import build
from latentdiff.errors import UserError
from latentdiff.evaluation.sound import level_db, spectral_distance
from latentdiff.latents.store import MANIFEST, LatentStore
from latentdiff.model.project import Project
from latentdiff.rave.codec import RaveCodec
from latentdiff.rave.load import Origin
from latentdiff.runs import Run


@pytest.fixture
def codec(monkeypatch, fake_codec, tmp_path):
    """`RaveCodec.open` gives the fake one, whatever it is asked for."""
    fake_codec.origin = Origin(tmp_path / "codec.ckpt", 1, 1)
    fake_codec.asked = []

    def open_(path, ckpt=None, device="cpu"):
        fake_codec.asked.append((path, ckpt))
        return fake_codec

    monkeypatch.setattr(RaveCodec, "open", staticmethod(open_))
    return fake_codec


@pytest.fixture
def run(tmp_path):
    """A run that has a codec."""
    run = Run(tmp_path / "run")
    run.rave.mkdir(parents=True)
    return run


def project(**sections):
    values = {"data": {"sample_rate": 8000}, "device": "cpu"}
    return build(Project, {**values, **sections})


def table(path):
    return runs.read_jsonl(path / MANIFEST)


def test_encode_writes_what_the_codec_returns(codec, run, audio_folder):
    assert encode(run, project(latents={"keep_std": True}), audio=[audio_folder]) == []
    store = LatentStore.open(run.latents)
    assert [entry.key for entry in store.entries][:2] == ["a/same.wav", "a/tune 1.wav"]
    assert len(store.entries) == 6 and len(store.of("validation")) == 1
    assert store.codec.fingerprint == codec.fingerprint
    for entry in store.entries:
        samples, _ = sound.read(Path(entry.source), 8000, 1)
        mean, std = codec.encode(torch.from_numpy(samples)[None])
        np.testing.assert_allclose(store.mean(entry), mean[0], atol=1e-6)
        np.testing.assert_allclose(store.std(entry), std[0])
        assert entry.samples == samples.shape[1] and entry.label in ("a", "b")
        mel = store.features(entry, "mel")
        assert mel.shape == (80, entry.frames) and 0 <= mel.min() < mel.max() <= 1
    result = runs.read_run(run.latents).result
    assert result["frames"] == sum(entry.frames for entry in store.entries)
    assert result["level_db"] == pytest.approx(-13, abs=3)
    assert not (run.latents / PROGRESS).exists() and not (run.latents / "std.npy").exists()


def test_array_files_are_named_like_the_recordings(codec, run, tmp_path, write_wav, melody):
    names = ["日本.wav", "中国.wav", "drum & bass.wav", "drum bass.wav", "own name.wav"]
    for seed, name in enumerate([*names, "a/same.wav", "b/same.wav"]):
        write_wav(tmp_path / "in" / name, melody(1, seed=seed))
    encode(run, project(), audio=[tmp_path / "in"])
    stems = {row["key"]: Path(row["mean"]).stem for row in table(run.latents)}
    assert len(set(stems.values())) == 7
    assert {stems[name] for name in names} >= {"日本", "中国", "own-name"}
    for entry in LatentStore.open(run.latents).entries:
        assert Path(entry.mel).stem == Path(entry.mean).stem == stems[entry.key]


def test_a_store_of_an_earlier_version_keeps_its_names(codec, run, audio_folder):
    """Its files had a hash in every name; an interrupted one is completed with the new names."""
    encode(run, project(), audio=[audio_folder])
    rows = table(run.latents)
    info = runs.read_run(run.latents)
    old = dict(rows[1])
    for folder in ("mean", "mel"):
        name = f"{folder}/tune-1-0a1b2c3d.npy"
        (run.latents / old[folder]).rename(run.latents / name)
        old[folder] = name
    source = Path(old["source"]).stat()
    old |= {"level": {"squares": 1.0, "count": 1, "peak": 1.0}, "posterior": [1.0] * 8}
    old["identity"] = [old["source"], source.st_size, source.st_mtime_ns, 0.0, None, old["split"]]
    del old["level_db"]
    runs.write_jsonl(run.latents / PROGRESS, [old])
    runs.write_json(run.latents / "run.json", {**info.to_json(), "status": "failed"})
    encode(run, project(), audio=[audio_folder])
    store = LatentStore.open(run.latents)
    names = [Path(entry.mean).stem for entry in store.entries]
    assert names[1] == "tune-1-0a1b2c3d" and names[2] == "tune-2"
    assert all(store.mean(entry).shape[1] == entry.frames for entry in store.entries)


def test_statistics_are_those_of_the_training_files(codec, run, audio_folder):
    from latentdiff.latents.statistics import LatentStatistics, fit

    encode(run, project(), audio=[audio_folder])
    store = LatentStore.open(run.latents)
    assert all(entry.std is None for entry in store.entries)
    saved = LatentStatistics.load(run.latents / "stats.safetensors")
    means = [store.mean(entry) for entry in store.of("train")]
    expected = fit((mean, np.full_like(mean, 0.01)) for mean in means)
    np.testing.assert_allclose(saved.covariance, expected.covariance, atol=1e-9)
    np.testing.assert_allclose(saved.posterior_variance, expected.posterior_variance, rtol=1e-5)
    assert saved.frames == expected.frames


def test_bad_files_are_skipped_and_the_rest_is_whole(codec, run, audio_folder, write_wav, caplog):
    bad = np.zeros(20_000, np.float32)
    bad[15_000] = np.nan
    write_wav(audio_folder / "nan.wav", bad, subtype="FLOAT")
    (audio_folder / "text.wav").write_text("not a sound")
    (audio_folder / "zero.wav").write_bytes(b"")
    write_wav(audio_folder / "short.wav", np.full(80, 0.1))
    write_wav(audio_folder / "silence.wav", np.zeros(9000))
    skipped = encode(run, project(latents={"chunk_seconds": 0.5}), audio=[audio_folder])
    assert len(skipped) == 3
    for name, reason in (("nan", "NaN"), ("text", "not audio"), ("zero", "0 bytes")):
        assert any(f"{name}.wav: " in line and reason in line for line in skipped), skipped
    keys = {row["key"]: row for row in table(run.latents)}
    assert len(keys) == 8 and keys["short.wav"]["frames"] == 2
    assert keys["silence.wav"]["level_db"] is None
    files = {path.name for path in (run.latents / "mean").iterdir()}
    assert files == {Path(row["mean"]).name for row in keys.values()}
    json.loads((run.latents / "run.json").read_text(), parse_constant=pytest.fail)


def test_nothing_but_bad_files_is_an_error(codec, run, tmp_path, write_wav):
    write_wav(tmp_path / "in" / "a.wav", np.full(900, np.nan), subtype="FLOAT")
    write_wav(tmp_path / "in" / "b.wav", np.full(900, np.inf), subtype="FLOAT")
    with pytest.raises(UserError, match="nothing could be encoded"):
        encode(run, project(), audio=[tmp_path / "in"])
    with pytest.raises(UserError, match="no such folder"):
        encode(run, project(), audio=[tmp_path / "nowhere"])


def test_the_end_of_a_single_file_is_held_out(codec, run, tmp_path, write_wav, melody):
    write_wav(tmp_path / "in" / "one.wav", melody(10))
    encode(run, project(data={"sample_rate": 8000, "validation": 0.2}), audio=[tmp_path / "in"])
    head, tail = LatentStore.open(run.latents).entries
    assert (head.split, tail.split) == ("train", "validation")
    assert (head.samples, tail.samples, tail.start) == (64_000, 16_000, 8.0)


def write_dataset(run, rows):
    counts = {"kept_seconds": 1.0, "dropped": {}, "clipped": 0, "first_chunk": 0, "chunks": 1}
    rows = [{**row, **counts} for row in rows]
    with runs.Stage(run.dataset, "preprocess"):
        runs.write_jsonl(run.dataset / MANIFEST, rows)


def test_dataset_decides_files_and_split(codec, run, audio_folder):
    paths = sorted(audio_folder.rglob("*.wav"))
    rows = [
        {"key": f"{split}/{path.parent.name}/{path.name}", "path": str(path), "sha256": None}
        | {"seconds": 1.0, "split": split}
        for path, split in zip(paths, ["train", "validation", "train", "train"], strict=False)
    ]
    rows[2]["sha256"] = "0" * 64  # it was another file then
    rows[3]["path"] += ".gone"
    rows.append({"key": None, "path": "/x/broken.mp3", "skipped": "damaged", "seconds": 0.0})
    write_dataset(run, rows)
    skipped = encode(run, project())
    assert [line.rpartition(": ")[2] for line in skipped] == [
        "the file has changed since `preprocess` read it",
        "the file is gone",
    ]
    assert [row["split"] for row in table(run.latents)] == ["train", "validation"]


def test_held_out_end_of_the_datasets_only_file(codec, run, tmp_path, write_wav, melody):
    path = write_wav(tmp_path / "one.wav", melody(4))
    row = {"key": "one.wav", "path": str(path), "sha256": runs.sha256_file(path), "seconds": 4.0}
    write_dataset(run, [{**row, "split": "train", "validation_from": 3.0}])
    assert encode(run, project(), check=True) == []
    samples = [(row["split"], row["samples"]) for row in table(run.latents)]
    assert samples == [("train", 24_000), ("validation", 8_000)]


def test_held_out_end_of_every_file(codec, run, tmp_path, write_wav, melody, caplog):
    caplog.set_level(logging.INFO)
    for name, seconds in ("long", 8), ("middle", 6), ("blip", 1):
        write_wav(tmp_path / "music" / f"{name}.wav", melody(seconds))
    settings = project(data={"hold_out": "ends"})
    assert encode(run, settings, audio=[tmp_path / "music"]) == []
    samples = {row["key"]: row["samples"] for row in table(run.latents)}
    assert samples == {
        "blip.wav": 8_000,
        "long train.wav": 57_600,
        "long validation.wav": 6_400,
        "middle train.wav": 43_200,
        "middle validation.wav": 4_800,
    }
    assert "3 files (2 held out, whole or their end)" in caplog.text
    # Both parts of a file are one recording, not two copies.
    assert "more than once" not in caplog.text


def test_no_dataset_and_no_audio(codec, run, tmp_path):
    with pytest.raises(UserError, match="--audio"):
        encode(run, project())
    run.dataset.mkdir(parents=True)
    (run.dataset / "data.mdb").write_bytes(b"")
    with pytest.raises(UserError, match="does not list its recordings"):
        encode(run, project())


def test_same_command_again(codec, run, audio_folder, caplog):
    caplog.set_level(logging.INFO)
    encode(run, project(), audio=[audio_folder])
    before = (run.latents / MANIFEST).stat().st_mtime_ns
    assert encode(run, project(), audio=[audio_folder]) == []
    assert "already done" in caplog.text
    # Settings that change no latents are no reason to encode again; others are refused.
    assert encode(run, project(latents={"keep": 3}), audio=[audio_folder]) == []
    assert (run.latents / MANIFEST).stat().st_mtime_ns == before
    for changed in ({"latents": {"keep_std": True}}, {"condition": {"mel": {"bands": 40}}}):
        with pytest.raises(UserError, match="made with other settings or inputs"):
            encode(run, project(**changed), audio=[audio_folder])
    codec.fingerprint = "e" * 64
    with pytest.raises(UserError, match="codec: another than then"):
        encode(run, project(), audio=[audio_folder])
    assert encode(run, project(), audio=[audio_folder], overwrite=True) == []


def test_interrupted_encode_continues_with_whole_files(codec, run, audio_folder, monkeypatch):
    inner, calls = codec.encode, []

    def interrupted(audio):
        calls.append(audio.shape)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return inner(audio)

    settings = project(latents={"chunk_seconds": 1.0})
    monkeypatch.setattr(codec, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(run, settings, audio=[audio_folder])
    whole = [json.loads(line)["key"] for line in (run.latents / PROGRESS).open()]
    assert 0 < len(whole) < 6 and runs.read_run(run.latents).status == "failed"
    assert not list(run.latents.rglob("*.partial"))
    with pytest.raises(UserError, match="not finished"):
        LatentStore.open(run.latents)
    with (run.latents / PROGRESS).open("a") as file:
        file.write('{"key": "cut in tw')
    touched = {p: p.stat().st_mtime_ns for p in (run.latents / "mean").iterdir()}
    calls[:] = [None] * 10
    encode(run, settings, audio=[audio_folder])
    assert all(path.stat().st_mtime_ns == time for path, time in touched.items())
    resumed = table(run.latents)
    fresh = Run(run.root / "fresh")
    encode(fresh, settings, audio=[audio_folder])
    assert resumed == table(fresh.latents)
    for name in ("stats.safetensors", *(row["mean"] for row in resumed)):
        assert (run.latents / name).read_bytes() == (fresh.latents / name).read_bytes()


def test_a_file_changed_since_the_interruption_is_encoded_again(
    codec, run, audio_folder, write_wav, melody
):
    settings = project()
    encode(run, settings, audio=[audio_folder])
    rows = table(run.latents)
    info = runs.read_run(run.latents)
    rows = [{**r, "identity": [], "level": {"squares": 1, "count": 1}} for r in rows]
    runs.write_jsonl(run.latents / PROGRESS, [{**r, "posterior": [1.0] * 8} for r in rows])
    runs.write_json(run.latents / "run.json", {**info.to_json(), "status": "failed"})
    encode(run, settings, audio=[audio_folder])
    assert runs.read_run(run.latents).result["level_db"] < -1


def test_check_reports_level_and_distance(codec, run, audio_folder, caplog):
    caplog.set_level(logging.INFO)
    encode(run, project(), audio=[audio_folder], check=True)
    assert "mean multi-scale spectral distance" in caplog.text
    from latentdiff.evaluation.reconstruction import check_reconstruction

    store = LatentStore.open(run.latents)
    (result,) = check_reconstruction(codec, store, project().latents)
    assert result.decoded_db == pytest.approx(result.original_db, abs=0.5)
    original, _ = soundfile.read(store.of("validation")[0].source, dtype="float32")
    mean, _ = codec.encode(torch.from_numpy(original)[None, None])
    decoded = codec.decode(mean)[0, 0, : len(original)].numpy()
    # Both amplified by what brings the recording to -20 dBFS.
    gain = 10 ** ((-20 - result.original_db) / 20)
    expected = spectral_distance(gain * original, gain * decoded)
    assert result.distance == pytest.approx(expected, rel=1e-3)
    assert result.verdict == "follows"


def test_dry_run_writes_nothing(codec, run, audio_folder):
    encode(run, project(), audio=[audio_folder], dry_run=True)
    assert list(run.root.iterdir()) == [run.rave]


def write_samples(run, name, arrays, codec, started="2026-01-01"):
    folder = run.samples / name
    inputs = {"codec": runs.Input(str(codec.origin.path), codec.fingerprint)}
    with runs.Stage(folder, "sample", inputs=inputs) as stage:
        for stem, array in arrays.items():
            np.save(folder / f"{stem}.npy", array)
        facts = ("sample_rate", "hop", "latent_dim", "channels")
        rows = [
            {"key": stem, "mean": f"{stem}.npy", "frames": array.shape[1], "samples": None}
            for stem, array in arrays.items()
        ]
        runs.write_jsonl(folder / MANIFEST, rows)
        stage.record(codec=codec.fingerprint, **{fact: getattr(codec, fact) for fact in facts})
    info = runs.read_run(folder).to_json()
    runs.write_json(folder / "run.json", {**info, "started": started})
    return folder


def latents(frames, scale=0.3, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal((8, frames))).astype(np.float32)


def test_encode_then_decode_gives_the_sound_back(codec, run, audio_folder):
    encode(run, project(), audio=[audio_folder])
    settings = project(latents={"chunk_seconds": 0.4, "batch": 2})
    assert decode(run, settings, latents=run.latents, name="back", audio_format="flac") == []
    rows = {row["key"]: row for row in table(run.audio / "back")}
    for entry in LatentStore.open(run.latents).entries:
        original, _ = soundfile.read(entry.source)
        decoded, rate = soundfile.read(run.audio / "back" / rows[entry.key]["file"])
        assert rate == 8000 and decoded.shape == original.shape
        assert level_db(decoded) == pytest.approx(level_db(original), abs=0.5)
        assert level_db(decoded - original) < level_db(original) - 10


@pytest.mark.parametrize("seconds", [0.1, 20.0])
def test_a_file_whose_end_was_held_out_comes_back_in_one_piece(
    codec, run, tmp_path, write_wav, melody, seconds
):
    """Both parts end within a frame: the padding must not sound between them."""
    settings = {"data": {"sample_rate": 8000, "validation": 0.3}}
    settings["latents"] = {"chunk_seconds": seconds}
    path = write_wav(tmp_path / "one.wav", melody(5)[:-7])
    encode(run, project(**settings), audio=[path])
    assert len(LatentStore.open(run.latents).entries) == 2
    decode(run, project(**settings), latents=run.latents, name="back")
    (row,) = table(run.audio / "back")
    assert (row["key"], row["file"]) == ("one.wav", "one.wav")
    original, _ = soundfile.read(path)
    decoded, _ = soundfile.read(run.audio / "back" / "one.wav")
    assert decoded.shape == original.shape
    assert level_db(decoded - original) < level_db(original) - 10
    assert runs.read_run(run.audio / "back").result["files"] == 1


def test_parts_that_do_not_follow_each_other_stay_apart(codec, run, tmp_path, write_wav, melody):
    path = write_wav(tmp_path / "one.wav", melody(5))
    encode(run, project(), audio=[path])
    head, tail = table(run.latents)
    runs.write_jsonl(run.latents / MANIFEST, [head, {**tail, "start": tail["start"] + 0.1}])
    decode(run, project(), latents=run.latents, name="parts")
    decode(run, project(), latents=run.latents / tail["mean"], name="end")
    names = {row["file"] for row in table(run.audio / "parts")}
    assert names == {"one-train.wav", "one-validation.wav"}
    assert [row["key"] for row in table(run.audio / "end")] == ["one validation.wav"]


def test_names_contain_the_seed_and_the_newest_samples_are_taken(codec, run):
    write_samples(run, "old", {"seed1-free": latents(9)}, codec, started="2026-01-02")
    write_samples(
        run, "new", {"seed3-free": latents(9), "seed4-free": latents(5)}, codec, "2026-02-01"
    )
    decode(run, project())
    names = {path.name for path in (run.audio / "new").glob("*.wav")}
    assert names == {"seed3-free.wav", "seed4-free.wav"}
    decode(run, project(), name="old")
    assert (run.audio / "old" / "seed1-free.wav").exists()
    with pytest.raises(UserError, match="did you mean 'old'"):
        decode(run, project(), name="odl")
    with pytest.raises(UserError, match="plain name"):
        decode(run, project(), latents=run.samples / "new", name="a/b")


def test_no_samples(codec, run):
    with pytest.raises(UserError, match="no samples"):
        decode(run, project())


def test_recorded_codec_is_used_unless_another_is_named(codec, run):
    write_samples(run, "s", {"seed1": latents(9)}, codec)
    decode(run, project())
    assert codec.asked[-1] == (run.rave, None)
    codec.origin.path.write_bytes(b"")
    decode(run, project(), overwrite=True)
    assert codec.asked[-1] == (codec.origin.path, None)
    decode(run, project(), ckpt="best", overwrite=True)
    assert codec.asked[-1] == (run.rave, "best")


def test_latents_of_another_codec_are_refused_unless_forced(codec, run, caplog):
    write_samples(run, "s", {"seed1": latents(9)}, codec)
    codec.fingerprint = "e" * 64
    with pytest.raises(UserError, match="of another codec"):
        decode(run, project())
    assert not run.audio.exists()
    assert decode(run, project(), force=True) == []
    assert "forced" in caplog.text


def test_wrong_number_of_dimensions_is_refused_even_when_forced(codec, run, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 7), np.float32))
    with pytest.raises(UserError, match="have 9 dimensions, the codec 8"):
        decode(run, project(), latents=tmp_path / "x.npy", force=True)


def test_transposed_latents_are_recognised(codec, run, tmp_path):
    np.save(tmp_path / "x.npy", latents(30).T)
    with pytest.raises(UserError, match=r"transposed(?s:.*)numpy\.save"):
        decode(run, project(), latents=tmp_path / "x.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_latents_are_named_and_leave_no_sound(codec, run, tmp_path, value):
    array = latents(6000)
    array[3, 5500] = value
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "bad.npy", array)
    with pytest.raises(UserError, match=r"bad\.npy has NaN or infinite"):
        decode(run, project(), latents=tmp_path / "in")
    assert not list(run.audio.rglob("*.wav*"))


def test_plain_folder_with_equal_names_loses_nothing(codec, run, tmp_path, caplog):
    for i, folder in enumerate("ab"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        np.save(tmp_path / "in" / folder / "x.npy", latents(5 + i)[None])
    decode(run, project(), latents=tmp_path / "in")
    assert len(list((run.audio / "in").glob("x-*.wav"))) == 2
    assert "the codec is unknown" in caplog.text


def test_existing_output_is_kept(codec, run, caplog):
    caplog.set_level(logging.INFO)
    write_samples(run, "one", {"seed1": latents(9)}, codec)
    write_samples(run, "two", {"seed2": latents(9)}, codec)
    decode(run, project(), latents=run.samples / "one", name="x")
    decode(run, project(), latents=run.samples / "one", name="x")
    assert "already done" in caplog.text
    with pytest.raises(UserError, match="holds a decode made with other settings or inputs"):
        decode(run, project(), latents=run.samples / "two", name="x")
    decode(run, project(), latents=run.samples / "two", name="x", overwrite=True)
    assert [path.name for path in (run.audio / "x").glob("*.wav")] == ["seed2.wav"]


def test_levels_limiting_and_near_silence_are_reported(codec, run, audio_folder, caplog):
    encode(run, project(), audio=[audio_folder])
    usual = runs.read_run(run.latents).result["level_db"]
    arrays = {"seed1": latents(200), "seed2": latents(200, 1e-4), "seed3": latents(200, 30)}
    arrays["seed4"] = np.zeros((8, 20), np.float32)
    write_samples(run, "s", arrays, codec)
    caplog.clear()
    decode(run, project())
    warned = " ".join(record.getMessage() for record in caplog.records)
    assert "seed2.wav is nearly silent" in warned and "seed4.wav is nearly silent" in warned
    assert "seed3.wav: peaks were turned down by up to" in warned and "seed1" not in warned
    rows = {row["key"]: row for row in table(run.audio / "s")}
    samples, _ = soundfile.read(run.audio / "s" / "seed1.wav")
    assert rows["seed1"]["level_db"] == pytest.approx(level_db(samples), abs=0.05)
    assert rows["seed3"]["limited_db"] > 3 and rows["seed3"]["clipped"] == 0
    assert rows["seed4"]["level_db"] is None
    assert runs.read_run(run.audio / "s").result["training_level_db"] == usual
    decode(run, project(), limit=False, overwrite=True)
    rows = {row["key"]: row for row in table(run.audio / "s")}
    assert rows["seed3"]["clipped"] > 0 and rows["seed3"]["limited_db"] == 0
    assert "samples beyond full scale were cut off" in caplog.text


def test_interrupted_decode_starts_again(codec, run, monkeypatch):
    write_samples(run, "s", {"seed1": latents(9), "seed2": latents(9)}, codec)
    real = decoding.sound.write

    def stop(path, *rest, **_):
        if path.stem == "seed2":
            raise KeyboardInterrupt
        return real(path, *rest, **_)

    with monkeypatch.context() as patch:
        patch.setattr(decoding.sound, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            decode(run, project())
    assert decode(run, project()) == []
    assert len(list((run.audio / "s").glob("*.wav"))) == 2


def test_decode_dry_run_writes_nothing(codec, run):
    write_samples(run, "s", {"seed1": latents(9)}, codec)
    decode(run, project(), dry_run=True)
    assert not run.audio.exists()


@pytest.mark.real
def test_with_a_real_rave(run, rave_run, audio_folder):
    assert encode(run, project(), rave=rave_run, audio=[audio_folder], check=True) == []
    assert decode(run, project(), latents=run.latents, name="back") == []
    rows = table(run.audio / "back")
    assert len(rows) == 6 and all(math.isfinite(row["level_db"] or 0) for row in rows)
