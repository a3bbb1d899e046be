"""The notebook's files, formulas and texts, and two entries run on latents made up here."""

from __future__ import annotations

import json
import logging
import math
import re

import numpy as np
import pytest
import torch

from latentdiff import cli, config, runs
from latentdiff.diffusion.settings import DiffusionConfig
from latentdiff.errors import ConfigError, UserError
from latentdiff.latents import statistics
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.project import Project
from latentdiff.networks.settings import NetworkConfig
from latentdiff.notebook import entry as entries
from latentdiff.notebook import formulas, table, tell
from latentdiff.notebook.bench import number_at
from latentdiff.notebook.entry import LAST, TODAY
from latentdiff.notebook.experiments.recipe import make_recipe
from latentdiff.notebook.experiments.settings import DataExperiment, ExperimentConfig
from latentdiff.notebook.run import run as run_entries
from latentdiff.runs import Input, Run, Stage

FILES = sorted(entries.folder().glob("*.yaml"))
EVERY = entries.load_all()
DIMENSIONS = 6
QUICK = [
    "network.channels=16",
    "network.blocks=1",
    "training.learning_rate=0.01",
    "training.steps=120",
    "training.validate_every=120",
    "training.window=32",
]


def project_of(name, case):
    experiment = EVERY[name]
    values = config.merge(experiment.sections, case.settings)
    return config.build(Project, values, str(experiment.path))


def case_of(name, which=""):
    (case,) = [c for c in EVERY[name].story.entries[name].cases if c.name == which]
    return case


def formula_of(name, which=""):
    case = case_of(name, which)
    return formulas.evaluate(case.formula, project_of(name, case))


def command_at(line):
    """The click command that a line names."""
    command = cli.cli
    for word in line.removeprefix("latentdiff ").split():
        command = command.commands[word] if hasattr(command, "commands") else command
    return command


class TestFiles:
    def test_every_entry_stands_in_one_file(self):
        stories = [entries.load(path).story for path in FILES]
        names = [name for story in stories for name in story.entries]
        assert sorted(names) == sorted([*(f"N{k}" for k in range(1, LAST + 1)), TODAY])
        assert list(EVERY)[:3] == ["N1", "N2", "N3"] and list(EVERY)[-1] == TODAY

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_a_file_opens_with_a_command_about_its_own_entries(self, path):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert re.match(r"# latentdiff notebook (run|show) ", first)
        words = re.findall(r"\bN\d+|\btoday", first)
        assert words and set(words) <= set(entries.load(path).story.entries)

    @pytest.mark.parametrize("name", EVERY)
    def test_cases_can_be_built_and_computed(self, name):
        entry = EVERY[name].story.entries[name]
        assert len({case.name for case in entry.cases}) == len(entry.cases)
        for case in entry.cases:
            project = project_of(name, case)
            if case.formula is not None:
                assert math.isfinite(formulas.evaluate(case.formula, project))
            for line in case.commands:
                assert not hasattr(command_at(line), "commands"), line
        if entry.see and not entry.see.startswith("page"):
            assert not hasattr(command_at(entry.see), "commands"), entry.see

    def test_forty_entries_and_more_are_measured(self):
        hows = {n: {case.how for case in x.story.entries[n].cases} for n, x in EVERY.items()}
        measured = [name for name, how in hows.items() if how - {"formula"}]
        assert len(measured) > 40

    def test_pages_that_entries_speak_of_are_there(self):
        text = (entries.folder() / "README.md").read_text(encoding="utf-8")
        for page in ("D1", "D2", "D3", "D4", "D5", "D6"):
            assert f"\n## {page}. " in text

    def test_the_table_of_the_first_page_is_right(self):
        text = (entries.folder() / "README.md").read_text(encoding="utf-8")
        rows = re.findall(r"\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| `notebook run (N\d+)`", text)
        assert [name for *_, name in rows] == ["N34", "N35", "N36"]
        for noted, floor, measured, name in rows:
            case = EVERY[name].story.entries[name].cases[0]
            formula = formulas.evaluate(case.formula, project_of(name, case))
            assert float(noted) == case.user
            assert float(floor) == pytest.approx(formula, abs=0.0006)
            assert float(measured) == pytest.approx(formula, rel=0.05)

    def test_errors_in_a_file_name_their_place(self, tmp_path):
        path = tmp_path / "x.yaml"
        path.write_text(
            "notebook: {title: t, cause: c, answer: a,"
            " entries: {N3: {title: t, cases: [{hwo: train}]}}}"
        )
        with pytest.raises(ConfigError, match=r"entries\.N3\.cases\.0\.hwo: unknown key.*'how'"):
            entries.load(path)


