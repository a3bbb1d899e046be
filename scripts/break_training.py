"""Breaks trainings on purpose and checks that diagnoses find the cause.

    python scripts/break_training.py --latents runs/techno/latents --out runs/broken --seeds 0,1,2
    python scripts/break_training.py --kinds ...

Runs that are broken, each in one way, and six that are not, for every seed; then a table of what
`diagnose training` finds first. With --kinds, three runs for each kind of condition: a healthy one,
one whose conditions belong to other files, and one whose conditions come too late or too early;
then a table of what `diagnose conditioning` says. Latents and conditions are broken on disk, where
no setting shows it. The latents need posterior deviations (latents.keep_std=true) and all kinds
(condition.kinds=style,beat,chroma,loudness,mel,label). The same command again only diagnoses once
more. Exit code 1 if a cause is not named first, or anything is found in a healthy run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import breaks
from breaks import Break
from measuring import markdown, run_latentdiff

from latentdiff.latents.store import LatentStore

RATE = 0.004
"""A learning rate that is fast and stable on a CPU."""
SETTINGS = {
    "training.batch": 16,
    "training.window": 64,
    "training.learning_rate": RATE,
    "network.channels": 32,
    "network.blocks": 8,
    "training.demo_samples": 0,
    "training.leaks": "allow",
    "training.calibration_samples": 0,
}
FREE: dict[str, object] = {"condition.kinds": "none"}
MEL: dict[str, object] = {"condition.kinds": "mel"}
LABEL: dict[str, object] = {"condition.kinds": "style,beat,label"}
LONG: dict[str, object] = {
    "condition.kinds": "style,beat,chroma,loudness",
    "training.window": 128,
    "training.batch": 8,
}
NOTHING = "nothing"
FEATURES = ("beat", "chroma", "loudness", "mel")
"""Kinds that are stored along time, and may be stored at the wrong time."""
EFFECT = ("followed", "weak")
"""Verdicts on conditions that the model uses."""


@dataclass(frozen=True)
class Case:
    """A training, and what is to be said of it."""

    expected: tuple[str, ...]
    """Any of these: the first finding, or the verdict on the kind."""
    break_latents: Break | None = None
    settings: dict[str, object] = field(default_factory=dict)


def main() -> None:
    options = arguments()
    cases, judge = (OF_KINDS, verdict_on) if options.kinds else (CASES, first_finding)
    rows = []
    for seed in options.seeds:
        for name, case in cases.items():
            if options.cases and name not in options.cases:
                continue
            run = options.out / f"{name}-{seed}"
            latents = prepared(options.latents, run.with_name(f"{run.name}-latents"), case, seed)
            train(run, latents, case, seed, options)
            found, details = judge(run, latents, name)
            right = found in case.expected
            row = {"case": name, "seed": seed, "found": found}
            row["right"] = "yes" if right else f"no: {' or '.join(case.expected)}"
            rows.append({**row, **details})
            print("  ".join(f"{value}" for value in rows[-1].values()), flush=True)
    print(markdown(rows))
    sys.exit(0 if all(row["right"] == "yes" for row in rows) else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=Path, required=True, help="a store of `encode`")
    parser.add_argument("--out", type=Path, required=True, help="folder for stores and runs")
    parser.add_argument("--seeds", type=numbers, default=(0, 1, 2), help="such as 0,1,2")
    parser.add_argument("--steps", type=int, default=400, help="of a training; to overfit, twice")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training, at most")
    parser.add_argument("--kinds", action="store_true", help="break each kind of condition")
    parser.add_argument("--cases", nargs="*", choices=[*CASES, *OF_KINDS], help="only these")
    return parser.parse_args()


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def prepared(source: Path, target: Path, case: Case, seed: int) -> Path:
    """The latents to train on: those given, or a copy that was broken."""
    if case.break_latents is None:
        return source
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    case.break_latents(LatentStore.open(target), seed)
    return target


def train(run: Path, latents: Path, case: Case, seed: int, options: argparse.Namespace) -> None:
    steps = options.steps * (2 if case.settings is OVERFIT else 1)
    given = {
        **SETTINGS,
        "training.hours": options.minutes / 60,
        **case.settings,
        "training.steps": steps,
    }
    words = [f"{key}={value}" for key, value in given.items()]
    places = ["--run", run, "--latents", latents, "--device", "cpu", "--seed", seed]
    run_latentdiff("train-diffusion", *places, *words, threads=1)


def diagnose(question: str, run: Path, latents: Path, *words: object) -> dict[str, Any]:
    """The results of a question."""
    places = ["--run", run, "--latents", latents, "--device", "cpu", "--overwrite"]
    run_latentdiff("diagnose", question, *places, *words, threads=1)
    report = run / "diagnosis" / question / f"{question}.json"
    results: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return results


def first_finding(run: Path, latents: Path, _: str) -> tuple[str, dict[str, object]]:
    """The heaviest cause found, and the others."""
    results = diagnose("training", run, latents)
    first, *others = [*(finding["cause"] for finding in results["findings"]), NOTHING]
    measured = results["measured"]
    return first, {
        "also": ", ".join(others[:-1]),
        "form skill": measured and measured["form_skill"],
    }


def verdict_on(run: Path, latents: Path, name: str) -> tuple[str, dict[str, object]]:
    """The verdict on the kind of a case, what it rests on, and what is found in the training."""
    kind = name.partition("-")[0]
    results = diagnose("conditioning", run, latents, "--n", 2, "--seconds", 1)
    judged = results["judged"][kind]
    exchange, fit = judged["exchange"] or {}, judged["fit"]
    first, details = first_finding(run, latents, name)
    lag = None
    if fit is not None:
        explained = fit["alignment"]["explained"]
        lag = fit["alignment"]["lags"][explained.index(max(explained))]
    return judged["verdict"], {
        **{key: exchange.get(key) for key in ("gain", "p", "identified")},
        "best lag": lag,
        "finding": first,
        **details,
    }


OVERFIT: dict[str, object] = {
    "condition.kinds": "none",
    "network.channels": 64,
    "training.window": 32,
    "training.batch": 8,
}
TRANSFORMER: dict[str, object] = {
    "network.name": "transformer",
    "network.channels": 64,
    "network.blocks": 3,
    "training.learning_rate": RATE / 2,
}
BATCH_NORM: dict[str, object] = {
    "experiment.network.norm": "batch",
    "experiment.training.levels": "batch",
}
CASES = {
    "sampled": Case(("sampled-posteriors",), breaks.draw_posteriors),
    "shuffled": Case(("unpaired-conditions",), breaks.exchange_features, MEL),
    "batch-norm": Case(("batch-norm",), None, BATCH_NORM),
    "fast": Case(("learning-rate-too-high",), None, {"training.learning_rate": 100 * RATE}),
    "overfit": Case(("overfitting",), breaks.leave_one, OVERFIT),
    "late": Case(("misaligned-conditions",), breaks.delay_features, MEL),
    "late-beat": Case(("misaligned-conditions",), breaks.delay_features),
    "labels": Case(("ignored-condition",), breaks.exchange_labels, LABEL),
    "leak": Case(("leak",), breaks.leak),
    "offset": Case(("offset-files",), breaks.offset),
    "silence": Case(("silence",), breaks.silence),
    "loud": Case(("scaled-files",), breaks.scale_one),
    "codecs": Case(("mixed-codecs",), breaks.mix_codecs),
    "decay": Case(("weight-decay-too-strong",), None, {"training.weight_decay": 100}),
    "clip": Case(("gradient-clip-too-low",), None, {"training.gradient_clip": 1e-6}),
    "slow": Case(("learning-rate-too-low",), None, {"training.learning_rate": 1e-6}),
    "free": Case(("no-form",), None, FREE),
    "healthy": Case((NOTHING,)),
    "mel": Case((NOTHING,), None, MEL),
    "labelled": Case((NOTHING,), None, LABEL),
    "eps": Case((NOTHING,), None, {"diffusion.parametrisation": "eps"}),
    "transformer": Case((NOTHING,), None, TRANSFORMER),
    "long": Case((NOTHING,), None, LONG),
}
SHUFFLES = {
    "style": breaks.level_pieces,
    "label": breaks.exchange_labels,
    **dict.fromkeys(FEATURES, breaks.exchange_features),
}
"""Kind -> the break that makes it say nothing; the style is taken from the latents themselves."""


def of_kind(kind: str) -> dict[str, Case]:
    """A healthy, a shuffled and, where the kind changes along time, a shifted training."""
    alone: dict[str, object] = {"condition.kinds": kind}
    cases = {
        f"{kind}-healthy": Case(EFFECT, None, alone),
        f"{kind}-shuffled": Case(("ignored",), SHUFFLES[kind], alone),
    }
    if kind in FEATURES:
        cases[f"{kind}-shifted"] = Case(("misaligned",), breaks.delay_features, alone)
    return cases


OF_KINDS = {name: case for kind in SHUFFLES for name, case in of_kind(kind).items()}


if __name__ == "__main__":
    main()
