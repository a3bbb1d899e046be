"""How good a diffusion model is: skill on held-out files, and its samples compared with real
clips."""

from latentdiff.model.evaluate.inputs import EvaluationSettings, choose_clips
from latentdiff.model.evaluate.measure import evaluate_model
from latentdiff.model.evaluate.results import EvaluationResult

__all__ = ["EvaluationResult", "EvaluationSettings", "choose_clips", "evaluate_model"]
