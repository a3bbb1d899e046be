"""Benchmarks encoding against a plain loop, and checks that its memory stays constant.

    python scripts/bench_encode.py --rave runs/techno/rave

The plain loop is what one would write by hand: the same RAVE, one file after the other, batch 1, no
chunks. Both read the same files and run in turns in one process; the figures are medians over the
repetitions of the time of the plain loop over ours. Memory: the peak resident size of the whole
`encode` command, in a process of its own, on 10 and on 60 minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from measuring import in_turns, median_ratio, peak_kilobytes

from latentdiff import streaming
from latentdiff.commands.encode import encode
from latentdiff.config import build
from latentdiff.latents.settings import LatentConfig
from latentdiff.model.project import Project
from latentdiff.rave.codec import RaveCodec
from latentdiff.rave.load import load_rave
from latentdiff.runs import Run

SHORT_FILES = 300
SHORT_SECONDS = (0.2, 2.0)
LONG_SECONDS = 300.0
MEMORY_MINUTES = (10, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rave", type=Path, required=True, help="a RAVE run")
    parser.add_argument("--ckpt", help="last, best or a path")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--no-memory", action="store_true", help="skip the minutes it takes")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak_of:
        print(json.dumps(peak_of(options.peak_of, options.rave)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        speed(options, Path(scratch))
        if not options.no_memory:
            memory(options, Path(scratch))


def speed(options: argparse.Namespace, scratch: Path) -> None:
    """The two loops in turns, on many short files and on one long file."""
    codec = RaveCodec.from_run(options.rave, options.ckpt)
    model, origin = load_rave(options.rave, options.ckpt)
    print(f"{origin.describe()}; {torch.get_num_threads()} threads")
    rng = np.random.default_rng(0)
    short = rng.uniform(*SHORT_SECONDS, SHORT_FILES)
    for name, lengths in (("short", short), ("long", np.array([LONG_SECONDS]))):
        files = [
            write_noise(scratch / f"{name}{i}.wav", seconds, codec, rng)
            for i, seconds in enumerate(lengths)
        ]
        seconds = float(lengths.sum())
        plain, ours = in_turns(
            [lambda f=files: plain_loop(model, f), lambda f=files: our_loop(codec, f)],
            options.repeats,
        )
        faster = median_ratio(plain, ours)
        print(
            f"{name}: {len(files)} files, {seconds:.0f} s of audio: plain loop "
            f"{seconds / statistics.median(plain):.0f} s/s, latentdiff "
            f"{seconds / statistics.median(ours):.0f} s/s, {faster:.2f} times as fast "
            f"(medians of {options.repeats}; largest difference of the means "
            f"{largest_difference(model, codec, files[:5]):.1e})"
        )


def memory(options: argparse.Namespace, scratch: Path) -> None:
    """Peak resident size of `encode` on a short and on a long recording."""
    codec = RaveCodec.from_run(options.rave, options.ckpt)
    peaks = []
    for minutes in MEMORY_MINUTES:
        path = scratch / f"{minutes}min.wav"
        write_noise(path, 60.0 * minutes, codec, np.random.default_rng(0))
        command = [sys.executable, __file__, "--rave", str(options.rave), "--peak-of", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        path.unlink()
        peaks.append(result["peak_mb"])
        print(f"{minutes} min: peak {result['peak_mb']:.0f} MB, {result['seconds']:.0f} s")
    print(
        f"peak of {MEMORY_MINUTES[1]} min over {MEMORY_MINUTES[0]} min: {peaks[1] / peaks[0]:.3f}"
    )


def peak_of(path: Path, rave: Path) -> dict[str, float]:
    """Encode one file with the whole command; return time and memory."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        project = build(Project, {"device": "cpu"})
        assert encode(Run(Path(scratch)), project, rave=rave, audio=[path]) == []
    return {"peak_mb": peak_kilobytes() / 1024, "seconds": time.perf_counter() - start}


def plain_loop(model: torch.nn.Module, files: list[Path]) -> None:
    with torch.no_grad():
        for path in files:
            model.encode(whole(path)).chunk(2, 1)


def our_loop(codec: RaveCodec, files: list[Path]) -> None:
    defaults = LatentConfig()
    source = ((path, blocks(path)) for path in files)
    for _ in streaming.encode_files(
        codec, source, chunk_seconds=defaults.chunk_seconds, batch=defaults.batch
    ):
        pass


def largest_difference(model: torch.nn.Module, codec: RaveCodec, files: list[Path]) -> float:
    worst = 0.0
    for path in files:
        audio = whole(path)
        padded = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % codec.hop))
        with torch.no_grad():
            expected = model.encode(padded).chunk(2, 1)[0][0].numpy()
        ours, _ = streaming.encode(codec, audio[0].numpy())
        assert np.isfinite(expected).all() and expected.std() > 0
        worst = max(worst, float(abs(ours - expected).max()))
    return worst


def whole(path: Path) -> torch.Tensor:
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(np.ascontiguousarray(samples.T))[None]


def blocks(path: Path):
    from latentdiff import audio

    return audio.blocks(path)


def write_noise(path: Path, seconds: float, codec: RaveCodec, rng: np.random.Generator) -> Path:
    """Noise under a slow envelope: encoding takes as long as it does for music."""
    with soundfile.SoundFile(path, "w", codec.sample_rate, codec.channels) as file:
        left = round(seconds * codec.sample_rate)
        while left > 0:
            count = min(left, 1 << 20)
            file.write(0.2 * rng.standard_normal((count, codec.channels)))
            left -= count
    return path


if __name__ == "__main__":
    main()
