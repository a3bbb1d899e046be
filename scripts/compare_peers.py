"""latentdiff beside what else one would train on the same latents: same minutes, same cores.

    pip install .[compare]
    python scripts/compare_peers.py runs/techno/latents --out runs/peers --minutes 5 --seeds 0 1 2

Every case trains for `--minutes` minutes on the store's training files, is measured on its held-out
files (see peer_measures.py), and draws samples, kept as raw latents in OUT/CASE-seed/samples for
`latentdiff decode --latents`. Scores are those of `latentdiff evaluate`, of the kept directions
and, with --rave, of the sound. Started again it continues with the cases that are not finished.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import cpu_name, markdown, run_latentdiff
from peer_measures import Skills, Space, global_space, scores, skills, whitened_space
from peers import CASES, Case, Peer
from torch import Tensor

from latentdiff import runs
from latentdiff.config import build
from latentdiff.diffusion import noise as noises
from latentdiff.diffusion.settings import SamplingConfig, ScheduleConfig
from latentdiff.latents.arrays import array_writer
from latentdiff.latents.store import LatentStore
from latentdiff.model.clips import gather
from latentdiff.model.condition_inputs import as_condition
from latentdiff.model.condition_maker import ConditionMaker
from latentdiff.model.data import TrainingData, prepare, windows_of
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.sampling import draw
from latentdiff.rave.codec import RaveCodec
from latentdiff.training import checkpoint
from latentdiff.training.data import Batch, Recording, Windows, generator_for

OURS = "latentdiff"
LEVELS = 32
"""Number of the model's own noise levels at which its skill is measured."""
COMMON = 12
"""Number of levels of our default schedule for the matched skill."""
MOST_WINDOWS = 64


@dataclass(frozen=True)
class Ground:
    """Settings and data shared by all cases."""

    options: argparse.Namespace
    store: LatentStore
    data: TrainingData
    kept: int
    """Number of latent directions that our models use."""
    frames: int
    """Length of a sample."""
    codec: RaveCodec | None


@dataclass(frozen=True)
class Trained:
    """A trained case: its scores and samples."""

    what: str
    parameters: int
    steps: int
    """Training steps."""
    skills: Skills
    raw: Tensor
    """[B, D, T]."""
    sampler_steps: int
    seconds: float
    """Sampling time."""


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    ground = prepare_ground(options)
    rows = []
    for seed in options.seeds:
        for name in options.cases:
            rows.append(row_of(ground, name, seed))
            print(json.dumps(rows[-1]), flush=True)
    text = report(ground, rows)
    runs.write_text(options.out / "table.md", text)
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", type=Path, help="a latent store")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, each case")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cases", nargs="+", choices=[OURS, *CASES], default=[OURS, *CASES])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a sample")
    parser.add_argument("--steps", type=int, help="of every sampler; default: its authors'")
    parser.add_argument("--rave", type=Path, help="the codec of the latents: score the sound too")
    parser.add_argument("--set", nargs="*", default=[], help="settings of ours, KEY=VALUE")
    return parser.parse_args()


def prepare_ground(options: argparse.Namespace) -> Ground:
    store = LatentStore.open(options.latents)
    data = prepare(store, build(Project, {"device": "cpu"}))
    facts = data.model.codec
    frames = max(1, round(options.seconds * facts.sample_rate / facts.hop))
    codec = None if options.rave is None else RaveCodec.open(options.rave, None, "cpu")
    return Ground(options, store, data, data.model.whitening.channels, frames, codec)