class TestFormulas:
    @pytest.mark.parametrize(
        ("name", "case", "value"),
        [
            ("N24", "2e-4", 0.798),
            ("N32", "DiffWave", 1.0),
            ("N34", "", 0.654),
            ("N35", "MSE", 0.248),
            ("N35", "L1", 0.280),
            ("N36", "", 0.198),
            ("N61", "1e-5..0.005", 0.559),
            ("N61", "0.0015..0.0195", 0.275),
            ("N49", "gain", 197),
            ("N50", "gain", 3.4e5),
            ("N51", "gain", 8.5),
            ("N60", "norm of noise", 220),
            ("N65", "levels an epoch visits", 0.132),
            ("N73", "frames of 5 s", 861.3),
            ("N82", "noise beyond 1", 0.317),
            ("N100", "returning the input", 0.0914),
            ("N101", "", 0.1995),
        ],
    )
    def test_the_notebooks_numbers(self, name, case, value):
        assert formula_of(name, case) == pytest.approx(value, rel=0.01)

    def test_losses_that_the_user_noted_are_those_of_learning_nothing(self):
        noted = [
            (case.user, formulas.evaluate(case.formula, project_of(name, case)))
            for name in ("N14", "N24", "N25", "N32", "N34", "N35", "N36", "N101")
            for case in EVERY[name].story.entries[name].cases
            if case.user is not None
        ]
        assert len(noted) > 10
        for user, formula in noted:
            assert user == pytest.approx(formula, rel=0.065)

    def test_twice_the_steps_have_the_lower_floor_that_was_seen_as_progress(self):
        ratio = formula_of("N37", "2000 steps") / formula_of("N37", "1000 steps")
        assert ratio == pytest.approx(0.706, abs=0.002)

    def test_the_largest_of_many_normals(self):
        draws = torch.randn(2000, 500, generator=torch.Generator().manual_seed(0))
        measured = float(draws.abs().amax(dim=1).mean())
        assert formulas.largest(500) == pytest.approx(measured, rel=0.01)
        assert formulas.largest(1) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-4)

    def test_the_same_again_on_a_straight_path(self):
        rng = np.random.default_rng(0)
        z, eps = 0.25 * rng.standard_normal(200_000), rng.standard_normal(200_000)
        t = rng.integers(1, 10, 200_000) / 9
        step = np.abs((1 - t) * z + t * eps - (1 - t + 1 / 9) * z - (t - 1 / 9) * eps).mean()
        assert formulas.identity(10, 0.25) == pytest.approx(step, rel=0.01)


def test_the_story_of_an_entry_has_cause_and_answer():
    text = tell.story("n34")
    for part in ("N34: ", "cause: ", "answer: ", "0.65", "notebook run N34 --run"):
        assert part in text
    assert len(tell.listing().splitlines()) == LAST + 3
    assert "latentdiff decode" in tell.story("N8")
    with pytest.raises(UserError, match="no entry N120"):
        tell.story("120")


class TestTable:
    @pytest.mark.parametrize(
        ("measured", "skill", "expected"),
        [
            (0.66, -0.01, "nothing was learned"),
            (0.78, -0.2, "worse than knowing nothing"),
            (0.30, 0.55, "learned"),
        ],
    )
    def test_a_loss_beside_its_formula(self, measured, skill, expected):
        row = table.row("N34", case_of("N34"), "l1", table.CaseResult(0.654, measured, skill))
        assert expected in row.verdict and row.unit == "L1 loss"

    @pytest.mark.parametrize(
        ("spread", "expected"),
        [(0.01, "near silence"), (50.0, "50 times"), (1.1, "about as widely")],
    )
    def test_the_strength_of_samples(self, spread, expected):
        row = table.row(
            "N49", case_of("N49", "ten updates"), "l1", table.CaseResult(measured=spread)
        )
        assert expected in row.verdict


@pytest.fixture
def make_latents():
    """Writes a store of white latents [6, T] with their posterior."""

    def make(root, *, std=True, files=6, frames=200):
        rng = np.random.default_rng(0)
        with Stage(root, "encode", inputs={"codec": Input("codec", "c" * 64)}) as stage:
            sums, rows = statistics.StatisticsAccumulator(), []
            for i in range(files):
                z = 0.6 * rng.standard_normal((DIMENSIONS, frames)).astype(np.float32)
                spread = np.full_like(z, 0.8)
                split = "validation" if i < 2 else "train"
                np.save(root / f"{i}.npy", z)
                np.save(root / f"std{i}.npy", spread)
                if split == "train":
                    sums.update(z, spread)
                entry = Entry(f"{i}.wav", None, split, frames * 64, frames, f"{i}.npy")
                rows.append({**entry.row(), "std": f"std{i}.npy" if std else None})
            sums.finish().save(root / "stats.safetensors")
            runs.write_jsonl(root / "manifest.jsonl", rows)
            stage.record(sample_rate=8000, hop=64, latent_dim=DIMENSIONS, channels=1)
        return root

    return make


