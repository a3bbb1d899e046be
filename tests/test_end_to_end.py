"""The README and every command's example, run as a user would, on a real (tiny) RAVE.

Real audio files of several formats, real subprocesses, one killed and one interrupted on the way.
What makes a day's training a matter of seconds is the `config.yaml` that the run directories hold
before the first command: a command reads it under its own options.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from latentdiff import cli, runs, synth, tracking

ROOT = Path(__file__).parent.parent
RATE = 16000
TINY = {
    "data": {"sample_rate": RATE, "validation": 0.3, "chunk": 16384},
    "rave": {
        "configs": ["v2_small"],
        "capacity": 4,
        "latent_size": 8,
        "n_band": 4,
        "ratios": [4, 4, 2],
        "n_signal": 16384,
        "batch": 4,
        "steps": 30,
        "workers": 0,
    },
    # After 30 steps no direction carries more sound than noise, and `auto` would rightly refuse.
    "latents": {"keep": 4},
    "network": {"channels": 32, "blocks": 4},
    "training": {"steps": 300, "batch": 8, "window": 32, "validation_windows": 8},
    "sampling": {"steps": 8},
}

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


def latentdiff(studio, line, expect=0):
    """Run one command line in the studio; returns its standard output."""
    words = shlex.split(line)
    assert words[0] == "latentdiff"
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=studio, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == expect, f"$ {line}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def ffmpeg(*words):
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *words]
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL)


def write_recordings(folder):
    """Seven pieces as wav, flac, ogg, mp3 with a cover, m4a and video, and three bad files."""
    (folder / "live").mkdir(parents=True)
    pieces = [synth.compose(seed=1, index=i, sample_rate=RATE)[: 6 * RATE] for i in range(7)]
    soundfile.write(folder / "song.wav", pieces[0], RATE, subtype="PCM_24")
    soundfile.write(folder / "live" / "song.wav", pieces[1], RATE, subtype="FLOAT")
    stereo = np.stack([pieces[2], 0.5 * pieces[2]], 1)
    soundfile.write(folder / "naïve 'quoted'.flac", stereo, RATE)
    soundfile.write(folder / "b.ogg", pieces[3], RATE)
    source, cover = folder / "source.wav", folder / "cover.png"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", 1, cover)
    for piece, name, extra in (
        (pieces[4], "c.mp3", ["-i", cover, "-map", 0, "-map", 1, "-c:v", "copy"]),
        (pieces[5], "d.m4a", []),
        (pieces[6], "e.mp4", ["-i", cover, "-map", 1, "-map", 0, "-pix_fmt", "yuv420p"]),
    ):
        soundfile.write(source, piece, RATE)
        ffmpeg("-i", source, *extra, folder / name)
    source.unlink()
    cover.unlink()
    (folder / "._song.wav").write_bytes(b"a Mac's shadow file")


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A folder with recordings and two run directories that remember tiny settings."""
    studio = tmp_path_factory.mktemp("studio")
    write_recordings(studio / "recordings")
    for name in ("techno", "other", "mel"):
        (studio / "runs" / name).mkdir(parents=True)
        (studio / "runs" / name / "config.yaml").write_text(yaml.safe_dump(TINY))
    return studio


def readme_lines():
    """The `latentdiff` lines of the README's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    return [line for line in "".join(blocks).splitlines() if line.startswith("latentdiff ")]


def examples():
    """The last lines of all helps."""
    groups = [c.commands for c in cli.cli.commands.values() if hasattr(c, "commands")]
    every = [c for group in (cli.cli.commands, *groups) for c in group.values()]
    return [line for c in every for line in getattr(c, "example", "").splitlines()]


def wait_for_step(directory, step, process):
    """Until the stage has logged a metric at `step` or later."""
    for _ in range(3000):
        if any(row["step"] >= step for row in tracking.read_metrics(directory)):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no progress")


def stop_midway(studio, line, directory, step, how):
    """Start a training, stop it after `step` by signal `how`, return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(line)],
        cwd=studio,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(studio / directory, step, process)
    os.kill(process.pid, how)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, out + err
    return process.returncode


def levels(folder):
    """RMS in dBFS of every sound file in a folder."""
    result = {}
    for path in sorted(folder.glob("*.wav")):
        samples, rate = soundfile.read(path)
        assert rate == RATE and np.isfinite(samples).all()
        result[path.name] = 20 * np.log10(np.sqrt(np.mean(samples**2)) + 1e-9)
    return result