def row_of(ground: Ground, name: str, seed: int) -> dict[str, Any]:
    """A line of the table; from its file where that case is finished."""
    options = ground.options
    folder = options.out / f"{name}-{seed}"
    asked = {
        "case": name,
        "seed": seed,
        "minutes": options.minutes,
        "threads": options.threads,
        "samples": options.samples,
        "settings": options.set if name == OURS else [],
        "sampler": options.steps,
        "store": ground.store.fingerprint(),
    }
    path = folder / "result.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found["asked"] == asked and (ground.codec is None or "sound score" in found["row"]):
            return found["row"]
    train = train_ours if name == OURS else train_peer
    trained = train(ground, name, seed, folder)
    keep_samples(folder / "samples", trained.raw)
    row = {
        "case": name,
        "seed": seed,
        "what": trained.what,
        "parameters": trained.parameters,
        "training steps": trained.steps,
        "own skill": trained.skills.own,
        "skill": trained.skills.matched,
        **scores(trained.raw, ground.store, ground.data.model.whitening, ground.codec),
        "sampler steps": trained.sampler_steps,
        "audio s/s": audio_seconds(ground, trained) / trained.seconds,
    }
    runs.write_json(path, {"asked": asked, "row": row})
    return row


def train_peer(ground: Ground, name: str, seed: int, folder: Path) -> Trained:
    case, options, store = CASES[name], ground.options, ground.store
    torch.manual_seed(seed)
    peer = case.build(store.latent_dim)
    space = global_space(ground.data.statistics)
    cut = cut_windows(store, "train", case, space)
    steps = fit(peer, case, cut, 60 * options.minutes, seed)
    peer.network.eval()
    held = cut_windows(store, "validation", case, None).spread(MOST_WINDOWS)
    found = skills(
        peer.denoise,
        peer.levels(LEVELS),
        peer.parametrisation,
        space,
        whole(held).latents,
        ground.kept,
        common_levels(),
    )
    sampler_steps = options.steps or case.steps
    begun = time.perf_counter()
    drawn = draw_peer(peer, case, ground, sampler_steps, seed)
    seconds = time.perf_counter() - begun
    count = sum(p.numel() for p in peer.network.parameters())
    return Trained(case.what, count, steps, found, space.to_raw(drawn), sampler_steps, seconds)


def cut_windows(store: LatentStore, split: str, case: Case, space: Space | None) -> Windows:
    """Windows cut as the case needs them: raw or, if its space is given, normalised."""
    entries = store.of(split)
    files = [Recording(entry.key, store.mean(entry)) for entry in entries]
    if case.joins:
        joined = np.concatenate([file.latents for file in files], axis=1)
        repeats = -(-case.window // joined.shape[1])
        files = [Recording("all", np.tile(joined, repeats))]
    see = (lambda z: z) if space is None else space.to_model
    return Windows(files, case.window, whiten=see)


def whole(batch: Batch) -> Batch:
    """The windows without padding; all where each has some."""
    complete = batch.mask.all(dim=1)
    return batch.pick(complete) if complete.any() else batch


def fit(peer: Peer, case: Case, cut: Windows, seconds: float, seed: int) -> int:
    """Train for `seconds`; returns the number of steps.

    The network keeps the weights to sample from.
    """
    optimizer = torch.optim.AdamW(
        peer.network.parameters(), case.learning_rate, weight_decay=case.weight_decay
    )
    weights = list(peer.network.parameters())
    average = [weight.detach().clone() for weight in weights] if case.averages else None
    generator = generator_for(seed, "peers")
    peer.network.train()
    begun, step = time.monotonic(), 0
    while (progress := (time.monotonic() - begun) / seconds) < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = case.learning_rate * (shape(progress) if case.decays else 1.0)
        optimizer.zero_grad(set_to_none=True)
        peer.loss(cut.draw(case.batch, generator).latents).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if average is not None:
            # The warm-up of diffusers' EMAModel: inv_gamma 1, power 3/4.
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, max(1e-4, (1 + step) ** -0.75))
    if average is not None:
        with torch.no_grad():
            torch._foreach_copy_(weights, average)
    return step


