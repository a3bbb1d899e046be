"""A real RAVE as a codec: contract, checkpoints, exports, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cached_conv
import pytest
import torch

import latentdiff
from latentdiff import streaming
from latentdiff.commands.inspect import inspect
from latentdiff.errors import UserError
from latentdiff.rave import streaming_export
from latentdiff.rave.checkpoint import read_checkpoint
from latentdiff.rave.codec import RaveCodec, fingerprint_of
from latentdiff.rave.load import load_rave
from latentdiff.rave.net import check_supported

pytestmark = pytest.mark.real


def noise(*shape, seed=0):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def checkpoint_of(run):
    return next(run.rglob("*.ckpt"))


def test_encode_is_the_posterior_that_rave_samples_from(rave_run):
    codec = RaveCodec.from_run(rave_run)
    model, origin = load_rave(rave_run)
    audio = noise(2, 1, 64 * 20)
    with torch.no_grad():
        raw = model.encode(audio)
        expected_audio = model.decode(raw[:, :6])
    mean, std = codec.encode(audio)
    torch.testing.assert_close(mean, raw[:, :6], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codec.decode(mean), expected_audio, atol=1e-5, rtol=1e-4)
    # RAVE's own draws have this mean and this spread.
    torch.manual_seed(0)
    draws = torch.stack([model.encoder.reparametrize(raw)[0] for _ in range(400)])
    assert ((draws.mean(0) - mean).abs() < 6 * std / 20).all()
    assert torch.allclose(draws.std(0), std, rtol=0.25)
    assert origin.step == 7 and origin.phase == 1
    assert (codec.sample_rate, codec.hop, codec.latent_dim, codec.channels) == (8000, 64, 6, 1)


def test_any_length_becomes_whole_frames(rave_run):
    codec = RaveCodec.from_run(rave_run)
    for samples, frames in ((1, 1), (63, 1), (64, 1), (65, 2), (1000, 16)):
        mean, std = codec.encode(noise(1, 1, samples))
        assert mean.shape == std.shape == (1, 6, frames)
        assert codec.decode(mean).shape == (1, 1, frames * 64)


@pytest.mark.parametrize("modifiers", [[], ["causal"], ["noise"], ["wasserstein"], ["spherical"]])
def test_context_is_exactly_what_a_frame_depends_on(make_rave_run, tmp_path, modifiers):
    codec = RaveCodec.from_run(make_rave_run(tmp_path / "r", configs=["v2", *modifiers]))
    frames, at = 120, 60
    for apply, context, x in (
        (lambda x: codec.encode(x)[0], codec.encode_context, noise(1, 1, frames * 64)),
        (codec.decode, codec.decode_context, noise(1, codec.latent_dim, frames)),
    ):
        unit = x.shape[-1] // frames
        y = x.clone()
        y[..., at * unit : (at + 1) * unit] += 1
        changed = (apply(x) != apply(y)).any(1)[0].unflatten(0, (frames, -1)).any(1)
        touched = changed.nonzero().flatten()
        left, right = context
        assert at - right <= touched[0] and touched[-1] <= at + left
        # Not much larger than needed either: the probe is structural, so it may exceed by a frame.
        assert touched[0] <= at - right + 1 and touched[-1] >= at + left - 1
    if "causal" in modifiers:
        # The overlap of transposed convolutions is all that looks ahead.
        assert codec.decode_context[1] <= 1 < codec.decode_context[0]


@pytest.mark.parametrize("modifiers", [["noise"], ["wasserstein"], ["spherical"], ["causal"]])
def test_decoding_is_deterministic_and_blind_to_chunks(make_rave_run, tmp_path, modifiers):
    codec = RaveCodec.from_run(make_rave_run(tmp_path / "r", configs=["v2", *modifiers]))
    z = noise(2, codec.latent_dim, 400)
    whole = codec.decode(z)
    assert torch.equal(whole, codec.decode(z))
    chunked = streaming.decode(codec, z[1].numpy(), chunk_seconds=0.5, batch=3)
    assert abs(chunked - whole[1].numpy()).max() < 1e-5
    if modifiers == ["noise"]:
        assert not torch.equal(whole[0, 0, :64], whole[0, 0, 64:128])


def test_v1_with_its_noise_is_a_codec_too(make_rave_run, tmp_path):
    run = make_rave_run(tmp_path / "r", configs=["v1"], ratios=[4, 4, 4, 2])
    path = checkpoint_of(run)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["decoder.warmed_up"] = torch.tensor(1)  # phase 2: the noise joins
    torch.save(checkpoint, path)
    codec = RaveCodec.from_run(run)
    assert codec.origin.phase == 2
    audio = noise(1, 1, codec.hop * 150)
    mean, _ = codec.encode(audio)
    chunked, _ = streaming.encode(codec, audio[0].numpy(), chunk_seconds=0.4)
    assert abs(chunked - mean[0].numpy()).max() < 1e-4
    chunked = streaming.decode(codec, mean[0].numpy(), chunk_seconds=0.4)
    assert abs(chunked - codec.decode(mean)[0].numpy()).max() < 1e-4


def test_noise_frames_longer_than_latent_frames_are_refused(make_rave_run, tmp_path):
    with pytest.raises(UserError, match="frames of noise"):
        RaveCodec.from_run(make_rave_run(tmp_path / "r", configs=["v1"], ratios=[4, 2]))


def test_stereo_run_without_channels_in_its_config(make_rave_run, tmp_path):
    codec = RaveCodec.from_run(make_rave_run(tmp_path / "r", channels=2))
    assert codec.channels == 2
    assert codec.decode(codec.encode(noise(1, 2, 640))[0]).shape == (1, 2, 640)
    with pytest.raises(ValueError, match="audio must be"):
        codec.encode(noise(1, 1, 640))


def test_streaming_switch_of_cached_conv_does_not_matter(rave_run):
    audio = noise(1, 1, 6400)
    expected = RaveCodec.from_run(rave_run).encode(audio)[0]
    cached_conv.use_cached_conv(True)
    try:
        codec = RaveCodec.from_run(rave_run)
        assert cached_conv.USE_BUFFER_CONV
    finally:
        cached_conv.use_cached_conv(False)
    assert torch.equal(codec.encode(audio)[0], expected)
    assert torch.equal(codec.encode(audio)[0], expected)


def test_fingerprint_follows_the_weights_and_not_the_file(make_rave_run, rave_run, tmp_path):
    copy = make_rave_run(tmp_path / "elsewhere", steps=(99,), names=("other.ckpt",))
    other = make_rave_run(tmp_path / "other", seed=1)
    first = RaveCodec.from_run(rave_run).fingerprint
    assert RaveCodec.from_run(copy).fingerprint == first
    assert RaveCodec.from_run(other).fingerprint != first
    assert fingerprint_of({"a": torch.zeros(2)}) != fingerprint_of({"a": torch.zeros(2, 1)})


def test_of_equal_steps_the_newer_version_counts(make_rave_run, tmp_path):
    run = make_rave_run(tmp_path / "r", steps=(30, 30), names=("a.ckpt", "best.ckpt"))
    old = run / "version_0" / "checkpoints"
    # By number: version_10 is newer than version_9, whatever the order of their names.
    for number in (9, 10):
        shutil.copytree(old, run / f"version_{number}" / "checkpoints")
    assert load_rave(run)[1].path == run / "version_10" / "checkpoints" / "a.ckpt"
    assert load_rave(run, "best")[1].path == run / "version_10" / "checkpoints" / "best.ckpt"


def test_newest_step_not_newest_file(make_rave_run, tmp_path):
    run = make_rave_run(tmp_path / "r", steps=(30, 10, 20), names=("a.ckpt", "b.ckpt", "best.ckpt"))
    newest = run / "version_0" / "checkpoints" / "b.ckpt"
    os.utime(newest, (4e9, 4e9))
    for place in (run, run.parent, newest.parent, newest.parent.parent):
        assert load_rave(place)[1].step == 30
    assert load_rave(run, "best")[1].step == 20
    assert load_rave(run, newest)[1].step == 10
    assert load_rave(newest)[1].step == 10
    with pytest.raises(UserError, match=r"a\.ckpt, .*best\.ckpt"):
        load_rave(run, "c.ckpt")


def test_our_own_layout_has_last_and_best(make_rave_run, tmp_path):
    run = make_rave_run(tmp_path / "run" / "rave", steps=(5, 3), names=("last.ckpt", "best.ckpt"))
    (run / "version_0" / "checkpoints").rename(run / "checkpoints")
    assert load_rave(run)[1].step == 5
    assert load_rave(tmp_path / "run", "best")[1].step == 3


def test_what_is_missing_is_named(make_rave_run, tmp_path):
    with pytest.raises(UserError, match="no RAVE run"):
        load_rave(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.gin"):
        load_rave(tmp_path / "empty")
    run = make_rave_run(tmp_path / "runs" / "a")
    make_rave_run(tmp_path / "runs" / "b")
    with pytest.raises(UserError, match="holds 2 RAVE runs"):
        load_rave(tmp_path / "runs")
    with pytest.raises(UserError, match="no best checkpoint"):
        load_rave(run, "best")
    checkpoint_of(run).unlink()
    with pytest.raises(UserError, match="no checkpoint in"):
        load_rave(run)


@pytest.mark.parametrize("size", [0, 100, 60_000])
def test_truncated_checkpoint_is_named(make_rave_run, tmp_path, size):
    path = checkpoint_of(make_rave_run(tmp_path / "r"))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"epoch\.ckpt"):
        load_rave(tmp_path / "r")


def test_damaged_checkpoint_among_good_ones_is_reported_and_skipped(
    make_rave_run, tmp_path, caplog
):
    run = make_rave_run(tmp_path / "r", steps=(1, 2), names=("a.ckpt", "b.ckpt"))
    (run / "version_0" / "checkpoints" / "b.ckpt").write_bytes(b"PK\x03\x04 cut short")
    assert load_rave(run)[1].step == 1
    assert "b.ckpt" in caplog.text


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/evil-was-run",)


def test_checkpoint_with_code_is_refused(make_rave_run, tmp_path):
    path = checkpoint_of(make_rave_run(tmp_path / "r"))
    torch.save({"state_dict": {}, "evil": Evil()}, path)
    with pytest.raises(UserError, match="could run code"):
        read_checkpoint(path)


def test_config_with_code_is_refused(make_rave_run, tmp_path):
    run = make_rave_run(tmp_path / "r")
    config = run / "config.gin"
    config.write_text("import os\n" + config.read_text())
    with pytest.raises(UserError, match="'os'"):
        load_rave(run)


def test_checkpoint_of_another_model_is_refused(make_rave_run, tmp_path):
    run = make_rave_run(tmp_path / "r")
    other = make_rave_run(tmp_path / "s", configs=["v2", "wasserstein"])
    with pytest.raises(UserError, match=r"does not fit its config\.gin"):
        load_rave(run, checkpoint_of(other))
    torch.save({"weights": 1}, checkpoint_of(run))
    with pytest.raises(UserError, match="not a RAVE checkpoint"):
        load_rave(run)


EXPORTED = {
    "v1": {"configs": ["v1"], "ratios": [4, 4, 4, 2]},
    "v2_small": {"configs": ["v2_small"], "ratios": [4, 2, 2, 2]},
    "v3": {"configs": ["v3"]},
    "causal": {"configs": ["v2", "causal"]},
    "noise": {"configs": ["v2", "noise"], "ratios": [4, 4, 2]},
    "wasserstein": {"configs": ["v2", "wasserstein"]},
    "spherical": {"configs": ["v2", "spherical"]},
    "raspberry": {"configs": ["raspberry"]},
    "stereo": {"channels": 2},
}


@pytest.fixture(scope="module")
def exported_runs(make_rave_run, rave_run, tmp_path_factory):
    """Name -> a tiny run of each architecture."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: make_rave_run(folder / name, **kind) for name, kind in EXPORTED.items()}
    # RAVE's own export finds no number of channels in a config.gin of its own.
    with (runs["stereo"] / "config.gin").open("a") as config:
        config.write("\nrave.RAVE.n_channels = 2\n")
    return {"v2": rave_run, **runs}


