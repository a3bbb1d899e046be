"""Measure for `diagnose sampler`: is it the training or the sampling?

Samplers are run with a perfect model, so every error is the sampler's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentdiff.diagnose.report import Report, run_question
from latentdiff.diagnose.sampler import picture
from latentdiff.diagnose.sampler import report as sampler_report
from latentdiff.diagnose.sampler.report import COARSE
from latentdiff.diagnose.sampler.results import (
    ConfiguredSampler,
    ConversionRow,
    OrderRow,
    SamplerResults,
    StartRow,
    StepsRow,
)
from latentdiff.diffusion import exact, noise
from latentdiff.diffusion.noise import Schedule
from latentdiff.diffusion.schedules import SCHEDULES
from latentdiff.diffusion.settings import SamplingConfig, ScheduleConfig, Spacing
from latentdiff.errors import UserError
from latentdiff.evaluation import oracle
from latentdiff.evaluation.oracle import OUTPUTS, STEPS, VARIANTS, OracleProblem, SamplerVariant
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.tracking import progress

NAME = "sampler"
LATENTS = {"Gaussian": exact.gaussian, "mixture": exact.mixture}

BATCH = {"Gaussian": 64, "mixture": 512}
"""Samples. The moments of the Gaussian are exact with few; with fresh noise, those of the mixture
are left to chance."""

COMPARED = ("cosine", "linear-ddpm", "diffwave")
"""Two of these are tried besides the configured schedule."""

FEW = (1, 10, 50)
"""Steps at which the outputs of a network are tried, unless everything is."""


@dataclass(frozen=True)
class Trial:
    """One schedule on one kind of latents, and what to measure there."""

    schedule: Schedule
    latents: str
    direct: Sequence[int]
    """Steps with the exact denoiser."""
    outputs: Sequence[str]
    converted: Sequence[int]
    """Steps with each of `outputs`; among `direct`."""

    @property
    def calls(self) -> int:
        """Sampler steps, for the progress bar."""
        return len(VARIANTS) * (sum(self.direct) + len(self.outputs) * sum(self.converted))


def sampler(
    project: Project,
    *,
    run: Run | None = None,
    out: Path | None = None,
    everything: bool = False,
    overwrite: bool = False,
) -> bool:
    """Compare all samplers with the exact solution on latents for which it is known.

    Reports, for the configured schedule, errors of mean, covariance and end points for each number
    of steps, orders of convergence, whether the network's output (eps, v, ...) is converted
    correctly, and the cost of starting from pure noise. `everything`: all of that for every named
    schedule. Writes into `out`, else `run`/diagnosis/sampler, else nowhere. Returns whether
    everything works. Raises UserError for a regression, which uses no sampler.
    """
    if project.diffusion.parametrisation == "regression":
        raise UserError(
            "a regression uses no sampler",
            why="its samples take one network call",
            do_this="choose another parametrisation: diffusion.parametrisation=v.",
        )
    settings = {
        "schedule": project.diffusion.schedule.model_dump(mode="json"),
        "sampling": project.sampling.model_dump(mode="json"),
        "everything": everything,
    }
    results = run_question(
        NAME,
        SamplerResults,
        lambda: _report(project, everything),
        out or (run.diagnosis / NAME if run else None),
        settings=settings,
        overwrite=overwrite,
    )
    return results is not None and not results.broken


@torch.no_grad()
def _report(project: Project, everything: bool) -> Report[SamplerResults]:
    results = _measure(project, everything)
    return Report(
        results,
        sampler_report.text(results),
        {"sampler.png": lambda path: picture.errors(path, results)},
    )


def _measure(project: Project, everything: bool) -> SamplerResults:
    trials = list(_trials(project.diffusion.schedule, everything))
    spacing, first = project.sampling.spacing, trials[0].schedule
    errors: list[StepsRow] = []
    conversions: list[ConversionRow] = []
    orders: list[OrderRow] = []
    with progress(total=sum(trial.calls for trial in trials), unit="step", what="samplers") as bar:
        for trial in trials:
            problem = _problem(trial.latents, trial.schedule, spacing)
            for name, case in VARIANTS.items():
                rows, converted = _run(problem, name, case, trial)
                errors += rows
                conversions += converted
                orders += _order(problem, name, case, trial)
                bar.update(trial.calls // len(VARIANTS))
    schedules = {trial.schedule.name: trial.schedule for trial in trials}
    return SamplerResults(
        schedule=first.name,
        spacing=spacing,
        errors=errors,
        orders=orders,
        conversions=conversions,
        starts=[_start(schedule) for schedule in schedules.values()],
        configured=_configured(project.sampling, first),
        chance=OracleProblem(exact.mixture(), first, batch=BATCH["mixture"]).chance,
        broken=sampler_report.broken(orders, conversions),
    )


def _trials(config: ScheduleConfig, everything: bool) -> Iterator[Trial]:
    """The configured schedule first, on both kinds of latents; then others."""
    names = tuple(SCHEDULES) if everything else COMPARED
    others = [name for name in names if name not in (config.name, "betas")]
    others = others if everything else others[:2]
    for schedule in (config, *(ScheduleConfig.model_validate({"name": n}) for n in others)):
        built = noise.build(schedule)
        for latents in LATENTS:
            if everything:
                yield Trial(built, latents, STEPS, OUTPUTS, STEPS)
            elif latents == "Gaussian":
                yield Trial(built, latents, STEPS, OUTPUTS, FEW)
            elif schedule is config:
                yield Trial(built, latents, STEPS, (), ())


def _problem(latents: str, schedule: Schedule, spacing: Spacing) -> OracleProblem:
    return OracleProblem(LATENTS[latents](), schedule, spacing, BATCH[latents])


def _run(
    problem: OracleProblem, name: str, case: SamplerVariant, trial: Trial
) -> tuple[list[StepsRow], list[ConversionRow]]:
    """Errors of one sampler by steps, and the deviation that each network output causes."""
    setup = (trial.schedule.name, trial.latents, name)
    models = {output: oracle.as_denoiser(problem.exact, output) for output in trial.outputs}
    rows, conversions = [], []
    for steps in trial.direct:
        samples = problem.run(case, steps)
        errors = problem.errors(case, samples)
        rows.append(StepsRow(*setup, steps, errors.mean, errors.covariance, errors.end))
        if steps not in trial.converted:
            continue
        for output, model in models.items():
            deviation = _deviation(problem, samples, problem.run(case, steps, model))
            conversions.append(ConversionRow(*setup, output, steps, deviation))
    return rows, conversions


def _deviation(problem: OracleProblem, samples: Tensor, others: Tensor) -> float:
    """Relative to the latents' deviation, or to the samples' own size if a sampler diverged."""
    return problem.distance(samples, others) / max(1.0, float(samples.square().mean().sqrt()))


def _order(problem: OracleProblem, name: str, case: SamplerVariant, trial: Trial) -> list[OrderRow]:
    """The measured order and whether it is right; none if fresh noise leaves it to chance.

    On levels equally spaced in log-SNR, where an order shows on any schedule: with steps spaced by
    t, a steep end of the schedule hides it until there are thousands of steps.
    """
    if not (trial.direct and (problem.linear or case.ode)):
        return []
    order, error = OracleProblem(problem.exact, problem.schedule).order(case)
    kept = order >= case.order - oracle.ORDER_TOLERANCE or error <= oracle.ROUNDING
    setup = (trial.schedule.name, trial.latents, name)
    return [OrderRow(*setup, order, case.order, error, kept)]


def _start(schedule: Schedule) -> StartRow:
    problem = OracleProblem(exact.gaussian(), schedule)
    from_noise = problem.ends_of(problem.noise)
    return StartRow(
        schedule=schedule.name,
        first=problem.first,
        last=schedule.logsnr_max,
        gain=schedule.gain,
        true=problem.errors_from_latents(problem.ends),
        noise=problem.errors_from_latents(from_noise),
        noise_level_db=problem.level_db(from_noise),
        signal_left=1 / schedule.gain,
    )


def _configured(sampling: SamplingConfig, schedule: Schedule) -> ConfiguredSampler:
    case, steps = SamplerVariant.of(sampling), sampling.steps
    problem = _problem("Gaussian", schedule, sampling.spacing)
    usual = _problem("Gaussian", schedule, SamplingConfig().spacing)
    errors = problem.errors(case, problem.run(case, steps))
    return ConfiguredSampler(
        sampler=sampling.sampler,
        steps=steps,
        errors=errors,
        judged=errors.judged,
        judged_by_default=usual.errors(case, usual.run(case, steps)).judged,
        enough_steps=_enough_steps(problem, case, steps) if errors.judged > COARSE else None,
    )


def _enough_steps(problem: OracleProblem, case: SamplerVariant, steps: int) -> int | None:
    """The fewest of STEPS, more than `steps`, with an error below COARSE."""
    more = (n for n in STEPS if n > steps)
    return next(
        (n for n in more if problem.errors(case, problem.run(case, n)).judged < COARSE), None
    )
