"""preprocess: every second accounted for, the same bytes with any number of workers, no hang."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml

from latentdiff import audio, config, runs, split
from latentdiff.commands import preprocess as room
from latentdiff.commands import record_writer as spool
from latentdiff.commands.preprocess import preprocess
from latentdiff.errors import UserError
from latentdiff.model.project import Project
from latentdiff.rave import compat, database
from latentdiff.rave.database import DatabaseWriter, RaveDatabase
from latentdiff.runs import Run

RATE, CHUNK = 8000, 4096


def project(seed=0, **data):
    settings = {"sample_rate": RATE, "chunk": CHUNK, "workers": 2, **data}
    return config.build(Project, {"data": settings, "seed": seed})


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def result(run):
    return runs.require_done(run.dataset, "dataset", "preprocess").result


def manifest(run):
    return runs.read_jsonl(run.dataset / "manifest.jsonl")


def sound_of(run, row):
    """The samples of one file, as the database has them: [channels, N] without its padding."""
    reader = RaveDatabase(run.dataset)
    chunks = range(row["first_chunk"], row["first_chunk"] + row["chunks"])
    whole = np.concatenate([reader.read(i) for i in chunks], axis=1)
    return whole[:, : round(row["kept_seconds"] * RATE)], whole[:, round(row["seconds"] * RATE) :]


def assert_accounted(run):
    facts, rows = result(run), manifest(run)
    for row in rows:
        assert row["seconds"] == pytest.approx(row["kept_seconds"] + sum(row["dropped"].values()))
    assert facts["seconds_in"] == pytest.approx(sum(row["seconds"] for row in rows))
    assert facts["seconds_in"] == pytest.approx(
        facts["seconds_kept"] + sum(facts["dropped"].values())
    )
    assert facts["chunks"] == len(RaveDatabase(run.dataset))
    assert facts["chunks"] == facts["train_chunks"] + facts["validation_chunks"]


# --- the dataset --------------------------------------------------------------------------------


def test_every_sample_is_in_the_database_tails_and_short_files_too(run, audio_folder):
    assert preprocess(run, project(), audio=[audio_folder]) == []
    rows = manifest(run)
    assert [row["key"] for row in rows] == [key for key, _ in audio.find([audio_folder]).files]
    for row in rows:
        kept, padding = sound_of(run, row)
        want, _ = audio.read(audio_folder / row["key"])
        np.testing.assert_allclose(kept / database.FULL_SCALE, want, atol=1e-4)
        assert not padding.any()
        assert row["path"] == str(audio_folder / row["key"])
        assert row["sha256"] == runs.sha256_file(audio_folder / row["key"])
    assert_accounted(run)
    assert result(run)["seconds_in"] == pytest.approx(sum(1 + 0.4 * i for i in range(6)))
    assert result(run)["dropped"] == {}
    assert result(run)["fingerprint"] == runs.sha256_file(run.dataset / "manifest.jsonl")


def test_rave_reads_what_was_written(run, audio_folder):
    preprocess(run, project(channels=2), audio=[audio_folder])
    metadata = yaml.safe_load((run.dataset / "metadata.yaml").read_text())
    chunks = result(run)["chunks"]
    want = {"sr": RATE, "channels": 2, "lazy": False, "n_seconds": chunks * CHUNK / RATE}
    assert metadata == want
    compat.prepare()
    # In a process of its own: LMDB opens a path once a process.
    code = f"""
from latentdiff.rave import compat
compat.prepare()
import numpy as np
from rave.dataset import AudioDataset, get_channels_from_dataset
dataset = AudioDataset({str(run.dataset)!r}, n_channels=2)
assert dataset.keys == [b"%08d" % i for i in range({chunks})]
assert get_channels_from_dataset({str(run.dataset)!r}) == 2
np.save({str(run.root / "rave.npy")!r}, np.stack([dataset[i] for i in range(len(dataset))]))
from udls import AudioExample
import lmdb
with dataset.env.begin() as transaction:
    assert AudioExample(transaction.get(b"00000000")).get("waveform").shape == (2, {CHUNK})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reader = RaveDatabase(run.dataset)
    ours = np.stack([reader.read(i) for i in range(chunks)]) / database.FULL_SCALE
    np.testing.assert_allclose(np.load(run.root / "rave.npy"), ours, atol=1e-6)


