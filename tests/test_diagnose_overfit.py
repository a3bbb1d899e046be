"""`diagnose overfit`: pictures as latents, distances, and every verdict."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from latentdiff import config
from latentdiff.diagnose.overfit import measure as work
from latentdiff.diagnose.overfit.measure import STEPS, overfit
from latentdiff.diagnose.overfit.report import verdict
from latentdiff.diagnose.overfit.results import DistanceRow, Results
from latentdiff.diagnose.overfit.target import DRAWN, Target
from latentdiff.errors import UserError
from latentdiff.evaluation import image
from latentdiff.model.model import NonFiniteSamples
from latentdiff.model.project import Project
from latentdiff.tracking import encode_png

QUICK = {"network": {"name": "tiny", "channels": 8}, "device": "cpu"}


def project(**sections):
    return config.build(Project, config.merge(QUICK, sections))


def write_picture(path, pixels):
    path.write_bytes(encode_png(pixels.astype(np.uint8)))
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A drawing of 8 by 16 and few samples, in few steps."""
    drawing = image.drawn(8, 16)
    monkeypatch.setattr(image, "drawn", lambda: drawing)
    monkeypatch.setattr(work, "STEPS", (1, 2, 5))
    monkeypatch.setattr(work, "SAMPLES", 2)


def test_a_drawing_is_a_picture_of_unit_variance():
    drawing = image.drawn()
    assert drawing.shape == (8, 16) and abs(float(drawing.mean())) < 1e-5
    assert float(drawing.square().mean()) == pytest.approx(1.0, abs=1e-5)
    # A row is not like the next, nor a column: there is something to learn.
    assert drawing.std(0).min() > 0 and drawing.std(1).min() > 0


def test_a_picture_keeps_its_rows_and_columns(tmp_path):
    pixels = np.zeros((6, 10, 3))
    pixels[1, 7] = 255
    latents = image.read(write_picture(tmp_path / "a.png", pixels))
    assert latents.shape == (6, 10)
    assert np.unravel_index(int(latents.argmax()), (6, 10)) == (1, 7)
    assert float(latents.std(correction=0)) == pytest.approx(1.0, abs=1e-5)


def test_colours_become_grey_as_they_are_seen(tmp_path):
    pixels = np.zeros((4, 4, 3))
    pixels[0, :, 0] = pixels[1, :, 1] = pixels[2, :, 2] = 255
    red, green, blue, black = image.read(write_picture(tmp_path / "a.png", pixels))[:, 0]
    assert green > red > blue > black


def test_large_pictures_are_shrunk_in_their_shape(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (90, 300, 3))
    assert image.read(write_picture(tmp_path / "a.png", pixels)).shape == (19, 64)


def test_transparent_pixels_are_white():
    grey = image._grey(torch.tensor([[[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]]))
    assert grey.tolist() == [[0.0, 1.0]]


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"cannot read the picture .*a\.png"):
        image.read(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"cannot read the picture .*b\.png"):
        overfit(project(), image=str(tmp_path / "b.png"))
    flat = write_picture(tmp_path / "c.png", np.full((5, 5, 3), 7))
    with pytest.raises(UserError, match="is empty"):
        image.read(flat)


def test_distance_is_to_the_nearest_target_in_units_of_their_size():
    target = Target("", torch.stack([torch.full((2, 4), 3.0), torch.full((2, 4), -3.0)]))
    samples = torch.stack([torch.full((2, 4), x) for x in (3.0, 0.0, -1.5, 6.0)])
    assert target.distances(samples).tolist() == [0.0, 1.0, 0.5, 1.0]


def found(*medians, skill=0.999, notebook=False):
    rows = [DistanceRow(n, x, x, x) for n, x in zip(STEPS, medians, strict=False)]
    return Results("a drawing", 1, 8, 16, notebook, 60, 1 - skill, 1.0, skill, "ddpm", 2, rows)


@pytest.mark.parametrize(
    ("medians", "rises"),
    [
        ((0.2, 0.1, 0.05), False),
        ((0.2, 0.2, 0.205), False),
        ((0.2, 0.3, 0.1), True),
        ((0.2, 0.2, math.nan), True),
        ((0.001, 0.004, 0.004), False),  # all of them rounding
    ],
)
def test_once_learned_the_headline_follows_the_distances(medians, rises):
    results = found(*medians)
    assert results.rises == rises
    assert ("FEWER STEPS ARE BETTER" in verdict(results)[0]) == rises


