"""How much work a model takes on. Only this refuses for lack of room, and it does so before any header is sent."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..models.errors import Overloaded


class Admission:
    """Counts the requests in flight of one model, and the tokens of their prompts."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests = max_requests
        self.num_requests = 0
        self.num_prompt_tokens = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Room for one request while the block runs. Raises Overloaded when there is none."""
        if self.num_requests >= self.max_requests:
            raise Overloaded(f"{self.num_requests} requests are in flight and the limit is {self.max_requests}")
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    @contextmanager
    def prompt(self, num_tokens: int, max_tokens: int) -> Iterator[None]:
        """Room for the tokens of a prompt. One that is alone always has it."""
        held = self.num_prompt_tokens
        if held and held + num_tokens > max_tokens:
            raise Overloaded(
                f"the prompts in flight hold {held} tokens, {num_tokens} more would pass the limit of {max_tokens}"
            )
        self.num_prompt_tokens += num_tokens
        try:
            yield
        finally:
            self.num_prompt_tokens -= num_tokens