def test_the_database_does_not_depend_on_the_number_of_workers(tmp_path, audio_folder):
    made = []
    for workers in (1, 2, 7):
        run = Run(tmp_path / str(workers))
        preprocess(run, project(workers=workers, sample_rate=6000), audio=[audio_folder])
        files = ["data.mdb", "metadata.yaml", "manifest.jsonl"]
        made.append([(run.dataset / name).read_bytes() for name in files])
    assert made[0] == made[1] == made[2]


def test_silence_is_dropped_where_asked_and_accounted(tmp_path, write_wav, melody):
    tune = melody(CHUNK * 4 / RATE)
    tune[CHUNK : 2 * CHUNK] = 1e-5
    write_wav(tmp_path / "music" / "a.wav", tune)
    write_wav(tmp_path / "music" / "b.wav", melody(2, seed=1))
    write_wav(tmp_path / "music" / "silent.wav", np.zeros(RATE))
    keeps, drops = Run(tmp_path / "keeps"), Run(tmp_path / "drops")
    preprocess(keeps, project(), audio=[tmp_path / "music"])
    assert result(keeps)["dropped"] == {}
    assert preprocess(drops, project(silence_db=-60), audio=[tmp_path / "music"]) == []
    rows = {row["key"]: row for row in manifest(drops)}
    assert rows["a.wav"]["dropped"] == {"silence": pytest.approx(CHUNK / RATE)}
    assert rows["a.wav"]["chunks"] == 3
    assert rows["silent.wav"]["dropped"] == {"silence": 1.0} and rows["silent.wav"]["chunks"] == 0
    assert_accounted(drops)


def test_bad_files_are_skipped_listed_and_accounted(tmp_path, run, write_wav, melody):
    music = tmp_path / "music"
    write_wav(music / "good.wav", melody(2))
    write_wav(music / "Ünï \"code\" 'name'.wav", melody(2, seed=1))
    write_wav(music / ("x" * 200 + ".wav"), melody(1, seed=2))
    write_wav(music / "short.wav", melody(0.01))
    write_wav(music / "deep" / "good.wav", melody(1, seed=3))
    write_wav(music / "high.wav", melody(1, 192_000), 192_000, "PCM_24")
    write_wav(music / "six.wav", np.stack([melody(1)] * 6))
    nan = melody(2)
    nan[9000] = np.nan
    write_wav(music / "nan.wav", nan, subtype="FLOAT")
    (music / "text.wav").write_text("not sound at all\n" * 100)
    (music / "zero.flac").touch()
    (music / "._good.wav").write_bytes(b"mac")
    (music / "loop").symlink_to(music, target_is_directory=True)
    skipped = preprocess(run, project(), audio=[music])
    assert [line.split(": ")[0] for line in skipped] == [
        str(music / name) for name in ("nan.wav", "text.wav", "zero.flac")
    ]
    assert "NaN or Inf samples, the first at 1.125 s" in skipped[0]
    assert len([row for row in manifest(run) if "skipped" not in row]) == 7
    assert result(run)["dropped"] == {"unreadable": 2.0}
    assert (result(run)["skipped"], result(run)["hidden"]) == (3, 1)
    assert_accounted(run)


