"""The words of RAVE's command line, and of the encode and decode scripts built on it, in ours.

`COMMANDS` is the whole table: each command of `rave`, and what becomes of each of its flags. None
of these words appears in --help. Flags are named with `-` for `_`, without the leading dashes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff.errors import UserError

Given = Mapping[str, Sequence[str]]
"""Flags of RAVE on the command line -> their values in order; `true` or `false` of a switch."""


@dataclass(frozen=True)
class Ours:
    """What flags of RAVE become."""

    options: tuple[str, ...] = ()
    """Our options with their values, such as `--run runs/techno`."""
    settings: tuple[str, ...] = ()
    """KEY=VALUE words."""
    notes: tuple[str, ...] = ()
    """Why a flag has no effect."""

    def __add__(self, other: Ours) -> Ours:
        return Ours(
            self.options + other.options, self.settings + other.settings, self.notes + other.notes
        )


@dataclass(frozen=True)
class Flag:
    """A flag of RAVE."""

    translate: Callable[[Given, str], Ours]
    """Called with all flags and the name of this one; raises UserError for one that we lack."""
    switch: bool = False
    """Takes no value: `--lazy`, `--nolazy`, `--lazy=true`."""
    beside: str | None = None
    """Means this only beside that flag; without it, it is our own option."""
    is_ours: Callable[[str], bool] = lambda value: False
    """Whether a value belongs to our own option of the same name."""


@dataclass(frozen=True)
class RaveCommand:
    """A command of RAVE."""

    ours: str | None
    """Our command; None: there is none."""
    flags: Mapping[str, Flag] = field(default_factory=dict)
    instead: Callable[[Given], UserError] | None = None
    """Explains what to type instead, if there is no such command."""


# --- what a flag can become


def option(*names: str, beside: str | None = None) -> Flag:
    """Our options of these names, each with every value."""

    def translate(given: Given, flag: str) -> Ours:
        return Ours(options=tuple(x for v in given[flag] for name in names for x in (name, v)))

    return Flag(translate, beside=beside)


def setting(key: str, convert: Callable[[str], str] = str) -> Flag:
    """A setting with the last value."""

    def translate(given: Given, flag: str) -> Ours:
        return Ours(settings=(f"{key}={convert(given[flag][-1])}",))

    return Flag(translate)


def settings_list(
    key: str, convert: Callable[[str], str] = str, is_ours: Callable[[str], bool] | None = None
) -> Flag:
    """A setting that is the list of all values."""

    def translate(given: Given, flag: str) -> Ours:
        values = [convert(value) for value in given[flag]]
        return Ours(settings=(f"{key}={json.dumps(values)}",))

    return Flag(translate, is_ours=is_ours or (lambda value: False))


def no_effect(why: str, switch: bool = False) -> Flag:
    """A flag that needs nothing here."""
    return Flag(lambda _, flag: Ours(notes=(f"{typed(flag)} has no effect: {why}",)), switch)


def missing(why: str, do_this: str, switch: bool = False) -> Flag:
    """A flag whose wish cannot be granted; a switch that is off asks for nothing."""

    def translate(given: Given, flag: str) -> Ours:
        if switch and given[flag][-1] == "false":
            return Ours()
        raise UserError(f"latentdiff has no {typed(flag)}", why=why, do_this=do_this)

    return Flag(translate, switch)


def typed(flag: str) -> str:
    """A flag as RAVE's users type it."""
    return "--" + flag.replace("-", "_")


# --- flags that take more than a line


def _run(given: Given, flag: str) -> Ours:
    """`--name NAME --out_path runs/` -> `--run runs/NAME`."""
    parent, name = Path(given.get("out-path", ["runs"])[-1]), Path(given[flag][-1])
    # A name that holds the folder already does not nest another one in it.
    run = name if name.is_absolute() or name.is_relative_to(parent) else parent / name
    if (run / "config.gin").is_file():
        # A run of `rave train` itself: our files do not go between its own.
        run = run.with_name(f"{run.name}-latentdiff")
    return Ours(options=("--run", str(run)))


def _out_path(given: Given, flag: str) -> Ours:
    if "name" in given:
        return Ours()  # part of --run
    raise UserError(
        f"{typed(flag)} needs --name", do_this="add --name NAME, or use --run runs/NAME instead."
    )


