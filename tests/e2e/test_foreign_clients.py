"""The wire is everybody's: kcat and a plain AMQP client read our events and write commands, as CloudEvents."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage, HeadersType
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import amqp, kafka
from cloudevents.core.formats.json import JSONFormat

from chimera.messages import partition_of
from tests.adapters.services import IN_TURN, do_without, url_of
from tests.e2e.conftest import Chimera, wait_until
from tests.e2e.stacks import stack, take_away

ORDER = {"buyer_id": "b", "seller_id": "s", "gig_id": "g", "amount_cents": 900}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(90), IN_TURN]


class Orders(NamedTuple):
    """The orders service on a stack: the tag of what it makes on the servers, and where it is served."""

    tag: str
    base: str


@pytest.fixture
async def orders(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Orders]:
    """The orders service alone on a stack."""
    name, option = request.param
    found = stack(name, f"t{uuid.uuid4().hex[:10]}")
    environment = dict(found.environment)
    environment["CHIMERA_LOG"] += option.format(tag=found.tag, port=urlsplit(url_of("rabbitmq")).port) if option else ""
    chimera = Chimera(tmp_path / "state", environment=environment)
    yield Orders(found.tag, chimera.start("run", "orders").wait_ready())
    chimera.end()
    await take_away(found)


def place(orders: Orders, order_id: str) -> None:
    body = json.dumps({"order_id": order_id, **ORDER}).encode()
    headers = {"Content-Type": "application/json", "traceparent": TRACE}
    request = Request(f"{orders.base}/orders", body, headers, method="POST")
    with urlopen(request, timeout=60) as answer:
        assert answer.status == 201


def is_placed(orders: Orders, order_id: str) -> bool:
    try:
        with urlopen(f"{orders.base}/orders/{order_id}", timeout=60) as answer:
            stage: str = json.load(answer)["stage"]
            return stage == "placed"
    except OSError:
        return False


def is_order_placed(event: BaseCloudEvent, order_id: str) -> None:
    """What the CloudEvents SDK made of a foreign client's message."""
    assert event.get_specversion() == "1.0"
    assert (event.get_type(), event.get_source(), event.get_subject()) == ("orders.OrderPlaced", "orders", order_id)
    assert event.get_id().startswith(f"orders/{partition_of(order_id, 8)}@")
    assert event.get_extension("traceparent").startswith(TRACE[:36])
    data = event.get_data()
    assert data
    assert (data if isinstance(data, dict) else json.loads(data))["amount_cents"] == ORDER["amount_cents"]


def command_attributes(order_id: str) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "foreign",
        "type": "orders.PlaceOrder",
        "subject": order_id,
        "time": "2026-01-05T10:00:00Z",
    }


def kcat(*arguments: str, text: str = "") -> str:
    if shutil.which("kcat") is None:
        do_without("kcat is not installed; run: apt-get install kcat")
    broker = urlsplit(url_of("kafka")).netloc
    command = ["kcat", "-q", "-b", broker, *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("orders", [("kafka-postgresql", "")], indirect=True)
async def test_kcat_reads_order_events_as_cloud_events_and_writes_a_command(orders: Orders) -> None:
    place(orders, "o1")
    assert await asyncio.to_thread(wait_until, lambda: is_placed(orders, "o1"), 10)
    topic, partition = f"{orders.tag}-orders.events", str(partition_of("o1", 8))
    read = ("-C", "-t", topic, "-p", partition, "-o", "beginning", "-e", "-f", "%k\\n%h\\n%s\\n")
    assert await asyncio.to_thread(wait_until, lambda: kcat(*read), 10)
    key, headers, value = kcat(*read).splitlines()
    pairs = dict(pair.split("=", 1) for pair in re.split(r",(?=[a-z_]+(?:-type)?=)", headers))
    message = kafka.KafkaMessage({name: text.encode() for name, text in pairs.items()}, key.encode(), value.encode())
    is_order_placed(kafka.from_binary(message, JSONFormat()), "o1")

    attributes = [f"-Hce_{name}={text}" for name, text in command_attributes("o2").items()]
    write = ("-P", "-t", f"{orders.tag}-orders.commands", "-p", str(partition_of("o2", 8)), "-k", "o2")
    kcat(*write, "-Hcontent-type=application/json", *attributes, text=json.dumps({"order_id": "o2", **ORDER}))
    assert await asyncio.to_thread(wait_until, lambda: is_placed(orders, "o2"), 10)


RABBITMQ = ("rabbitmq-mysql", "&exchange={tag}-events&amqp_port={port}")


@pytest.mark.parametrize("orders", [RABBITMQ], indirect=True)
async def test_a_plain_amqp_client_receives_order_events_and_writes_a_command(orders: Orders) -> None:
    async with await aio_pika.connect(url_of("rabbitmq")) as connection, connection.channel() as channel:
        exchange = await channel.declare_exchange(f"{orders.tag}-events", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, "orders.OrderPlaced")
        received: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await queue.consume(received.put, no_ack=True)
        place(orders, "o1")
        got = await asyncio.wait_for(received.get(), 60)
        properties = {"content-type": got.content_type}
        message = amqp.AMQPMessage(properties, dict(got.headers), got.body)
        is_order_placed(amqp.from_binary(message, JSONFormat()), "o1")

        attributes: HeadersType = {f"cloudEvents:{name}": text for name, text in command_attributes("o2").items()}
        body = json.dumps({"order_id": "o2", **ORDER}).encode()
        command = aio_pika.Message(body, headers=attributes, content_type="application/json")
        await channel.default_exchange.publish(command, f"{orders.tag}-orders.commands-{partition_of('o2', 8)}")
        assert await asyncio.to_thread(wait_until, lambda: is_placed(orders, "o2"), 10)
        await exchange.delete()