def test_a_dry_run_names_what_the_run_would_skip(tmp_path, run, write_wav, melody, caplog):
    music = tmp_path / "music"
    write_wav(music / "good.wav", melody(2))
    write_wav(music / "six.wav", np.stack([melody(1)] * 6))
    with caplog.at_level("INFO", logger="latentdiff"):
        preprocess(run, project(channels=2), audio=[music], dry_run=True)
    assert "would skip" in caplog.text and "6 channels cannot become 2" in caplog.text
    assert "would read 1 files" in caplog.text
    (line,) = preprocess(run, project(channels=2), audio=[music])
    assert "6 channels cannot become 2" in line


def test_stereo_is_kept_or_mixed_down_and_never_halved(tmp_path, write_wav, melody):
    right = np.stack([np.zeros(RATE), melody(1)])
    write_wav(tmp_path / "music" / "right.wav", right, subtype="FLOAT")
    write_wav(tmp_path / "music" / "mono.wav", melody(1), subtype="FLOAT")
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    preprocess(one, project(), audio=[tmp_path / "music"])
    preprocess(two, project(channels=2), audio=[tmp_path / "music"])
    (mono, mixed), (doubled, kept) = ([sound_of(r, m)[0] for m in manifest(r)] for r in (one, two))
    np.testing.assert_allclose(mixed, mono / 2, atol=1)
    assert (doubled[0] == doubled[1]).all()
    assert not kept[0].any() and (kept[1] == mono[0]).all()


def test_clipping_is_counted(tmp_path, run, write_wav, melody):
    loud = melody(1)
    loud[100:110] = 1.5
    write_wav(tmp_path / "music" / "a.wav", loud, subtype="FLOAT")
    write_wav(tmp_path / "music" / "b.wav", melody(1))
    preprocess(run, project(), audio=[tmp_path / "music"])
    assert result(run)["clipped"] == 10
    assert sound_of(run, manifest(run)[0])[0].max() == database.FULL_SCALE


# --- the split ----------------------------------------------------------------------------------


def held_out(run):
    return {row["key"] for row in manifest(run) if row["split"] == "validation"}


def test_the_split_is_by_file_seeded_and_has_both_sides(tmp_path, audio_folder):
    splits = []
    for seed in (0, 0, 1, 2, 3):
        run = Run(tmp_path / f"run{len(splits)}")
        preprocess(run, project(seed, validation=0.34), audio=[audio_folder])
        splits.append(held_out(run))
        assert len(splits[-1]) == 2
        train, validation = RaveDatabase(run.dataset).split()
        assert sorted(train + validation) == list(range(result(run)["chunks"]))
        assert len(validation) == result(run)["validation_chunks"]
        for row in manifest(run):
            chunks = set(range(row["first_chunk"], row["first_chunk"] + row["chunks"]))
            assert chunks <= set(validation if row["key"] in splits[-1] else train)
    assert splits[0] == splits[1]
    assert len({frozenset(split) for split in splits}) > 1


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_of_two_files_each_side_gets_one(tmp_path, run, write_wav, melody, share):
    for seed, name in enumerate("ab"):
        write_wav(tmp_path / "music" / f"{name}.wav", melody(1, seed=seed))
    preprocess(run, project(validation=share), audio=[tmp_path / "music"])
    assert len(held_out(run)) == 1


def test_of_one_file_the_end_is_held_out_with_a_warning(tmp_path, run, write_wav, melody, caplog):
    path = write_wav(tmp_path / "only.wav", melody(CHUNK * 20 / RATE))
    with caplog.at_level(logging.WARNING, "latentdiff"):
        preprocess(run, project(), audio=[path])
    assert "the only file" in caplog.text
    assert RaveDatabase(run.dataset).split() == (list(range(18)), [18, 19])
    (row,) = manifest(run)
    assert row["validation_from"] == pytest.approx(18 * CHUNK / RATE)
    assert result(run)["validation_by"] == "time"


def test_without_silent_files_the_split_is_by_hash_alone(run, audio_folder):
    preprocess(run, project(seed=3, validation=0.34), audio=[audio_folder])
    assert held_out(run) == split.held_out([row["key"] for row in manifest(run)], 0.34, 3)


