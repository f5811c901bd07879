"""A collector of OTLP over HTTP: `collector.py [PORT]`; its first line says where it listens.

Takes messages apart with OpenTelemetry's own definitions (`opentelemetry-proto`) and holds them to their rules. Tells what
it was sent at `GET /spans`, and does at `POST /v1/traces` what `POST /behave` last said: a JSON object with `status`,
`retry_after`, `times` (how often, then as before), `hold` (seconds before the answer), `hang_up` and `rejected`. `POST
/forget` has it forget the spans so far.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

lock = threading.Lock()
state = {"spans": [], "posts": [], "problems": [], "behave": {}}


def value(any_value):
    kind = any_value.WhichOneof("value")
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    keys = [pair.key for pair in pairs]
    problem(len(keys) != len(set(keys)), f"an attribute stands twice: {keys}")
    problem(any(not key for key in keys), "an attribute without a key")
    return {pair.key: value(pair.value) for pair in pairs}


def problem(is_one, sentence):
    if is_one:
        state["problems"].append(sentence)


def taken(span, resource, scope):
    """The span as JSON, held to the rules of opentelemetry/proto/trace/v1/trace.proto."""
    name = f"span {span.name!r}"
    problem(len(span.trace_id) != 16 or not any(span.trace_id), f"{name}: trace_id {span.trace_id.hex()}")
    problem(len(span.span_id) != 8 or not any(span.span_id), f"{name}: span_id {span.span_id.hex()}")
    problem(len(span.parent_span_id) not in (0, 8), f"{name}: parent_span_id {span.parent_span_id.hex()}")
    problem(span.parent_span_id == span.span_id, f"{name}: is its own parent")
    problem(not span.name, "a span without a name")
    problem(span.kind == Span.SPAN_KIND_UNSPECIFIED, f"{name}: no kind")
    now = time.time_ns()
    problem(not 0 < span.start_time_unix_nano <= span.end_time_unix_nano, f"{name}: ends before it starts")
    problem(abs(now - span.end_time_unix_nano) > 120 * 10**9, f"{name}: ended at {span.end_time_unix_nano}")
    for event in span.events:
        inside = span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano
        problem(not inside, f"{name}: event {event.name!r} is outside of it")
    return {
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "state": span.trace_state,
        "flags": span.flags,
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "attributes": attributes(span.attributes),
        "events": {event.name: attributes(event.attributes) for event in span.events},
        "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        "resource": resource,
        "scope": scope,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        with lock:
            told = {key: state[key] for key in ("spans", "posts", "problems")}
            body = json.dumps(told).encode()
        self.answer(200, "application/json", body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/behave":
            with lock:
                state["behave"] = json.loads(body)
            return self.answer(200, "application/json", b"{}")
        if self.path == "/forget":
            with lock:
                state["spans"].clear()
            return self.answer(200, "application/json", b"{}")
        behave = self.behaviour()
        time.sleep(behave.get("hold", 0))
        if behave.get("hang_up"):
            self.close_connection = True
            return None
        if status := behave.get("status"):
            wait = behave.get("retry_after")
            return self.answer(status, "text/plain", b"no", {"Retry-After": str(wait)} if wait is not None else {})
        self.take(body)
        response = ExportTraceServiceResponse()
        if rejected := behave.get("rejected"):
            response.partial_success.rejected_spans = rejected
        return self.answer(200, "application/x-protobuf", response.SerializeToString())

    def behaviour(self):
        with lock:
            headers = {name.lower(): said for name, said in self.headers.items()}
            state["posts"].append({"path": self.path, "at": time.time(), "headers": headers})
            behave = state["behave"]
            if "times" in behave:
                behave["times"] -= 1
                if behave["times"] <= 0:
                    state["behave"] = {}
            return dict(behave)

    def take(self, body):
        with lock:
            problem(self.path != "/v1/traces", f"posted to {self.path}")
            problem(self.headers.get("content-type") != "application/x-protobuf", "another content type")
            request = ExportTraceServiceRequest.FromString(body)
            # Whatever the definitions do not know would be dropped here.
            problem(len(request.SerializeToString()) != len(body), "the message holds more than is defined")
            known = {(span["trace"], span["id"]) for span in state["spans"]}
            for of_resource in request.resource_spans:
                resource = attributes(of_resource.resource.attributes)
                problem("service.name" not in resource, "a resource without service.name")
                for of_scope in of_resource.scope_spans:
                    for span in of_scope.spans:
                        told = taken(span, resource, of_scope.scope.name)
                        key = (told["trace"], told["id"])
                        problem(key in known, f"span {span.name!r} came twice")
                        known.add(key)
                        state["spans"].append(told)

    def answer(self, status, kind, body, headers=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, said in (headers or {}).items():
            self.send_header(name, said)
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer.request_queue_size = 128
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
