"""The trainer: windows, checkpoints, averages, validation, resume, and the truth about skill."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from latentdiff.errors import UserError
from latentdiff.training import checkpoint
from latentdiff.training.data import Recording, Windows, generator_for
from latentdiff.training.ema import Ema
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.trainer import learning_rate


def counting(frames, start=0):
    """[2, T]: the frame's number, and its negative."""
    row = np.arange(start, start + frames, dtype=np.float32)
    return np.stack([row, -row])


def windows(lengths, window, **options):
    recordings, start = [], 0
    for i, frames in enumerate(lengths):
        recordings.append(Recording(f"file{i}", counting(frames, start)))
        start += frames
    return Windows(recordings, window, whiten=lambda z: z, **options)


class TestWindows:
    def test_windows_are_consecutive_frames_of_one_file(self):
        batch = windows([20, 9, 50], 8).draw(500, generator_for(0))
        rows = batch.latents[:, 0]
        assert torch.equal(rows - rows[:, :1], torch.arange(8.0).expand(500, 8))
        first = torch.tensor([0, 20, 29])[batch.files]
        last = torch.tensor([20, 29, 79])[batch.files] - 1
        assert (rows[:, 0] >= first).all() and (rows[:, -1] <= last).all()
        assert batch.mask.all()

    def test_every_window_is_drawn_equally_often(self):
        data = windows([10, 17], 8)
        assert data.count == 3 + 10
        drawn = data.draw(13_000, generator_for(1)).latents[:, 0, 0].long()
        counts = torch.bincount(drawn)[drawn.unique()]
        assert len(counts) == 13 and counts.min() > 850 and counts.max() < 1150

    def test_a_short_file_is_padded_with_its_last_frame_and_masked(self):
        batch = windows([5], 8).draw(2, generator_for(0))
        assert batch.latents[0, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
        assert batch.mask[0].tolist() == [True] * 5 + [False] * 3

    def test_features_are_cut_at_the_same_frames(self):
        z = counting(40)
        recordings = [Recording("a", z, features=z[:1] * 10)]
        data = Windows(recordings, 8, whiten=lambda z: z, standardise=lambda f: f + 1)
        batch = data.draw(20, generator_for(3))
        assert torch.equal(batch.condition.features[:, 0], batch.latents[:, 0] * 10 + 1)

    def test_labels_follow_their_files(self):
        recordings = [Recording(k, counting(20), label=i) for i, k in enumerate("abc")]
        batch = Windows(recordings, 8, whiten=lambda z: z).draw(30, generator_for(0))
        assert torch.equal(batch.condition.label, batch.files)

    def test_whitening_is_applied(self):
        data = Windows([Recording("a", counting(30))], 8, whiten=lambda z: z[:1] * 2)
        assert data.channels == 1
        batch = data.draw(4, generator_for(0))
        assert (batch.latents % 2 == 0).all()

    def test_on_disk_equals_in_memory_and_leaves_nothing_behind(self, tmp_path):
        in_memory = windows([100, 3, 50], 16)
        on_disk = windows([100, 3, 50], 16, memory_gb=0, scratch=tmp_path)
        a, b = (data.draw(64, generator_for(5)) for data in (in_memory, on_disk))
        assert torch.equal(a.latents, b.latents) and torch.equal(a.mask, b.mask)
        assert list(tmp_path.iterdir()) == []

    def test_spread_covers_all_files_without_overlap(self):
        batch = windows([20, 9, 50, 3], 8).spread(100)
        frames = batch.latents[:, 0][batch.mask]
        assert len(frames) == len(frames.unique()) or batch.latents.shape[0] <= 11
        assert set(batch.files.tolist()) == {0, 1, 2, 3}
        assert len(windows([20, 9, 50, 3], 8).spread(4).files) == 4

    def test_same_seed_same_batch(self):
        data = windows([100], 8)
        a, b, c = (data.draw(9, generator_for(0, step)).latents for step in (7, 7, 8))
        assert torch.equal(a, b) and not torch.equal(a, c)

    def test_nan_names_the_file(self):
        bad = counting(20)
        bad[1, 13] = np.nan
        recordings = [Recording("good.wav", counting(20)), Recording("bad.wav", bad)]
        with pytest.raises(UserError, match=r"latents of bad\.wav hold NaN"):
            Windows(recordings, 8, whiten=lambda z: z)

    def test_features_of_another_length_name_the_file(self):
        recordings = [Recording("a.wav", counting(20), features=counting(19))]
        with pytest.raises(UserError, match=r"a\.wav"):
            Windows(recordings, 8, whiten=lambda z: z, standardise=lambda f: f)

    def test_second_moment(self):
        z = np.random.default_rng(0).normal(0, [[2.0], [3.0]], (2, 5000)).astype(np.float32)
        data = Windows([Recording("a", z)], 8, whiten=lambda z: z)
        np.testing.assert_allclose(data.second_moment(), (z**2).mean(1), rtol=1e-5)


class TestSchedules:
    def test_learning_rate_warms_up_stays_and_falls_to_zero(self):
        settings = TrainingConfig(steps=1000, warmup_steps=100, decay=0.5, learning_rate=1e-3)
        rates = [learning_rate(step, settings) for step in range(1, 1001)]
        assert rates[0] == pytest.approx(1e-5) and rates[99] == pytest.approx(1e-3)
        assert all(rate == pytest.approx(1e-3) for rate in rates[99:500])
        assert rates[750] == pytest.approx(5e-4, rel=0.01)
        assert 0 < rates[-1] < 1e-8
        assert all(a >= b for a, b in itertools.pairwise(rates[100:]))

    def test_the_tail_follows_the_budget(self):
        short, long = (TrainingConfig(steps=n, warmup_steps=0) for n in (100, 200))
        assert learning_rate(100, long) == pytest.approx(1e-3)
        assert learning_rate(100, short) < 1e-6

    def test_ema_halves_the_past_after_its_halflife(self):
        network = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(network.weight)
        ema = Ema(network, halflife=80)
        torch.nn.init.ones_(network.weight)
        for step in range(10):
            ema.update(network, batch=8, seen=1_000_000 + 8 * step)
        assert ema.module.weight.item() == pytest.approx(0.5)

    def test_ema_is_young_at_the_start(self):
        network = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(network.weight)
        ema = Ema(network, halflife=1e9)
        torch.nn.init.ones_(network.weight)
        ema.update(network, batch=8, seen=8)
        assert ema.module.weight.item() > 0.99


class TestCheckpoint:
    tensors = {"network.w": torch.arange(6.0).view(2, 3), "whitening.mean": torch.ones(2)}

    def test_round_trip(self, tmp_path):
        path = tmp_path / "checkpoints" / "last.safetensors"
        checkpoint.save_weights(path, self.tensors, {"step": 3, "label": "Schöne"})
        weights = checkpoint.load_weights(path)
        assert weights.header["step"] == 3 and weights.header["label"] == "Schöne"
        assert torch.equal(weights.group("network")["w"], self.tensors["network.w"])
        assert list(weights.group("whitening")) == ["mean"]

    def test_pack_and_group_are_inverse(self, tmp_path):
        path = tmp_path / "x.safetensors"
        layer = torch.nn.Linear(3, 2)
        checkpoint.save_weights(path, checkpoint.pack(network=layer.state_dict()), {})
        layer.load_state_dict(checkpoint.load_weights(path).group("network"))

    @pytest.mark.parametrize("kept", [0, 5, 100, -1])
    def test_truncated_weights_are_named(self, tmp_path, kept):
        path = tmp_path / "cut.safetensors"
        checkpoint.save_weights(path, self.tensors, {})
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"cut\.safetensors is damaged"):
            checkpoint.load_weights(path)

    @pytest.mark.parametrize("kept", [0, 5, 300, -1])
    def test_truncated_state_is_named(self, tmp_path, kept):
        path = tmp_path / "last.state.pt"
        checkpoint.save_state(path, {"step": 1, **self.tensors})
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"last\.state\.pt is damaged"):
            checkpoint.load_state(path)

    def test_a_state_that_would_run_code_is_refused(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "pwned"), "w"))

        torch.save({"step": Evil()}, tmp_path / "last.state.pt")
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load_state(tmp_path / "last.state.pt")
        assert not (tmp_path / "pwned").exists()

    def test_strangers_weights_are_refused(self, tmp_path):
        from safetensors.torch import save_file

        save_file(self.tensors, tmp_path / "other.safetensors")
        with pytest.raises(UserError, match="not a diffusion checkpoint"):
            checkpoint.load_weights(tmp_path / "other.safetensors")

    def test_find_prefers_the_best(self, tmp_path):
        with pytest.raises(UserError, match="no diffusion checkpoint"):
            checkpoint.find(tmp_path)
        stage = tmp_path / "diffusion"
        checkpoint.save_weights(checkpoint.last(stage), self.tensors, {})
        assert checkpoint.find(tmp_path) == checkpoint.last(stage)
        checkpoint.save_weights(checkpoint.best(stage), self.tensors, {})
        assert checkpoint.find(tmp_path) == checkpoint.find(stage) == checkpoint.best(stage)