@pytest.fixture(scope="module")
def exports(exported_runs, tmp_path_factory):
    """The `.ts` files that acids-rave's own `rave export` makes: for streaming, and one plain."""
    folder = tmp_path_factory.mktemp("exports")
    code = (
        "from latentdiff.rave import compat; compat.prepare()\n"
        "import gin, json, sys\n"
        "from scripts import export\n"
        "export.FLAGS(['export', '--run=', '--output=' + sys.argv[2]])\n"
        "for name, run in json.loads(sys.argv[1]).items():\n"
        "    for export.FLAGS.streaming in (False, True)[name != 'v2':]:\n"
        "        gin.clear_config()\n"
        "        export.FLAGS.run, export.FLAGS.name = run, name\n"
        "        export.main(None)\n"
    )
    runs = json.dumps({name: str(run) for name, run in exported_runs.items()})
    # Away from the checkout, whose own scripts/ is not the one meant.
    env = {**os.environ, "PYTHONPATH": str(Path(latentdiff.__file__).parent.parent)}
    command = [sys.executable, "-c", code, runs, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_export_is_exact(rave_run, exports):
    codec = RaveCodec.from_run(rave_run)
    exported = RaveCodec.open(exports / "v2.ts")
    audio = noise(2, 1, 64 * 50 + 5)
    for ours, theirs in zip(codec.encode(audio), exported.encode(audio), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    z = noise(1, 6, 40)
    torch.testing.assert_close(codec.decode(z), exported.decode(z), atol=1e-4, rtol=1e-4)
    assert exported.hop == 64 and exported.encode_context == codec.encode_context
    with pytest.raises(UserError, match="not checkpoints"):
        RaveCodec.open(exports / "v2.ts", "best")


@pytest.mark.parametrize("name", ["v2", *EXPORTED])
def test_streaming_export_is_exact_and_keeps_no_state(exported_runs, exports, name):
    """What comes before, in which chunks, and beside what does not matter; nor do the ends."""
    codec = RaveCodec.from_run(exported_runs[name])
    exported = RaveCodec.from_export(exports / f"{name}_streaming.ts")
    assert (exported.channels, exported.hop) == (codec.channels, codec.hop)
    audio = noise(3, codec.channels, codec.hop * 40 + 7)
    z = codec.encode(audio)[0]
    for _ in range(2):
        for ours, theirs in zip(codec.encode(audio), exported.encode(audio), strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(exported.decode(z), codec.decode(z), atol=1e-5, rtol=1e-5)
    assert exported.encode_context == codec.encode_context
    assert exported.decode_context == codec.decode_context
    whole = exported.encode(audio[:1])[0][0].numpy()
    chunked, _ = streaming.encode(exported, audio[0].numpy(), chunk_seconds=0.2, batch=70)
    assert abs(chunked - whole).max() < 1e-4


def test_streaming_parts_of_unknown_classes_are_named(exports, monkeypatch):
    monkeypatch.delitem(streaming_export._READ, "DilatedUnit")
    with pytest.raises(UserError, match="a part of it is a DilatedUnit"):
        RaveCodec.from_export(exports / "v2_streaming.ts")


def test_exports_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no exported model"):
        RaveCodec.open(tmp_path / "nowhere.ts")
    (tmp_path / "text.ts").write_text("export const x = 1")
    with pytest.raises(UserError, match="damaged, or not TorchScript"):
        RaveCodec.open(tmp_path / "text.ts")
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "linear.ts"))
    with pytest.raises(UserError, match="is not an exported RAVE model"):
        RaveCodec.open(tmp_path / "linear.ts")


def test_exports_are_inspected(exports, tmp_path, caplog):
    caplog.set_level("INFO")
    for name, kind in (("v2", "not for streaming"), ("v2_streaming", "for streaming")):
        caplog.clear()
        inspect(exports / f"{name}.ts")
        assert f"exported {kind} (VariationalEncoder)" in caplog.text
        assert "8000 Hz, 1 channel, 6 latents every 64 samples" in caplog.text
    whole = (exports / "v2.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(whole[: len(whole) // 2])
    for use in (inspect, RaveCodec.open):
        with pytest.raises(UserError, match="damaged, or not TorchScript"):
            use(tmp_path / "cut.ts")


@pytest.mark.parametrize(
    ("kind", "input_mode", "recurrent", "message"),
    [
        ("DiscreteEncoder", "pqmf", False, "discrete"),
        ("SomethingElse", "pqmf", False, "supported are"),
        ("VariationalEncoder", "mel", False, "mel spectrogram"),
        ("VariationalEncoder", "pqmf", True, "recurrent"),
    ],
)
def test_models_that_diffusion_cannot_use_are_refused(kind, input_mode, recurrent, message):
    with pytest.raises(UserError, match=message):
        check_supported(kind, input_mode, recurrent)