def _checkpoint(given: Given, flag: str) -> Ours:
    """RAVE continues the training of --ckpt; a run of ours continues its own by itself."""
    path = given[flag][-1]
    run = Path(_run(given, "name").options[1])
    if Path(path).exists() and Path(path).resolve().is_relative_to(run.resolve()):
        return Ours(notes=(f"{typed(flag)} has no effect: {run} continues from its last step",))
    return Ours(options=("--ckpt", path, "--continue"))


_MACROS = {
    "SAMPLING_RATE": "data.sample_rate",
    "CAPACITY": "rave.capacity",
    "LATENT_SIZE": "rave.latent_size",
    "N_BAND": "rave.n_band",
    "RATIOS": "rave.ratios",
    "PHASE_1_DURATION": "rave.phase_1_steps",
    "RAVE.phase_1_duration": "rave.phase_1_steps",
    "BetaWarmupCallback.warmup_len": "rave.beta_warmup_steps",
    "BetaWarmupCallback.target_value": "rave.beta",
}
"""gin bindings that are settings of their own, which other settings take into account."""


def _override(given: Given, flag: str) -> Ours:
    """gin bindings: settings of ours, or `rave.overrides`."""
    bindings, others = [], []
    for line in given[flag]:
        name, equals, value = (part.strip() for part in line.partition("="))
        if equals and name in _MACROS:
            bindings.append(f"{_MACROS[name]}={value}")
        else:
            others.append(line)
    rest = (f"rave.overrides={json.dumps(others)}",) if others else ()
    return Ours(settings=(*bindings, *rest))


def _gpu(given: Given, flag: str) -> Ours:
    """-1 is the CPU, 0 the GPU, 0 and 1 two of them."""
    numbers = list(given[flag])
    if numbers == ["-1"]:
        return Ours(options=("--device", "cpu"))
    count = len(numbers)
    if sorted(numbers) != [str(n) for n in range(count)]:
        raise UserError(
            f"latentdiff cannot choose GPU {', '.join(numbers)}",
            why="it uses the first GPUs that are visible to it",
            do_this=f"put CUDA_VISIBLE_DEVICES={','.join(numbers)} before the command, and "
            f"type --gpu {' --gpu '.join(str(n) for n in range(count))}.",
        )
    several = (f"rave.devices={count}",) if count > 1 else ()
    return Ours(options=("--device", "cuda"), settings=several)


def _channels(given: Given, flag: str) -> Ours:
    value = given[flag][-1]
    # RAVE's default, 0, stands for the channels of the dataset.
    return Ours() if value == "0" else Ours(settings=(f"data.channels={value}",))


def _is_config_file(value: str) -> bool:
    """Whether a --config is one of our YAML files; RAVE's configs have names, or end in .gin."""
    suffix = Path(value).suffix
    return suffix in (".yaml", ".yml") or (suffix != ".gin" and Path(value).is_file())


# --- commands that we lack


def _no_export(given: Given) -> UserError:
    run = Path(given.get("run", ["RUN"])[-1])
    folder = run / "rave" if (run / "rave").is_dir() else run
    # Without these two, `rave export` takes them from the path of the checkpoint, and may fail.
    line = {"run": [str(folder)], "name": [run.name], "output": ["."], **given}
    line["run"] = [str(folder)]
    return UserError(
        "latentdiff does not export codecs",
        why="a codec that it trains has the files of `rave train`, and `rave` exports it",
        do_this=f"where acids-rave is installed, type: {_command('rave export', line)}",
    )


def _no_generate(given: Given) -> UserError:
    out, model = given.get("out-path", ["generations"])[-1], given.get("model", ["MODEL"])[-1]
    audio = {"audio": given.get("input", ["AUDIO"])}
    encode = _command("latentdiff encode", {"run": [out], "rave": [model], **audio})
    decode = _command("latentdiff decode", {"run": [out], "latents": [str(Path(out, "latents"))]})
    return UserError(
        "latentdiff has no generate",
        why="it reconstructs recordings in two steps, which keep the latents",
        do_this=f"type: {encode} && {decode}",
    )


def _no_prior(given: Given) -> UserError:
    return UserError(
        "latentdiff has no train_prior",
        why="its diffusion model takes the place of RAVE's prior",
        do_this="type: latentdiff encode --run RUN && latentdiff train-diffusion --run RUN",
    )


def _not_here(name: str, why: str) -> Callable[[Given], UserError]:
    return lambda given: UserError(f"latentdiff has no {name}", why=why, do_this=f"use rave {name}")