@pytest.mark.parametrize("silence", [0.0, 1e-4])
def test_a_silent_file_is_never_held_out(tmp_path, write_wav, melody, caplog, silence):
    """Whatever the seed: silence is reconstructed perfectly, which proves nothing."""
    music = tmp_path / "music"
    write_wav(music / "silent.wav", np.full(2 * RATE, silence))
    for number in range(2):
        write_wav(music / f"{number}.wav", melody(2, seed=number))
    sides = set()
    for seed in range(6):
        run = Run(tmp_path / f"run{seed}")
        preprocess(run, project(seed), audio=[music])
        sides |= held_out(run)
        assert len(held_out(run)) == 1
        assert result(run)["chunks"] == len(RaveDatabase(run.dataset))
    assert sides == {"0.wav", "1.wav"}
    assert "1 of 3 files are (nearly) silent" in caplog.text and "silent.wav" in caplog.text


def test_beside_silent_files_the_end_of_the_only_sound_is_held_out(
    tmp_path, run, write_wav, melody, caplog
):
    for name in ("a", "c"):
        write_wav(tmp_path / "music" / f"{name}.wav", np.zeros(2 * RATE))
    write_wav(tmp_path / "music" / "b.wav", melody(CHUNK * 4 / RATE))
    preprocess(run, project(), audio=[tmp_path / "music"])
    rows = {row["key"]: row["validation_chunks"] for row in manifest(run)}
    assert rows == {"a.wav": 0, "b.wav": 1, "c.wav": 0}
    assert "the only file that is not silent" in caplog.text


def test_where_only_silence_could_be_held_out_nothing_is(tmp_path, run, write_wav, melody, caplog):
    write_wav(tmp_path / "music" / "silent.wav", np.zeros(2 * RATE))
    write_wav(tmp_path / "music" / "blip.wav", melody(CHUNK / RATE))
    preprocess(run, project(), audio=[tmp_path / "music"])
    assert result(run)["validation_chunks"] == 0
    assert "nothing is held out: blip.wav" in caplog.text


def test_the_end_that_is_held_out_has_sound(tmp_path, run, write_wav, melody):
    tune = melody(CHUNK * 20 / RATE)
    tune[CHUNK * 15 :] = 0
    preprocess(run, project(), audio=[write_wav(tmp_path / "fades.wav", tune)])
    assert RaveDatabase(run.dataset).split() == (list(range(14)), list(range(14, 20)))


def test_silence_alone_is_an_error(tmp_path, run, write_wav):
    for name in ("a", "b"):
        write_wav(tmp_path / "music" / f"{name}.wav", np.full(2 * RATE, 1e-4))
    with pytest.raises(UserError, match=r"(?s)all 2 file.*silent.*-81 dBFS.*listen"):
        preprocess(run, project(), audio=[tmp_path / "music"])


def test_of_every_file_the_end_is_held_out_where_asked(tmp_path, run, write_wav, melody):
    for name, chunks in ("long", 20), ("short", 5), ("blip", 1):
        write_wav(tmp_path / "music" / f"{name}.wav", melody(CHUNK * chunks / RATE))
    preprocess(run, project(hold_out="ends"), audio=[tmp_path / "music"])
    assert result(run)["validation_by"] == "time"
    train, validation = RaveDatabase(run.dataset).split()
    assert sorted(train + validation) == list(range(26))
    for row in manifest(run):
        last = range(row["first_chunk"], row["first_chunk"] + row["chunks"])
        count = {20: 2, 5: 1, 1: 0}[row["chunks"]]
        assert set(last) & set(validation) == set(list(last)[row["chunks"] - count :])


