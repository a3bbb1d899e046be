"""Foreign globals put back, foreign configs refused, RAVE assembled from settings."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from latentdiff import config
from latentdiff.errors import ConfigError, UserError
from latentdiff.rave import compat
from latentdiff.rave.gin_check import check_gin_imports
from latentdiff.rave.gin_config import assemble, receptive_field, smallest_signal
from latentdiff.rave.result import RaveSchedule
from latentdiff.rave.settings import BROKEN, MODIFIERS, RaveConfig, shipped_configs

TINY = {"capacity": 4, "ratios": [4, 4, 2], "n_band": 8, "latent_size": 16, "steps": 1000}
DYNAMIC = "from __gin__ import dynamic_registration\n"


def build(sample_rate=16000, channels=1, schedule=None, **settings):
    with compat.isolated_gin():
        return assemble(RaveConfig(**{**TINY, **settings}), sample_rate, channels, schedule)


def test_every_config_in_the_wheel_is_known():
    names = set(shipped_configs())
    assert set(BROKEN) < names and set(MODIFIERS) < names and {"v1", "v2", "v3"} < names


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"configs": ["v2_smal"]}, "did you mean 'v2_small'"),
        ({"configs": ["hybrid"]}, "cannot be trained"),
        ({"configs": ["wasserstein"]}, "put a model such as v2 before it"),
        ({"configs": []}, "configs"),
        ({"n_band": 12}, "power of two, for example 16"),
        ({"ratios": [4, 3]}, "3 is odd"),
        ({"precision": "16-mixed"}, "precision"),
        ({"n_signals": 1}, "did you mean 'n_signal'"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        config.build(RaveConfig, values)


def test_isolated_gin_puts_back_what_it_found():
    compat.prepare()
    import cached_conv
    import gin
    from gin.config import _LOCATION_PREFIXES
    from rave import model

    gin.clear_config()
    gin.bind_parameter("RAVE.n_channels", 7)
    prefixes, weights = list(_LOCATION_PREFIXES), model._default_loss_weights
    cached_conv.use_cached_conv(True)
    try:
        with compat.isolated_gin():
            assert not cached_conv.USE_BUFFER_CONV
            with pytest.raises(ValueError, match="bound"):
                gin.query_parameter("RAVE.n_channels")
            gin.parse_config("RAVE.n_channels = 2")
            gin.finalize()
            model._default_loss_weights["adversarial"] = 99.0
        assert gin.query_parameter("RAVE.n_channels") == 7
        assert not gin.config_is_locked()
        assert cached_conv.USE_BUFFER_CONV
        assert prefixes == _LOCATION_PREFIXES
        assert model._default_loss_weights is weights and weights["adversarial"] == 1.0
    finally:
        cached_conv.use_cached_conv(False)
        gin.clear_config()


def test_state_comes_back_after_an_error_too():
    compat.prepare()
    import gin

    gin.clear_config()
    with pytest.raises(RuntimeError, match="inside"), compat.isolated_gin():
        gin.bind_parameter("RAVE.n_channels", 3)
        raise RuntimeError("inside")
    assert gin.config_str() == ""


def test_preparing_leaves_the_process_alone():
    code = """
import logging, sys, torch, warnings
filters = list(warnings.filters)
from latentdiff.rave import compat
compat.prepare()
from absl import flags
assert torch.is_grad_enabled()
assert not logging.root.handlers, logging.root.handlers
assert 'channels' not in flags.FLAGS
assert torch.get_default_dtype() == torch.float32
import rave, gin, udls, pytorch_lightning, torchaudio
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "Warning" not in done.stderr


def test_quiet_is_local(capsys):
    with compat.quiet():
        print("noise of a library")
        warnings.warn("and its warning", stacklevel=1)
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", stacklevel=1)
    assert capsys.readouterr().out == ""


def test_the_wheels_own_configs_pass_the_check():
    for name, path in shipped_configs().items():
        check_gin_imports(path.read_text(), name)


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        DYNAMIC + "import os",
        DYNAMIC + "from os import system",
        # gin resolves attributes of whatever was imported, and rave.core imports os.
        DYNAMIC + "from rave import core\nX = @core.os.system()",
        DYNAMIC + "from rave import core\ncore.os.system:\n    command = 'true'\n",
        DYNAMIC + "from rave import core\ncore.os.system.command = 'true'",
        DYNAMIC + "from rave import core as rave\nX = @rave.os.system()",
        DYNAMIC + "import rave\nX = @rave.core.ProgressLogger()",
        DYNAMIC + "import torch\nX = @torch.load()",
        DYNAMIC + "import torch\nX = @torch.hub.load",
        DYNAMIC + "from rave import blocks\nX = [{'a': @scope/blocks.partial()}]",
        DYNAMIC + "from rave import dataset\nX = @dataset.get_dataset()",
        DYNAMIC + "from rave import dataset\ndataset.extract_audio.path = 'x'",
        DYNAMIC + "import torch as a\nX = @a.load()\nimport torch.nn as a",
        DYNAMIC + "X = @gin.singleton()",
        "X = @gin.singleton()",
        'include "/tmp/other.gin"',
        'include "configs/../../other.gin"',
    ],
)
def test_configs_that_could_run_code_are_refused(text):
    with pytest.raises(UserError, match="refused"):
        check_gin_imports(text)


