"""`doctor`: check this machine, and explain how to fix what is broken."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from latentdiff import runs
from latentdiff.audio import read
from latentdiff.errors import UserError
from latentdiff.runs import Run
from latentdiff.torchaudio_guard import torchaudio_status

log = logging.getLogger(__name__)

Status = Literal["ok", "limited", "broken"]
_ORDER: tuple[Status, ...] = ("ok", "limited", "broken")

GIB = 2**30
_TONE_RATE = 44100

_SNDFILE_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}
_FFMPEG_CODECS = {
    "m4a": ["-c:a", "aac"],
    "aac": ["-c:a", "aac", "-f", "adts"],
    "opus": ["-c:a", "libopus"],
    "mp4": ["-c:a", "aac"],
}


@dataclass(frozen=True)
class CheckResult:
    """One line of the report."""

    status: Status
    """`limited`: works, with restrictions."""
    part: str
    """The component checked, such as `torch` or `disk`."""
    found: str
    do_this: str = ""
    """How to fix the problem; empty if there is none."""

    def __str__(self) -> str:
        advice = f"; {self.do_this}" if self.do_this else ""
        return f"{self.status:<7} {self.part:<11} {self.found}{advice}"


def doctor(run: Run | None = None) -> bool:
    """Log one line for each part of the machine: ok, limited or broken.

    `run`: the run directory whose disk is checked; None: `runs` in the current folder. Leaves no
    files behind. Returns whether nothing is broken.
    """
    root = run.root if run else Path("runs")
    results = []
    for check in _checks(root):
        result = check()
        log.info("%s", result)
        results.append(result)
    worst = max(results, key=lambda result: _ORDER.index(result.status)).status
    log.info(
        "%s",
        {
            "ok": "everything works",
            "limited": "everything required works, within the limits above",
            "broken": "something is broken: see the lines that start with `broken`",
        }[worst],
    )
    return worst != "broken"


def _checks(root: Path) -> list[Callable[[], CheckResult]]:
    return [
        check_python,
        check_torch,
        check_torchaudio,
        check_rave,
        check_sndfile,
        check_ffmpeg,
        lambda: check_disk(root),
        check_memory,
        lambda: check_writing(root),
    ]


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> CheckResult:
    """Whether latentdiff is tested with this version of Python."""
    text = ".".join(map(str, version))
    if (3, 10) <= version[:2] <= (3, 13):
        return CheckResult("ok", "python", text)
    advice = "install Python 3.13 (or 3.10 to 3.12) and create the environment again"
    return CheckResult("broken", "python", f"{text}; known to work are 3.10 to 3.13", advice)


def check_torch() -> CheckResult:
    """The build of torch, and the devices it can use."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return _broken_import("torch", error, 'pip install "torch>=2.5,<2.14"')
    return describe_torch(
        version=torch.__version__,
        cuda_build=torch.version.cuda,
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else [],
        mps=torch.backends.mps.is_available(),
        driver=shutil.which("nvidia-smi") is not None,
        threads=torch.get_num_threads(),
    )


def describe_torch(
    *, version: str, cuda_build: str | None, gpus: list[str], mps: bool, driver: bool, threads: int
) -> CheckResult:
    """The result for a build of torch with these devices."""
    cpu = f"cpu ({threads} threads)"
    if gpus:
        return CheckResult("ok", "torch", f"{version}: {cpu}, cuda ({', '.join(gpus)})")
    if mps:
        return CheckResult("ok", "torch", f"{version}: {cpu}, mps")
    if cuda_build:
        return CheckResult(
            "limited",
            "torch",
            f"{version}: {cpu}; built for CUDA {cuda_build}, but finds no GPU",
            "if there is an NVIDIA GPU, install or update its driver",
        )
    if driver:
        return CheckResult(
            "limited",
            "torch",
            f"{version}: {cpu}; there is an NVIDIA driver, but this build has no CUDA",
            "reinstall torch for your CUDA version; see pytorch.org",
        )
    return CheckResult("ok", "torch", f"{version}: {cpu}, no GPU; enough for small models")


def check_torchaudio() -> CheckResult:
    """Whether torchaudio can be imported, with or without its native extension."""
    try:
        status = torchaudio_status()
    except UserError as error:
        return CheckResult("broken", "torchaudio", error.why, error.do_this)
    version = importlib.metadata.version("torchaudio")
    if status == "native":
        return CheckResult("ok", "torchaudio", version)
    log.debug("torchaudio is %s", status)
    return CheckResult(
        "ok",
        "torchaudio",
        f"{version} without its native extension, which does not match this torch and is not "
        "needed",
    )


def check_rave() -> CheckResult:
    """Whether RAVE can be imported."""
    from latentdiff.rave.compat import prepare

    try:
        prepare()
    except UserError as error:
        return CheckResult("broken", "rave", f"{error.what}: {error.why}", error.do_this)
    except Exception as error:
        # A foreign package at import: whatever it raises is a result, not a bug of ours.
        return _broken_import("rave", error, 'pip install --force-reinstall "acids-rave==2.3.1"')
    return CheckResult("ok", "rave", f"acids-rave {importlib.metadata.version('acids-rave')}")


