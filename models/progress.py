"""How long work is followed by whoever waits for it. No torch."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # what is being done, done, of how many
Count = Callable[[int, int], None]  # done, of how many
