"""`doctor`: what works on this machine, and what to do about the rest."""

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

Status = Literal["ok", "limits", "broken"]
_ORDER: tuple[Status, ...] = ("ok", "limits", "broken")

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
class Finding:
    """One line of the report."""

    status: Status
    part: str
    found: str
    do_this: str = ""

    def __str__(self) -> str:
        advice = f"; {self.do_this}" if self.do_this else ""
        return f"{self.status:<7} {self.part:<11} {self.found}{advice}"


def doctor(run: Run | None = None) -> bool:
    """Log one line for each part of the machine: ok, limits (works, but ...) or broken.

    `run` is the run directory whose disk is looked at; None means `runs` in this folder. Nothing is
    left behind. Returns whether nothing is broken.
    """
    root = run.root if run else Path("runs")
    findings = []
    for check in _checks(root):
        finding = check()
        log.info("%s", finding)
        findings.append(finding)
    worst = max(findings, key=lambda finding: _ORDER.index(finding.status)).status
    log.info(
        "%s",
        {
            "ok": "everything works",
            "limits": "everything needed works, within the limits above",
            "broken": "not everything works: see the lines that begin with `broken`",
        }[worst],
    )
    return worst != "broken"


def _checks(root: Path) -> list[Callable[[], Finding]]:
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


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    text = ".".join(map(str, version))
    if version[:2] in ((3, 10), (3, 11)):
        return Finding("ok", "python", text)
    return Finding(
        "broken",
        "python",
        f"{text}, but RAVE's scipy 1.10 exists for 3.10 and 3.11 only",
        "install Python 3.11 and make the environment anew",
    )


def check_torch() -> Finding:
    """The build of torch, and the devices it can compute on."""
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
) -> Finding:
    """What a build of torch with these devices means for the user."""
    cpu = f"cpu ({threads} threads)"
    if gpus:
        return Finding("ok", "torch", f"{version}: {cpu}, cuda ({', '.join(gpus)})")
    if mps:
        return Finding("ok", "torch", f"{version}: {cpu}, mps")
    if cuda_build:
        return Finding(
            "limits",
            "torch",
            f"{version}: {cpu}; built for CUDA {cuda_build}, but no GPU answers",
            "if there is an NVIDIA GPU, install its driver or update it",
        )
    if driver:
        return Finding(
            "limits",
            "torch",
            f"{version}: {cpu}; an NVIDIA driver is here, but this build knows no CUDA",
            "reinstall torch as pytorch.org says for your CUDA",
        )
    return Finding("ok", "torch", f"{version}: {cpu}, no GPU; fit for small models")


def check_torchaudio() -> Finding:
    try:
        status = torchaudio_status()
    except UserError as error:
        return Finding("broken", "torchaudio", error.why, error.do_this)
    version = importlib.metadata.version("torchaudio")
    if status == "native":
        return Finding("ok", "torchaudio", version)
    log.debug("torchaudio is %s", status)
    return Finding(
        "ok",
        "torchaudio",
        f"{version} guarded: its native extension does not fit this torch, and is not needed",
    )


def check_rave() -> Finding:
    from latentdiff.rave.compat import prepare

    try:
        prepare()
    except UserError as error:
        return Finding("broken", "rave", f"{error.what}: {error.why}", error.do_this)
    except Exception as error:
        # A foreign package at import: whatever it raises is a finding, not a fault of ours.
        return _broken_import("rave", error, 'pip install --force-reinstall "acids-rave==2.3.1"')
    return Finding("ok", "rave", f"acids-rave {importlib.metadata.version('acids-rave')}")


