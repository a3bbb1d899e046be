"""`diagnose latents`: closed forms against draws, and verdicts on known stores."""

from __future__ import annotations

import json
import logging
import math
import re

import click
import numpy as np
import pytest
import torch

from latentdiff import cli, config, runs
from latentdiff.diagnose.latents.measure import diagnose_latents
from latentdiff.diffusion.loss import Objective
from latentdiff.errors import UserError
from latentdiff.evaluation import draws, profile
from latentdiff.evaluation import value_range as extent
from latentdiff.latents import statistics
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.project import Project
from latentdiff.runs import Input, Run, Stage

FRAMES = 4000


def decaying(rng, frames, memory=0.9):
    """[2, T] of unit variance whose autocorrelation at lag k is memory^k."""
    noise = rng.standard_normal((2, frames + 200)) * math.sqrt(1 - memory**2)
    z = np.zeros_like(noise)
    for t in range(1, frames + 200):
        z[:, t] = memory * z[:, t - 1] + noise[:, t]
    return z[:, 200:]


def sound(frames=FRAMES, seed=0):
    """[6, T]: two directions of sound with memory, one of heavy-tailed frames, three weak."""
    rng = np.random.default_rng(seed)
    tails = rng.laplace(size=(1, frames)) / math.sqrt(2)
    weak = 1e-3 * rng.standard_normal((3, frames))
    z = np.concatenate([np.array([[3.0], [2.0]]) * decaying(rng, frames), tails, weak])
    mixing = np.linalg.qr(np.random.default_rng(9).standard_normal((6, 6)))[0]
    return (mixing @ z + 5).astype(np.float32)


def measured(z, std=None):
    return profile.measure(statistics.fit([(z, std)]), lambda: [z])


def drawn(z, std, seed=1):
    return z + std * np.random.default_rng(seed).standard_normal(z.shape)


class TestProfile:
    def test_memory_tails_and_noise_of_known_processes(self):
        found = measured(sound(20000)).stored
        np.testing.assert_allclose(found.variance[:3].sqrt(), [3, 2, 1], rtol=0.1)
        np.testing.assert_allclose(found.autocorrelation[0, :2], 0.9, atol=0.02)
        np.testing.assert_allclose(found.correlation_time[:2], -1 / math.log(0.9), rtol=0.15)
        np.testing.assert_allclose(found.autocorrelation[0, 2], 0, atol=0.05)
        assert float(found.kurtosis[2]) == pytest.approx(3, abs=0.7)
        np.testing.assert_allclose(found.kurtosis[[0, 1, 3]], 0, atol=0.5)
        assert found.noise.tolist() == [False, False, False, True, True, True]

    def test_what_drawing_does_is_what_draws_show(self):
        z = sound(20000)
        std = np.full_like(z, 0.7)
        before, after = measured(z, std).drawn, measured(drawn(z, std)).stored
        np.testing.assert_allclose(before.variance, after.variance, rtol=0.05)
        np.testing.assert_allclose(before.autocorrelation[:4], after.autocorrelation[:4], atol=0.04)
        np.testing.assert_allclose(before.kurtosis, after.kurtosis, atol=0.3)
        assert before.noise.tolist() == after.noise.tolist()

    def test_bits_are_those_of_a_gaussian_channel(self):
        found = measured(sound(), np.full((6, FRAMES), 1.0))
        expected = 0.5 * np.log2(1 + found.stored.variance)
        np.testing.assert_allclose(found.bits, expected)
        assert int(found.carrying.sum()) == 3

    def test_pieces_of_a_file_count_as_the_file(self):
        z = sound()
        whole = measured(z)
        cut = profile.measure(statistics.fit([(z, None)]), lambda: np.split(z, [1000, 1003], 1))
        np.testing.assert_allclose(cut.stored.kurtosis, whole.stored.kurtosis)
        np.testing.assert_allclose(cut.within, whole.within)
        close = {"atol": 0.02}
        np.testing.assert_allclose(
            cut.stored.autocorrelation[0], whole.stored.autocorrelation[0], **close
        )

    def test_a_direction_that_does_not_vary_is_no_outlier(self):
        z = sound()
        z[5] = z[4]
        found = measured(z)
        assert float(found.stored.kurtosis[-1]) == 0
        assert torch.isfinite(found.stored.autocorrelation).all()