def check_sndfile() -> CheckResult:
    """Formats that libsndfile should decode, each tested with half a second of a tone."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return _broken_import("libsndfile", error, "pip install --force-reinstall soundfile")

    def write(path: Path) -> None:
        form, subtype = _SNDFILE_FORMATS[path.suffix[1:]]
        soundfile.write(path, _tone(), _TONE_RATE, format=form, subtype=subtype)

    failed = _try_formats(_SNDFILE_FORMATS, write)
    version = soundfile.__libsndfile_version__
    return _formats_result(
        f"libsndfile {version}", _SNDFILE_FORMATS, failed, "pip install --upgrade soundfile"
    )


def check_ffmpeg() -> CheckResult:
    """Formats that need the ffmpeg binary, each tested with half a second of a tone."""
    advice = "pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE"
    try:
        import imageio_ffmpeg
        import soundfile

        binary = imageio_ffmpeg.get_ffmpeg_exe()
        version = imageio_ffmpeg.get_ffmpeg_version()
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        formats = " ".join(_FFMPEG_CODECS)
        return CheckResult(
            "limited", "formats", f"cannot decode {formats}: {_first_line(error)}", advice
        )

    def write(path: Path) -> None:
        source = path.with_name("source.wav")
        soundfile.write(source, _tone(), _TONE_RATE)
        codec = _FFMPEG_CODECS[path.suffix[1:]]
        subprocess.run(
            [binary, "-nostdin", "-v", "error", "-y", "-i", source, *codec, path],
            check=True,
            capture_output=True,
            timeout=30,
        )

    failed = _try_formats(_FFMPEG_CODECS, write)
    return _formats_result(f"ffmpeg {version}", _FFMPEG_CODECS, failed, advice)


def check_disk(root: Path) -> CheckResult:
    """Free disk space at `root`."""
    free = runs.free_bytes(root.absolute()) / GIB
    return _enough("disk", free, f"free for {root}", limited_below=5.0, broken_below=0.5)


def check_memory() -> CheckResult:
    """Available memory."""
    import psutil

    free = psutil.virtual_memory().available / GIB
    return _enough(
        "memory", free, f"free on {os.cpu_count()} cores", limited_below=3.0, broken_below=0.5
    )


def check_writing(root: Path) -> CheckResult:
    """Whether files can be written where the run directory is, or will be."""
    folder = root.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        # Some network disks let files be created, but not replaced.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".latentdiff-doctor-") as scratch:
            path = Path(scratch) / "test"
            for text in ("first", "second"):
                runs.write_text(path, text)
            if path.read_text(encoding="utf-8") != "second":
                raise OSError("the file read back differs from what was written")
    except (OSError, UserError) as error:
        reason = error.why if isinstance(error, UserError) else error.strerror or str(error)
        return CheckResult(
            "broken", "writing", f"{folder}: {reason}", "choose another folder with --run"
        )
    return CheckResult("ok", "writing", f"{folder}")


def _tone() -> np.ndarray:
    """Half a second of A4 [N] at -12 dBFS RMS."""
    time = np.arange(_TONE_RATE // 2) / _TONE_RATE
    tone: np.ndarray = 0.35 * np.sin(2 * np.pi * 440 * time)
    return tone.astype(np.float32)


def _try_formats(suffixes: Iterable[str], write: Callable[[Path], None]) -> dict[str, str]:
    """Suffix -> reason, for each format that fails a round trip of writing and decoding a tone."""
    failed = {}
    with tempfile.TemporaryDirectory(prefix="latentdiff-doctor-") as scratch:
        for suffix in suffixes:
            path = Path(scratch) / f"tone.{suffix}"
            try:
                write(path)
                samples, rate = read(path)
            except UserError as error:
                failed[suffix] = error.why
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                failed[suffix] = _first_line(error)
            else:
                level = float(np.sqrt(np.mean(samples**2)))
                # Codecs change the rate (opus) and pad the ends: only check level and length.
                if not (0.15 < level < 0.35 and samples.shape[-1] > 0.4 * rate):
                    failed[suffix] = f"decodes to different audio (RMS {level:.3f})"
    return failed


def _formats_result(
    decoder: str, suffixes: Iterable[str], failed: dict[str, str], advice: str
) -> CheckResult:
    works = [suffix for suffix in suffixes if suffix not in failed]
    found = f"{' '.join(works) or 'none'} ({decoder})"
    if not failed:
        return CheckResult("ok", "formats", found)
    reasons = "; ".join(f"{suffix}: {reason}" for suffix, reason in failed.items())
    # Everything needs wav; the user may not need the others.
    status: Status = "broken" if "wav" in failed else "limited"
    return CheckResult(status, "formats", f"{found}, but not: {reasons}", advice)


def _enough(
    part: str, gib: float, where: str, *, limited_below: float, broken_below: float
) -> CheckResult:
    """Compare an amount of space with what a small project and a quickstart need."""
    found = f"{gib:.1f} GiB {where}"
    if gib < broken_below:
        return CheckResult("broken", part, found, f"even a quickstart needs {broken_below} GiB")
    if gib < limited_below:
        return CheckResult("limited", part, found, "enough for small projects only")
    return CheckResult("ok", part, found)


def _broken_import(part: str, error: Exception, advice: str) -> CheckResult:
    return CheckResult("broken", part, f"{type(error).__name__}: {_first_line(error)}", advice)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
