"""An AMQP topic exchange beside the streams of RabbitMQ, for foreign consumers with queues of their own.

Its library, aio-pika, is loaded only if an exchange is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from chimera.adapters.rabbitmq import messages as rabbitmq_messages
from chimera.errors import SettingsError, Unavailable
from chimera.messages import Message
from rabbitstream.link import PATIENCE_S, Address
from rabbitstream.reopened import Reopened

if TYPE_CHECKING:
    import aio_pika
    from aio_pika.abc import AbstractConnection, AbstractExchange


class Exchange:
    """A topic exchange, opened when it is first used; the routing key of a message is its type."""

    def __init__(self, address: Address, name: str, port: int) -> None:
        """`address` is that of the streams; AMQP has a `port` of its own."""
        self._address = address
        self._name = name
        self._port = port
        self._kept = Reopened(self._open)
        self._closing: set[asyncio.Future[None]] = set()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns once the broker has confirmed all: each queue that is bound to a message's type keeps it.

        When it raises Unavailable, none, some or all of them may be in the queues.
        """
        channel = await self._kept.get()
        async with self._failing(channel.close):
            await asyncio.gather(
                *(
                    channel.exchange.publish(_amqp_message(message), message.type, mandatory=False)
                    for message in messages
                )
            )

    async def close(self) -> None:
        """Close the connection; whoever publishes from now on is refused."""
        await self._kept.close()
        await asyncio.gather(*self._closing)

    async def _open(self) -> _Channel:
        try:
            from aio_pika import ExchangeType, connect
        except ImportError as error:
            raise SettingsError("?exchange= needs aio-pika: pip install 'chimera-kit[rabbitmq]'") from error
        address = self._address
        async with self._failing():
            connection = await connect(
                host=address.host,
                port=self._port,
                login=address.user,
                password=address.password,
                virtualhost=address.vhost,
                ssl=address.tls is not None,
                ssl_context=address.tls,
            )
            channel = await connection.channel()
            exchange = await channel.declare_exchange(self._name, ExchangeType.TOPIC, durable=True)
        return _Channel(connection, exchange, self._closing)

    @asynccontextmanager
    async def _failing(self, close: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        """Raises as Unavailable whatever aio-pika raises."""
        from aio_pika.exceptions import AMQPError

        try:
            async with asyncio.timeout(PATIENCE_S):
                yield
        except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
            close()
            text = f"exchange {self._name} at {self._address.host}:{self._port}: {error!r}"
            raise Unavailable(text) from error


class _Channel:
    def __init__(
        self, connection: AbstractConnection, exchange: AbstractExchange, closing: set[asyncio.Future[None]]
    ) -> None:
        self.exchange = exchange
        self._connection = connection
        self._closing = closing

    @property
    def is_open(self) -> bool:
        return not self._connection.is_closed

    def close(self) -> None:
        if self.is_open:
            closing = asyncio.ensure_future(self._connection.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _amqp_message(message: Message) -> aio_pika.Message:
    from aio_pika import DeliveryMode
    from aio_pika import Message as AmqpMessage

    return AmqpMessage(
        message.data,
        headers=rabbitmq_messages.headers(message),
        content_type=rabbitmq_messages.CONTENT_TYPE,
        message_id=message.id,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
