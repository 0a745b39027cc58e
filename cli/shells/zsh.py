"""The completion script for zsh: a function of `_arguments` for each command."""

import re
import shlex
from collections.abc import Iterator, Sequence

from .arguments import Argument, Command, Hint

_SCRIPT = r"""#compdef moesaic
# Completion of moesaic for zsh, made by `moesaic completion zsh`.

_moesaic_offer() { # _moesaic_offer KIND WORD...: the words, and files or directories beside them
    local kind=$1
    shift
    (( $# )) && compadd -- "$@"
    case $kind in
        directory) _files -/ ;;
        file) _files ;;
    esac
}

@functions@

if [ "$funcstack[1]" = _moesaic ]; then
    _moesaic "$@"
else
    compdef _moesaic moesaic
fi
"""


def zsh_script(commands: Sequence[Command]) -> str:
    """The script for `compinit`: as a file of $fpath, or sourced."""
    functions = "\n\n".join("\n".join(_function(command)) for command in reversed(commands))
    return _SCRIPT.replace("@functions@", functions)


def _function(command: Command) -> Iterator[str]:
    specs = [spec for each in command.arguments for spec in _specs(each)]
    name = "_".join(("_moesaic", *command.words))
    yield f"{name}() {{"
    if command.below:
        yield "    local context state state_descr line"
        yield "    typeset -A opt_args"
        below = " ".join(shlex.quote(f"{word}:{help}") for word, help in command.below.items())
        yield f"    local -a below=({below})"
        specs += ["'1:command:->command'", "'*::argument:->argument'"]
    yield f"    _arguments {'-C ' if command.below else ''}\\"
    yield from (f"        {spec} \\" for spec in specs[:-1])
    yield f"        {specs[-1]}"
    if command.below:
        yield "    case $state in"
        yield "        command) _describe command below ;;"
        yield f"        argument) (( $+functions[{name}_$words[1]] )) && {name}_$words[1] ;;"
        yield "    esac"
    yield "}"


def _specs(argument: Argument) -> Iterator[str]:
    told = f"[{_escaped(argument.help)}]" if argument.help else ""
    action = "" if argument.hint is None else f":{_escaped(argument.name)}:{_action(argument.hint)}"
    for flag in argument.flags:
        repeated = f":*-*{action}" if argument.many else action
        yield _single_quoted(f"{flag}{told}{repeated}")
    if not argument.flags:
        yield _single_quoted(f"*{action}" if argument.many else action)


def _action(hint: Hint) -> str:
    if not hint.words and not hint.files:
        return " "
    if not hint.files:
        return f"({' '.join(hint.words)})"
    return " ".join((" _moesaic_offer", hint.files, *hint.words))


def _escaped(text: str) -> str:
    return re.sub(r"([\\\[\]:])", r"\\\1", text)


def _single_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
