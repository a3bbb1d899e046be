"""`diagnose sampler`: is it the training or the sampling? Samplers with a perfect model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from latentdiff.diagnose.report import Report, run_question
from latentdiff.diagnose.sampler import picture as sampler_pictures
from latentdiff.diagnose.sampler import report as sampler_report
from latentdiff.diffusion import exact, noise
from latentdiff.diffusion.noise import Schedule
from latentdiff.diffusion.settings import ScheduleConfig, ScheduleName
from latentdiff.errors import UserError
from latentdiff.evaluation import oracle
from latentdiff.evaluation.oracle import CASES, OUTPUTS, STEPS, Case, OracleProblem
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.tracking import progress

LATENTS = {"Gaussian": exact.gaussian, "mixture": exact.mixture}

BATCH = {"Gaussian": 64, "mixture": 512}
"""Samples. Moments of the Gaussian are exact with few; those of the mixture are a matter of chance
where fresh noise is drawn."""

BESIDE = ("cosine", "linear-ddpm", "diffwave")
"""Two of these stand beside the configured schedule."""

FEW = (1, 10, 50)
"""Steps at which the outputs of a network are tried, unless everything is."""


@dataclass(frozen=True)
class Task:
    """One schedule on one kind of latents."""

    schedule: Schedule
    latents: str
    direct: Sequence[int]
    """Steps of which the errors are measured."""
    outputs: Sequence[str]
    converted: Sequence[int]
    """Steps at which `outputs` are tried."""

    @property
    def calls(self) -> int:
        """Sampler steps, for the progress bar."""
        return len(CASES) * (sum(self.direct) + len(self.outputs) * sum(self.converted))


def sampler(
    project: Project,
    *,
    run: Run | None = None,
    out: Path | None = None,
    everything: bool = False,
    overwrite: bool = False,
) -> bool:
    """Hold all samplers to latents of which the best denoiser and the exact flow are known.

    Tells errors of mean, covariance and end point for each number of steps on the configured
    schedule, orders of convergence, whether what a network puts out (eps, v, ...) is converted
    rightly, and what starting from pure noise costs. `everything`: each of these for every named
    schedule. Writes into `out`, else `run`/diagnosis/sampler, else nowhere. Returns whether nothing
    is broken. Raises UserError for a regression, which has no sampler.
    """
    if project.diffusion.parametrisation == "regression":
        raise UserError(
            "a regression has no sampler to diagnose",
            why="one call gives all it has to say",
            do_this="name another: diffusion.parametrisation=v.",
        )
    settings = {
        "schedule": project.diffusion.schedule.model_dump(mode="json"),
        "sampling": project.sampling.model_dump(mode="json"),
        "everything": everything,
    }
    results = run_question(
        "sampler",
        dict,
        lambda: _report(project, everything),
        out or (run.diagnosis / "sampler" if run else None),
        settings=settings,
        overwrite=overwrite,
    )
    return results is not None and not results["broken"]


@torch.no_grad()
def _report(project: Project, everything: bool) -> Report[dict[str, Any]]:
    tasks = list(_tasks(project.diffusion.schedule, everything))
    spacing, first = project.sampling.spacing, tasks[0].schedule
    rows, conversions, orders = [], [], []
    with progress(total=sum(task.calls for task in tasks), unit="step", what="samplers") as bar:
        for task in tasks:
            course = _course(task.latents, task.schedule, spacing)
            for name, case in CASES.items():
                place = {"schedule": task.schedule.name, "latents": task.latents, "sampler": name}
                errors, found = _measure(course, case, task)
                rows += [place | row for row in errors]
                conversions += [place | row for row in found]
                orders += _order(place, course, case) if task.direct else []
                bar.update(task.calls // len(CASES))
    schedules = {task.schedule.name: task.schedule for task in tasks}
    results: dict[str, Any] = {
        "schedule": first.name,
        "spacing": spacing,
        "errors": rows,
        "orders": orders,
        "conversions": conversions,
        "starts": [_start(schedule) for schedule in schedules.values()],
        "configured": _configured(project, first),
        "chance": OracleProblem(exact.mixture(), first, batch=BATCH["mixture"]).chance,
    }
    results["broken"] = sampler_report.broken(results)
    return Report(
        results,
        sampler_report.table(results),
        {"sampler.png": lambda path: sampler_pictures.errors(path, results)},
    )


def _tasks(config: ScheduleConfig, everything: bool) -> Iterator[Task]:
    """The configured schedule first, on both kinds of latents; others beside it."""
    names = get_args(ScheduleName) if everything else BESIDE
    others = [name for name in names if name not in (config.name, "betas")]
    others = others if everything else others[:2]
    for schedule in (config, *(ScheduleConfig.model_validate({"name": n}) for n in others)):
        built = noise.build(schedule)
        for latents in LATENTS:
            if everything:
                yield Task(built, latents, STEPS, OUTPUTS, STEPS)
            elif latents == "Gaussian":
                yield Task(built, latents, STEPS, OUTPUTS, FEW)
            elif schedule is config:
                yield Task(built, latents, STEPS, (), ())


def _course(latents: str, schedule: Schedule, spacing: Any) -> OracleProblem:
    return OracleProblem(LATENTS[latents](), schedule, spacing, BATCH[latents])


def _measure(
    course: OracleProblem, case: Case, task: Task
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Errors of one sampler by steps, and how far each output of a network leads off them."""
    models = {output: oracle.as_denoiser(course.exact, output) for output in task.outputs}
    rows, conversions = [], []
    for steps in task.direct:
        samples = course.run(case, steps)
        rows.append({"steps": steps, **asdict(course.errors(case, samples))})
        if steps not in task.converted:
            continue
        for output, model in models.items():
            off = _apart(course, samples, course.run(case, steps, model))
            conversions.append({"output": output, "steps": steps, "deviation": off})
    return rows, conversions


