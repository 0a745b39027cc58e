"""Who makes a call."""

import grpc


def caller_of(context: grpc.aio.ServicerContext) -> str:
    """The name by which a caller is counted and has its turn: its connection, while nobody has another name."""
    name: str = context.peer()
    return name
