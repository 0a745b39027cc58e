"""`moesaic token new NAME`: a token for a caller of a server; the file gets its hash."""

import argparse
from pathlib import Path
from typing import Any

from ..server.scopes import Scope
from .terminal import say

EXAMPLES = """examples:
  moesaic token new alice --file tokens.jsonl
  moesaic token new alice --file tokens.jsonl --requests-per-minute 60 --tokens-per-minute 20000 --days 90
  moesaic token new grafana --file tokens.jsonl --scope metrics

The token is printed once, to standard output, and is nowhere else: the file holds its SHA-256. A server that was
started with --tokens FILE takes the change within a second; a line that is taken out ends its token. For another token
of the same caller, which may overlap with the one before, give the same name."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "token", help="make tokens for callers of a server", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True)
    new = actions.add_parser("new", help="print a new token and add its hash to a file")
    new.add_argument("name", help="who it is for: letters, digits and . _ @ -")
    new.add_argument("--file", required=True, metavar="FILE", help="made with mode 0600 where it is missing")
    new.add_argument(
        "--scope",
        action="append",
        dest="scopes",
        choices=[*Scope],
        help="what it may do; repeatable (default: generate)",
    )
    new.add_argument("--requests-per-minute", type=int, metavar="N", help="default: as many as there is room for")
    new.add_argument("--tokens-per-minute", type=int, metavar="N", help="of prompts and answers together")
    new.add_argument("--days", type=float, metavar="N", help="until it ends (default: never)")
    new.set_defaults(run=run_new)


def run_new(args: argparse.Namespace) -> int:
    """Prints the token alone on standard output."""
    from ..server.tokens import add_token, expiry

    expires = None if args.days is None else expiry(args.days)
    token = add_token(
        Path(args.file), args.name, args.scopes or [Scope.GENERATE], requests_per_minute=args.requests_per_minute,
        tokens_per_minute=args.tokens_per_minute, expires=expires,
    )  # fmt: skip
    print(token)
    say(f"{args.file} holds its hash; this is the only time that the token is shown")
    return 0