def test_the_chain(studio):
    """README lines in their order, with a Ctrl-C and a kill -9 on the way."""
    lines = readme_lines()
    assert any(line.startswith("latentdiff decode") for line in lines)
    done = set()
    for line in lines:
        if line.startswith("latentdiff train-rave"):
            code = stop_midway(studio, line, "runs/techno/rave", 10, signal.SIGINT)
            assert code == 130
            assert runs.read_run(studio / "runs/techno/rave").status == "failed"
        if line == "latentdiff train-diffusion --run runs/techno":
            stop_midway(studio, line, "runs/techno/diffusion", 120, signal.SIGKILL)
        latentdiff(studio, line)
        done.add(line)
    check_dataset(studio / "runs/techno/dataset")
    check_metrics(studio / "runs/techno")
    check_sound(studio / "runs/techno")
    for line in examples():
        if line not in done and not line.startswith("latentdiff quickstart"):
            again = line.startswith(("latentdiff train", "latentdiff sample", "latentdiff decode"))
            line = line.replace("--name first", "--name example") if again else line
            # The README has evaluated the same run with other settings.
            other = line.startswith("latentdiff evaluate")
            # The notebook has settings of its own, but for what TINY says of directions.
            own = line.startswith("latentdiff notebook run")
            latentdiff(studio, line + " --overwrite" * other + " latents.keep=4" * own)


def test_the_python_of_the_readme(studio):
    """After the chain, on the run that it made."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=studio, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (studio / "out").iterdir()) == [
        f"{k}.wav" for k in range(4)
    ]


def check_dataset(directory):
    result = runs.read_run(directory).result
    dropped = sum(result["dropped"].values())
    assert result["seconds_in"] == pytest.approx(result["seconds_kept"] + dropped, abs=1e-6)
    assert result["seconds_in"] == pytest.approx(7 * 6, abs=0.5)
    rows = runs.read_jsonl(directory / "manifest.jsonl")
    assert len({row["key"] for row in rows}) == 7
    assert {row["split"] for row in rows} == {"train", "validation"}


def check_metrics(run):
    """Both trainings were stopped and resumed: every step logged once, in order, to the end."""
    for stage, last in (("rave", 30), ("diffusion", 300)):
        steps = [row["step"] for row in tracking.read_metrics(run / stage) if "loss" in row]
        assert steps == sorted(set(steps)), stage
        assert runs.read_run(run / stage).status == "done"
        assert runs.read_run(run / stage).result["step"] == last
    assert not list(run.rglob("*.partial"))


def check_sound(run):
    sound = levels(run / "audio" / "first")
    assert len(sound) == 8
    assert {name.split("-")[0] for name in sound} == {f"seed{3 + k}" for k in range(8)}
    seconds = [soundfile.info(path).duration for path in (run / "audio" / "first").glob("*.wav")]
    assert seconds == pytest.approx([10.0] * 8, abs=0.1)


def test_the_same_seed_gives_the_same_latents(studio):
    latentdiff(studio, "latentdiff sample --run runs/techno --n 2 --seconds 2 --seed 5 --name a")
    latentdiff(studio, "latentdiff sample --run runs/techno --n 1 --seconds 2 --seed 6 --name b")
    first = {p.name: np.load(p) for p in (studio / "runs/techno/samples/a").glob("*.npy")}
    second = {p.name: np.load(p) for p in (studio / "runs/techno/samples/b").glob("*.npy")}
    (name,) = second
    assert len(first) == 2
    np.testing.assert_allclose(first[name], second[name], atol=1e-5)


def test_finished_stages_report_it_and_refuse_other_settings(studio):
    for stage in ("train-rave", "train-diffusion"):
        out = latentdiff(studio, f"latentdiff {stage} --run runs/techno")
        assert "already done" in out
    changed = "latentdiff encode --run runs/techno data.sample_rate=8000"
    assert latentdiff(studio, changed, expect=2) == ""
    config = yaml.safe_load((studio / "runs/techno/config.yaml").read_text())
    assert config["data"]["sample_rate"] == RATE


def test_latents_of_another_codec_are_refused(studio):
    first = studio / "runs/techno/samples/first"
    foreign = shutil.copytree(first, first.with_name("foreign"))
    codec = runs.read_run(first).fingerprint("codec")
    text = (first / "run.json").read_text(encoding="utf-8")
    (foreign / "run.json").write_text(text.replace(codec, "0" * 64), encoding="utf-8")
    latentdiff(studio, "latentdiff decode --run runs/techno --name foreign", expect=2)
    assert not (studio / "runs/techno/audio/foreign").exists()
