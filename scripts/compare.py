"""Train on the same latents under several settings for equal wall-clock, and stand them in a table.

    python scripts/compare.py --latents runs/techno/latents --out runs/compare --minutes 5 \\
        --seeds 0 1 2 --case "network.name=unet1d network.channels=96" \\
        --case "wide: network.channels=128" --case "plain:" --evaluate

A case is settings as `latentdiff train-diffusion` takes them, a name before a colon where one is
wanted. Every case is trained once a seed in a run of its own, `<out>/<case>-<seed>`, by the clock
and not by steps; the table has medians over the seeds. Runs that are finished are read, those that
were interrupted continue. With `--jobs 2` two run at a time: give each its share of the cores by
`--threads`, and compare only what ran at equal jobs and threads.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import cpu_name, markdown, run_latentdiff

from latentdiff import runs
from latentdiff.runs import Run
from latentdiff.training import comparable

ASKED = "asked.json"
"""File beside a run's stages that holds the options it was started with."""


@dataclass(frozen=True)
class Case:
    """Settings with a name."""

    name: str
    settings: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Case:
        """`NAME: KEY=VALUE ...`, or `KEY=VALUE ...`, which then is the name."""
        named = re.match(r"\s*([\w.+-]+)\s*:(?:\s|$)", text)
        settings = tuple(shlex.split(text[named.end() :] if named else text))
        wrong = [word for word in settings if "=" not in word]
        if wrong:
            raise argparse.ArgumentTypeError(f"'{wrong[0]}' is no KEY=VALUE")
        last_keys = (word.partition("=")[0].rpartition(".")[2] for word in settings)
        values = (word.partition("=")[2] for word in settings)
        own = "_".join(f"{key}={value}" for key, value in zip(last_keys, values, strict=True))
        return cls(named[1] if named else re.sub(r"[^\w.=+-]+", "-", own) or "defaults", settings)


@dataclass(frozen=True)
class Job:
    """One training: a case with a seed."""

    case: Case
    seed: int
    run: Run
    train: tuple[str, ...]
    """Words of `latentdiff train-diffusion`."""
    evaluate: tuple[str, ...] | None
    threads: int | None
    jobs: int

    @property
    def asked(self) -> dict[str, Any]:
        """Options that must match for a finished run to be reused."""
        return {"train": list(self.train), "threads": self.threads, "jobs": self.jobs}

    def finish(self) -> dict[str, Any]:
        """Train and evaluate what is not there yet; its line of the table."""
        path = self.run.root / ASKED
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != self.asked:
            raise RuntimeError(
                f"{self.run.root} was started otherwise ({path}); name another --out or case"
            )
        if not is_done(self.run.diffusion):
            runs.make_directory(self.run.root)
            runs.write_json(path, self.asked)
            self._call("train-diffusion", self.train)
        if self.evaluate is not None:
            # It knows itself whether it has done just this before.
            self._call("evaluate", self.evaluate)
        return {"case": self.case.name, "seed": self.seed, **figures(self.run)}

    def _call(self, command: str, words: Sequence[str]) -> None:
        run_latentdiff(command, "--run", self.run.root, *words, threads=self.threads)


def main() -> None:
    options = parse()
    jobs = jobs_of(options)
    rows, failures = work(jobs, options.jobs)
    if rows:
        print(report(rows, options))
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        raise SystemExit(1)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=Path, required=True, help="what is trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, each run")
    parser.add_argument(
        "--case",
        type=Case.parse,
        action="append",
        dest="cases",
        metavar="[NAME:] KEY=VALUE ...",
        help="may be repeated; default: one case, of no settings",
    )
    parser.add_argument("--set", nargs="*", default=[], help="settings of every case, KEY=VALUE")
    parser.add_argument("--config", type=Path, help="YAML file of every case")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, help="of each run; default: torch's own choice")
    parser.add_argument("--device", help="auto, cpu, cuda or mps")
    parser.add_argument("--evaluate", action="store_true", help="score samples too")
    parser.add_argument("--rave", type=Path, help="codec that --evaluate hears the samples with")
    parser.add_argument("--samples", type=int, help="that --evaluate draws")
    options = parser.parse_args(words)
    options.cases = options.cases or [Case.parse("")]
    names = [case.name for case in options.cases]
    if len(set(names)) < len(names):
        parser.error(f"two cases have one name: {', '.join(names)}; name them NAME: KEY=VALUE ...")
    return options


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """Seed by seed, so that an early end leaves whole comparisons."""
    return [job_of(options, case, seed) for seed in options.seeds for case in options.cases]


