"""Settings: every error at once, with a suggestion; overrides, merging, the printed reference."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from latentdiff import config
from latentdiff.config import Section
from latentdiff.errors import ConfigError, UserError


class Inner(Section):
    rate: int = Field(44100, gt=0)
    """Hz."""
    kind: Literal["a", "b"] = "a"
    """Which."""


class Outer(Section):
    inner: Inner = Field(default_factory=Inner)
    learning_rate: float = 1e-3
    """Of AdamW."""
    names: list[str] = []
    """Some names."""
    limit: int | None = None
    """Null means none."""


def test_every_problem_is_reported_at_once():
    values = {"inner": {"rat": 1, "rate": -5, "kind": "c"}, "learnig_rate": 1, "names": 3}
    with pytest.raises(ConfigError) as caught:
        config.build(Outer, values, "my.yaml")
    text = str(caught.value)
    assert "my.yaml: 5 problems" in text
    assert "inner.rat: unknown key; did you mean 'rate'?" in text
    assert "learnig_rate: unknown key; did you mean 'learning_rate'?" in text
    assert "inner.rate" in text and "-5" in text
    assert "inner.kind" in text and "'c'" in text
    assert "names" in text


def test_yaml_round_trip():
    built = config.build(Outer, {"inner": {"rate": 8000}, "names": ["ä", "b c"]})
    again = config.build(Outer, config.yaml.safe_load(config.to_yaml(built)))
    assert again == built


def test_scientific_notation_without_a_dot_is_a_number():
    # YAML 1.1 reads 1e-4 as text.
    values = config.parse_overrides(["learning_rate=1e-4"])
    assert config.build(Outer, values).learning_rate == 1e-4


def test_overrides_nest_and_parse_yaml():
    values = config.parse_overrides(["inner.rate=22050", "names=[x, y]", "limit=null"])
    assert values == {"inner": {"rate": 22050}, "names": ["x", "y"], "limit": None}


@pytest.mark.parametrize("word", ["ckpt", "=3", "x", "inner=1 inner.rate=2"])
def test_unknown_words_are_refused(word):
    with pytest.raises(UserError):
        config.build(Outer, config.parse_overrides(word.split(" ")))


def test_merge_replaces_leaves_and_keeps_the_rest():
    low = {"inner": {"rate": 1, "kind": "b"}, "names": ["a"]}
    assert config.merge(low, {"inner": {"rate": 2}, "names": []}) == {
        "inner": {"rate": 2, "kind": "b"},
        "names": [],
    }


def test_empty_section_means_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("inner:\nlearning_rate: 0.5\n")
    assert config.build(Outer, config.read_yaml(path)).inner == Inner()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1,", "not valid YAML"),
        ("- 1\n- 2\n", "holds a list"),
        ("limit: 1\nlimit: 2\n", "duplicate key"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_yaml_is_explained(tmp_path, text, expected):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        config.read_yaml(path)


def test_missing_file_names_the_command_that_writes_one(tmp_path):
    with pytest.raises(UserError) as caught:
        config.read_yaml(tmp_path / "none.yaml")
    assert "config init" in str(caught.value)


def test_reference_comes_from_the_docstrings():
    rows = {row[0]: row[1:] for row in config.reference(Outer)}
    assert rows["inner.rate"] == ("int", "44100", "Hz.")
    assert rows["inner.kind"][0] == "a | b"
    assert rows["names"][:2] == ("list[str]", "[]")
    assert rows["limit"] == ("int | null", "null", "Null means none.")


def test_differences_name_the_leaf():
    old = {"inner": {"rate": 1, "kind": "a"}, "x": 1}
    new = {"inner": {"rate": 2, "kind": "a"}}
    assert config.differences(old, new) == ["inner.rate: 1 -> 2", "x: 1 -> None"]
