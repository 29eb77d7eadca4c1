"""Reading what Prometheus reads: a counter's samples of one service and share, whichever processes counted them."""

from __future__ import annotations

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families


def counts(text: str, counter: str, by: str, **labels: str) -> Counter[str]:
    """The counts of `counter`, by the values of its label `by`, of the samples that have these `labels`."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{counter}_total" and labels.items() <= sample.labels.items():
                found[sample.labels[by]] += int(sample.value)
    return found