def test_latents_can_be_drawn_without_the_deviation_of_each_frame(tmp_path, make_latents):
    store = LatentStore.open(make_latents(tmp_path, std=False))
    drawn = ExperimentConfig(data=DataExperiment(posterior="sampled"))
    recipe = make_recipe(NetworkConfig(), DiffusionConfig(), drawn)
    for entry in store.entries:
        noise = recipe.latents(store, entry) - store.mean(entry)
        assert noise.dtype == np.float32 and noise.std() == pytest.approx(0.8, rel=0.1)


def test_a_number_is_read_from_where_it_lies(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": {"b": [{"c": 3}, {"c": 5}]}, "many": [1, 9, 2], "found": ["x", "y"]}')
    for keys, value in (("a.b.1.c", 5), ("many", 2), ("found", 2)):
        assert number_at(f"{path}:{keys}") == value
    for place in (f"{path}:a.x", f"{path}:a.b.7.c", f"{tmp_path}/none.json:a"):
        with pytest.raises(UserError, match=f"there is no {place.rpartition(':')[2]} in"):
            number_at(place)


class TestRun:
    def test_the_notebooks_losses_come_back(self, tmp_path, make_latents, caplog):
        run = Run(tmp_path / "techno")
        make_latents(run.latents)
        with caplog.at_level(logging.INFO, logger="latentdiff"):
            assert run_entries(run, ["n14", "34"], settings=[*QUICK, "latents.keep=all"]) == []
        rows = json.loads((run.root / "notebook" / "table.json").read_text())
        assert [row["entry"] for row in rows] == ["N14", "N34", TODAY]
        for row in rows[:-1]:
            assert row["measured"] == pytest.approx(row["formula"], rel=0.05)
            assert "nothing was learned" in row["verdict"]
        assert abs(rows[-1]["skill"]) < 0.1  # white latents: today's settings learn nothing either
        assert "2 of 2 measured numbers match their formula" in caplog.text

    def test_again_resumes_and_the_table_grows(self, tmp_path, make_latents):
        run = Run(tmp_path / "techno")
        make_latents(run.latents)
        settings = [*QUICK, "training.steps=10", "latents.keep=all"]
        run_entries(run, ["N36"], settings=settings)
        trained = run.root / "notebook" / "N36" / "diffusion" / "run.json"
        before = trained.stat().st_mtime_ns
        run_entries(run, ["N36", "N60"], settings=settings)
        assert trained.stat().st_mtime_ns == before
        run_entries(run, ["N36"], settings=settings, overwrite=True)
        assert trained.stat().st_mtime_ns > before
        text = (run.root / "notebook" / "table.txt").read_text()
        assert re.findall(r"^(?:N\d+|today) ", text, re.M) == ["N36 ", "N60 ", "today "]

    def test_what_cannot_be_run_is_reported_and_the_rest_is_run(self, tmp_path, make_latents):
        run = Run(tmp_path / "techno")
        make_latents(run.latents)
        lost = run_entries(run, ["N54", "N60"], settings=[*QUICK, "training.steps=5"])
        assert len(lost) == len(EVERY["N54"].story.entries["N54"].cases)
        assert all("cannot follow the mel" in loss for loss in lost)
        rows = json.loads((run.root / "notebook" / "table.json").read_text())
        assert rows[-2]["formula"] == 220 and rows[-1]["skill"] is not None
        assert "could not be run" in rows[0]["verdict"]

    def test_a_command_is_run_and_its_number_read(self, tmp_path, make_latents):
        run = Run(tmp_path / "techno")
        make_latents(run.latents)
        settings = [*QUICK, "training.steps=5", "sampling.steps=4", "latents.keep=all"]
        assert run_entries(run, ["N49"], settings=settings) == []
        (row,) = [
            row
            for row in json.loads((run.root / "notebook" / "table.json").read_text())
            if row["case"] == "ten updates"
        ]
        assert row["measured"] > 0 and row["unit"] == "spread"
        assert (run.root / "notebook/N49/ten-updates/commands.txt").read_text()

    def test_nothing_to_run(self, tmp_path, make_latents):
        run = Run(tmp_path / "techno")
        make_latents(run.latents)
        with pytest.raises(UserError, match=r"nothing to run for N2(.|\n)*train-rave"):
            run_entries(run, ["N2"])
        with pytest.raises(UserError, match="no entry was named"):
            run_entries(run, [])
        run_entries(run, every=True, dry_run=True)
        assert not (run.root / "notebook").exists()