def test_too_little_sound_is_an_error(tmp_path, run, write_wav, melody):
    path = write_wav(tmp_path / "blip.wav", melody(0.01))
    with pytest.raises(UserError, match=r"(?s)not enough sound: 1 chunk.* lower data\.chunk"):
        preprocess(run, project(), audio=[path])
    assert runs.read_run(run.dataset).status == "failed"
    silent = write_wav(tmp_path / "silent.wav", np.zeros(5 * RATE))
    with pytest.raises(UserError, match=r"5\.0 s are below data\.silence_db"):
        preprocess(run, project(silence_db=-60), audio=[silent], overwrite=True)


# --- the same command again, and what stops it --------------------------------------------------


def test_the_same_command_again_has_nothing_to_do(run, audio_folder, monkeypatch):
    preprocess(run, project(), audio=[audio_folder])
    before = (run.dataset / "data.mdb").stat().st_mtime_ns
    monkeypatch.chdir(audio_folder.parent)
    preprocess(run, project(), audio=[audio_folder.relative_to(audio_folder.parent)])
    preprocess(run, project(workers=1), audio=[audio_folder])
    preprocess(run, project())
    assert (run.dataset / "data.mdb").stat().st_mtime_ns == before


def test_other_settings_or_files_are_refused_unless_overwritten(run, audio_folder, write_wav):
    preprocess(run, project(), audio=[audio_folder])
    with pytest.raises(UserError, match=r"data\.sample_rate: 8000 -> 6000"):
        preprocess(run, project(sample_rate=6000), audio=[audio_folder])
    write_wav(audio_folder / "new.wav", np.ones(RATE) / 2)
    with pytest.raises(UserError, match="--overwrite"):
        preprocess(run, project(), audio=[audio_folder])
    preprocess(run, project(sample_rate=6000), audio=[audio_folder], overwrite=True)
    assert result(run)["files"] == 7 and RaveDatabase(run.dataset).sample_rate == 6000


