"""Results of `diagnose training`, in the structure of `training.json`."""

from __future__ import annotations

from dataclasses import dataclass

from latentdiff.diagnose.followed import Fit
from latentdiff.diagnose.training.causes_network import SampleStatistics
from latentdiff.diagnose.training.evidence import RunEvidence
from latentdiff.diagnose.training.findings import Finding
from latentdiff.diagnose.training.measure import ModelMeasurements
from latentdiff.evaluation.activations import BlockActivity
from latentdiff.evaluation.permutation import Exchange


@dataclass(frozen=True)
class ModelResults:
    """The model on its latents."""

    checkpoint: str
    step: int
    """Training steps behind the weights."""
    training: dict[str, float]
    """`Validation.metrics` on training windows."""
    held_out: dict[str, float] | None
    """`Validation.metrics` on held-out windows; None without any."""
    learnable: float
    """Skill of the spectrum-only denoiser on training windows."""
    weights_grown: float
    """Magnitude of the typical weight matrix over that of a fresh one."""
    form_skill: float | None
    """Skill at the noisiest levels; None: the schedule has none below log-SNR -4."""
    fits: dict[str, Fit]
    """Kind -> how its stored features fit the latents; without kinds that have none."""
    exchanges: dict[str, Exchange]
    """Kind -> losses with that kind right and exchanged."""
    samples: SampleStatistics
    blocks: dict[str, list[BlockActivity]]
    """Magnitudes in each block, by log-SNR such as `+3.7`."""

    @classmethod
    def of(cls, m: ModelMeasurements) -> ModelResults:
        return cls(
            checkpoint=str(m.model.path),
            step=m.model.step,
            training=m.train.metrics(),
            held_out=None if m.held_out is None else m.held_out.metrics(),
            learnable=m.learnable,
            weights_grown=m.growth,
            form_skill=m.form_skill,
            fits=m.fits,
            exchanges=m.exchanges,
            samples=m.samples,
            blocks={f"{logsnr:+.1f}": at.blocks for logsnr, at in m.activations.items()},
        )


@dataclass(frozen=True)
class Results:
    """Why did a training go wrong?"""

    findings: list[Finding]
    """Most serious first; empty: the run is healthy."""
    unseen: list[str]
    """Checks that could not be made, each with the reason."""
    doubts: list[str]
    """What was measured, but on too little to say anything."""
    measured: ModelResults | None
    """None without a checkpoint or without latents."""

    @classmethod
    def of(cls, evidence: RunEvidence, findings: list[Finding]) -> Results:
        m = evidence.measured
        return cls(
            findings, evidence.unseen, evidence.doubts, None if m is None else ModelResults.of(m)
        )