def job_of(options: argparse.Namespace, case: Case, seed: int) -> Job:
    common = ["--latents", str(options.latents), "--seed", str(seed)]
    common += _given("--device", options.device)
    budget = ["training.steps=null", f"training.hours={options.minutes / 60:g}"]
    train = [*common, *_given("--config", options.config), *budget, "training.demo_samples=0"]
    evaluate = [*common, *_given("--rave", options.rave), *_given("--n", options.samples)]
    return Job(
        case,
        seed,
        Run(options.out / f"{case.name}-{seed}"),
        (*train, *options.set, *case.settings),
        tuple(evaluate) if options.evaluate else None,
        options.threads,
        options.jobs,
    )


def _given(option: str, value: object) -> list[str]:
    return [] if value is None else [option, str(value)]


def work(jobs: Sequence[Job], at_a_time: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of the runs in their order, and what went wrong."""
    rows, failures = {}, []
    pool = ThreadPoolExecutor(at_a_time)
    try:
        futures = {pool.submit(job.finish): job for job in jobs}
        for future in as_completed(futures):
            job = futures[future]
            error = future.exception()
            if error is None:
                rows[job] = future.result()
                print(f"{job.run.root}: {json.dumps(rows[job])}", file=sys.stderr, flush=True)
            else:
                failures.append(f"{job.run.root}: {error}")
    finally:
        pool.shutdown(cancel_futures=True)
    return [rows[job] for job in jobs if job in rows], failures


def is_done(stage: Path) -> bool:
    info = runs.read_run(stage)
    return info is not None and info.is_done


def figures(run: Run) -> dict[str, Any]:
    """Results of a finished run; None for what it does not record.

    Losses and skills are those of the best validation; `skill at the end` is of the last one.
    """
    info = runs.read_run(run.diffusion)
    assert info is not None  # it is finished
    result = info.result
    metrics = runs.read_jsonl(run.diffusion / "metrics.jsonl")
    validations = [row for row in metrics if "validation/skill" in row]
    best = [row for row in validations if row["step"] == result["best_step"]]
    speeds = [row[key] for row in metrics if (key := "audio_seconds_per_second") in row]
    held_out = result if result["validated"] else {}
    found = {
        "parameters": parameters(run.diffusion / "checkpoints" / "last.safetensors"),
        "steps": result["step"],
        "loss": held_out.get("loss"),
        "baseline": held_out.get("baseline"),
        "skill": held_out.get("skill"),
        "skill at the end": validations[-1]["validation/skill"] if validations else None,
        "training skill": best[-1].get("validation/training_skill") if best else None,
        "conditioning gain": held_out.get("conditioning_gain"),
        "baseline of": comparable.baseline_of(info.config),
        "audio s/s": statistics.median(speeds) if speeds else None,
    }
    return {**found, **scores(run.root / "evaluation" / "evaluation.json")}


def parameters(weights: Path) -> int:
    """Numbers in the network of a checkpoint."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as file:
        names = [name for name in file.keys() if name.startswith("network.network.")]  # noqa: SIM118
        return sum(_size(file.get_slice(name).get_shape()) for name in names)


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def scores(path: Path) -> dict[str, float | None]:
    """Scores of the samples by kind of features; empty without an evaluation."""
    if not path.exists():
        return {}
    results = json.loads(path.read_text(encoding="utf-8"))
    kinds = {kind: results[kind]["joint"] for kind in ("latents", "sound") if kind in results}
    found = {}
    for kind, line in kinds.items():
        found[f"{kind} score"] = line["scores"]["samples"]["value"]
        found[f"{kind} AUC"] = line["separation"]["samples"]["value"]
    return found


def report(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """A line a case: medians over its seeds, and the worst and best skill."""
    by_case = {case.name: [r for r in rows if r["case"] == case.name] for case in options.cases}
    lines = [summary(name, own) for name, own in by_case.items() if own]
    names = {name: own[0].get("baseline of", "") for name, own in by_case.items() if own}
    warning = comparable.warning(names)
    columns = {key: None for line in lines for key, value in line.items() if value is not None}
    threads = "torch's own" if options.threads is None else options.threads
    return (
        f"{options.minutes:g} minutes each, {options.jobs} at a time with {threads} threads of "
        f"{cpu_name()}; medians over seeds {', '.join(map(str, options.seeds))}\n\n"
        + markdown([{key: line.get(key) for key in columns} for line in lines])
        + ("" if warning is None else f"\n\n{warning}")
    )


def summary(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs of one case, without those that lack a value."""
    line: dict[str, Any] = {"case": name, "runs": len(rows)}
    for key in (key for key in rows[0] if key not in ("case", "seed", "baseline of")):
        values = [row[key] for row in rows if row.get(key) is not None]
        line[key] = statistics.median(values) if values else None
        if key == "skill" and len(values) > 1:
            line["skill from..to"] = f"{min(values):.3f}..{max(values):.3f}"
    return line


if __name__ == "__main__":
    main()
