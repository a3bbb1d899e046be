"""`diagnose overfit`: pictures as latents, distances, and both ways it can end."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from latentdiff import config
from latentdiff.diagnose.overfit import measure as work
from latentdiff.diagnose.overfit import report as overfit_report
from latentdiff.diagnose.overfit.measure import DRAWN, STEPS, Goal, overfit
from latentdiff.errors import UserError
from latentdiff.evaluation import image
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


def test_what_is_no_picture_is_told(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"cannot read the picture .*a\.png"):
        image.read(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"cannot read the picture .*b\.png"):
        overfit(project(), image=str(tmp_path / "b.png"))
    flat = write_picture(tmp_path / "c.png", np.full((5, 5, 3), 7))
    with pytest.raises(UserError, match="is empty"):
        image.read(flat)


def test_distance_is_of_the_nearest_target_over_their_own_size():
    goal = Goal("", torch.stack([torch.full((2, 4), 3.0), torch.full((2, 4), -3.0)]))
    samples = torch.stack([torch.full((2, 4), x) for x in (3.0, 0.0, -1.5, 6.0)])
    assert goal.distances(samples).tolist() == [0.0, 1.0, 0.5, 1.0]


def found(*medians, notebook=False):
    rows = [
        {"steps": steps, "median": x, "least": x, "most": x}
        for steps, x in zip(STEPS, medians, strict=False)
    ]
    return {"distances": rows, "as_in_notebook": notebook}


@pytest.mark.parametrize(
    ("medians", "rises"),
    [
        ((0.2, 0.1, 0.05), False),
        ((0.2, 0.2, 0.205), False),
        ((0.2, 0.3, 0.1), True),
        ((0.2, 0.2, float("nan")), True),
        ((0.001, 0.004, 0.004), False),  # all of them rounding
    ],
)
def test_the_verdict_follows_the_distances(medians, rises):
    results = found(*medians)
    assert overfit_report.rising(results) == rises
    assert ("FEWER STEPS ARE BETTER" in overfit_report.verdict(results)[0]) == rises


def test_a_target_that_was_not_learned_is_told():
    assert "train longer" in overfit_report.verdict(found(0.9, 0.8, 0.7))[-1]
    assert "train longer" not in overfit_report.verdict(found(0.2, 0.1, 0.1))[-1]


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
    assert json.loads((out / "overfit.json").read_text()) == results
    assert [row["steps"] for row in results["distances"]] == [1, 2, 5]
    assert results["steps"] == 5 and results["samples"] == 2
    assert "verdict" in caplog.text and "unsound" not in caplog.text
    caplog.clear()
    assert overfit(project(), image=DRAWN, steps=5, out=out) == results
    assert "already done" in caplog.text


def test_the_same_seed_gives_the_same_distances():
    first, second, other = (overfit(project(seed=s), steps=5) for s in (1, 1, 2))
    assert first == second and first["distances"] != other["distances"]


def test_windows_of_latents_are_targets_too(tmp_path):
    for k in range(3):
        noise = np.random.default_rng(k).standard_normal((4, 100)).astype(np.float32)
        np.save(tmp_path / f"{k}.npy", noise)
    settings = project(training={"window": 16}, latents={"keep": 2})
    results = overfit(settings, latents=tmp_path, windows=3, steps=5)
    assert (results["targets"], results["channels"], results["frames"]) == (3, 2, 16)
    with pytest.raises(UserError, match="one target"):
        overfit(settings, latents=tmp_path, image=DRAWN, steps=5)


def test_conditions_of_a_run_play_no_part():
    settings = project(condition={"kind": "mel"})
    assert overfit(settings, steps=5)["distances"] == overfit(project(), steps=5)["distances"]


def test_the_notebooks_mistakes_are_switched_on_and_warned_of(caplog):
    settings = project(network={"name": "diffwave", "blocks": 2})
    with caplog.at_level(logging.WARNING):
        results = overfit(settings, steps=5, as_in_notebook=True)
    for key in ("norm=batch", "levels=batch", "scaling=window", "clamp=1.0"):
        assert key in caplog.text
    assert results["as_in_notebook"]


def test_a_model_of_one_picture_ends_there_in_any_number_of_steps():
    """And does not end so near to it where what it learns by heart is left to BatchNorm."""
    settings = project(
        network={"name": "diffwave", "channels": 16, "blocks": 3},
        diffusion={"parametrisation": "x0", "precondition": False},
    )
    sound = overfit(settings, steps=300)
    notebook = overfit(settings, steps=300, as_in_notebook=True)
    assert not overfit_report.rising(sound) and sound["distances"][-1]["median"] < 0.2
    assert notebook["distances"][-1]["median"] > 1.5 * sound["distances"][-1]["median"]
