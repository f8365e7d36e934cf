"""`/metrics`: what this server has done and is doing, for Prometheus.

The one module that needs prometheus_client; a server where that is not installed has no /metrics and is fine. What
happens is counted when it happens, and what there is, such as the queue, is looked at when somebody asks.
docs/OPERATIONS.md has what each metric is good for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import cherrypy
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .. import __version__
from ..control.base import Answer, Controller, Request, nothing_here, route
from ..engine.executor import LANES
from ..engine.observer import Observer
from ..model.services import Services
from .requests import Listener

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 4 * 3600)
_BYTES = tuple(4.0**exponent for exponent in range(10, 22))
"""1 MiB to 4 TiB."""

_OUTCOMES = {"finished": "finished", "failed": "failed", "killed": "cancelled"}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


class Metrics(Observer, Listener):
    """Counts in a registry of its own."""

    def __init__(self) -> None:
        # Else every counter has a second series, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types for it
        self.registry = CollectorRegistry()
        found: dict[str, Any] = {"registry": self.registry}
        of_clone = ["kind", "method"]
        self._started = Counter("cloner_clones_started", "Clones that were accepted.", of_clone, **found)
        self._ended = Counter("cloner_clones_ended", "Clones that have ended.", [*of_clone, "outcome"], **found)
        self._seconds = Histogram(
            "cloner_clone_duration_seconds",
            "From the acceptance of a clone to its end, of those that finished.",
            of_clone,
            buckets=_SECONDS,
            **found,
        )
        self._bytes = Histogram(
            "cloner_clone_bytes", "Bytes to read of clones that finished.", of_clone, buckets=_BYTES, **found
        )
        self._recovered = Counter(
            "cloner_clones_recovered", "Clones of servers that died, which this one took over.", ["outcome"], **found
        )
        self._skipped = Counter(
            "cloner_names_skipped", "New names that were somebody else's already.", ["kind"], **found
        )
        self._streams = Gauge("cloner_event_streams", "Clients that are being told of events.", **found)
        self._requests = Counter(
            "cloner_http_requests", "Requests that were answered.", ["method", "route", "status"], **found
        )
        self._latency = Histogram(
            "cloner_http_request_duration_seconds",
            "From a request to the beginning of its answer.",
            ["method", "route"],
            **found,
        )
        self._log_ins = Counter("cloner_log_ins_failed", "Log-ins and tokens that were refused.", **found)
        Gauge("cloner_info", "The version of cloner.", ["version"], **found).labels(__version__).set(1)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(**found)

    def watch(self, services: Services) -> None:
        """Has what there is at the moment looked at whenever somebody asks."""
        self.registry.register(_State(services))

    def page(self, *, is_open: bool) -> MetricsPage:
        return MetricsPage(self.registry, is_open=is_open)

    # --- What happens ------------------------------------------------------------------------------------------------

    def started(self, kind: str, method: str) -> None:
        self._started.labels(kind, method).inc()

    def ended(self, kind: str, method: str, status: str, seconds: float, size: int) -> None:
        self._ended.labels(kind, method, _OUTCOMES[status]).inc()
        if status == "finished":
            self._seconds.labels(kind, method).observe(seconds)
            self._bytes.labels(kind, method).observe(size)

    def recovered(self, status: str) -> None:
        self._recovered.labels(_OUTCOMES[status]).inc()

    def name_skipped(self, kind: str) -> None:
        self._skipped.labels(kind).inc()

    @contextmanager
    def event_stream(self) -> Iterator[None]:
        with self._streams.track_inprogress():
            yield

    def answered(self, method: str, template: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else "other"
        self._requests.labels(method, template, str(status)).inc()
        self._latency.labels(method, template).observe(seconds)

    def log_in_failed(self) -> None:
        self._log_ins.inc()


class _State(Collector):
    """What there is at the moment: asks neither libvirt nor the journal, so that it cannot hang."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        executor, journal = self._services.executor, self._services.journal
        waiting = GaugeMetricFamily("cloner_clones_waiting", "Clones that wait for a worker.", labels=["lane"])
        running = GaugeMetricFamily("cloner_clones_running", "Clones that are being made.", labels=["lane"])
        load = executor.load()
        for lane in LANES:
            waiting.add_metric([lane], load[lane].waiting)
            running.add_metric([lane], load[lane].running)
        yield waiting
        yield running
        yield _gauge("cloner_clones_to_undo", "Clones that failed and cannot be undone yet.", executor.to_undo())
        yield _gauge("cloner_libvirt_connected", "Whether libvirt answers.", self._services.connections.is_connected)
        size = journal.size()
        if size is not None:
            yield _gauge("cloner_journal_bytes", "The journal's files.", size)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


class MetricsPage(Controller):
    """The registry as Prometheus reads it."""

    url_auth: ClassVar[bool] = True

    def __init__(self, registry: CollectorRegistry, *, is_open: bool) -> None:
        self._registry = registry
        self._is_open = is_open

    def admit(self, request: Request) -> None:
        """They tell of everybody's clones, so they are there for admins, or for all where nobody logs in for them."""
        if not (self._is_open or request.caller.is_admin):
            raise nothing_here()

    @route("GET", "")
    def lookup(self, _request: Request) -> Answer:
        encode, media_type = choose_encoder(cherrypy.serving.request.headers.get("Accept", ""))
        return Answer(encode(self._registry), headers={"Content-Type": media_type, "Cache-Control": "no-store"})
