"""How many tokens of a step choose their neurons together. No torch, so that planning may import it."""

TOGETHER = 8