@pytest.mark.parametrize("text", ["[[[", "x = 'a", "x =", "import", "x = {", "a b c", "\x00"])
def test_what_is_no_gin_is_refused(text):
    with pytest.raises(UserError, match="not a valid gin config"):
        check_gin_imports(text)


@pytest.mark.real
@pytest.mark.parametrize(
    "names", [["v1"], ["v2"], ["v3"], ["v2_small", "causal"], ["v2", "wasserstein"]]
)
def test_config_gin_rebuilds_the_model(names):
    """The text alone holds every binding of both phases: the same model, the same text again."""
    made = build(configs=names, channels=2)
    check_gin_imports(made.text)
    assert "RAVE.n_channels = 2" in made.text
    with compat.isolated_gin():
        import gin
        import rave

        gin.parse_config(made.text)
        again, warmup = rave.RAVE(), rave.BetaWarmupCallback()
        features = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[2.0, 2.0]]])
        relative = again.feature_matching_fun(*features)
        again.gan_loss(*features)
        assert gin.operative_config_str() == made.text
    # |1 - 2| and |3 - 2| have mean 1; relative to a mean of 2 it is half.
    assert float(relative) == (1.0 if names == ["v1"] else 0.5)
    shapes = {name: value.shape for name, value in made.model.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes
    assert again.weights == made.model.weights
    assert again.sr == 16000 and again.warmup == made.schedule.phase_1_steps
    assert warmup.warmup_len == made.schedule.beta_warmup_steps


@pytest.mark.real
def test_lengths_are_scaled_to_the_budget_or_taken_as_given():
    assert build(phase_2_share=0.5).schedule == RaveSchedule(500, 100)
    assert build(phase_2_share=0.25).schedule == RaveSchedule(750, 150)
    assert build(phase_2_share=0).schedule == RaveSchedule(1000, 200, phase_2=False)
    assert build(steps=8_000_000, phase_2_share=0.5).schedule == RaveSchedule(4_000_000, 20_000)
    given = build(phase_1_steps=3000, beta_warmup_steps=7, beta=0.25)
    assert given.schedule == RaveSchedule(3000, 7)
    assert given.model.warmup == 3000
    assert given.beta_warmup.target_value == 0.25
    continued = build(steps=9000, schedule=RaveSchedule(500, 100))
    assert continued.model.warmup == 500


@pytest.mark.real
def test_models_do_not_inherit_from_each_other():
    build(configs=["v2", "wasserstein"], beta=9.0, overrides=["RAVE.num_skipped_features=0"])
    plain = build(configs=["v1"])
    assert "fullband_spectral_distance" not in plain.model.weights
    assert plain.model.weights["feature_matching"] == 10
    assert plain.beta_warmup.target_value == 0.1


@pytest.mark.real
def test_feature_matching_is_the_weight_that_acts():
    weight = build(feature_matching=20).model.weights["feature_matching"]
    assert weight**2 == pytest.approx(20)  # RAVE multiplies by it twice


@pytest.mark.real
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overrides": ["RAVE.no_such=1"]}, "does not accept 'RAVE.no_such=1'"),
        ({"overrides": ["import os"]}, "refused"),
        ({"overrides": ["RAVE.encoder = %NO_SUCH_MACRO"]}, "cannot be built"),
        ({"configs": ["v2_nopqmf"], "ratios": [4, 2]}, "cannot be built"),
    ],
)
def test_what_rave_cannot_build_is_reported(settings, message):
    with pytest.raises(UserError, match=message):
        build(**settings)


@pytest.mark.real
def test_configs_of_the_current_directory_are_not_taken(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "v1.gin").write_text("import antigravity\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert build().hop == 256


@pytest.mark.real
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("names", [["v2"], ["v2", "causal"], ["v2_small", "snake"]])
def test_smallest_signal_is_the_smallest_that_trains(names, channels):
    from rave import core

    made = build(configs=names, channels=channels)
    model = made.model
    before = {name: p.clone() for name, p in model.named_parameters()}
    field = receptive_field(model)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    model.receptive_field.copy_(torch.tensor(field))

    def distance(n_signal):
        audio = torch.randn(1, channels, n_signal)
        _, bands = model.encode(audio, return_mb=True)
        bands = core.valid_signal_crop(bands, *model.receptive_field)
        return model.multiband_audio_distance(bands, bands)

    smallest = smallest_signal(model, field, made.hop)
    with torch.no_grad():
        distance(smallest)
        with pytest.raises(RuntimeError, match="Padding size"):
            distance(smallest - made.hop)
