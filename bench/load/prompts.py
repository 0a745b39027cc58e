"""Prompts of a given length that no two requests share, cut from a text that ships."""

from collections.abc import Callable

from ...evaluate.texts import embedded_text

_STRIDE = 7919  # characters between two beginnings: a prime, so that they do not come round soon


class Prompts:
    """Text for so many tokens, of a server whose tokens are `characters` long on average; as servers count differently,
    what a prompt came to is counted by the server itself.
    """

    def __init__(self, seed: int) -> None:
        self._text = embedded_text().read_text(encoding="utf-8")
        self._seed, self.characters = seed, 4.0

    def __call__(self, number: int, num_tokens: int) -> str:
        """Begins with its number, so that no prefix is known already."""
        head = f"{self._seed}.{number}. "
        size = max(0, round(num_tokens * self.characters) - len(head))
        begin = (self._seed + number) * _STRIDE % len(self._text)
        body = self._text[begin : begin + size]
        while len(body) < size:
            body += self._text[: size - len(body)]
        return head + body

    def fit(self, count: Callable[[str], int | None], num_tokens: int = 64) -> None:
        """Learns how long this server's tokens are, where it counts them."""
        counted = count(self(0, num_tokens))
        if counted:
            self.characters = len(self(0, num_tokens)) / counted