class TestDraws:
    @pytest.mark.parametrize("kind", ["l1", "mse"])
    @pytest.mark.parametrize("parametrisation", ["eps", "v"])
    def test_the_floor_is_reached_by_who_knows_the_mean(self, kind, parametrisation):
        g = torch.Generator().manual_seed(0)
        share = torch.tensor([0.9, 0.2])
        objective, level = Objective(parametrisation, kind=kind), torch.tensor([1.0])
        mean = torch.randn(1, 2, 200_000, generator=g) * (1 - share[:, None]).sqrt()
        z = mean + share[:, None].sqrt() * torch.randn(mean.shape, generator=g)

        def knows_mean(z_t, logsnr, condition):
            alpha, sigma = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
            s = share[:, None]
            return mean + alpha * s / (alpha**2 * s + sigma**2) * (z_t - alpha * mean)

        noise = torch.randn(mean.shape, generator=g)
        loss = float(objective(knows_mean, z, level, noise, None))
        found = draws.losses(objective, level, share)
        assert loss == pytest.approx(found.floor, rel=0.01)
        # Of data of unit variance, v is best predicted as 0: both bounds are one, but for rounding.
        assert found.floor < found.variance < found.zero * (1 + 1e-9)
        assert draws.losses(objective, level, torch.ones(2)).unlearnable == pytest.approx(1)

    @pytest.mark.parametrize(("kind", "power"), [("l1", 1), ("mse", 2)])
    def test_one_number_for_all_channels_stays_at_the_noise(self, kind, power):
        noise = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
        best = (noise - noise.mean(dim=1, keepdim=True)).abs().pow(power).mean()
        low, high = draws.one_output(kind, 16)
        assert (float(best), float(noise.abs().pow(power).mean())) == pytest.approx(
            (low, high), rel=0.01
        )
        assert draws.one_output("huber", 16) is None

    def test_the_notebooks_loss_falls_out(self):
        low, high = draws.one_output("l1", 128)
        assert 0.79 < low < high < 0.80


class TestExtent:
    def test_counts_are_those_of_all_values_at_once(self):
        z = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)) * 2 + 1
        mean, std = z.mean(dim=1), z.std(dim=1)
        z[1, 7] += 50
        found = extent.measure(z.split(120, dim=1), mean, std)
        assert (found.minimum, found.maximum) == (float(z.min()), float(z.max()))
        assert (found.mean, found.std) == pytest.approx(
            (float(z.mean()), float(z.std(correction=0))), rel=1e-5
        )
        assert found.beyond_unit.values == pytest.approx(float((z.abs() > 1).float().mean()))
        assert found.beyond_unit.frames == pytest.approx(
            float((z.abs() > 1).any(dim=0).float().mean())
        )
        far = (z - mean[:, None]).abs() > 4 * std[:, None]
        assert found.beyond_far.frames == pytest.approx(float(far.any(dim=0).float().mean()))
        assert found.beyond_far.frames > 0

    def test_noise_reaches_as_far_as_noise(self):
        noise = torch.randn(400, 1400, generator=torch.Generator().manual_seed(0))
        found = extent.measure([noise[:1]], torch.zeros(1), torch.ones(1))
        middle = float(noise.abs().amax(dim=1).median())
        assert found.noise_reaches == pytest.approx(middle, abs=0.05)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def store(run):
    """Latents of `sound`: three of six directions above a posterior of deviation 0.5."""
    with Stage(run.latents, "encode", inputs={"codec": Input("codec", "c" * 64)}) as stage:
        accumulator, rows = statistics.StatisticsAccumulator(), []
        for i in range(4):
            z = sound(1000, seed=i)
            np.save(run.latents / f"{i}.npy", z)
            if i:
                accumulator.update(z, np.full_like(z, 0.5))
            split = "train" if i else "validation"
            rows.append(Entry(f"{i}.wav", None, split, None, 1000, f"{i}.npy").row())
        accumulator.finish().save(run.latents / "stats.safetensors")
        runs.write_jsonl(run.latents / "manifest.jsonl", rows)
        stage.record(sample_rate=8000, hop=80, latent_dim=6, channels=1)
    return LatentStore.open(run.latents)


def project(**sections):
    return config.build(Project, sections)


def results(folder):
    return json.loads((folder / "latents.json").read_text(encoding="utf-8"))


