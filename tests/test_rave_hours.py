"""RAVE by the clock: its phases, rates, validations and end follow the hours. The clock is ours."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latentdiff import config, tracking
from latentdiff.errors import ConfigError
from latentdiff.rave import callbacks, clock
from latentdiff.rave.checkpoint import read_checkpoint, read_result
from latentdiff.rave.clock import RunClock, plan_in_words
from latentdiff.rave.database import DatabaseWriter
from latentdiff.rave.result import RaveSchedule, RaveTrainingResult
from latentdiff.rave.settings import RaveConfig
from latentdiff.rave.train import RaveTraining
from latentdiff.run_length import RunLength

RATE, RECORD = 16000, 32768
TINY = {
    "configs": ["v2"],
    "capacity": 4,
    "ratios": [4, 4, 2],
    "n_band": 8,
    "latent_size": 16,
    "n_signal": 16384,
    "batch": 2,
    "steps": None,
    "hours": 20 / 3600,
    "phase_2_share": 0.5,
    "validate_every": 10,
    "workers": 0,
    "validation_chunks": 2,
}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    directory = tmp_path_factory.mktemp("database")
    rng = np.random.default_rng(0)
    with DatabaseWriter(directory, RATE, 1) as writer:
        for _ in range(12):
            noise = rng.standard_normal((1, RECORD)) * 3000
            writer.append(noise.astype(np.int16))
    return directory


class Machine:
    """A fake clock: each step and each validation advances it by a fixed number of seconds."""

    def __init__(self):
        self.now = 1000.0
        self.step = 1.0
        self.validation = 0.0
        self.stop_after = None
        self.slow_from = None
        """Seconds after which a step takes three times as long."""

    def monotonic(self):
        return self.now

    def advance(self):
        slow = self.slow_from is not None and self.now >= 1000 + self.slow_from
        self.now += 3 * self.step if slow else self.step


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    ends, validate = callbacks.Supervisor.on_train_batch_end, callbacks.validate

    def on_train_batch_end(self, trainer, *rest):
        machine.advance()
        ends(self, trainer, *rest)
        if trainer.global_step == machine.stop_after:
            self._stop.requested = True

    def validated(*args, **kwargs):
        machine.now += machine.validation * (2 if kwargs.get("also") else 1)
        return validate(*args, **kwargs)

    monkeypatch.setattr(callbacks.Supervisor, "on_train_batch_end", on_train_batch_end)
    monkeypatch.setattr(callbacks, "validate", validated)
    monkeypatch.setattr(clock, "time", machine)
    monkeypatch.setattr("latentdiff.rave.train.time", machine)
    return machine


def train(database, directory, **settings):
    with RaveTraining(RaveConfig(**{**TINY, **settings}), database, directory, seed=3) as training:
        return training.fit()


def rows(directory, key):
    return {row["step"]: row[key] for row in tracking.read_metrics(directory) if key in row}


@pytest.mark.real
def test_both_phases_get_their_share_and_the_run_ends_with_its_hours(database, tmp_path, machine):
    result = train(database, tmp_path)
    assert (result.step, result.phase, result.elapsed) == (20, 2, 20.0)
    # A fifth of phase 1 are two steps; the clock shows that they are over before the third.
    assert result.schedule == RaveSchedule(phase_1_steps=10, beta_warmup_steps=3)
    assert list(rows(tmp_path, "train/phase").values()) == [1] * 10 + [2] * 10
    assert "train/adversarial" in tracking.read_metrics(tmp_path)[-2]
    beta = rows(tmp_path, "train/beta_factor")
    assert beta[1] < beta[2] < beta[3] == beta[20] == pytest.approx(0.05)
    group = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["optimizer_states"][0]
    assert group["param_groups"][0]["lr"] == pytest.approx(1e-4)


@pytest.mark.real
def test_the_learning_rate_falls_with_the_time_of_phase_1(database, tmp_path, machine, monkeypatch):
    rates = []
    hook = callbacks.Supervisor.on_train_batch_end

    def note(self, trainer, *rest):
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        hook(self, trainer, *rest)

    monkeypatch.setattr(callbacks.Supervisor, "on_train_batch_end", note)
    machine.slow_from = 5
    train(database, tmp_path)
    # Five steps of one second, then steps of three: phase 1 is over after 11 s, the run after 20.
    elapsed = np.array([0, 1, 2, 3, 4, 5, 8, 10, 10, 10])
    assert rates == pytest.approx(1e-3 * (1 - 0.9 * elapsed / 10))
    result = read_result(tmp_path / "checkpoints" / "last.ckpt")
    assert (result.step, result.schedule.phase_1_steps, result.elapsed) == (10, 7, 20.0)


@pytest.mark.real
def test_the_time_of_validations_counts_and_the_last_one_has_its_own(database, tmp_path, machine):
    machine.validation, machine.step = 0.5, 0.25
    result = train(database, tmp_path, validate_every=None)
    # Half a second each is a tenth of the time every 5 s: at 0, 5.5, 11, 16.5 s and the end.
    validated = rows(tmp_path, "validation/spectral_distance")
    assert len(validated) == 5
    assert 19.5 <= result.elapsed <= 20
    assert result.phase == 2 and min(validated) == 0 and max(validated) == result.step


@pytest.mark.real
@pytest.mark.parametrize("stop_after", [2, 6, 14])
def test_a_stopped_run_has_the_rest_of_its_hours(database, tmp_path, machine, stop_after):
    machine.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        train(database, tmp_path)
    kept = read_result(tmp_path / "checkpoints" / "last.ckpt")
    assert (kept.step, kept.elapsed) == (stop_after, float(stop_after))
    machine.now += 5000
    result = train(database, tmp_path)
    assert (result.step, result.elapsed) == (20, 20.0)
    assert result.schedule == RaveSchedule(10, 3)
    assert list(rows(tmp_path, "train/phase").values()) == [1] * 10 + [2] * 10


@pytest.mark.real
def test_hours_raised_later_continue_in_the_same_phase(database, tmp_path, machine):
    train(database, tmp_path)
    assert train(database, tmp_path).step == 20  # used up: nothing happens
    more = train(database, tmp_path, hours=30 / 3600)
    assert (more.step, more.phase, more.schedule.phase_1_steps) == (30, 2, 10)
    group = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["optimizer_states"][0]
    assert group["param_groups"][0]["lr"] == pytest.approx(1e-4)


@pytest.mark.real
def test_without_phase_2_there_never_is_one(database, tmp_path, machine):
    by_clock = train(database, tmp_path / "clock", phase_2_share=0)
    assert (by_clock.step, by_clock.phase) == (20, 1)
    assert train(database, tmp_path / "clock", phase_2_share=0, hours=25 / 3600).phase == 1
    by_steps = {"hours": None, "phase_2_share": 0}
    assert train(database, tmp_path / "steps", steps=4, **by_steps).schedule.phase_1_steps == 4
    raised = train(database, tmp_path / "steps", steps=8, **by_steps)
    assert (raised.step, raised.phase) == (8, 1)
    assert set(rows(tmp_path / "steps", "train/phase").values()) == {1}


@pytest.mark.real
def test_whichever_of_steps_and_hours_is_used_up_first_ends_the_run(database, tmp_path, machine):
    by_steps = train(database, tmp_path / "steps", steps=8)
    assert (by_steps.step, by_steps.schedule.phase_1_steps) == (8, 4)
    given = train(database, tmp_path / "given", phase_1_steps=18)
    assert (given.step, given.schedule) == (20, RaveSchedule(18, 3))


def run_clock(elapsed=0.0, steps=None, hours=1.0, final=3.0):
    settings = SimpleNamespace(steps=steps, hours=hours)
    return RunClock(RunLength(settings), elapsed, began=0.0, final=final)


def test_what_is_left_and_where_a_run_is():
    timed, counted = run_clock(900.0), run_clock(steps=100, hours=None)
    assert timed.position(7) == "step 7 (25 % of 1 h)" and timed.seconds_left(7, 1.0) == 2700
    assert counted.position(7) == "step 7/100" and counted.seconds_left(50, 2.0) == 25
    assert run_clock(steps=100).seconds_left(90, 1.0) == 10
    timed.validation_seconds = 100.0
    assert timed.progress(7) == 900 / 3300
    timed.validation_seconds = 5000.0
    assert timed.progress(7) == 1


def test_the_plan_in_words():
    def words(steps, hours, schedule, start=0):
        length = RunLength(SimpleNamespace(steps=steps, hours=hours))
        return plan_in_words(length, schedule, start, phase_2_share=0.25)

    assert words(9, None, RaveSchedule(4, 1), 2) == (
        "steps 2 to 9, with the discriminator after step 4"
    )
    assert "without" in words(9, None, RaveSchedule(9, 1))
    assert "without" in words(None, 2, RaveSchedule(None, None, phase_2=False))
    assert words(None, 2, RaveSchedule(None, None)) == (
        "from step 0 until 2 h are used up in all, the last 25 % of it with the discriminator"
    )


def test_the_default_share_of_phase_2_depends_on_the_device():
    assert [RaveConfig().share_of_phase_2(device) for device in ("cpu", "cuda")] == [0, 0.5]
    assert RaveConfig(phase_2_share=0.1).share_of_phase_2("cpu") == 0.1


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ConfigError, match="set steps, or hours, or both"):
        config.build(RaveConfig, {"steps": None})


def test_records_of_earlier_versions_are_read():
    old = {
        "schedule": {"phase_1_steps": 500, "beta_warmup_steps": 100},
        **{"sample_rate": RATE, "channels": 1, "hop": 256, "latent_dim": 16},
        **{"step": 7, "phase": 1, "first": 1.5, "last": None, "best": None},
    }
    result = RaveTrainingResult.from_dict(old)
    assert result.schedule == RaveSchedule(500, 100, phase_2=True) and result.elapsed == 0
    assert RaveTrainingResult.from_dict(result.to_dict()) == result
    assert torch.tensor(result.elapsed).isfinite()
