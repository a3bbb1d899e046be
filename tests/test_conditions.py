"""Sets of conditions: dropping, exchanging and moving kinds one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentdiff.conditions.settings import ConditionConfig
from latentdiff.config import build
from latentdiff.diffusion.denoiser import ConditionDropout
from latentdiff.diffusion.settings import DiffusionConfig
from latentdiff.errors import ConfigError
from latentdiff.networks.build import build as build_network
from latentdiff.networks.registry import NETWORKS
from latentdiff.networks.settings import NetworkConfig
from latentdiff.specs import NO_CONDITION, Condition, ConditionSize
from latentdiff.training.data import Batch, FeatureMap, Recording, Windows
from latentdiff.training.recipe import Recipe
from latentdiff.training.validation import Validator, exchange, moving, shift

SIZES = {"beat": ConditionSize(features=3), "style": ConditionSize(features=2)}


def both(batch=4, frames=6):
    generator = torch.Generator().manual_seed(0)
    return Condition(
        {
            "beat": torch.randn(batch, 3, frames, generator=generator),
            "style": torch.randn(batch, 2, 1, generator=generator).expand(-1, -1, frames),
            "label": torch.arange(batch) % 2,
        },
        {"beat": torch.tensor([True, False] * (batch // 2))},
    )


class TestCondition:
    def test_an_empty_one_is_false(self):
        assert not NO_CONDITION and len(NO_CONDITION) == 0
        assert both() and len(both()) == 4

    def test_pick_takes_values_and_masks(self):
        picked = both().pick(torch.tensor([3, 0]))
        assert torch.equal(picked.values["label"], torch.tensor([1, 0]))
        assert picked.given["beat"].tolist() == [False, True]

    def test_without_leaves_nothing_of_a_kind(self):
        rest = both().without("beat")
        assert list(rest.values) == ["style", "label"] and not rest.given

    def test_restricted_never_gives_back_what_was_missing(self):
        keep = torch.tensor([True, True, False, False])
        kept = both().restricted({"beat": keep, "label": keep, "mel": keep})
        assert kept.given["beat"].tolist() == [True, False, False, False]
        assert kept.given["label"].tolist() == keep.tolist()
        assert set(kept.given) == {"beat", "label"}

    def test_replaced_by_exchanges_these_kinds_only(self):
        order = torch.tensor([1, 2, 3, 0])
        wrong = both().replaced_by(order, ["beat"])
        assert torch.equal(wrong.values["beat"], both().values["beat"][order])
        assert wrong.given["beat"].tolist() == [False, True, False, True]
        assert torch.equal(wrong.values["style"], both().values["style"])


class TestDropout:
    def draw(self, everything=0.0, seed=0, batch=20_000, **alone):
        generator = torch.Generator().manual_seed(seed)
        return ConditionDropout(everything, alone).draw(["style", "beat"], batch, generator)

    def test_together_all_kinds_are_lost_at_once(self):
        keep = self.draw(0.25)
        assert torch.equal(keep["style"], keep["beat"])
        assert (~keep["style"]).float().mean().item() == pytest.approx(0.25, abs=0.01)

    def test_alone_each_kind_has_its_own_rate(self):
        keep = self.draw(style=0.1, beat=0.4)
        lost = {kind: (~each).float() for kind, each in keep.items()}
        assert lost["style"].mean().item() == pytest.approx(0.1, abs=0.01)
        assert lost["beat"].mean().item() == pytest.approx(0.4, abs=0.01)
        together = (lost["style"] * lost["beat"]).mean().item()
        assert together == pytest.approx(0.04, abs=0.01)

    def test_both_rates_act(self):
        keep = self.draw(0.2, beat=0.5)
        assert (~keep["beat"]).float().mean().item() == pytest.approx(0.6, abs=0.01)
        # Whatever loses everything loses the beat.
        assert not (keep["beat"] & ~keep["style"]).any()

    def test_without_rates_nothing_is_drawn(self):
        assert self.draw() == {}

    def test_a_kind_of_its_own_does_not_change_the_others_draws(self):
        assert torch.equal(self.draw(0.2)["style"], self.draw(0.2, beat=0.5)["style"])


@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks:
    def network(self, name, sizes):
        torch.manual_seed(0)
        network = build_network(NetworkConfig(name=name, channels=32), 4, sizes)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.2)
        return network.eval()

    def call(self, network, condition):
        generator = torch.Generator().manual_seed(1)
        z = torch.randn(4, 4, 16, generator=generator)
        with torch.no_grad():
            return network(z, torch.zeros(4), condition)

    def test_a_kind_that_is_not_given_has_no_influence(self, name):
        network, condition = self.network(name, SIZES), both(frames=16).without("label")
        lost = condition.restricted({"beat": torch.zeros(4, dtype=torch.bool)})
        other = lost.with_kind("beat", torch.randn(4, 3, 16), lost.given["beat"])
        assert torch.allclose(self.call(network, lost), self.call(network, other))
        missing = condition.without("beat")
        assert torch.allclose(self.call(network, lost), self.call(network, missing), atol=1e-5)

    def test_each_kind_acts(self, name):
        network, condition = self.network(name, SIZES), both(frames=16).without("label")
        out = self.call(network, condition)
        for kind in SIZES:
            wrong = condition.replaced_by(torch.tensor([2, 3, 0, 1]), [kind])
            assert not torch.allclose(out, self.call(network, wrong), atol=1e-3)

    def test_the_order_of_the_values_does_not_matter(self, name):
        network, condition = self.network(name, SIZES), both(frames=16).without("label")
        turned = Condition(dict(reversed(condition.values.items())), condition.given)
        assert torch.equal(self.call(network, condition), self.call(network, turned))


def windows(files=4, frames=40):
    rng = np.random.default_rng(0)
    recordings = []
    for k in range(files):
        beat = rng.standard_normal((3, frames)).astype(np.float32)
        latents = np.concatenate([beat[:2], rng.standard_normal((2, frames))]).astype(np.float32)
        known = {"beat": beat if k else None}
        recordings.append(Recording(f"{k}.wav", latents, known, {"label": k % 2}))
    return Windows(
        recordings, 20, whiten=lambda z: z, features={"beat": FeatureMap(3, lambda x: x)}
    )


class TestWindows:
    def test_a_file_without_features_does_not_have_them(self):
        batch = windows().spread(8)
        assert batch.condition.given["beat"].tolist() == [bool(f) for f in batch.files]
        assert (batch.condition.values["beat"][batch.files == 0] == 0).all()

    def test_features_and_categories_follow_their_windows(self):
        batch = windows().draw(64, torch.Generator().manual_seed(0))
        known = batch.condition.given["beat"]
        assert torch.equal(
            batch.condition.values["beat"][known][:, :2], batch.latents[known][:, :2]
        )
        assert torch.equal(batch.condition.values["label"], batch.files % 2)

    def test_moving_kinds_are_those_that_change_in_a_window(self):
        batch = windows().spread(8)
        constant = torch.ones(8, 2, 1).expand(-1, -1, 20)
        batch = batch._replace(condition=batch.condition.with_kind("style", constant))
        assert moving(batch) == ["beat"]

    def test_shift_moves_one_kind(self):
        batch = windows().spread(8)
        moved = shift(batch, "beat").condition.values["beat"]
        assert torch.equal(moved, batch.condition.values["beat"].roll(6, dims=-1))
        assert torch.equal(
            shift(batch, "beat").condition.given["beat"], batch.condition.given["beat"]
        )

    def test_exchange_without_conditions(self):
        bare = windows().spread(8)._replace(condition=NO_CONDITION)
        assert exchange(bare, []) is None


def uses_beat(z_t, logsnr, condition):
    """The clean latents, where the beat tells two of their channels."""
    out = torch.zeros_like(z_t)
    beat = condition.values["beat"][:, :2]
    given = condition.given.get("beat", torch.ones(len(z_t), dtype=torch.bool))
    out[:, :2] = torch.where(given[:, None, None], beat, 0.0)
    return out


def test_gains_are_those_of_the_kinds_that_the_model_uses():
    batch: Batch = windows(files=8).spread(16)
    noise = torch.randn(16, 2, 1).expand(-1, -1, 20)
    batch = batch._replace(condition=batch.condition.with_kind("style", noise))
    task = Recipe(NetworkConfig(name="tiny"), DiffusionConfig()).make_task(torch.ones(4))
    result = Validator(batch, task, 4, 16).measure(uses_beat, torch.device("cpu"))
    assert result.gains["beat"] > 0.3 and result.shift_gains["beat"] > 0.3
    assert result.gains["style"] == pytest.approx(0, abs=1e-6)
    assert result.gains["label"] == pytest.approx(0, abs=1e-6)
    assert result.conditioning_gain == pytest.approx(result.gains["beat"])
    assert set(result.shift_gains) == {"beat"}
    assert result.metrics()["conditioning_gain_style"] == pytest.approx(0, abs=1e-6)


class TestSettings:
    @pytest.mark.parametrize(
        ("given", "kinds"),
        [
            ({}, "auto"),
            ({"kinds": "none"}, ()),
            ({"kinds": []}, ()),
            ({"kinds": "mel"}, ("mel",)),
            ({"kinds": "label, style"}, ("style", "label")),
            ({"kinds": ["beat", "style", "beat"]}, ("style", "beat")),
            ({"kind": "both"}, ("mel", "label")),
            ({"kind": "none"}, ()),
        ],
    )
    def test_kinds(self, given, kinds):
        assert build(ConditionConfig, given).kinds == kinds

    def test_an_unknown_kind(self):
        with pytest.raises(ConfigError, match=r"kinds.*'groove'"):
            build(ConditionConfig, {"kinds": "style,groove"})

    def test_both_names_at_once(self):
        with pytest.raises(ConfigError, match="kind is the old name of kinds"):
            build(ConditionConfig, {"kind": "mel", "kinds": ["style"]})

    def test_labels_need_their_kind(self):
        with pytest.raises(ConfigError, match="labels are not read"):
            build(ConditionConfig, {"kinds": "mel", "labels": "labels.csv"})
