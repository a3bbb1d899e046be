"""Doctor: each part, whole and broken, and nothing left behind."""

from __future__ import annotations

import logging

import pytest

from latentdiff.commands import doctor as d
from latentdiff.errors import UserError
from latentdiff.runs import Run


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO, "latentdiff")


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.real
def test_this_machine(tmp_path, caplog):
    assert d.doctor(Run(tmp_path / "runs" / "new")) is True
    statuses = [line.split()[:2] for line in lines(caplog)[:-1]]
    parts = [part for _, part in statuses]
    assert parts == [
        *["python", "torch", "torchaudio", "rave", "formats", "formats"],
        *["disk", "memory", "writing"],
    ]
    assert all(status in ("ok", "limited") for status, _ in statuses)
    assert list(tmp_path.iterdir()) == []


def test_anything_broken_makes_the_answer_no(monkeypatch, caplog):
    fine = d.CheckResult("ok", "one", "good")
    limited = d.CheckResult("limited", "two", "slow", "wait")
    broken = d.CheckResult("broken", "three", "gone", "install it")
    monkeypatch.setattr(d, "_checks", lambda root: [lambda: fine, lambda: limited])
    assert d.doctor() is True
    monkeypatch.setattr(d, "_checks", lambda root: [lambda: broken, lambda: fine])
    assert d.doctor() is False
    assert "broken  three       gone; install it" in lines(caplog)


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 9, 19), "broken"), ((3, 10, 1), "ok"), ((3, 13, 9), "ok"), ((3, 15, 0), "broken")],
)
def test_python(version, status):
    assert d.check_python(version).status == status


@pytest.mark.parametrize(
    ("facts", "status", "expected"),
    [
        ({}, "ok", "no GPU"),
        ({"gpus": ["H200"], "cuda_build": "12.6"}, "ok", "cuda (H200)"),
        ({"mps": True}, "ok", "mps"),
        ({"cuda_build": "12.6"}, "limited", "finds no GPU"),
        ({"driver": True}, "limited", "has no CUDA"),
    ],
)
def test_torch(facts, status, expected):
    base = {"version": "2.9", "cuda_build": None, "gpus": [], "mps": False, "driver": False}
    result = d.describe_torch(**{**base, **facts}, threads=2)
    assert result.status == status and expected in result.found
    assert bool(result.do_this) == (status == "limited")


def test_a_rave_that_cannot_be_imported_is_broken(monkeypatch):
    from latentdiff.rave import compat

    def fail():
        raise UserError("RAVE cannot be imported", "no pkg_resources", 'pip install "setuptools"')

    monkeypatch.setattr(compat, "prepare", fail)
    result = d.check_rave()
    assert result.status == "broken" and "pkg_resources" in result.found and result.do_this


def test_every_format_of_libsndfile_is_really_decoded():
    result = d.check_sndfile()
    assert result.status == "ok"
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff"):
        assert suffix in result.found.split()


def test_every_format_of_ffmpeg_is_really_decoded():
    result = d.check_ffmpeg()
    assert result.status == "ok", result
    for suffix in ("m4a", "aac", "opus", "mp4"):
        assert suffix in result.found.split()


def test_without_ffmpeg_there_are_limits_and_the_remedy(monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent/ffmpeg")
    result = d.check_ffmpeg()
    assert result.status == "limited" and "imageio-ffmpeg" in result.do_this


def test_a_format_that_decodes_to_something_else_is_found(monkeypatch):
    def write_silence(path):
        import soundfile

        soundfile.write(path, 0 * d._tone(), d._TONE_RATE)

    failed = d._try_formats(["wav"], write_silence)
    assert "different audio" in failed["wav"]
    assert d._formats_result("x", ["wav"], failed, "do").status == "broken"
    assert d._formats_result("x", ["wav", "mp3"], {"mp3": "no"}, "do").status == "limited"


@pytest.mark.parametrize(("gib", "status"), [(0.1, "broken"), (2.0, "limited"), (50.0, "ok")])
def test_room(gib, status, monkeypatch, tmp_path):
    monkeypatch.setattr(d.runs, "free_bytes", lambda path: int(gib * d.GIB))
    assert d.check_disk(tmp_path).status == status


def test_a_folder_that_cannot_be_written_is_broken(tmp_path, monkeypatch):
    assert d.check_writing(tmp_path / "new" / "run").status == "ok"
    assert list(tmp_path.iterdir()) == []

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(d.tempfile, "TemporaryDirectory", refuse)
    result = d.check_writing(tmp_path)
    assert result.status == "broken" and "Permission denied" in result.found
