"""Finding, reading, resampling, writing and naming audio files, made here in many formats."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import psutil
import pytest
import soundfile

from latentdiff import audio
from latentdiff.audio import ffmpeg
from latentdiff.audio.cut import loudest_db, records
from latentdiff.audio.limiter import Limiter
from latentdiff.audio.resample import resample
from latentdiff.errors import UserError
from latentdiff.torchaudio_guard import import_torchaudio


def sine(seconds, sample_rate, hertz=440.0, amplitude=0.5):
    return (
        amplitude
        * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sample_rate)) / sample_rate)
    ).astype(np.float32)


def loudest_hertz(samples, sample_rate):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    return np.argmax(spectrum) * sample_rate / samples.size


@pytest.fixture(scope="module")
def run_ffmpeg():
    import imageio_ffmpeg

    def run(*words):
        binary = imageio_ffmpeg.get_ffmpeg_exe()
        command = [binary, "-nostdin", "-loglevel", "error", "-y", *map(str, words)]
        subprocess.run(command, check=True)

    return run


# --- find ---------------------------------------------------------------------------------------


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_find_takes_audio_of_any_case_and_depth_in_the_order_of_its_keys(tmp_path):
    for name in ["b.WAV", "a/z.Mp3", "a/deep/x.flac", "notes.txt", "c.m4a", "wav"]:
        touch(tmp_path / name)
    found = audio.find([tmp_path])
    assert [key for key, _ in found.files] == ["a/deep/x.flac", "a/z.Mp3", "b.WAV", "c.m4a"]
    assert all((tmp_path / key) == path for key, path in found.files)
    assert found.skipped == []


def test_find_passes_over_hidden_files_and_counts_them(tmp_path):
    for name in ["._a.wav", ".hidden.mp3", ".trash/b.wav", "a.wav", ".notes"]:
        touch(tmp_path / name)
    found = audio.find([tmp_path])
    assert [key for key, _ in found.files] == ["a.wav"]
    assert found.hidden == 3


def test_find_ends_in_a_loop_of_links_and_takes_each_file_once(tmp_path):
    touch(tmp_path / "a" / "x.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "twin.wav").symlink_to(tmp_path / "a" / "x.wav")
    assert len(audio.find([tmp_path, tmp_path / "a"]).files) == 1


def test_find_lists_what_cannot_be_read_with_reasons(tmp_path):
    touch(tmp_path / "good.wav")
    touch(tmp_path / "empty.wav", b"")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.wav")
    touch(tmp_path / os.fsdecode(b"\xff.wav"))
    reasons = dict(audio.find([tmp_path]).skipped)
    assert reasons == {
        str(tmp_path / "empty.wav"): "empty: 0 bytes",
        str(tmp_path / "gone.wav"): "broken link",
        str(tmp_path / "pipe.wav"): "not a regular file",
        str(tmp_path / "\\xff.wav"): "its name is not valid UTF-8; rename it",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_find_lists_files_and_folders_without_permission(tmp_path):
    touch(tmp_path / "good.wav")
    touch(tmp_path / "mine.wav").chmod(0)
    touch(tmp_path / "closed" / "x.wav")
    (tmp_path / "closed").chmod(0)
    reasons = dict(audio.find([tmp_path]).skipped)
    (tmp_path / "closed").chmod(0o700)
    assert set(reasons) == {str(tmp_path / "mine.wav"), str(tmp_path / "closed")}


def test_keys_of_several_places_stay_unique(tmp_path):
    for name in ["one/music/x.wav", "two/music/x.wav", "three/x.wav"]:
        touch(tmp_path / name)
    places = [tmp_path / "one/music", tmp_path / "two/music", tmp_path / "three/x.wav"]
    keys = dict(audio.find(places).files)
    assert keys == {
        "music/x.wav": tmp_path / "one/music/x.wav",
        "music-2/x.wav": tmp_path / "two/music/x.wav",
        "three/x.wav": tmp_path / "three/x.wav",
    }


def test_a_file_named_by_itself_may_have_any_extension(tmp_path):
    assert [key for key, _ in audio.find([touch(tmp_path / "take.bin")]).files] == ["take.bin"]


def test_find_reports_what_is_wrong_with_a_path(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        audio.find([tmp_path / "nowhere"])
    touch(tmp_path / "readme.txt")
    with pytest.raises(UserError, match=r"(?s)no audio in .* flac .* wav"):
        audio.find([tmp_path])
    with pytest.raises(UserError, match="--audio"):
        audio.find([])


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "stem"),
    [
        ("a b.wav", "a-b"),
        ('it\'s "loud".wav', "it-s-loud"),
        ("drum & bass/x.y.wav", "x.y"),
        ("Größe/U\u0308bung.mp3", "Übung"),
        ("日本.flac", "日本"),
        ("हिन्दी.wav", "हिन्दी"),
        ("...wav", "audio"),
        ("🎵.wav", "audio"),
        ("x" * 200 + ".wav", "x" * 100),
        ("音" * 99 + ".wav", "音" * 33),
    ],
)
def test_file_names_are_readable_safe_and_short(key, stem):
    assert audio.file_stems([key]) == {key: stem}
    both = audio.file_stems([key, "other/" + key])
    assert len(set(both.values())) == 2 and both[key].startswith(stem + "-")
    # Within the 143 bytes of the strictest file systems, with the longest suffix of ours.
    assert len(f"{both[key]}.npy.partial".encode()) <= 143


def test_file_names_are_distinct_whatever_is_lost_of_the_keys():
    keys = ["日本.wav", "中国.wav", "drum & bass.wav", "drum bass.wav", "🎵.wav", "🎶.wav"]
    keys += ["a/same.wav", "b/same.wav", "B/Same.wav", "caf\u00e9.wav", "cafe\u0301.wav", "own.wav"]
    stems = audio.file_stems(keys)
    assert len({stem.casefold() for stem in stems.values()}) == len(keys)
    plain = {key for key, stem in stems.items() if "-" not in stem}
    assert plain == {"日本.wav", "中国.wav", "own.wav"}
    assert stems == audio.file_stems(reversed(keys))


def test_equal_hashes_get_distinct_names_too(monkeypatch):
    from latentdiff.audio import names

    monkeypatch.setattr(names, "_HASH_DIGITS", 1)
    stems = audio.file_stems(f"{i}/same.wav" for i in range(40))
    assert len(set(stems.values())) == 40


# --- read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_depth_comes_out_at_full_scale_one(tmp_path, write_wav, subtype):
    tone = sine(0.5, 8000)
    got, rate = audio.read(write_wav(tmp_path / "x.wav", tone, subtype=subtype))
    assert rate == 8000 and got.shape == (1, 4000) and got.dtype == np.float32
    np.testing.assert_allclose(got[0], tone, atol=1 / 100 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 96000, 192000])
def test_any_rate_becomes_the_one_asked_for(tmp_path, write_wav, rate):
    path = write_wav(tmp_path / "x.wav", sine(0.5, rate), sample_rate=rate)
    got, _ = audio.read(path, 44100, 1)
    assert got.shape == (1, -(-rate // 2 * 44100 // rate))
    # Away from the ends, where a tone that starts from nothing rings.
    want = sine(0.5, 44100)[: got.shape[1]]
    np.testing.assert_allclose(got[0, 2000:-2000], want[2000:-2000], atol=2e-3)


def test_what_the_new_rate_cannot_hold_is_filtered_out_not_folded(tmp_path, write_wav):
    path = write_wav(tmp_path / "x.wav", sine(0.5, 96000, 30000), 96000, "FLOAT")
    assert np.abs(audio.read(path, 44100)[0][0, 2000:-2000]).max() < 1e-4


@pytest.mark.parametrize("rates", [(48000, 44100), (44100, 16000), (192000, 44100), (8000, 44100)])
@pytest.mark.parametrize("size", [37, 1000, 50_000])
def test_a_resampled_stream_equals_the_whole(rates, size):
    whole = np.random.default_rng(0).standard_normal((2, 20_011)).astype(np.float32)
    pieces = (whole[:, i : i + size] for i in range(0, whole.shape[1], size))
    got = np.concatenate(list(resample(pieces, *rates)), axis=1)
    import torch

    whole_at_once = import_torchaudio().transforms.Resample(
        *rates,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )
    want = whole_at_once(torch.from_numpy(whole))
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_a_rate_with_no_common_divisor_is_resampled_in_little_memory(tmp_path, write_wav):
    path = write_wav(tmp_path / "x.wav", sine(1, 44101), 44101)
    got, _ = audio.read(path, 44100)
    assert abs(got.shape[1] - 44100) <= 64
    assert abs(loudest_hertz(got[0], 44100) - 440) < 2


def test_mono_is_the_mean_of_all_channels(tmp_path, write_wav):
    six = np.zeros((6, 800), dtype=np.float32)
    six[5] = 0.6  # all of it in the last channel: taking the first would lose it
    got, _ = audio.read(write_wav(tmp_path / "x.wav", six, subtype="FLOAT"), channels=1)
    np.testing.assert_allclose(got, 0.1, atol=1e-6)


def test_channels_mono_is_repeated_equal_numbers_stay_others_are_refused(tmp_path, write_wav):
    mono = write_wav(tmp_path / "1.wav", sine(0.1, 8000))
    stereo = write_wav(tmp_path / "2.wav", np.stack([sine(0.1, 8000), sine(0.1, 8000, 880)]))
    six = write_wav(tmp_path / "6.wav", np.zeros((6, 800)))
    doubled, _ = audio.read(mono, channels=2)
    assert doubled.shape == (2, 800) and (doubled[0] == doubled[1]).all()
    kept, _ = audio.read(stereo, channels=2)
    assert (kept[0] != kept[1]).any()
    with pytest.raises(audio.AudioError, match="6 channels cannot become 2"):
        audio.read(six, channels=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_raise_with_their_position(tmp_path, write_wav, bad):
    samples = sine(2, 8000)
    samples[12_000] = bad
    path = write_wav(tmp_path / "x.wav", samples, subtype="FLOAT")
    with pytest.raises(audio.AudioError, match=r"NaN or Inf samples, the first at 1\.500 s"):
        audio.read(path, 44100, 1)


def test_digital_silence_is_sound_like_any_other(tmp_path, write_wav):
    got, _ = audio.read(write_wav(tmp_path / "x.wav", np.zeros(8000)), 44100, 1)
    assert got.shape == (1, 44100) and not got.any()


@pytest.mark.parametrize("name", ["x.m4a", "x.mp3", "x.opus", "x.flac", "x.mka", "x.wma", "x.aif"])
def test_each_format_reads_back_as_the_tone_it_holds(tmp_path, run_ffmpeg, name):
    path = tmp_path / name
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:duration=2:sample_rate=48000", path)
    info = audio.probe(path)
    got, _ = audio.read(path, 44100, 1)
    assert info.sample_rate == 48000 and info.channels == 1
    assert abs(info.seconds - 2) < 0.1 and abs(got.shape[1] / 44100 - 2) < 0.1
    assert abs(loudest_hertz(got[0], 44100) - 440) < 2


def test_a_cover_picture_and_a_film_do_not_hide_the_sound(tmp_path, run_ffmpeg):
    tone = ["-f", "lavfi", "-i", "sine=440:duration=2"]
    film = ["-f", "lavfi", "-i", "testsrc=duration=2:size=64x64"]
    picture, cover, video = (tmp_path / name for name in ("p.png", "cover.mp3", "film.mp4"))
    run_ffmpeg(*film, "-frames:v", "1", picture)
    # The picture is the first stream of both.
    run_ffmpeg("-i", picture, *tone, "-map", "0", "-map", "1", "-c:v", "copy", cover)
    run_ffmpeg(*film, *tone, "-map", "0", "-map", "1", video)
    for path in (cover, video):
        got, rate = audio.read(path, 44100, 1)
        assert abs(got.shape[1] / rate - 2) < 0.1
        assert abs(loudest_hertz(got[0], rate) - 440) < 2


def test_what_is_no_audio_is_refused_with_a_reason(tmp_path, write_wav, run_ffmpeg):
    film, song = tmp_path / "mute.mp4", tmp_path / "cut.m4a"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=duration=1:size=64x64", film)
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=2", song)
    song.write_bytes(song.read_bytes()[:3000])
    cases = {
        film: "no audio track",
        song: "moov atom not found",
        touch(tmp_path / "text.wav", b"I am a letter, not a song.\n" * 50): "Invalid data",
        touch(tmp_path / "zero.wav", b""): "not audio",
        write_wav(tmp_path / "header.wav", np.zeros(0)): "no samples",
        tmp_path / "gone.wav": "no such file",
    }
    for path, reason in cases.items():
        with pytest.raises(audio.AudioError, match=reason) as caught:
            audio.read(path, 44100, 1)
        assert str(path) in str(caught.value)


def test_a_playlist_that_calls_itself_mp4_opens_no_connection(tmp_path):
    text = b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    with pytest.raises(audio.AudioError):
        audio.read(touch(tmp_path / "x.mp4", text))


@pytest.mark.parametrize("name", ["a b.wav", 'it\'s "x".m4a', "Ü ä:b%d.m4a", "x" * 200 + ".m4a"])
def test_names_are_only_names(tmp_path, write_wav, run_ffmpeg, name):
    path = tmp_path / name
    if name.endswith(".wav"):
        write_wav(path, sine(0.1, 8000))
    else:
        plain = tmp_path / "plain.m4a"
        run_ffmpeg("-f", "lavfi", "-i", "sine=duration=0.5", plain)
        plain.rename(path)
    assert audio.read(path, 44100, 1)[0].size


def test_ffmpeg_that_stalls_is_given_up(tmp_path, monkeypatch):
    import imageio_ffmpeg

    script = touch(tmp_path / "ffmpeg", b"#!/bin/sh\nexec sleep 100\n")
    script.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(script))
    monkeypatch.setattr(ffmpeg, "STALL_SECONDS", 0.2)
    with pytest.raises(audio.AudioError, match="produced nothing"):
        audio.read(touch(tmp_path / "x.m4a"))
    assert not psutil.Process().children()


def test_ffmpeg_that_talks_without_end_cannot_block(tmp_path, monkeypatch):
    import imageio_ffmpeg

    # A megabyte of messages: more than any pipe holds.
    script = touch(tmp_path / "ffmpeg", b"#!/bin/sh\nhead -c 1000000 /dev/zero >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(script))
    with pytest.raises(audio.AudioError, match="not audio"):
        audio.read(touch(tmp_path / "x.m4a"))


def test_a_stream_left_early_leaves_no_process(tmp_path, run_ffmpeg):
    path = tmp_path / "x.m4a"
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=60", path)
    stream = audio.blocks(path, 44100, 1, block_seconds=0.1)
    next(stream)
    stream.close()
    assert not psutil.Process().children()


def test_an_hour_streams_in_flat_memory(tmp_path, write_wav):
    minute = np.tile(sine(1, 8000), 60)
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(str(path), "w", 8000, 1, "PCM_U8") as file:
        for _ in range(60):
            file.write(minute)
    next(audio.blocks(path, 16000, 1))  # what is imported on first use does not count
    tracemalloc.start()
    total = sum(block.shape[1] for block in audio.blocks(path, 16000, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 3600 * 16000
    assert peak < 10e6  # the hour is 230 MB of float32


def test_importing_the_room_imports_no_torch():
    code = "import latentdiff.audio, sys; assert not {'torch', 'soundfile'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- cut ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[10], [3, 9, 1], [1] * 25, [40], []])
def test_records_lose_nothing_and_fill_up_the_last(sizes):
    whole = np.arange(1, 1 + sum(sizes), dtype=np.float32)[None]
    blocks = np.split(whole, np.cumsum(sizes)[:-1], axis=1) if sizes else []
    made = list(records(blocks, 8))
    assert all(record.shape == (1, 8) for record, _ in made)
    kept = [record[:, :length] for record, length in made]
    assert (np.concatenate([np.zeros((1, 0)), *kept], axis=1) == whole).all()
    assert not any(record[:, length:].any() for record, length in made)


def test_loudest_tenth_of_a_second():
    sample_rate = 8000
    click = np.zeros((1, 80_000))
    click[0, 40_000:40_800] = 0.1
    assert loudest_db(click, sample_rate) == pytest.approx(-20)
    assert loudest_db(np.full((2, 100), 0.01), sample_rate) == pytest.approx(-40)
    assert loudest_db(np.zeros((1, 10)), sample_rate) == -np.inf


# --- splice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100])
def test_spans_of_a_stream_are_joined_with_a_fade(size):
    stream = np.stack([np.full(100, 1.0), np.arange(100.0)]).astype(np.float32)
    stream[0, 60:] = -1
    blocks = [stream[:, i : i + size] for i in range(0, 100, size)]
    joined = np.concatenate(list(audio.splice(blocks, [range(10, 40), range(60, 95)], 9)), axis=1)
    assert joined.shape == (2, 65)
    assert (joined[:, :30] == stream[:, 10:40]).all()
    assert (joined[:, 39:] == stream[:, 69:95]).all()
    # From 1 to -1 in ten equal steps: nine mixed samples, then the second span alone.
    np.testing.assert_allclose(np.diff(joined[0, 29:40]), -0.2, atol=1e-6)


def test_spans_that_touch_are_left_as_they_are():
    stream = np.random.default_rng(0).standard_normal((1, 50)).astype(np.float32)
    for spans in ([range(50)], [range(20), range(20, 50)], [range(0), range(50)]):
        joined = np.concatenate(list(audio.splice([stream], spans, 10)), axis=1)
        assert (joined == stream).all()


# --- write --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_write_streams_blocks_that_read_back(tmp_path, kind):
    tone = np.stack([sine(1, 8000), sine(1, 8000, 880)])
    path = tmp_path / f"x.{kind}"
    report = audio.write(path, iter(np.split(tone, 4, axis=1)), 8000, kind)
    assert report.seconds == 1 and report.clipped == 0
    assert report.peak == pytest.approx(0.5, abs=1e-3)
    got, rate = audio.read(path)
    assert rate == 8000 and audio.probe(path).format.startswith(kind.upper())
    np.testing.assert_allclose(got, tone, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_write_limits_or_counts_what_it_cuts_off_and_float_keeps_it(tmp_path):
    samples = np.array([0.0, 1.0, -1.5, 2.0, 0.5], dtype=np.float32)
    report = audio.write(tmp_path / "x.wav", samples, 8000)
    assert (report.peak, report.clipped) == (2.0, 0)
    assert report.limited_db == pytest.approx(6.02, abs=0.01)
    assert np.abs(audio.read(tmp_path / "x.wav")[0]).max() <= 1
    report = audio.write(tmp_path / "z.wav", samples, 8000, limit=False)
    assert (report.peak, report.clipped, report.limited_db) == (2.0, 2, 0)
    got = audio.read(tmp_path / "z.wav")[0][0]
    np.testing.assert_allclose(got, [0, 1, -1, 1, 0.5], atol=1e-4)
    report = audio.write(tmp_path / "y.wav", samples, 8000, subtype="FLOAT")
    assert (report.peak, report.clipped, report.limited_db) == (2.0, 0, 0)
    assert (audio.read(tmp_path / "y.wav")[0][0] == samples).all()


class TestLimiter:
    @staticmethod
    def limited(samples, blocks=1, rate=8000):
        limiter = Limiter(rate)
        return np.concatenate(list(limiter(np.array_split(samples, blocks, axis=1))), 1), limiter

    def test_what_fits_passes_bit_for_bit(self):
        samples = np.stack([sine(0.5, 8000), sine(0.5, 8000, 880)])
        for blocks in (1, 7):
            passed, limiter = self.limited(samples, blocks)
            assert np.array_equal(passed, samples) and limiter.reduction_db == 0

    def test_peaks_are_turned_down_with_their_surroundings(self):
        rng = np.random.default_rng(0)
        samples = 0.1 * rng.standard_normal((2, 16_000)).astype(np.float32)
        samples[0, 5000], samples[1, 9000] = 4.0, -2.0
        found, limiter = self.limited(samples)
        assert np.abs(found).max() <= 1 and limiter.reduction_db == pytest.approx(12.04, abs=0.01)
        gain = found / samples
        # Both channels alike, and nothing 20 ms from a peak.
        np.testing.assert_allclose(gain[0], gain[1], atol=1e-4)
        assert (gain[:, :4800] == 1).all() and (gain[:, 5200:8800] == 1).all()
        # In steps of at most what 20 ms take to get there: no click.
        assert np.abs(np.diff(gain[0])).max() < 0.75 / 150

    @pytest.mark.parametrize("blocks", [2, 5, 400])
    def test_blocks_make_no_difference(self, blocks):
        samples = 2 * np.random.default_rng(1).standard_normal((1, 4000))
        whole, limiter = self.limited(samples)
        parts, same = self.limited(samples, blocks)
        np.testing.assert_allclose(parts, whole, atol=1e-9)
        assert same.reduction_db == pytest.approx(limiter.reduction_db)

    @pytest.mark.parametrize("length", [0, 1, 100, 159, 160, 161])
    def test_any_length(self, length):
        found, _ = self.limited(np.full((1, length), 3.0))
        assert found.shape == (1, length) and (np.abs(found) <= 1).all()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.wav"
    audio.write(path, sine(0.1, 8000), 8000)
    before = path.read_bytes()
    with pytest.raises(UserError, match="NaN or Inf"):
        audio.write(path, iter([sine(0.1, 8000), np.full(8, np.nan)]), 8000)
    with pytest.raises(UserError, match="nothing to write"):
        audio.write(path, iter([]), 8000)
    with pytest.raises(UserError, match="cannot write"):
        audio.write(tmp_path / "no folder" / "x.wav", sine(0.1, 8000), 8000)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.wav"]


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(tmp_path, kind):
    # A limit on the size of files is what a full disk is to a writer.
    code = f"""
import resource, sys, numpy as np
from pathlib import Path
from latentdiff import audio
from latentdiff.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).uniform(-1, 1, 200_000)
try:
    audio.write(Path(sys.argv[1]), noise, 8000, {kind!r})
except UserError as error:
    assert "cannot write" in str(error), error
else:
    raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert list(tmp_path.iterdir()) == []
