"""Names that commands know without what they stand for, so that a shell does not wait for it."""

CONTROLS = ("alone", "static", "static-distilled", "experts-of-64", "random-experts", "routers")
SHAPES = ("gpt2-small", "opt-1.3b", "llama-3.2-1b", "llama-3-8b")
TIERS = ("full", "high", "balanced", "low")  # as the recipes that ship call them
