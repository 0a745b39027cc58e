"""The process that runs a chat template, which is code from a checkpoint: jinja2's sandbox within the kernel's limits.

python -m moesaic.models.chat_sandbox: JSON lines on stdin and stdout. The first is {"template", "tokens", "limits"};
each further one {"messages", "tools"}, answered by {"text"}, {"refused": the template's own words} or {"broken": why}.

The environment is that of transformers (utils/chat_template_utils.py), so that both write the same text. What the
sandbox cannot bound, the kernel does, in C code too: memory by RLIMIT_AS, CPU time by SIGPROF, which ends the process.
No file or socket can be opened any more when the first template runs.
"""

import json
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_MAX_ERROR_CHARACTERS = 500
_WARM_UP = """{% macro f(x) %}{{ x ~ 'a\n' }}{% endmacro %}{{ f([1]|tojson)|trim }}{{ strftime_now('%c %Z') }}
{{- '%s'|format(1) }}{{ 'a'.split('b')|join|title|indent }}{{ {}|items|list|pprint|urlencode }}
{{- '<a>'|striptags|wordwrap }}{{ lipsum(1) ~ a.b }}"""


class _Refusal(Exception):
    """The template called raise_exception."""


class _TooLong(Exception):
    """The text is longer than it may be."""


class _Generation(Extension):
    """{% generation %} marks what the assistant says, for training; here it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """Keeps no names with an underscore in front, by which Python's own attributes could be forged."""

    def __init__(*args: Any, **attributes: Any) -> None:
        self, *given = args
        values = dict(*given, **attributes)
        Namespace.__init__(self)
        for name, value in values.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise SecurityError(f"a namespace keeps no {name!r}")
        super().__setitem__(name, value)


def environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for."""
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )  # fmt: skip
    found.filters["tojson"] = _to_json
    found.globals |= {"raise_exception": _refuse, "strftime_now": _now, "dict": _dict, "namespace": _Namespace}
    return found


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: object) -> None:
    raise _Refusal(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _dict(*pairs: Any, **named: Any) -> dict[Any, Any]:
    return dict(*pairs, **named)


class _Template:
    """A template that is compiled when it is first rendered, so that compiling is bounded too."""

    def __init__(self, source: str, tokens: Mapping[str, str], limits: Mapping[str, Any]) -> None:
        self._source = source
        self._values = {**tokens, "documents": None, "add_generation_prompt": True}
        self._limits = limits
        self._compiled: jinja2.Template | None = None

    def answer(self, said: Mapping[str, Any]) -> dict[str, str]:
        """The text, or why there is none."""
        signal.setitimer(signal.ITIMER_PROF, self._limits["cpu_seconds"])
        try:
            return {"text": self._render(said)}
        except _Refusal as error:
            return {"refused": _in_short(str(error))}
        except _TooLong:
            return {"broken": f"it writes more than {self._limits['characters']:,} characters"}
        except MemoryError:
            return {"broken": f"it takes more than {self._limits['memory_bytes']:,} bytes of memory"}
        except Exception as error:  # a template may fail in any way
            return {"broken": _in_short(f"{type(error).__name__}: {error}")}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)

    def _render(self, said: Mapping[str, Any]) -> str:
        if self._compiled is None:
            self._compiled = environment().from_string(self._source)
        pieces: list[str] = []
        left = self._limits["characters"]
        for piece in self._compiled.generate(**said, **self._values):
            left -= len(piece)
            if left < 0:
                raise _TooLong
            pieces.append(piece)
        return "".join(pieces)


def _in_short(text: str) -> str:
    return " ".join(text[:_MAX_ERROR_CHARACTERS].split())


def _enclose(memory_bytes: int) -> None:
    """Lets this process from here on have no more memory than this, no file or socket, no core dump."""
    with suppress(jinja2.TemplateError):  # Python reads codecs, the time zone and more when they are first used
        environment().from_string(_WARM_UP).render()
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        with suppress(ValueError, OSError):  # a lower limit holds already; some systems know none of memory
            resource.setrlimit(kind, (most, most))


def main() -> None:
    """Answers until stdin ends."""
    first = json.loads(sys.stdin.buffer.readline())
    _enclose(first["limits"]["memory_bytes"])
    template = _Template(first["template"], first["tokens"], first["limits"])
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(template.answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
