"""An empty grpcio handler on the same event loop and options as ours: what one process can answer at the most."""

from __future__ import annotations

import asyncio
import sys

import grpc
import grpc.aio
import uvloop

ANSWER = bytes(600)


async def main(address: str) -> None:
    async def call(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return ANSWER

    handlers = grpc.method_handlers_generic_handler(
        "exequatur.v1.DecisionService",
        {name: grpc.unary_unary_rpc_method_handler(call) for name in ("Authorize", "AuthorizeBatch")},
    )
    server = grpc.aio.server(options=(("grpc.so_reuseport", 1),))
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


uvloop.run(main(sys.argv[1]))
