"""A bare grpc.aio server that streams tokens of the same message, as fast as it can or on the grid of the engine.

python -m moesaic.bench.server.echo STEP_SECONDS
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import grpc

from ...proto import generation_pb2 as pb
from ...server.handlers import GENERATION
from .timed_engine import FIRST_TOKEN, NUM_TOKENS

METHOD = "GenerateStream"


class Echo:
    """No admission, no engine, no text: what gRPC itself costs for such messages."""

    def __init__(self, step: float) -> None:
        self._step = step

    async def stream(self, message: pb.GenerateRequest, _: grpc.aio.ServicerContext) -> AsyncIterator[pb.GenerateChunk]:
        """One token a message."""
        grid = 0
        for _ in range(message.stopping.max_new_tokens):
            if self._step:
                grid = max(grid + 1, int(time.monotonic() / self._step) + 1)
                await asyncio.sleep(max(0.0, grid * self._step - time.monotonic()))
            token = FIRST_TOKEN + grid % NUM_TOKENS
            yield pb.GenerateChunk(text="word", token_ids=(token,), first_token_index=1)


async def serve(step: float) -> None:
    """Serves until it is ended."""
    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        Echo(step).stream, pb.GenerateRequest.FromString, pb.GenerateChunk.SerializeToString
    )
    server.add_registered_method_handlers(GENERATION.full_name, {METHOD: handler})
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(GENERATION.full_name, {METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"serving echo on 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