def test_a_store_of_means_is_described(run, store, caplog):
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        assert diagnose_latents(run, project()) == []
    folder = run.root / "diagnosis" / "latents"
    found = results(folder)
    assert (found["carrying"], found["kept"], found["dimensions"]) == (3, [0, 1, 2], 6)
    assert found["frames"] == 3000 and found["frame_seconds"] == 0.01
    assert found["noise_if_drawn"] == 3
    assert [row["fidelity"] for row in found["directions"]] == pytest.approx(
        [9 / 14, 13 / 14, 1, 1, 1, 1], abs=0.05
    )
    # Three of six directions would be nothing but noise, the others partly.
    assert 0.5 < found["loss"]["objectives"]["v, mse"]["unlearnable"] < 0.75
    assert found["extent"]["final"]["std"] == pytest.approx(1, abs=0.01)
    text = (folder / "latents.txt").read_text(encoding="utf-8")
    assert "3 of 6 dimensions carry sound" in text and text.strip() in caplog.text
    assert "The other 3 are the encoder's own noise" in text
    assert (folder / "latents.png").read_bytes().startswith(b"\x89PNG")


def test_draws_in_a_plain_folder_are_recognised_and_means_are_not(run, store, tmp_path, caplog):
    for name, std in (("draws", 1.0), ("means", 0.0)):
        (tmp_path / name).mkdir()
        for k in range(3):
            z = sound(2000, seed=k)
            z = np.concatenate([z, 1e-3 * np.random.default_rng(k).laplace(size=(8, 2000))])
            np.save(tmp_path / name / f"{k}.npy", drawn(z, std, seed=k).astype(np.float32)[None])
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        diagnose_latents(Run(tmp_path / "draws"), project())
    assert "look like draws from the encoder's posterior" in caplog.text
    assert {path.suffix for path in (tmp_path / "draws").iterdir()} == {".npy"}
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        diagnose_latents(run, project(), latents=tmp_path / "means", out=tmp_path / "out")
    assert "look like draws" not in caplog.text and "own noise is unknown" in caplog.text
    found = results(tmp_path / "out")
    assert found["directions"][0]["bits"] is None and not found["posterior_known"]


def plain_folder(folder):
    """Three files of six dimensions with memory, none of them noise, as a plain folder of .npy."""
    folder.mkdir()
    for k in range(3):
        rng = np.random.default_rng(k)
        z = np.concatenate([decaying(rng, 2000) for _ in range(3)])
        np.save(folder / f"{k}.npy", z.astype(np.float32))
    return folder


def test_unknown_noise_is_not_called_zero(tmp_path, caplog):
    """A plain folder has no posterior: the share of noise is unknown."""
    folder = plain_folder(tmp_path / "means")
    with caplog.at_level(logging.INFO, logger="latentdiff"):
        diagnose_latents(None, project(), latents=folder, out=tmp_path / "out")
    for loss in results(tmp_path / "out")["loss"]["objectives"].values():
        assert loss["floor"] is None and loss["unlearnable"] is None
        assert loss["variance"] > 0
    assert re.search(r"cannot be learned +unknown +unknown +unknown\n", caplog.text)
    assert "0%" not in caplog.text.partition("cannot be learned")[2]


def test_latents_need_no_run(tmp_path):
    """`diagnose latents --latents DIR --out DIR`, and without --out nothing is written."""
    folder = plain_folder(tmp_path / "means")
    words = ["diagnose", "latents", "--latents", str(folder)]
    assert cli.cli.main([*words, "--out", str(tmp_path / "out")], standalone_mode=False) == 0
    assert results(tmp_path / "out")["dimensions"] == 6
    assert cli.cli.main([*words, "latents.keep=2"], standalone_mode=False) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"means", "out"}
    with pytest.raises(click.UsageError, match="run directory"):
        cli.cli.main(["diagnose", "latents"], standalone_mode=False)


def test_where_nothing_can_be_kept_it_reports_why(run, store):
    diagnose_latents(run, project(latents={"keep": 40}))
    text = (run.root / "diagnosis" / "latents" / "latents.txt").read_text(encoding="utf-8")
    assert "latents.keep=40 cannot be met: latents.keep asks for 40 directions" in text


def test_no_latents_no_report(run, tmp_path):
    with pytest.raises(UserError, match="no latents at"):
        diagnose_latents(Run(tmp_path / "nowhere"), project())
    run.diffusion.mkdir(parents=True)
    with pytest.raises(UserError, match="there are no latents in"):
        diagnose_latents(run, project())


def test_a_dry_run_writes_nothing(run, store):
    diagnose_latents(run, project(), dry_run=True)
    assert not (run.root / "diagnosis").exists()