def test_an_interrupt_leaves_nothing_half_done_and_the_next_start_is_clean(
    tmp_path, run, audio_folder, monkeypatch
):
    whole = Run(tmp_path / "whole")
    preprocess(whole, project(), audio=[audio_folder])
    append = spool._append

    def interrupted(writer, outcome, *rest):
        if outcome.source.index == 3:
            raise KeyboardInterrupt
        append(writer, outcome, *rest)

    monkeypatch.setattr(spool, "_append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preprocess(run, project(), audio=[audio_folder])
    assert runs.read_run(run.dataset).error == "interrupted"
    assert not (run.dataset / "data.mdb").exists() and not list(run.dataset.glob("*.partial"))
    monkeypatch.undo()
    preprocess(run, project(), audio=[audio_folder])
    for name in ("data.mdb", "manifest.jsonl"):
        assert (run.dataset / name).read_bytes() == (whole.dataset / name).read_bytes()


IN_A_PROCESS = """
import os, resource, signal, sys
from pathlib import Path
from latentdiff import config
from latentdiff.errors import UserError
from latentdiff.runs import Run
from latentdiff.commands import record_writer as spool
from latentdiff.commands.preprocess import preprocess
from latentdiff.model.project import Project
settings = {"sample_rate": 8000, "chunk": 4096, "workers": 2}
project = config.build(Project, {"data": settings})
append = spool._append
"""


def in_a_process(body, *paths):
    command = [sys.executable, "-c", IN_A_PROCESS + body, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_kill_leaves_what_the_next_start_makes_whole(tmp_path, run, audio_folder):
    body = """
def killed(writer, outcome, *rest):
    append(writer, outcome, *rest)
    if outcome.source.index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
spool._append = killed
preprocess(Run(Path(sys.argv[1])), project, audio=[Path(sys.argv[2])])
"""
    assert in_a_process(body, run.root, audio_folder).returncode == -signal.SIGKILL
    assert list(run.dataset.glob("*.partial")) and not (run.dataset / "data.mdb").exists()
    with pytest.raises(UserError, match="no dataset"):
        RaveDatabase(run.dataset)
    preprocess(run, project(), audio=[audio_folder])
    assert_accounted(run)
    assert not list(run.dataset.glob("*.partial"))


def test_a_disk_that_fills_up_is_an_error(tmp_path, run, audio_folder):
    body = """
# A limit on the size of files is what a full disk is to a writer. First a spool does not fit
# (the longest file is 48 kB), then the database does not (192 kB).
for limit in (40_000, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        preprocess(Run(Path(sys.argv[1])), project, audio=[Path(sys.argv[2])])
    except UserError as error:
        assert "cannot write" in str(error) and "free some space" in str(error), error
    else:
        raise SystemExit("no error")
"""
    done = in_a_process(body, run.root, audio_folder)
    assert done.returncode == 0, done.stderr
    assert not list(run.dataset.glob("*.partial")) and not (run.dataset / "data.mdb").exists()


def test_a_disk_too_small_is_seen_before_the_work(run, audio_folder, monkeypatch):
    monkeypatch.setattr(runs, "free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match="too full"):
        preprocess(run, project(), audio=[audio_folder])


def test_torch_keeps_its_threads(run, audio_folder):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        preprocess(run, project(sample_rate=6000), audio=[audio_folder])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_fails_ends_the_work(run, audio_folder, monkeypatch):
    def broken(blocks, size):
        raise MemoryError("out of memory")

    monkeypatch.setattr(spool, "records", broken)
    with pytest.raises(MemoryError):
        preprocess(run, project(), audio=[audio_folder])
    assert not list(run.dataset.glob("*.partial"))


# --- places -------------------------------------------------------------------------------------


def test_output_and_input_may_not_lie_in_each_other(audio_folder, tmp_path):
    with pytest.raises(UserError, match="is inside the audio folder"):
        preprocess(Run(audio_folder / "runs"), project(), audio=[audio_folder])
    with pytest.raises(UserError, match="is inside the output"):
        preprocess(Run(tmp_path / "r"), project(), audio=[audio_folder], dataset=tmp_path)
    assert len(audio.find([audio_folder]).files) == 6


def test_an_output_without_parents_is_made_and_a_relative_one_too(
    tmp_path, audio_folder, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    preprocess(Run(Path("r")), project(), audio=[audio_folder], dataset=Path("ds"))
    preprocess(Run(tmp_path / "r"), project(), audio=[audio_folder], dataset=tmp_path / "a/b/c")
    assert len(RaveDatabase("ds")) == len(RaveDatabase(tmp_path / "a/b/c"))


def test_an_output_that_is_taken_is_refused(tmp_path, audio_folder):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(UserError, match="is a file"):
        preprocess(Run(tmp_path / "r"), project(), audio=[audio_folder], dataset=taken)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.jpg").write_text("smile")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="did not write"):
            preprocess(
                Run(tmp_path / "r"),
                project(),
                audio=[audio_folder],
                dataset=photos,
                overwrite=overwrite,
            )
    assert (photos / "me.jpg").exists()


def test_another_stage_is_never_overwritten(tmp_path, audio_folder):
    latents = tmp_path / "latents"
    with runs.Stage(latents, "encode"):
        (latents / "mean.npy").write_text("hours of work")
    with pytest.raises(UserError, match="another stage: encode"):
        preprocess(
            Run(tmp_path / "r"), project(), audio=[audio_folder], dataset=latents, overwrite=True
        )
    assert (latents / "mean.npy").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_may_not_be_written(tmp_path, audio_folder):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot create the folder"):
        preprocess(Run(closed / "r"), project(), audio=[audio_folder])


def test_no_audio_at_all_is_an_error(tmp_path, run):
    with pytest.raises(UserError, match="--audio"):
        preprocess(run, project())
    with pytest.raises(UserError, match="no such folder"):
        preprocess(run, project(audio=[str(tmp_path / "gone")]))
    (tmp_path / "a.wav").write_text("text")
    with pytest.raises(UserError, match="none of 1 files can be read"):
        preprocess(run, project(), audio=[tmp_path / "a.wav"])


def test_a_dry_run_reports_and_writes_nothing(run, audio_folder, caplog):
    (audio_folder / "bad.wav").write_text("text")
    with caplog.at_level(logging.INFO, "latentdiff"):
        preprocess(run, project(), audio=[audio_folder], dry_run=True)
    assert "would read 6 files, 12.0 s" in caplog.text and "would skip" in caplog.text
    assert not run.root.exists()


def test_the_report_is_the_account(run, audio_folder, caplog):
    with caplog.at_level(logging.INFO, "latentdiff"):
        preprocess(run, project(), audio=[audio_folder])
    assert "in 12.00 s = kept 12.00 s + dropped 0.00 s" in caplog.text
    assert "held out by file" in caplog.text and "tune 1.wav" in caplog.text


def test_long_chunks_are_twice_the_training_crop_unless_given():
    made = config.build(Project, {"rave": {"n_signal": 5000}})
    assert room._record_spec(made).size == 10_000


# --- the database alone -------------------------------------------------------------------------


def write_database(directory, count=5, size=64, channels=1):
    rng = np.random.default_rng(0)
    records = rng.integers(-9999, 9999, (count, channels, size)).astype(np.int16)
    with DatabaseWriter(directory, RATE, channels) as writer:
        assert [writer.append(record) for record in records] == list(range(count))
    return records


def test_a_map_that_is_full_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_FIRST_MAP_BYTES", 1 << 16)
    monkeypatch.setattr(database, "_BATCH_BYTES", 1 << 12)
    records = write_database(tmp_path, count=100, size=4000)
    reader = RaveDatabase(tmp_path)
    assert len(reader) == 100 and reader.samples() == 4000
    assert all((reader.read(i) == records[i]).all() for i in range(100))
    assert reader.seconds == 100 * 4000 / RATE


def test_readers_can_be_many_pickled_and_forked(tmp_path):
    records = write_database(tmp_path, channels=2)
    one, two = RaveDatabase(tmp_path), RaveDatabase(tmp_path)
    assert (one.read(1) == two.read(1)).all()
    assert (pickle.loads(pickle.dumps(one)).read(2) == records[2]).all()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        made = pool.map(one.read, range(5))
    assert (np.stack(made) == records).all()
    assert (one.read(4) == records[4]).all()


def test_a_failed_writer_leaves_no_database(tmp_path):
    with pytest.raises(ZeroDivisionError), DatabaseWriter(tmp_path, RATE, 1) as writer:
        writer.append(np.zeros((1, 8), dtype=np.int16))
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_rave_holds_out_its_end(tmp_path):
    write_database(tmp_path, count=40)
    assert RaveDatabase(tmp_path).split() == (list(range(38)), [38, 39])


def test_a_damaged_manifest_is_an_error(tmp_path):
    write_database(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"key": "a.wav"}\n')
    with pytest.raises(UserError, match=r"manifest\.jsonl is damaged"):
        RaveDatabase(tmp_path).split()


def test_what_is_no_database_is_refused(tmp_path):
    with pytest.raises(UserError, match="no dataset"):
        RaveDatabase(tmp_path)
    write_database(tmp_path)
    metadata = tmp_path / "metadata.yaml"
    metadata.write_text(json.dumps({"sr": 8000, "channels": 1, "lazy": True}))
    with pytest.raises(UserError, match="lazy"):
        RaveDatabase(tmp_path)
    metadata.unlink()
    with pytest.raises(UserError, match="not finished"):
        RaveDatabase(tmp_path)
    write_database(tmp_path)
    (tmp_path / "data.mdb").write_bytes(b"rubbish" * 1000)
    with pytest.raises(UserError, match="cannot open"):
        len(RaveDatabase(tmp_path))
