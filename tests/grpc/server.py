"""A server of gRPC whose messages are bytes; writes its port once it serves."""

import threading
import time
from concurrent import futures

import grpc

cancelled = threading.Semaphore(0)


def echo(requests, context):
    context.send_initial_metadata((("x-seen", dict(context.invocation_metadata()).get("x-sent", "")),))
    yield from requests
    context.set_trailing_metadata((("x-end", "of echo"),))


def join(requests, context):
    return b"".join(requests)


def count(request, context):
    for n in range(int(request)):
        yield b"%d" % n * 100


def refuse(request, context):
    context.set_trailing_metadata((("x-why-bin", b"\x00\xff"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not \u00e4ny more")


def wait(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    yield b"waiting"
    ended.wait(30)
    cancelled.release()


def ended(request, context):
    return b"yes" if cancelled.acquire(timeout=10) else b"no"


handlers = {
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Join": grpc.stream_unary_rpc_method_handler(join),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Wait": grpc.unary_stream_rpc_method_handler(wait),
    "Ended": grpc.unary_unary_rpc_method_handler(ended),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Bytes", handlers),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