def _command(words: str, given: Given) -> str:
    pairs = [x for flag, values in given.items() for v in values for x in (typed(flag), v)]
    return f"{words} {shlex.join(pairs)}"


def _any(*names: str, switches: Sequence[str] = ()) -> dict[str, Flag]:
    """Flags of a command that we lack: only to be read."""
    nothing = Flag(lambda given, flag: Ours())
    switch = Flag(lambda given, flag: Ours(), switch=True)
    return dict.fromkeys(names, nothing) | dict.fromkeys(switches, switch)


_NO_WORKERS = no_effect("files are read in the process itself")

COMMANDS: Mapping[str, RaveCommand] = {
    "preprocess": RaveCommand(
        "preprocess",
        {
            "input-path": option("--audio"),
            "output-path": option("--run", "--dataset"),
            # RAVE stores records of twice this length.
            "num-signal": setting("data.chunk", lambda n: str(2 * int(n)) if n.isdecimal() else n),
            "channels": Flag(_channels),
            "sampling-rate": setting("data.sample_rate"),
            "workers": setting("data.workers"),
            "max-db-size": no_effect("the dataset grows as needed"),
            "dyndb": no_effect("the dataset grows as needed", switch=True),
            "ext": missing(
                "it reads every audio file that it finds",
                "put the files that you mean into a folder of their own.",
            ),
            "lazy": missing(
                "datasets hold decoded audio, so that training needs no decoder",
                "leave it out.",
                True,
            ),
        },
    ),
    "train": RaveCommand(
        "train-rave",
        {
            "name": Flag(_run),
            "out-path": Flag(_out_path),
            "db-path": option("--dataset"),
            "config": settings_list(
                "rave.configs", lambda name: name.removesuffix(".gin"), _is_config_file
            ),
            "augment": settings_list(
                "rave.augmentations", lambda name: Path(name).name.removesuffix(".gin")
            ),
            "override": Flag(_override),
            "max-steps": setting("rave.steps"),
            "val-every": setting("rave.validate_every"),
            "save-every": no_effect(
                "last.ckpt and best.ckpt are written at every validation (or as often as "
                "rave.checkpoint_every says), and older copies are not kept"
            ),
            "n-signal": setting("rave.n_signal"),
            "channels": Flag(_channels),
            "batch": setting("rave.batch"),
            "workers": setting("rave.workers"),
            "gpu": Flag(_gpu),
            "ckpt": Flag(_checkpoint, beside="name"),
            "progress": no_effect("the progress bar shows in a terminal only", switch=True),
            "smoke-test": missing("it trains for as long as you say", "type rave.steps=20.", True),
            "derivative": missing("the dataset is trained on as it is", "leave it out.", True),
            "normalize": missing(
                "the dataset is trained on as it is", "normalise the recordings themselves.", True
            ),
            "rand-pitch": missing(
                "RAVE shifts the pitch by resampling crops, which latentdiff leaves out",
                "leave it out.",
            ),
            "ema": missing(
                "acids-rave 2.3 cannot export averaged weights, nor resume with them on a GPU",
                "leave it out.",
            ),
        },
    ),
    "encode": RaveCommand(
        "encode",
        {
            "db-path": option("--audio"),
            "encoded-output-path": option("--run", "--latents"),
            "run": option("--rave", beside="encoded-output-path"),
            "batch": setting("latents.batch"),
            "workers": _NO_WORKERS,
            "gpu": Flag(_gpu),
        },
    ),
    "decode": RaveCommand(
        "decode",
        {
            "latents-path": option("--latents"),
            "decoded-output-path": option("--run", "--output"),
            "run": option("--rave", beside="decoded-output-path"),
            "batch": setting("latents.batch"),
            "workers": _NO_WORKERS,
            "gpu": Flag(_gpu),
        },
    ),
    "export": RaveCommand(
        None,
        _any(
            *("run", "fidelity", "name", "output", "channels", "sr", "prior"),
            switches=("streaming", "ema-weights"),
        ),
        _no_export,
    ),
    "generate": RaveCommand(
        None,
        _any("model", "input", "out-path", "name", "gpu", "chunk-size", switches=("stream",)),
        _no_generate,
    ),
    "train-prior": RaveCommand(None, {}, _no_prior),
    "export-onnx": RaveCommand(None, {}, _not_here("export_onnx", "nothing here reads ONNX")),
    "remote-dataset": RaveCommand(
        None, {}, _not_here("remote_dataset", "it trains on datasets of its own machine")
    ),
}