def check_sndfile() -> Finding:
    """Formats that libsndfile should decode, each tried on a tone of half a second."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return _broken_import("libsndfile", error, "pip install --force-reinstall soundfile")

    def write(path: Path) -> None:
        form, subtype = _SNDFILE_FORMATS[path.suffix[1:]]
        soundfile.write(path, _tone(), _TONE_RATE, format=form, subtype=subtype)

    failed = _try_formats(_SNDFILE_FORMATS, write)
    version = soundfile.__libsndfile_version__
    return _formats_finding(
        f"libsndfile {version}", _SNDFILE_FORMATS, failed, "pip install --upgrade soundfile"
    )


def check_ffmpeg() -> Finding:
    """Formats that need the ffmpeg binary, each tried on a tone of half a second."""
    advice = "pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE"
    try:
        import imageio_ffmpeg
        import soundfile

        binary = imageio_ffmpeg.get_ffmpeg_exe()
        version = imageio_ffmpeg.get_ffmpeg_version()
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        formats = " ".join(_FFMPEG_CODECS)
        return Finding(
            "limits", "formats", f"cannot decode {formats}: {_first_line(error)}", advice
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
    return _formats_finding(f"ffmpeg {version}", _FFMPEG_CODECS, failed, advice)


def check_disk(root: Path) -> Finding:
    free = runs.free_bytes(root.absolute()) / GIB
    return _enough("disk", free, "free for", f"{root}", limits=5.0, broken=0.5)


def check_memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / GIB
    return _enough("memory", free, "free on", f"{os.cpu_count()} cores", limits=3.0, broken=0.5)


def check_writing(root: Path) -> Finding:
    """Whether files can be made where the run directory is, or will be."""
    folder = root.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        # On some network disks a file can be made, but not take another's place.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".latentdiff-doctor-") as scratch:
            path = Path(scratch) / "test"
            for text in ("first", "second"):
                runs.write_text(path, text)
            if path.read_text(encoding="utf-8") != "second":
                raise OSError("what was written is not what is read")
    except (OSError, UserError) as error:
        reason = error.why if isinstance(error, UserError) else error.strerror or str(error)
        return Finding("broken", "writing", f"{folder}: {reason}", "name another folder with --run")
    return Finding("ok", "writing", f"{folder}")


def _tone() -> np.ndarray:
    """Half a second [N] of A4 at -12 dBFS."""
    time = np.arange(_TONE_RATE // 2) / _TONE_RATE
    return (0.35 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def _try_formats(suffixes: Iterable[str], write: Callable[[Path], None]) -> dict[str, str]:
    """Suffix -> reason, for each whose tone could not be written and decoded to the same tone."""
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
                # Codecs change the rate (opus) and pad the ends, but a tone stays a tone.
                if not (0.15 < level < 0.35 and samples.shape[-1] > 0.4 * rate):
                    failed[suffix] = f"decodes to something else (RMS {level:.3f})"
    return failed


def _formats_finding(
    decoder: str, suffixes: Iterable[str], failed: dict[str, str], advice: str
) -> Finding:
    works = [suffix for suffix in suffixes if suffix not in failed]
    found = f"{' '.join(works) or 'none'} ({decoder})"
    if not failed:
        return Finding("ok", "formats", found)
    reasons = "; ".join(f"{suffix}: {reason}" for suffix, reason in failed.items())
    # Without wav nothing can be decoded into; anything else, the user may not need.
    status: Status = "broken" if "wav" in failed else "limits"
    return Finding(status, "formats", f"{found}, but not {reasons}", advice)


def _enough(
    part: str, gib: float, verb: str, where: str, *, limits: float, broken: float
) -> Finding:
    """A finding about an amount of room, against what a small and a very small run needs."""
    found = f"{gib:.1f} GiB {verb} {where}"
    if gib < broken:
        return Finding("broken", part, found, f"even a quickstart needs {broken} GiB")
    if gib < limits:
        return Finding("limits", part, found, "enough for small projects only")
    return Finding("ok", part, found)


def _broken_import(part: str, error: Exception, advice: str) -> Finding:
    return Finding("broken", part, f"{type(error).__name__}: {_first_line(error)}", advice)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
