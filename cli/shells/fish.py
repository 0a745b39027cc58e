"""The completion script for fish: a line of `complete` for each argument."""

import shlex
from collections.abc import Iterator, Sequence

from .arguments import Command, Hint

_SCRIPT = r"""# Completion of moesaic for fish, made by `moesaic completion fish`.

function __moesaic_next --description 'whether these words, and no more, stand before the cursor'
    set -l typed (commandline -opc)
    test "$typed[2..]" = "$argv"
end

function __moesaic_at --description 'whether what was typed begins with these words'
    set -l typed (commandline -opc)
    set -l last (math 1 + (count $argv))
    test (count $typed) -ge $last; and test "$typed[2..$last]" = "$argv"
end

complete -c moesaic -f
"""


def fish_script(commands: Sequence[Command]) -> str:
    """Lines of `complete`. Positional arguments are offered wherever one may stand."""
    return _SCRIPT + "".join(f"complete -c moesaic {line}\n" for command in commands for line in _lines(command))


def _lines(command: Command) -> Iterator[str]:
    for word, told in command.below.items():
        yield f"-n {shlex.quote(f'__moesaic_next {command.name}'.strip())} -a {word} -d {_quoted(told)}"
    at = shlex.quote(f"__moesaic_at {command.name}" if command.words else "__moesaic_next")
    for argument in command.arguments:
        told = f" -d {_quoted(argument.help)}" if argument.help else ""
        flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in argument.flags)
        if argument.flags:
            yield f"-n {at} {flags}{'' if argument.hint is None else ' -r' + _offer(argument.hint)}{told}"
        if argument.flags and argument.many and argument.hint:  # the second value and later ones
            behind = f"__moesaic_at {command.name}; and __fish_contains_opt {argument.flags[-1][2:]}"
            yield f"-n {shlex.quote(behind)}{_offer(argument.hint)}"
        if not argument.flags and argument.hint and (argument.hint.words or argument.hint.files):
            yield f"-n {at}{_offer(argument.hint)}"


def _offer(hint: Hint) -> str:
    """-F: files may stand there; -f: they may not; -a: the words that may."""
    words = [*hint.words, *(["(__fish_complete_directories)"] if hint.files == "directory" else [])]
    return f" {'-F' if hint.files == 'file' else '-f'}" + (f" -a {_quoted(' '.join(words))}" if words else "")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
