"""The parts of gpu_check.py, each in a process of its own: measures jobs and writes their lines.

    python scripts/gpu_parts.py diffusion --device cpu --lines lines.jsonl

On CUDA everything has the size that configs/gpu.yaml gives it, elsewhere that of a miniature.
Networks have random weights and learn from noise: their speed does not depend on it.
"""

from __future__ import annotations

import argparse
import gc
import logging
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_rave import SEED, EnoughError
from gpu_check import PARTS, ROOT, Figures, Job, jobs_of, promised, write
from loops import FRAMES, measure_training, product_limit, slow_noise, synchronize, tf32
from measuring import peak_kilobytes
from torch.utils.flop_counter import FlopCounterMode

from latentdiff import streaming
from latentdiff.config import build, merge, read_yaml
from latentdiff.errors import UserError
from latentdiff.latents.store import CodecFacts
from latentdiff.latents.whitening import Whitening
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.sampling import draw
from latentdiff.model.spec import ModelSpec
from latentdiff.rave import compat
from latentdiff.rave.codec import RaveCodec
from latentdiff.rave.database import FULL_SCALE, DatabaseWriter
from latentdiff.rave.gin_config import assemble
from latentdiff.rave.load import Origin
from latentdiff.rave.net import RunNet
from latentdiff.rave.train import RaveTraining

CHANNELS = 12
"""Latent directions that the diffusion learns."""
CYCLE = 4
"""Steps of RAVE in phase 2 after which discriminator and generator have had their turns."""


@dataclass(frozen=True, eq=False)
class Scale:
    """How large everything is."""

    device: str
    settings: dict[str, Any]
    """Differences from configs/gpu.yaml, by section."""
    product: int
    """Rows and columns of the matrices of the limit."""
    diffusion_steps: int
    """Of a training; the second half counts."""
    warm_up: int
    """Steps of each phase of RAVE that do not count; a multiple of CYCLE, at least twice that."""
    rave_steps: int
    """Steps of each phase that count; a multiple of CYCLE."""
    sound: float
    """Seconds of sound to encode and to decode."""
    samples: int
    seconds: float
    """Of each sample."""
    passes: int
    """Times that sound is encoded, decoded and sampled."""

    @property
    def project(self) -> Project:
        """All settings."""
        return build(Project, self.values)

    @property
    def values(self) -> dict[str, Any]:
        """All settings, as YAML has them."""
        # Latents that are made up have no conditions.
        unconditional = {"condition": {"kinds": "none"}}
        return merge(read_yaml(ROOT / "configs" / "gpu.yaml"), unconditional, self.settings)


