"""`moesaic completion bash|zsh|fish`: a script that completes commands, options, choices, model names and files."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .names import CONTROLS, SHAPES, TIERS
from .parser import commands_of
from .shells.arguments import Argument, Command, Hint
from .shells.bash import bash_script
from .shells.fish import fish_script
from .shells.zsh import zsh_script

SCRIPTS: Mapping[str, Callable[[Sequence[Command]], str]] = {
    "bash": bash_script,
    "zsh": zsh_script,
    "fish": fish_script,
}

EXAMPLES = """examples:
  moesaic completion bash > ~/.local/share/bash-completion/completions/moesaic
  moesaic completion zsh > ~/.zsh/_moesaic       # in a folder of $fpath, which compinit reads
  moesaic completion fish > ~/.config/fish/completions/moesaic.fish

Or, in ~/.bashrc: source <(moesaic completion bash); in ~/.zshrc, after compinit: source <(moesaic completion zsh);
in config.fish: moesaic completion fish | source. The script needs nothing of moesaic when it completes; make it again
after an update."""

# What stands for itself: numbers, text, and names that nobody here knows.
FREE = {
    "N", "S", "T", "P", "X", "ID", "ID=X", "MB", "BYTES", "SECONDS", "TEXT", "PART", "LAYER:NEURON", "HOST", "PORT",
    "URL", "prompt", "text", "address", "seed", "reference export name", "token new name",
}  # fmt: skip


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "completion", help="print a script that completes commands in a shell", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("shell", choices=list(SCRIPTS))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the script of that shell, for the commands as they are now."""
    from .main import build_parser

    print(SCRIPTS[args.shell](list(described(build_parser()))), end="")
    return 0


def described(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """A command and those below it, each with what may stand behind it."""
    below = commands_of(parser)
    helps = {
        choice.dest: choice.help or ""
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    }
    yield Command(words, {name: helps.get(name, "") for name in below}, tuple(_arguments(parser, words)))
    for name, each in below.items():
        yield from described(each, (*words, name))


def _arguments(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[Argument]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction) and action.help != argparse.SUPPRESS:
            told = formatter._expand_help(action) if action.help else ""
            name = action.metavar if isinstance(action.metavar, str) else action.dest
            many, hint = action.nargs in ("*", "+"), None if action.nargs == 0 else hint_of(action, words)
            yield Argument(tuple(action.option_strings), name, told, hint, many)


def hint_of(action: argparse.Action, words: tuple[str, ...] = ()) -> Hint:
    """What is offered for the value of an argument; nothing for one that this page does not know."""
    if action.choices is not None:
        return Hint(tuple(str(choice) for choice in action.choices))
    known = _hints()
    return next((known[name] for name in _names(action, words) if name in known), Hint())


def is_known(action: argparse.Action, words: tuple[str, ...] = ()) -> bool:
    """Whether this page says what completes an argument, be it nothing."""
    valueless = action.nargs == 0 or action.choices is not None
    return valueless or not FREE.union(_hints()).isdisjoint(_names(action, words))


def _names(action: argparse.Action, words: tuple[str, ...]) -> tuple[str, str, str]:
    """Where it stands, its own, and what stands for its value in the help."""
    return " ".join((*words, action.dest)), action.dest, str(action.metavar)


def _hints() -> dict[str, Hint]:
    """Hints by place, by name, or by what stands for the value in the help; the first that is known counts."""
    from ..models.families.registry import FAMILIES
    from ..models.intake.registry import SOURCES
    from ..models.locate import short_names

    can_run = [source.name for source in SOURCES.values() if source.family in FAMILIES]
    models = tuple(dict.fromkeys((*short_names(), *can_run)))
    model, folder, file = Hint(models, "directory"), Hint((), "directory"), Hint((), "file")
    recipes = _shipped("compress/recipes")
    return {
        "path": model, "paths": model, "model": model, "models": model, "target": model, "against": model,
        "out": folder, "file": file, "tasks": file,
        "recipe": Hint(recipes, "file"), "description": Hint(_shipped("bench/reference/descriptions"), "file"),
        "models get name": Hint(tuple(SOURCES)), "recipes show name": Hint(recipes), "controls": Hint(CONTROLS),
        "bench ops against": file, "OP": Hint(_operations()),
        "shape": Hint(SHAPES), "TIER": Hint(TIERS), "device": Hint(("cpu", "cuda")), "GPU": Hint(("H100", "H200")),
        "FILE": file, "FILE|TEXT": file, "DIR": folder,
    }  # fmt: skip


def _shipped(folder: str) -> tuple[str, ...]:
    """Names of the YAML files that ship in a folder, without what reads them: a shell that starts waits for this."""
    return tuple(sorted(file.stem for file in (Path(__file__).parents[1] / folder).glob("*.yaml")))


def _operations() -> tuple[str, ...]:
    """Of which there is a bench/benchmark_NAME.py."""
    files = (Path(__file__).parents[1] / "bench").glob("benchmark_*.py")
    return tuple(sorted(file.stem.removeprefix("benchmark_") for file in files))
