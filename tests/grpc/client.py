"""Calls server.py at the address that is given, in every way there is; says that all is well, or fails."""

import queue
import sys
from concurrent import futures

import grpc

LIMIT = 30
channel = grpc.insecure_channel(sys.argv[1])
grpc.channel_ready_future(channel).result(LIMIT)


def method(kind, name):
    return getattr(channel, kind)("/test.Bytes/" + name)


# Metadata both ways, and a large message.
call = method("stream_stream", "Echo")(iter([b"one", b"x" * 3_000_000]), metadata=(("x-sent", "hello"),), timeout=LIMIT)
assert dict(call.initial_metadata())["x-seen"] == "hello"
assert [len(answer) for answer in call] == [3, 3_000_000]
assert dict(call.trailing_metadata())["x-end"] == "of echo"

# A question waits for the answer to the one before.
questions = queue.Queue()
answers = method("stream_stream", "Echo")(iter(questions.get, None), timeout=LIMIT)
for n in range(100):
    questions.put(b"%d" % n)
    assert next(answers) == b"%d" % n
questions.put(None)
assert list(answers) == []

assert method("stream_unary", "Join")(iter([b"a", b"b", b"c"] * 1000), timeout=LIMIT) == b"abc" * 1000
assert list(method("unary_stream", "Count")(b"1000", timeout=LIMIT)) == [b"%d" % n * 100 for n in range(1000)]

try:
    method("unary_unary", "Refuse")(b"", timeout=LIMIT)
    raise AssertionError("no refusal")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not \u00e4ny more", error
    assert dict(error.trailing_metadata())["x-why-bin"] == b"\x00\xff", error

# A deadline, and a client that leaves: the server hears of both.
call = method("unary_stream", "Wait")(b"", timeout=0.5)
assert next(call) == b"waiting"
try:
    next(call)
    raise AssertionError("no deadline")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
assert method("unary_unary", "Ended")(b"", timeout=LIMIT) == b"yes"
call = method("unary_stream", "Wait")(b"", timeout=LIMIT)
assert next(call) == b"waiting"
call.cancel()
assert method("unary_unary", "Ended")(b"", timeout=LIMIT) == b"yes"

# Many at a time.
with futures.ThreadPoolExecutor(max_workers=16) as pool:
    join = method("stream_unary", "Join")
    results = pool.map(lambda n: join(iter([b"%d" % n, b"!"]), timeout=LIMIT), range(500))
    assert list(results) == [b"%d!" % n for n in range(500)]

print("all is well")