CARD = Scale(
    "cuda",
    settings={},
    product=8192,
    diffusion_steps=160,
    warm_up=12,
    rave_steps=16,
    sound=600.0,
    samples=16,
    seconds=30.0,
    passes=3,
)
MINIATURE = Scale(
    "cpu",
    settings={
        "data": {"sample_rate": 16000},
        "rave": {
            "capacity": 4,
            "latent_size": 16,
            "n_band": 8,
            "ratios": [4, 4, 2],
            "n_signal": 16384,
            "batch": 1,
            "workers": 0,
            "overrides": ["core.MultiScaleSTFT.scales=[1024,256]"],
        },
        "latents": {"batch": 2, "chunk_seconds": 1.0},
        "network": {"channels": 16, "blocks": 2, "dilation_cycle": 2},
        "training": {"batch": 4, "window": 32},
        "sampling": {"steps": 2},
    },
    product=256,
    diffusion_steps=8,
    warm_up=8,
    rave_steps=4,
    sound=1.0,
    samples=2,
    seconds=1.0,
    passes=1,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--lines", type=Path, required=True, help="where the lines are written")
    options = parser.parse_args()
    scale = CARD if options.device == "cuda" else MINIATURE
    warnings = Warnings()
    logging.getLogger("latentdiff").addHandler(warnings)
    for job in jobs_of(options.part, options.device):
        lines = promised([job])
        warnings.texts.clear()
        try:
            figures = JOBS[job.kind](job, scale)
            done = [replace(line, figures=f) for line, f in zip(lines, figures, strict=True)]
        # Whatever it is, it is the reason of these lines, and the next job may well work.
        except Exception as error:
            traceback.print_exc()
            done = [replace(line, reason=reason(error, warnings)) for line in lines]
        write(options.lines, done)
        gc.collect()
        torch.cuda.empty_cache()


class Warnings(logging.Handler):
    """Keeps what is warned of: why torch.compile failed, for example."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def reason(error: Exception, warnings: Warnings) -> str:
    """In one line of a table."""
    if isinstance(error, UserError):
        text = f"{error.what}: {error.why}" if error.why else error.what
    else:
        text = f"{type(error).__name__}: {error}"
    words = " ".join("; ".join([text, *warnings.texts]).split())
    return words[:300].replace("|", "/")


def limit(job: Job, scale: Scale) -> list[Figures]:
    """What a large product of matrices achieves."""
    kind = torch.bfloat16 if job.precision == "bf16" else torch.float32
    with arithmetic(job):
        return [Figures(flops=product_limit(scale.device, kind, scale.product))]


def arithmetic(job: Job) -> Any:
    """TF32 allowed or not; in mixed precision, too, for what stays in 32 bit."""
    return tf32(job.precision != "fp32")


def diffusion_training(job: Job, scale: Scale) -> list[Figures]:
    """Steps of the trainer on latents that are made up."""
    training = {
        "steps": scale.diffusion_steps,
        "log_every": scale.diffusion_steps // 2,
        "precision": "bf16-mixed" if job.precision == "bf16" else "32",
        "compile": job.compiled,
        "demo_samples": 0,
    }
    values = {name: scale.values[name] for name in ("network", "training")}
    latents = slow_noise(np.random.default_rng(SEED), CHANNELS, FRAMES)
    forget_peak()
    with arithmetic(job):
        line = measure_training(merge(values, {"training": training}), latents, scale.device)
    return [
        Figures(
            steps=1 / line["step_seconds"],
            audio=line["audio_seconds_per_second"],
            data_wait=line["data_wait"],
            flops=line["flops"] / line["step_seconds"],
            peak_bytes=peak(scale),
        )
    ]


def sampling(job: Job, scale: Scale) -> list[Figures]:
    """Samples of a diffusion model that has not learned anything."""
    project = scale.project
    facts = CodecFacts("", project.data.sample_rate, 2048, CHANNELS, 1)
    same = Whitening(torch.zeros(CHANNELS), torch.eye(CHANNELS), torch.ones(CHANNELS))
    spec = ModelSpec.of(project, facts)
    model = Model.create(spec, same)
    model.denoiser.eval().requires_grad_(False).to(scale.device)
    frames = spec.frames(scale.seconds)

    def sample() -> None:
        draw(model, project.sampling, range(scale.samples), frames)

    with arithmetic(job):
        return [timed(sample, scale.samples * spec.seconds(frames), scale)]


def timed(work: Callable[[], object], sound: float, scale: Scale) -> Figures:
    """The speed of `work` on `sound` seconds of sound, after a pass that counts its operations."""
    forget_peak()
    with FlopCounterMode(display=False) as counter:
        work()
    seconds = []
    for _ in range(scale.passes):
        synchronize(scale.device)
        begun = time.perf_counter()
        work()
        synchronize(scale.device)
        seconds.append(time.perf_counter() - begun)
    middle = statistics.median(seconds)
    flops = counter.get_total_flops() / middle
    return Figures(audio=sound / middle, flops=flops, peak_bytes=peak(scale))


def codec(job: Job, scale: Scale) -> list[Figures]:
    """Noise through a RAVE with random weights, in memory, and back."""
    project = scale.project
    options = {"chunk_seconds": project.latents.chunk_seconds, "batch": project.latents.batch}
    with arithmetic(job):
        rave = make_codec(scale)
        frames = int(scale.sound * rave.sample_rate / rave.hop)
        rng = np.random.default_rng(SEED)
        audio = noise(rng, rave.channels, frames * rave.hop)
        z = rng.standard_normal((rave.latent_dim, frames), dtype=np.float32)
        sound = audio.shape[1] / rave.sample_rate

        def encode() -> None:
            for _ in streaming.encode_files(rave, [("noise", [audio])], **options):
                pass

        def decode() -> None:
            for _ in streaming.decode_files(rave, [("noise", [z])], **options):
                pass

        return [timed(work, sound, scale) for work in (encode, decode)]


@cache
def make_codec(scale: Scale) -> RaveCodec:
    """RAVE as `train-rave` begins with it."""
    project = scale.project
    with compat.isolated_gin(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = assemble(project.rave, project.data.sample_rate, project.data.channels).model
    net = RunNet(model.eval(), torch.device(scale.device))
    return RaveCodec(net, "random weights", Origin(Path("none"), 0, 1), scale.device)


def noise(rng: np.random.Generator, channels: int, samples: int) -> np.ndarray:
    """[channels, samples], below full scale."""
    return rng.uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def rave_training(job: Job, scale: Scale) -> list[Figures]:
    """Steps of both phases of one training."""
    project = scale.project
    changes = {
        "phase_1_steps": scale.warm_up + scale.rave_steps + 1,
        "validation_chunks": 4,
        "precision": "bf16-mixed" if job.precision == "bf16" else "32",
    }
    config = project.rave.model_copy(update=changes)
    clock = Clock(job, scale, config.batch * config.n_signal / project.data.sample_rate)
    options = {"seed": SEED, "device": scale.device}
    with (
        tempfile.TemporaryDirectory() as scratch,
        RaveTraining(config, dataset(scale), Path(scratch), **options) as training,
        clock.running(),
        suppress(EnoughError),
    ):
        training.fit()
    return [phase.figures for phase in clock.phases.values() if phase.figures]


@cache
def dataset(scale: Scale) -> Path:
    """A RAVE database of noise: forty records of twice the length of a crop."""
    path = Path(TEMPORARY.name) / "dataset"
    project, rng = scale.project, np.random.default_rng(SEED)
    with DatabaseWriter(path, project.data.sample_rate, 1) as writer:
        for _ in range(40):
            record = noise(rng, 1, 2 * project.rave.n_signal) * (FULL_SCALE - 1)
            writer.append(record.astype(np.int16))
    return path


@dataclass
class Phase:
    """The steps of one phase."""

    steps: int = 0
    flops: int = 0
    """Of CYCLE steps."""
    begun: float = 0.0
    figures: Figures | None = None


@dataclass
class Clock:
    """Times the steps of a RAVE training from inside of it, and ends it."""

    job: Job
    scale: Scale
    sound: float
    """Seconds of it in a step."""
    phases: dict[int, Phase] = field(default_factory=lambda: {1: Phase(), 2: Phase()})
    waited: float = 0.0
    """Seconds for data, since a phase's steps count."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it, RAVE's steps are timed, and so are the waits for its batches."""
        from rave import RAVE
        from torch.utils.data.dataloader import _BaseDataLoaderIter as Batches

        step, fetch = RAVE.training_step, Batches.__next__

        def training_step(model: Any, batch: torch.Tensor, batch_idx: int) -> None:
            if batch_idx == 0:
                self.prepare(model)
            with self.before_step(2 if model.warmed_up else 1):
                step(model, batch, batch_idx)

        def timed_fetch(batches: Any) -> Any:
            begun = time.perf_counter()
            try:
                return fetch(batches)
            finally:
                self.waited += time.perf_counter() - begun

        RAVE.training_step, Batches.__next__ = training_step, timed_fetch
        try:
            # What RAVE's own trainer sets when it begins, `prepare` sets again.
            with arithmetic(self.job):
                yield
        finally:
            RAVE.training_step, Batches.__next__ = step, fetch

    def prepare(self, model: Any) -> None:
        """Before the first step: this job's arithmetic, and compilation."""
        allowed = self.job.precision != "fp32"
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        if self.job.compiled:
            for part in (model.encoder, model.decoder, model.discriminator):
                part.compile()

    def before_step(self, number: int) -> Any:
        """Take the time where it is due; the context for the step counts it where that is due."""
        phase, scale = self.phases[number], self.scale
        step = phase.steps
        phase.steps += 1
        if step == scale.warm_up:
            synchronize(scale.device)
            forget_peak()
            self.waited, phase.begun = 0.0, time.perf_counter()
        elif step == scale.warm_up + scale.rave_steps:
            synchronize(scale.device)
            phase.figures = self.figures(phase, time.perf_counter() - phase.begun)
            if number == 2:
                raise EnoughError
        # Not the first steps: tuning and compiling are not the work of a step.
        counted = scale.warm_up - CYCLE <= step < scale.warm_up and not self.job.compiled
        return counting(phase) if counted else nullcontext()

    def figures(self, phase: Phase, seconds: float) -> Figures:
        pace = self.scale.rave_steps / seconds
        return Figures(
            steps=pace,
            audio=pace * self.sound,
            data_wait=self.waited / seconds,
            flops=pace * phase.flops / CYCLE if phase.flops else None,
            peak_bytes=peak(self.scale),
        )


@contextmanager
def counting(phase: Phase) -> Iterator[None]:
    """Add the operations of what happens within it."""
    with FlopCounterMode(display=False) as counter:
        yield
    phase.flops += counter.get_total_flops()


def tests(job: Job, scale: Scale) -> list[Figures]:
    """The tests marked `gpu`. Raises RuntimeError if one fails, or none is found."""
    marked = [path for path in (ROOT / "tests").glob("test_*.py") if "mark.gpu" in path.read_text()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", *map(str, marked)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    print(done.stdout)
    summary = re.sub(r" in [0-9.]+s.*", "", done.stdout.strip().splitlines()[-1].strip("= "))
    if done.returncode:
        failures = re.findall(r"^(?:FAILED|ERROR) \S*?::(.*)$", done.stdout, re.M)
        raise RuntimeError("; ".join([summary, *failures]))
    return [Figures(note=summary)]


def forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak(scale: Scale) -> int:
    """Bytes held at most since `forget_peak`; on a CPU since the process began."""
    if scale.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * peak_kilobytes()


JOBS: dict[str, Callable[[Job, Scale], list[Figures]]] = {
    job.__name__: job for job in (limit, diffusion_training, sampling, rave_training, codec, tests)
}
TEMPORARY = tempfile.TemporaryDirectory()


if __name__ == "__main__":
    main()
