"""RabbitMQ, through its streams."""

from chimera.adapters.rabbitmq.log import open_engine

__all__ = ["open_engine"]
