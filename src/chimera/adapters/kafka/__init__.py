"""Kafka behind the port `Log`, through librdkafka: a producer, an admin client, and a consumer for each reader."""

from __future__ import annotations

from typing import Literal

from chimera.adapters.kafka.log import KafkaLog
from chimera.errors import SettingsError
from chimera.ports import Log

__all__ = ["KafkaLog", "open_engine"]


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Log:
    """The log of `kafka://[user:password@]host:port[,host:port][?options]`; `kafka+ssl://` for TLS.

    Options: `prefix=<text>`, put before every topic's name, so that several deployments may share a cluster;
    `replication.factor`, and Kafka's topic settings with `topic.` before them, for the topics that `create` makes;
    the rest are librdkafka's settings. Nothing is opened before the first use. Raises SettingsError.
    """
    if kind != "log":
        raise SettingsError(f"Kafka can only be a log; {kind} needs the URL of another engine")
    return KafkaLog(url)
