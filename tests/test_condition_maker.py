"""The conditions of samples: asked for, or drawn from the training files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentdiff import audio
from latentdiff.audio import AudioError, mono
from latentdiff.conditions.references import MOST, References
from latentdiff.errors import UserError
from latentdiff.model.condition_inputs import ConditionInput, as_condition
from latentdiff.model.condition_maker import ConditionMaker
from latentdiff.model.model import Model

KEYS = ["pop/a train.wav", "pop/b.wav", "folk/c.wav", "folk/d.wav"]
BPM = [80.0, 100.0, np.nan, 160.0]
LABELS = ["folk", "pop"]
FRAMES = 250
"""Two seconds of the codec at 125 frames a second."""


def references():
    style = np.arange(4, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    beat = np.array(BPM, np.float32)[:, None]
    label = np.array([1, 1, 0, 0], np.float32)[:, None]
    return References(KEYS, {"style": style, "beat": beat, "label": label})


@pytest.fixture
def make(make_model, tmp_path):
    def made(kinds="style,beat", codec=None, **options):
        path = tmp_path / f"{kinds}.safetensors"
        labels = LABELS if "label" in kinds else ()
        make_model(path, condition={"kinds": kinds}, references=references(), labels=labels)
        words = {name: (word,) if isinstance(word, str) else word for name, word in options.items()}
        return ConditionMaker(Model.load(path), words, lambda: codec)

    return made


def style_of(given):
    """The number of the training file whose style it is."""
    return float(given.features["style"][0, 0])


def bpm_of(given):
    """The tempo in the last row, which is log2(bpm / 120)."""
    return 120 * 2 ** float(given.features["beat"][-1, 0])


class TestDrawn:
    def test_everything_comes_from_one_training_file(self, make):
        seen = set()
        for given in make().batch(range(60), FRAMES):
            file = int(style_of(given))
            seen.add(file)
            assert given.name in KEYS[file].replace(" ", "-")
            if np.isnan(BPM[file]):
                assert "beat" not in given.features
            else:
                assert bpm_of(given) == pytest.approx(BPM[file])
        assert seen == {0, 1, 2, 3}

    def test_it_depends_on_the_seed_only(self, make):
        many = make().batch(range(8), FRAMES)
        (one,) = make().batch([5], FRAMES)
        assert style_of(one) == style_of(many[5])
        assert len({style_of(given) for given in many}) > 1

    def test_a_label_restricts_the_draw(self, make):
        maker = make("style,beat,label")
        inputs, _ = maker.given([Path("pop")], None)
        drawn = {style_of(maker.complete(inputs[0], seed, FRAMES)) for seed in range(40)}
        assert drawn == {0.0, 1.0}

    def test_a_model_without_conditions_follows_nothing(self, make_model, tmp_path):
        model = Model.load(make_model(tmp_path / "free.safetensors"))
        (given,) = ConditionMaker(model).batch([0], FRAMES)
        assert given == ConditionInput()


class TestAskedFor:
    def test_a_training_file_brings_its_tempo(self, make):
        given = make(style="folk/d.wav").complete(ConditionInput(), 0, FRAMES)
        assert style_of(given) == 3 and bpm_of(given) == pytest.approx(160)

    @pytest.mark.parametrize("name", ["pop/a train.wav", "pop/a.wav", "pop/a", "pop/a train"])
    def test_a_file_that_was_split_is_found_by_its_own_key(self, make, name):
        given = make(style=name).complete(ConditionInput(), 0, FRAMES)
        assert style_of(given) == 0 and bpm_of(given) == pytest.approx(80)

    def test_a_tempo_goes_with_any_style(self, make):
        for given in make(bpm="90").batch(range(8), FRAMES):
            assert bpm_of(given) == pytest.approx(90)
            # Two seconds are three beats.
            phase = np.unwrap(np.arctan2(*given.features["beat"][:2])) / (2 * np.pi)
            assert phase[-1] - phase[0] == pytest.approx(3 / 4 * (FRAMES - 1) / FRAMES, rel=1e-3)

    def test_of_a_mix_the_heaviest_brings_the_tempo(self, make):
        given = make(style=("pop/a=1", "pop/b=3")).complete(ConditionInput(), 0, FRAMES)
        assert style_of(given) == pytest.approx(0.75) and bpm_of(given) == pytest.approx(100)

    def test_an_unknown_file_names_some_that_there_are(self, make):
        with pytest.raises(UserError, match=r"no recording nothing\.wav") as error:
            make(style="nothing.wav").complete(ConditionInput(), 0, FRAMES)
        assert KEYS[0] in str(error.value) and "no training file of that name" in str(error.value)

    def test_of_many_training_files_some_are_named(self, make):
        maker = make(style="nothing.wav")
        keys = [f"{k}.wav" for k in range(8)]
        table = np.zeros((8, 4), np.float32)
        model = replace(maker.model, references=References(keys, {"style": table}))
        with pytest.raises(UserError, match=r"4\.wav and 3 more\.$"):
            replace(maker, model=model).complete(ConditionInput(), 0, FRAMES)

    def test_a_recording_without_its_codec(self, make, tmp_path):
        audio.write(tmp_path / "song.wav", [np.zeros((1, 8000), np.float32)], 8000)
        with pytest.raises(UserError, match="the codec of the model was not found"):
            make("style", style=str(tmp_path / "song.wav")).batch([0], FRAMES)

    @pytest.mark.parametrize("option", ["style", "beats"])
    def test_a_file_that_is_no_recording(self, make, tmp_path, option):
        path = tmp_path / "song.wav"
        path.write_text("no audio")
        with pytest.raises(AudioError, match=rf"^cannot use {path}") as error:
            make(**{option: str(path)}).batch([0], FRAMES)
        assert error.value.why

    def test_a_kind_that_the_model_does_not_follow(self, make):
        with pytest.raises(UserError, match="cannot follow --chords") as error:
            make(chords="Am F")
        assert "condition.kinds=style,beat" in str(error.value)

    def test_an_option_of_one_value_takes_no_two(self, make):
        with pytest.raises(UserError, match="--bpm takes one value"):
            make(bpm=("90", "100"))

    def test_two_ways_to_say_the_beat(self, make):
        with pytest.raises(UserError, match="--bpm and --beats"):
            make(bpm="90", beats="song.wav").batch([0], FRAMES)

    def test_chords_change_with_the_bars(self, make):
        maker = make("beat,chroma", bpm="120", chords="C G")
        (given,) = maker.batch([0], 4 * FRAMES)
        chroma = given.features["chroma"]
        # A bar at 120 bpm is two seconds, which are 250 frames.
        assert (chroma[:, :249] == chroma[:, :1]).all()
        assert not np.allclose(chroma[:, 251], chroma[:, 0])
        assert np.allclose(chroma[:, 501], chroma[:, 0])

    def test_chords_need_a_tempo(self, make):
        with pytest.raises(UserError, match="--chords needs a beat") as error:
            make("chroma", chords="C G").batch([0], FRAMES)
        assert "--bpm" in str(error.value)

    def test_chords_take_the_beat_of_the_recording_that_is_followed(self, make):
        asked = make("beat,chroma", bpm="120", chords="C G")
        maker = make("beat,chroma", chords="C G")
        (expected,) = asked.batch([0], 4 * FRAMES)
        features = {kind: expected.features[kind] for kind in ("beat", "chroma")}
        song = {"beat": features["beat"], "chroma": np.zeros_like(features["chroma"])}
        path = Path("song.wav")
        given = maker.complete(
            ConditionInput("song", "song.wav", song, recording=path), 0, 4 * FRAMES
        )
        assert given.features["beat"] is features["beat"]
        np.testing.assert_array_equal(given.features["chroma"], features["chroma"])
        del song["beat"]
        with pytest.raises(UserError, match="what the sample follows has none"):
            maker.complete(ConditionInput("song", "song.wav", song, recording=path), 0, 4 * FRAMES)

    def test_a_curve_of_loudness(self, make):
        (given,) = make("loudness", loudness="-60,0").batch([0], FRAMES)
        curve = given.features["loudness"][0]
        assert (np.diff(curve) > 0).all() and curve[0] < 0.01 and curve[-1] > 0.99


def test_samples_without_a_kind_lose_it_alone(make):
    given = make().batch(range(30), FRAMES)
    condition = as_condition(given)
    assert condition.values["beat"].shape == (30, 11, FRAMES)
    assert condition.given["beat"].tolist() == ["beat" in each.features for each in given]
    assert "style" not in condition.given


def test_of_many_files_as_many_are_remembered_as_there_is_room_for():
    count = MOST + 500
    table = References.of(list(map(str, range(count))), {"beat": [np.ones(1)] * count})
    assert len(table) == MOST and table.keys[0] == "0" and table.keys[-1] == str(count - 1)
    assert len(table.values["beat"]) == MOST


def test_references_survive_the_checkpoint(make):
    kept = make().model.references
    assert list(kept.keys) == KEYS
    assert kept.at(2)["beat"] is None and kept.at(1)["beat"] == 100


def test_a_recording_is_decoded_once_where_it_can_be_held(tmp_path, write_wav, melody, monkeypatch):
    path, decoded, inner = write_wav(tmp_path / "song.wav", melody(3)), [], mono.blocks

    def blocks(*words, **named):
        decoded.append(words)
        return inner(*words, **named)

    monkeypatch.setattr(mono, "blocks", blocks)
    rates = (8000, 4000, 11025)
    held = audio.MonoAudio(path)
    sounds = [np.concatenate(list(held.blocks(rate)), axis=1) for rate in rates]
    assert held.seconds == 3 and len(decoded) == 1
    for rate, sound in zip(rates, sounds, strict=True):
        np.testing.assert_array_equal(sound, audio.read(path, rate, 1)[0])
    # A long one is decoded each time, with the same result.
    monkeypatch.setattr(mono, "MOST_HELD", 8000)
    long = audio.MonoAudio(path)
    for rate, sound in zip(rates, sounds, strict=True):
        np.testing.assert_array_equal(np.concatenate(list(long.blocks(rate)), axis=1), sound)
    assert len(decoded) == 2 + len(rates)
