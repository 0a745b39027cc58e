"""What a server says on standard output: where it listens, what it was started with, and what it serves."""

import sys
from collections.abc import Iterator

from ..models.version import VERSION
from .catalog import Catalog
from .config import Configuration
from .config_text import start_lines
from .http_door import missing
from .parts import Parts, Ports
from .tracing import traces_address


def announce_start(configuration: Configuration, parts: Parts) -> None:
    """Before the models are loaded."""
    for line in _start_lines(configuration, parts):
        _say(line)


def announce_serving(catalog: Catalog, ports: Ports) -> None:
    """Once they are."""
    for line in _serving_lines(catalog, ports):
        _say(line)


def _start_lines(configuration: Configuration, parts: Parts) -> Iterator[str]:
    options, ports, admin = configuration.options, parts.ports, parts.admin.path
    watched = [f"what is in {options.watch}"] if options.watch else []
    loads = ", ".join([*(name for name, _ in options.models), *watched])
    yield f"moesaic {VERSION} listens on {ports.address} and loads {loads}"
    yield from start_lines(configuration)
    if options.http:
        yield f"HTTP at {ports.web}" if ports.web else missing()
    if ports.num_connections < options.max_connections:
        asked = f"{options.max_connections} were asked for; raise the limit with ulimit -n"
        yield f"room for {ports.num_connections} connections, since this process may open few files; {asked}"
    if address := traces_address(options.otlp_traces_endpoint):
        yield f"spans of requests go to {address}"
    yield f"the admin socket is {admin}" if admin else "there is no admin socket, its folder is not to be had"
    yield from parts.security.told
    if ports.probed:
        yield f"health alone, without TLS, on {ports.probed}"


def _serving_lines(catalog: Catalog, ports: Ports) -> Iterator[str]:
    for name, model in catalog.models.items():
        about = model.engine.description
        if about is not None:
            yield (
                f"{name}: {about.family}, {about.num_parameters:,} parameters, {about.weight_bytes:,} bytes, "
                f"context {about.max_context}, {about.num_slots} slots, {about.threads} threads, "
                f"{about.dtype} on {about.device}, {about.room}"
            )
        yield f"serving {name} on {ports.address}"
    if ports.web:
        yield f"page to try it: {ports.web}/  OpenAI's API: {ports.web}/v1"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