@pytest.mark.parametrize(
    ("skill", "medians"),
    [
        # Measured: 60, 150 and 300 steps of a sound network, 60 of the notebook's.
        (0.434, (0.472, 0.471, 0.631, 1.001)),
        (0.518, (0.268, 0.268, 0.534, 0.926)),
        (0.713, (0.216, 0.209, 0.387, 0.661)),
        (0.874, (0.288, 0.479, 0.466, 0.478)),
        (0.95, (0.2, 0.25, 0.3, 0.3)),  # training error 0.22 explains it
        (0.3, (0.9, 0.8, 0.7)),
        (math.nan, (math.nan, math.nan, math.nan)),
    ],
)
def test_too_little_training_allows_no_verdict_on_steps(skill, medians):
    headline, *advice = verdict(found(*medians, skill=skill))
    assert "FEWER" not in headline and "not learned yet" in headline
    assert "Train longer" in advice[0]


def test_a_learned_target_that_samples_miss_is_no_want_of_training():
    text = "\n".join(verdict(found(0.9, 0.8, 0.7)))
    assert "no sample comes near" in text and "rain longer" not in text
    assert "diagnose sampler" in text
    text = "\n".join(verdict(found(0.05, 0.17, 0.17, skill=0.998, notebook=True)))
    assert "FEWER STEPS ARE BETTER" in text and "BatchNorm" in text


def test_an_undertrained_model_gets_no_headline():
    """A12: the notebook's fallacy, of 60 steps of training."""
    results = overfit(project(), image=DRAWN, steps=60)
    assert results.rises and results.verdict == "not learned"


def test_what_is_left_behind(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    results = overfit(project(), image=DRAWN, steps=5, out=out)
    assert sorted(p.name for p in out.iterdir() if p.name[0] != ".") == [
        "log.txt",
        "overfit.json",
        "overfit.txt",
        "run.json",
        "samples.png",
    ]
    assert json.loads((out / "overfit.json").read_text()) == asdict(results)
    assert [row.steps for row in results.distances] == [1, 2, 5]
    assert results.steps == 5 and results.samples == 2
    assert "verdict" in caplog.text and "unsound" not in caplog.text
    caplog.clear()
    assert overfit(project(), image=DRAWN, steps=5, out=out) == results
    assert "already done" in caplog.text


def test_the_same_seed_gives_the_same_distances():
    first, second, other = (overfit(project(seed=s), steps=5) for s in (1, 1, 2))
    assert first == second and first.distances != other.distances


def test_windows_of_latents_are_targets_too(tmp_path):
    for k in range(3):
        noise = np.random.default_rng(k).standard_normal((4, 100)).astype(np.float32)
        np.save(tmp_path / f"{k}.npy", noise)
    settings = project(training={"window": 16}, latents={"keep": 2})
    results = overfit(settings, latents=tmp_path, windows=3, steps=5)
    assert (results.targets, results.channels, results.frames) == (3, 2, 16)
    with pytest.raises(UserError, match="one target"):
        overfit(settings, latents=tmp_path, image=DRAWN, steps=5)


def test_condition_and_guidance_of_a_run_play_no_part():
    settings = project(condition={"kinds": "mel"}, sampling={"guidance": 3})
    assert overfit(settings, steps=5).distances == overfit(project(), steps=5).distances


def test_the_notebooks_mistakes_are_switched_on_and_warned_of(caplog):
    settings = project(network={"name": "diffwave", "blocks": 2})
    with caplog.at_level(logging.WARNING):
        results = overfit(settings, steps=5, as_in_notebook=True)
    for key in ("norm=batch", "levels=batch", "scaling=window", "clamp=1.0"):
        assert key in caplog.text
    assert results.as_in_notebook


def test_a_model_of_one_picture_ends_there_in_any_number_of_steps():
    """And not so near to it where BatchNorm is part of what it memorised."""
    settings = project(
        network={"name": "diffwave", "channels": 16, "blocks": 3},
        diffusion={"parametrisation": "x0", "precondition": False},
    )
    sound = overfit(settings, steps=300)
    notebook = overfit(settings, steps=300, as_in_notebook=True)
    assert sound.verdict == "more steps are not worse" and sound.distances[-1].median < 0.2
    assert notebook.distances[-1].median > 1.5 * sound.distances[-1].median


def test_samples_that_are_not_finite_are_the_farthest(monkeypatch):
    def fails(*_):
        raise NonFiniteSamples("the samples hold NaN or infinite values")

    monkeypatch.setattr(work.Model, "sample", fails)
    results = overfit(project(), steps=5)
    assert all(math.isnan(row.median) for row in results.distances) and results.rises
