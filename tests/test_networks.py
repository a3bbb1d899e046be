"""Networks: shapes, honesty of receptive field and cost, conditions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from latentdiff.config import build as build_section
from latentdiff.errors import ConfigError
from latentdiff.networks.attention import apply_rope, attend
from latentdiff.networks.build import NETWORKS, build, describe, flops
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import Condition, ConditionSize

C, K, LABELS = 3, 5, 2
FREE = Condition()
CASES = {
    **{name: {"blocks": 2, "multipliers": (1, 2)} for name in NETWORKS},
    "diffwave": {"blocks": 4, "dilation_cycle": 3},
    "diffwave-attention": {"blocks": 4, "dilation_cycle": 3, "attention_every": 2},
    "unet1d": {"blocks": 1, "multipliers": (1, 2, 3)},
    "unet1d-attention": {"blocks": 2, "multipliers": (1, 2), "factor": 3, "attention_every": 1},
    "transformer-no-convolution": {"blocks": 2, "kernel": 1},
    "transformer-whole": {"blocks": 1, "attention_reach": None},
}
"""Every network, some with settings of their own; what a network does not read is ignored here."""
BOUNDED = [case for case in CASES if case != "transformer-whole"]


def small(case, features=0, labels=0, trained=True):
    """A small network; `trained` gives the layers of zeros weights other than zero."""
    torch.manual_seed(0)
    settings = {"channels": 16, "heads": 2, "attention_reach": 6, **CASES[case]}
    config = NetworkConfig(name=case.split("-")[0], **settings)
    sizes = {"mel": ConditionSize(features=features), "label": ConditionSize(categories=labels)}
    network = build(config, C, {kind: size for kind, size in sizes.items() if any(size)}).eval()
    if trained:
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
    return network


def latents(batch=2, frames=40, seed=0):
    return torch.randn(batch, C, frames, generator=torch.Generator().manual_seed(seed))


def levels(batch=2):
    return torch.linspace(-4, 4, batch)


def frames_seen(network, frame, frames):
    """(first, last) latent frame that an output frame depends on, by its gradient."""
    z = latents(1, frames).requires_grad_()
    network(z, levels(1), FREE)[0, :, frame].sum().backward()
    seen = z.grad[0].abs().sum(0).nonzero().flatten()
    return seen.min().item(), seen.max().item()


@pytest.mark.parametrize("case", CASES)
def test_untrained_networks_put_out_zero(case):
    network = small(case, trained=False)
    assert not network(latents(), levels(), FREE).any()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("frames", [1, 2, 7, 64, 1000])
def test_any_length_goes(case, frames):
    out = small(case, K)(
        latents(frames=frames), levels(), Condition({"mel": torch.randn(2, K, frames)})
    )
    assert out.shape == (2, C, frames)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels", [1, 2, 11])
def test_any_number_of_channels_goes(case, channels):
    torch.manual_seed(0)
    config = NetworkConfig(name=case.split("-")[0], channels=16, **CASES[case])
    z = torch.randn(2, channels, 9)
    assert build(config, channels)(z, levels(), FREE).shape == z.shape


@pytest.mark.parametrize("case", CASES)
def test_networks_are_deterministic_and_samples_independent(case):
    network, z = small(case), latents(3)
    out = network(z, levels(3), FREE)
    assert torch.equal(out, network(z, levels(3), FREE))
    torch.testing.assert_close(
        network(z[1:2], levels(3)[1:2], FREE), out[1:2], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("case", BOUNDED)
def test_receptive_field_is_as_declared(case):
    """The widest of any frame; in a U-Net it matters where a frame lies in its coarsest one."""
    network = small(case)
    field = network.receptive_field
    frames, step = 2 * field + 24, getattr(network, "multiple", 1)
    widths = []
    for frame in range(field, field + step):
        first, last = frames_seen(network, frame, frames)
        assert first > 0 and last < frames - 1
        widths.append(last - first + 1)
    assert max(widths) == field
    assert describe(network).receptive_field == field


@pytest.mark.parametrize(
    "case,settings",
    [("transformer-whole", {}), ("unet1d-attention", {"attention_reach": None})],
)
def test_attention_without_reach_sees_everything(case, settings, monkeypatch):
    monkeypatch.setitem(CASES, case, CASES[case] | settings)
    network = small(case)
    assert network.receptive_field is None
    assert frames_seen(network, 5, 300) == (0, 299)
    assert "sees all frames" in str(describe(network))


@pytest.mark.parametrize("case", BOUNDED)
def test_shifted_input_gives_shifted_output_away_from_the_borders(case):
    """By any number of frames; U-Nets by whole frames of their coarsest level only."""
    network = small(case)
    shift, margin = 3 * getattr(network, "multiple", 1), network.receptive_field
    z = latents(2, 2 * margin + shift + 30)
    out, shifted = (network(x, levels(), FREE) for x in (z, z.roll(shift, -1)))
    torch.testing.assert_close(
        shifted[..., margin + shift : -margin],
        out[..., margin : -margin - shift],
        rtol=1e-4,
        atol=1e-4,
    )


def test_turned_vectors_know_their_distance_only():
    q, k = (torch.randn(1, 1, 1, 8).expand(1, 1, 50, 8) for _ in range(2))
    products = apply_rope(q)[0, 0] @ apply_rope(k)[0, 0].T
    for distance in (0, 3, -7):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(products.diagonal(3)[0], products.diagonal(-7)[0])


@pytest.mark.parametrize("frames", [1, 5, 6, 20, 21, 39, 100])
def test_attention_in_pieces_is_attention_with_a_band(frames):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, frames, 4)
    at = torch.arange(frames)
    scores = q @ k.transpose(-1, -2) / 2
    scores[..., (at[:, None] - at).abs() > 5] = -torch.inf
    torch.testing.assert_close(attend(q, k, v, 5), scores.softmax(-1) @ v)


@pytest.mark.parametrize("case", CASES)
def test_the_noise_level_matters(case):
    network, z = small(case), latents(2)
    assert not torch.allclose(network(z, levels(), FREE), network(z, -levels(), FREE), atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_conditions_act_and_absent_ones_are_null(case):
    network, z = small(case, K, LABELS), latents()
    features, label = torch.randn(2, K, 40), torch.tensor([0, 1])
    condition = Condition({"mel": features, "label": label})
    given = network(z, levels(), condition)
    free = network(z, levels(), FREE)

    def restricted(*keep):
        mask = torch.tensor(keep)
        return network(z, levels(), condition.restricted({"mel": mask, "label": mask}))

    torch.testing.assert_close(restricted(False, False), free)
    torch.testing.assert_close(restricted(True, False), torch.stack([given[0], free[1]]))
    for kind in ("mel", "label"):
        other = condition.with_kind(kind, condition.values[kind].flip(0))
        assert not torch.allclose(network(z, levels(), other), given, atol=1e-3)
    assert not torch.allclose(given, free, atol=1e-3)


@pytest.mark.parametrize("case", BOUNDED)
def test_a_condition_acts_on_its_own_frames(case):
    network = small(case, K)
    reach = network.receptive_field + 2
    middle = reach + 5
    z, features = latents(1, 2 * middle + 1), torch.randn(1, K, 2 * middle + 1)
    changed = features.clone()
    changed[..., middle] += 1
    out, other = (network(z, levels(1), Condition({"mel": f})) for f in (features, changed))
    moved = ((out - other).abs().sum(1)[0] > 1e-5).nonzero().flatten()
    assert middle in moved
    assert moved.max() - moved.min() <= reach + 4


@pytest.mark.parametrize("case", CASES)
def test_conditions_of_another_length_are_reported(case):
    with pytest.raises(ValueError, match="41 frames for latents of 40"):
        small(case, K)(latents(), levels(), Condition({"mel": torch.zeros(2, K, 41)}))


@pytest.mark.parametrize("case", CASES)
def test_no_batch_norm_and_gradients_reach_everything(case):
    """Gates of zero hold back what is behind them for some steps, not for ever."""
    network = small(case, K, LABELS, trained=False).train()
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in network.modules())
    some = torch.tensor([True, True, False])
    condition = Condition(
        {"mel": torch.randn(3, K, 40), "label": torch.tensor([0, 1, 0])},
        {"mel": some, "label": some},
    )
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):
        loss = (network(latents(3), levels(3), condition) - latents(3, seed=1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_skip_sum_is_the_output():
    """Every block's skip half reaches the output, not only the residual stream's end."""
    network = small("diffwave")
    out = network(latents(), levels(), FREE)
    width = 16
    for block in network.blocks:
        kept = block.out.weight.data.clone()
        block.out.weight.data[width:] = 0
        assert not torch.allclose(network(latents(), levels(), FREE), out, atol=1e-4)
        block.out.weight.data = kept


def test_cost_is_counted_as_by_hand():
    width, kernel, frames, embedding = 16, 3, 50, 64
    noise = 2 * (embedding * width + width * width)
    convolutions = kernel * C * width + kernel * width * width + width * C
    assert flops(small("tiny"), frames) == noise + 2 * frames * convolutions

    network = small("transformer-whole")
    dense = 2 * C * width + 12 * width * width + kernel * width  # depthwise: one channel each
    attention = 2 * frames * width  # scores, and the mean of values
    modulation = 2 * width * 6 * width
    assert flops(network, frames) == noise + modulation + 2 * frames * (dense + attention)


def test_counting_leaves_the_network_alone():
    network = small("transformer", K)
    out = network(latents(), levels(), FREE)
    describe(network)
    assert torch.equal(network(latents(), levels(), FREE), out)


def test_description_is_for_people():
    network = build(NetworkConfig(channels=128), 6)
    text = str(describe(network, frames=64, frames_per_second=21.5))
    assert text.startswith("diffwave: 1.7 M parameters, ")
    assert "MFLOP a frame (in 64 frames)" in text
    assert f"sees {network.receptive_field} frames (5.8 s) around a frame" in text
    assert "k parameters" in str(describe(small("tiny")))


@pytest.mark.parametrize("name", NETWORKS)
def test_own_sizes_suit_a_cpu(name):
    assert describe(build(NetworkConfig(name=name), 8)).parameters < 1.5e6


@pytest.mark.parametrize(
    "bad",
    [
        {"kernel": 4},
        {"channels": 20},
        {"name": "wavenet"},
        {"multipliers": (1, 0)},
        {"name": "transformer", "heads": 48},
        {"name": "unet1d", "attention_every": 1, "heads": 128},
    ],
)
def test_impossible_networks_are_refused(bad):
    with pytest.raises(ConfigError):
        build_section(NetworkConfig, bad)


def test_heads_matter_to_attention_only():
    assert NetworkConfig(name="diffwave", heads=48).width == 64


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_declares_what_it_reads_and_its_own_defaults_fit(name):
    config = NetworkConfig(name=name)
    network = NETWORKS[name]
    assert network.reads <= set(NetworkConfig.model_fields) - {"name"}
    assert (config.width, config.depth) == (network.default_width, network.default_depth)
    assert config.width % 8 == 0
    network.check(NetworkConfig(name=name, channels=config.width))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_changes_with_the_settings_that_it_reads_and_no_others(name):
    """Weights, output or receptive field; an attention is only in some where it is asked for."""
    other = {
        **{"channels": 24, "blocks": 4, "kernel": 5, "dilation_cycle": 2, "dropout": 0.5},
        **{"multipliers": (1, 3), "factor": 4, "heads": 1, "attention_every": 1},
        **{"attention_reach": 3, "expansion": 2},
    }
    assert set(other) == set(NetworkConfig.model_fields) - {"name"}
    base = {"name": name, "channels": 16, "blocks": 3, "multipliers": (1, 2), "heads": 2}
    if "attention_every" in NETWORKS[name].reads:
        base["attention_every"] = 2
    for key, value in other.items():
        changed = look(base | {key: value}) != look(base)
        assert changed == (key in NETWORKS[name].reads), key


def look(settings):
    torch.manual_seed(0)
    network = build(NetworkConfig(**settings), C).train()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.manual_seed(0)
    return network.receptive_field, network(latents(), levels(), FREE).sum().item()


def test_settings_are_read_without_torch():
    code = (
        "import sys, latentdiff.model.project as project;"
        "project.Project(); project.Project.model_json_schema();"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