def _apart(course: OracleProblem, samples: Tensor, others: Tensor) -> float:
    """Over the latents' deviation, or the samples' own size where a sampler went astray."""
    return course.distance(samples, others) / max(1.0, float(samples.square().mean().sqrt()))


def _order(place: dict[str, Any], course: OracleProblem, case: Case) -> list[dict[str, Any]]:
    """Measured order, judged: none where fresh noise on a mixture leaves it to chance.

    On levels equally spaced in log-SNR, where an order shows on any schedule; by t, a steep end of
    the schedule hides it until there are thousands of steps.
    """
    if not (course.linear or case.ode):
        return []
    order, error = OracleProblem(course.exact, course.schedule).order(case)
    kept = order >= case.order - oracle.ORDER_TOLERANCE or error <= oracle.ROUNDING
    return [place | {"order": order, "expected": case.order, "error": error, "kept": kept}]


def _start(schedule: Schedule) -> dict[str, Any]:
    """What perfect integration still gets wrong: from the true marginal, and from pure noise."""
    course = OracleProblem(exact.gaussian(), schedule)
    from_noise = course.ends_of(course.noise)
    return {
        "schedule": schedule.name,
        "first": course.first,
        "last": schedule.logsnr_max,
        "gain": schedule.gain,
        "true": asdict(course.off_the_latents(course.ends)),
        "noise": asdict(course.off_the_latents(from_noise)),
        "noise_level_db": course.level_db(from_noise),
        "signal_left": 1 / schedule.gain,
    }


def _configured(project: Project, schedule: Schedule) -> dict[str, Any]:
    """The errors of the sampler as `sample` would run it, with a perfect model."""
    sampling, case = project.sampling, Case.of(project.sampling)
    course = _course("Gaussian", schedule, sampling.spacing)
    errors = course.errors(case, course.run(case, sampling.steps))
    even = OracleProblem(course.exact, schedule)
    return {
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        "errors": asdict(errors),
        "judged": errors.judged,
        "judged_by_logsnr": even.errors(case, even.run(case, sampling.steps)).judged,
    }
