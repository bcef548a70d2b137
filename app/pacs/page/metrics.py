"""Figures → the text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.pacs.database.tables import DELIVERY_STATES, JOB_STATES
from app.pacs.page.figures import Figures


def metrics_text(found: Figures) -> bytes:
    """Return the metrics; a state in which nothing is has the value 0, so that an alert on it can fire."""
    registry = CollectorRegistry()
    registry.register(_Figures(found))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, found: Figures) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        found = self._found
        yield CounterMetricFamily("ctvae_instances_acknowledged", "Instances stored.", value=found.instances)
        yield GaugeMetricFamily("ctvae_series_arriving", "Series that are not complete.", value=found.series_arriving)
        held_up = found.series_held_up
        yield GaugeMetricFamily("ctvae_series_held_up", "Series whose last attempt failed.", value=held_up)
        jobs = GaugeMetricFamily("ctvae_jobs", "Jobs by state.", labels=["state"])
        for state in JOB_STATES:
            jobs.add_metric([state], found.jobs.get(state, 0))
        yield jobs
        sent = GaugeMetricFamily("ctvae_deliveries", "Deliveries by state.", labels=["destination", "state"])
        for name in sorted({name for name, _ in found.deliveries}):
            for state in DELIVERY_STATES:
                sent.add_metric([name, state], found.deliveries.get((name, state), 0))
        yield sent
        oldest = found.oldest_waiting_s or 0.0
        yield GaugeMetricFamily("ctvae_oldest_job_seconds", "Age of the oldest job not ended.", value=oldest)
        yield GaugeMetricFamily("ctvae_spool_free_bytes", "Free space of the spool.", value=found.free_bytes)
