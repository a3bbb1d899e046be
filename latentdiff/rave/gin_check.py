"""Which names an untrusted config.gin may use.

gin resolves `@core.os.system()` by attribute access on any imported module, so an allow-list of
imports alone would protect nothing. Instead every name is resolved here, on the text, before gin
parses it: to a module and one attribute, both on the lists below.
"""

from __future__ import annotations

import ast
import importlib.util
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.rave.settings import shipped_configs

_NETWORKS = (
    "rave.blocks",
    "rave.discriminator",
    "rave.descript_discriminator",
    "rave.pqmf",
    "rave.quantization",
    "rave.balancer",
)
"""Modules that define nothing but network parts: everything their own source defines is allowed."""

_NAMES = {
    "rave": {"RAVE", "BetaWarmupCallback"},
    "rave.model": {"RAVE", "BetaWarmupCallback"},
    "rave.core": {
        "AudioDistanceV1",
        "EncodecAudioDistance",
        "MelScale",
        "MultiScaleSTFT",
        "SpectralDistance",
        "WaveformDistance",
        "WeightedInstantaneousSpectralDistance",
        "get_augmented_latent_size",
        "hinge_gan",
        "ls_gan",
        "mean_difference",
        "mod_sigmoid",
        "n_fft_to_num_bands",
        "nonsaturating_gan",
        "relative_distance",
    },
    "rave.transforms": {
        "Compress",
        "FrequencyMasking",
        "RandomCompress",
        "RandomGain",
        "RandomMute",
    },
    "cached_conv": {"AlignBranches", "Conv1d", "ConvTranspose1d", "get_padding"},
    "cached_conv.convs": {"get_padding"},
    "torch.nn": {
        "BatchNorm1d",
        "Conv1d",
        "Conv2d",
        "ConvTranspose1d",
        "ELU",
        "GELU",
        "GroupNorm",
        "Identity",
        "LeakyReLU",
        "ReLU",
        "SiLU",
        "Tanh",
    },
    "torchaudio.transforms": {"MelSpectrogram", "Spectrogram"},
}

# These touch files, the network or global state when called. A config may set their parameters
# (RAVE writes such lines), but never refer to them with `@`: gin would call them or pass them on.
_ONLY_BOUND = {
    "rave.dataset": {"get_dataset", "split_dataset"},
    "rave.transforms": {"add_augmentation"},
}

_OTHERS = {"torch", "torchaudio", "__gin__.dynamic_registration"}
_IMPORTS = {*_NETWORKS, *_NAMES, *_ONLY_BOUND, *_OTHERS}


def check_gin_imports(text: str, source: str = "config.gin") -> None:
    """Refuse a gin config that imports or names anything RAVE's own configs do not need.

    Must run before gin parses `text`. Raises UserError naming the first offence.
    """
    compat.prepare()
    from gin import config_parser

    references: list[str] = []
    try:
        statements = list(config_parser.ConfigParser(text, _collector(references)))
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError) as error:
        raise UserError(
            f"{source} is not a valid gin config",
            why=str(error),
            do_this="take the config.gin that RAVE wrote beside the checkpoint.",
        ) from error
    imported = _check_imports(statements, config_parser, source)
    # Names can only be judged once all imports are known: gin resolves them by the import's alias.
    dynamic = "dynamic_registration" in imported
    for bound in _bound_selectors(statements, config_parser):
        _check_name(bound, imported, dynamic, source, called=False)
    for reference in references:
        _check_name(reference, imported, dynamic, source, called=True)


def read_gin(path: Path) -> str:
    """The text of a config.gin, checked. Raises UserError where it cannot be read or is refused."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}", why=str(error)) from error
    check_gin_imports(text, str(path))
    return text


def _check_imports(statements: list[Any], parser: Any, source: str) -> dict[str, str]:
    """The names that imports bind -> their modules, all allowed; includes are checked too."""
    imported: dict[str, str] = {}
    for statement in statements:
        if isinstance(statement, parser.ImportStatement):
            _check_import(statement.module, source)
            name, module = statement.bound_name(), _bound_module(statement)
            # A second import under one name would let `a.b` mean one thing here and another in gin.
            if imported.setdefault(name, module) != module:
                _refuse(source, f"it gives the name '{name}' to two modules")
        elif isinstance(statement, parser.IncludeStatement):
            _check_include(statement.filename, source)
    return imported


def _collector(references: list[str]) -> Any:
    """A gin parser delegate that records every `@name` and evaluates nothing."""
    from gin import config_parser

    class Collector(config_parser.ParserDelegate):
        def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
            references.append(scoped_configurable_name.rsplit("/", 1)[-1])
            return scoped_configurable_name

        def macro(self, macro_name: str) -> str:
            return macro_name

    return Collector()


def _bound_module(statement: Any) -> str:
    """The module behind the name that an import statement binds."""
    # As in Python, `import a.b` binds `a`; the other two forms bind the whole module.
    if statement.is_from or statement.alias:
        return str(statement.module)
    return str(statement.module).split(".")[0]


def _bound_selectors(statements: list[Any], parser: Any) -> Iterator[str]:
    """Left-hand sides that name a configurable; `CAPACITY = 16` only defines a macro."""
    for statement in statements:
        if isinstance(statement, parser.BlockDeclaration) or (
            isinstance(statement, parser.BindingStatement) and statement.arg_name
        ):
            yield statement.selector


def _check_import(module: str, source: str) -> None:
    if module not in _IMPORTS:
        _refuse(source, f"it imports '{module}'")


def _check_include(filename: str, source: str) -> None:
    name = Path(filename)
    if name.parent.as_posix() != "configs" or name.stem not in shipped_configs():
        _refuse(source, f"it includes '{filename}', which is not one of RAVE's own configs")


def _check_name(
    selector: str, imported: dict[str, str], dynamic: bool, source: str, called: bool
) -> None:
    allowed = _allowed(called)
    if not dynamic:
        # Without dynamic registration gin looks the name up among registered configurables, by its
        # end. Any other code of this process may have registered some, so the name must be ours.
        *parents, name = selector.split(".")
        known = set().union(*allowed.values())
        parts = {part for module in allowed for part in module.split(".")} | {"cc"}
        if name not in known or not set(parents) <= parts:
            _refuse(source, f"it names '{selector}'")
        return
    # "core.os.system" -> module "rave.core.os", name "system": one attribute of a listed module
    # passes, a walk through further attributes ends at a module that is not listed.
    first, _, rest = selector.partition(".")
    module, _, name = f"{imported.get(first, '?')}.{rest}".rpartition(".")
    if name not in allowed.get(module, ()):
        _refuse(source, f"it names '{selector}'")


@cache
def _allowed(called: bool) -> dict[str, frozenset[str]]:
    """Module -> names that a config may bind (`called` false) or refer to with `@` (true)."""
    allowed = {module: _defined_in(module) for module in _NETWORKS}
    for module, names in _NAMES.items():
        allowed[module] = allowed.get(module, frozenset()) | names
    if not called:
        for module, names in _ONLY_BOUND.items():
            allowed[module] = allowed.get(module, frozenset()) | names
    return allowed


def _defined_in(module: str) -> frozenset[str]:
    """Classes and functions that a module's own source defines, not those it imports."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    )


def _refuse(source: str, why: str) -> None:
    raise UserError(
        f"{source} is refused: it could run code of its author's choosing",
        why=f"{why}, and no RAVE config needs that",
        do_this="use a checkpoint from a source you trust, with the config.gin that RAVE wrote.",
    )
