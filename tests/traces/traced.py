"""Runs a program of Python with OpenTelemetry's SDK set up: `traced.py COLLECTOR SERVICE SCRIPT ARGUMENT…`."""

import runpy
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

collector, service, script, *arguments = sys.argv[1:]
provider = TracerProvider(resource=Resource.create({"service.name": service}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces")))
trace.set_tracer_provider(provider)
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