def shape(progress: float) -> float:
    """Learning-rate factor: 2 % warm-up, then a cosine to zero."""
    return min(1.0, progress / 0.02) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def draw_peer(peer: Peer, case: Case, ground: Ground, steps: int, seed: int) -> Tensor:
    """Samples [B, D, T] as the peer sees latents; a long one gives several."""
    long = -(-ground.frames // case.multiple) * case.multiple
    each = long // ground.frames
    count = -(-ground.options.samples // each)
    generator = generator_for(seed, "peers", "samples")
    shape_of = (count, ground.store.latent_dim, long)
    noise = torch.randn(shape_of, generator=generator)
    torch.manual_seed(seed)
    drawn = torch.cat([peer.sample(part, steps) for part in noise.split(16)])
    clips = drawn[..., : each * ground.frames].unflatten(-1, (each, ground.frames))
    return clips.transpose(1, 2).flatten(0, 1)[: ground.options.samples]


def train_ours(ground: Ground, name: str, seed: int, folder: Path) -> Trained:
    options = ground.options
    run = runs.Run(folder / "run")
    run_latentdiff(
        "train-diffusion",
        *("--run", run.root, "--latents", options.latents, "--seed", seed, "--device", "cpu"),
        "training.steps=null",
        f"training.hours={options.minutes / 60}",
        "training.demo_samples=0",
        *options.set,
        threads=options.threads,
    )
    model = Model.load(checkpoint.find(run.diffusion))
    parametrisation = model.spec.diffusion.parametrisation
    space = whitened_space(model.whitening, ground.data.statistics)
    plain = Case(name, "", CASES["unet1d"].build, 0, window=model.spec.window)
    held = cut_windows(ground.store, "validation", plain, None).spread(MOST_WINDOWS)
    times = (torch.arange(LEVELS) + 0.5) / LEVELS
    own = windows_of(model, ground.store, "validation")
    follows = whole(own.spread(MOST_WINDOWS)).condition
    found = skills(
        lambda z, level: model.denoiser(z, torch.full((len(z),), level), follows),
        model.schedule(times).tolist(),
        parametrisation,
        space,
        whole(held).latents,
        model.whitening.channels,
        common_levels(),
    )
    settings = model.resolve(SamplingConfig(steps=options.steps or SamplingConfig().steps))
    seeds = [1000 * seed + k for k in range(options.samples)]
    begun = time.perf_counter()
    real = gather(model, ground.store, options.samples, ground.frames).other
    files = [place.entry.key for place in real.places]
    asked = as_condition(ConditionMaker(model).batch(seeds, ground.frames, files))
    drawn = draw(model, settings, seeds, ground.frames, asked).latents
    seconds = time.perf_counter() - begun
    count = sum(p.numel() for p in model.denoiser.parameters())
    what = " ".join([f"latentdiff {model.spec.network.name}, {settings.sampler}", *options.set])
    steps = runs.read_jsonl(run.diffusion / "metrics.jsonl")[-1]["step"]
    return Trained(what, count, steps, found, space.to_raw(drawn), settings.steps, seconds)


def common_levels() -> list[float]:
    """Log-SNRs at which directions are compared: as our default training spreads them."""
    times = (torch.arange(COMMON) + 0.5) / COMMON
    return noises.build(ScheduleConfig())(times).tolist()


def audio_seconds(ground: Ground, trained: Trained) -> float:
    facts = ground.data.model.codec
    return len(trained.raw) * ground.frames * facts.hop / facts.sample_rate


def keep_samples(folder: Path, raw: Tensor) -> None:
    for number, z in enumerate(raw.numpy()):
        with array_writer(folder / f"{number:03d}.npy") as writer:
            writer.append(z)


def report(ground: Ground, rows: list[dict[str, Any]]) -> str:
    """Medians over the seeds, and what stands behind them."""
    options = ground.options
    table = []
    for name in options.cases:
        own = [row for row in rows if row["case"] == name]
        row = {key: own[0][key] for key in ("case", "what", "parameters")}
        for key in own[0]:
            if key not in (*row, "seed"):
                row[key] = statistics.median(r[key] for r in own)
        table.append(row)
    return (
        f"{options.minutes:g} minutes each, seeds {options.seeds} (medians), "
        f"{options.threads} threads of {cpu_name()}; {ground.kept} of {ground.store.latent_dim} "
        f"directions kept; {options.samples} samples of {options.seconds:g} s\n\n"
        f"{markdown(table)}\n"
    )


if __name__ == "__main__":
    main()
