"""Prometheus metrics of one server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """What is counted. Labels take few values, whatever clients send: routes, status codes, the bundle's units."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        known = self.registry
        self.requests = Counter(
            "meld_requests_total", "Requests by route and status", ("route", "code"), registry=known
        )
        self.seconds = Histogram(
            "meld_request_seconds", "From the first byte to the answer", ("route",), buckets=SECONDS, registry=known
        )
        self.rows = Counter("meld_rows_total", "Rows answered, by their status", ("unit", "status"), registry=known)
        self.batch_rows = Histogram(
            "meld_batch_rows", "Rows answered together", ("unit",), buckets=ROWS, registry=known
        )
        self.batch_requests = Histogram(
            "meld_batch_requests", "Requests answered together", ("unit",), buckets=ROWS, registry=known
        )
        self.batch_seconds = Histogram(
            "meld_batch_seconds", "Time to answer a batch", ("unit",), buckets=SECONDS, registry=known
        )
        self.active = Gauge("meld_active_requests", "Requests read, waiting or being answered", registry=known)
        self.dropped = Counter("meld_dropped_total", "Requests given up in time, before they began", registry=known)
        self.waiting_requests = Gauge("meld_waiting_requests", "Requests whose rows have not begun", registry=known)
        self.waiting_rows = Gauge("meld_waiting_rows", "Rows that have not begun", registry=known)
        ProcessCollector(registry=known)

    def watch(self, waiting: Callable[[], tuple[int, int]]) -> None:
        """Read the queue whenever the metrics are read."""
        self.waiting_requests.set_function(lambda: waiting()[0])
        self.waiting_rows.set_function(lambda: waiting()[1])

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
