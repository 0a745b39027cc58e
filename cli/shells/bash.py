"""The completion script for bash. It runs in bash 3.2 too, which macOS has, and needs nothing else."""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby

from .arguments import Command, Hint

_SCRIPT = r"""# Completion of moesaic for bash, made by `moesaic completion bash`.

_moesaic_offer() { # _moesaic_offer KIND WORD...: what begins as the word under the cursor; KIND adds files
    local kind=$1 line
    shift
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "$*" -- "$cur")
    [ "$kind" = none ] && return
    compopt -o filenames 2>/dev/null
    [ "$kind" = directory ] && kind=-d || kind=-f
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen "$kind" -- "$cur")
}

_moesaic_takes() { # _moesaic_takes COMMAND OPTION: how many values; 2 stands for several
    case "$1 $2" in
@takes@
    *) return 0 ;;
    esac
}

_moesaic_value() { # _moesaic_value COMMAND OPTION-OR-PLACE
    case "$1 $2" in
@values@
    esac
}

_moesaic_options() { # _moesaic_options COMMAND
    case "$1" in
@options@
    esac
}

_moesaic_below() { # _moesaic_below COMMAND: the words that may come next
    case "$1" in
@below@
    esac
}

_moesaic() {
    local IFS=$' \t\n' cur=${COMP_WORDS[COMP_CWORD]} command= option= left=0 place=1 first=1 i word
    COMPREPLY=()
    [ "$cur" = = ] && cur= # --tier=LOW comes as three words
    while [ "$first" -lt "$COMP_CWORD" ]; do
        case " @groups@ " in
        *" ${command:-.} "*) command=${command:+$command }${COMP_WORDS[first]} && first=$((first + 1)) ;;
        *) break ;;
        esac
    done
    for ((i = first; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        =) ;;
        -?*)
            option=$word
            _moesaic_takes "$command" "$word"
            left=$?
            ;;
        *)
            if [ "$left" = 0 ]; then place=$((place + 1)); fi
            if [ "$left" = 1 ]; then left=0; fi
            ;;
        esac
    done
    case $cur in
    -*) _moesaic_offer none $(_moesaic_options "$command") ;;
    *)
        if [ "$left" != 0 ]; then
            _moesaic_value "$command" "$option"
        else
            case " @groups@ " in
            *" ${command:-.} "*) _moesaic_offer none $(_moesaic_below "$command") ;;
            *) _moesaic_value "$command" "$place" ;;
            esac
        fi
        ;;
    esac
}

complete -F _moesaic moesaic
"""


def bash_script(commands: Sequence[Command]) -> str:
    """The commands as tables of `case`, below one function that walks over the words."""
    takes = [
        (f"{command.name} {flag}", "return 2 ;;" if option.many else "return 1 ;;")
        for command in commands
        for option in command.options
        if option.hint is not None
        for flag in option.flags
    ]
    values = [(key, f"{_offer(hint)} ;;") for command in commands for key, hint in _hints(command)]
    options = [(command.name, f"echo {shlex.join(_flags(command))} ;;") for command in commands]
    below = [(command.name, f"echo {shlex.join(command.below)} ;;") for command in commands if command.below]
    parts = {name: _cases(pairs) for name, pairs in {
        "takes": takes, "values": values, "options": options, "below": below,
    }.items()}  # fmt: skip
    parts["groups"] = " ".join(name or "." for name, _ in below)
    return re.sub("@(\\w+)@", lambda found: parts[found[1]], _SCRIPT)


def _hints(command: Command) -> Iterator[tuple[str, Hint]]:
    """Hints by `COMMAND OPTION` and `COMMAND PLACE`; a last place that takes many stands for all that follow."""
    for option in command.options:
        for flag in option.flags:
            if option.hint and (option.hint.words or option.hint.files):
                yield f"{command.name} {flag}", option.hint
    for number, place in enumerate(command.places, 1):
        if place.hint and (place.hint.words or place.hint.files):
            yield f"{command.name} {'*' if place.many else number}", place.hint


def _offer(hint: Hint) -> str:
    return shlex.join(["_moesaic_offer", hint.files or "none", *hint.words])


def _cases(pairs: Sequence[tuple[str, str]]) -> str:
    """Lines of a `case`; those that do the same stand together."""
    lines = []
    for body, group in groupby(sorted(pairs, key=lambda pair: pair[1]), key=lambda pair: pair[1]):
        names = [f'"{name.removesuffix("*")}"[0-9]*' if name.endswith("*") else f'"{name}"' for name, _ in group]
        lines.append(f"    {' | '.join(names)}) {body}")
    return "\n".join(lines)


def _flags(command: Command) -> list[str]:
    """Long ones; a short one is offered where there is no other."""
    return [option.flags[-1] for option in command.options]
