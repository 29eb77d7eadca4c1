"""Kafka in one process, broker and controller, run from its jars.

It never flushes by itself, in production neither: there replicas hold what a lost machine loses.
"""

import shutil
from pathlib import Path

import tls
from native import programs
from native.engine import Engine
from settings import SOURCE, address, data_of

_SOURCE = SOURCE / "kafka"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_CLUSTER = "Q2hpbWVyYS1kZXZlbG9wbQ"

_CONFIG = f"""\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{address("kafka")},SSL://{address("kafka_tls")},CONTROLLER://{address("kafka_controller")}
advertised.listeners=PLAINTEXT://{address("kafka")},SSL://{address("kafka_tls")}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{address("kafka_controller")}
log.dirs={data_of("kafka")}
ssl.keystore.type=PEM
ssl.keystore.location={tls.BOTH}
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=8
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""

_config = data_of("kafka").with_name("kafka.properties")


def _jars() -> Path:
    return programs.versioned("kafka", [_SOURCE / "pom.xml"])


def _build() -> None:
    jars = _jars()
    if jars.exists():
        return
    partial = jars.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
    programs.run("kafka", [programs.path("mvn"), "--batch-mode", "--quiet", _COPY, *options], folder=_SOURCE)
    partial.rename(jars)


def _prepare() -> None:
    _config.write_text(_CONFIG)
    if not (data_of("kafka") / "meta.properties").exists():
        programs.run("kafka", _java("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(_config)))


def _command() -> list[str]:
    return _java("kafka.Kafka", str(_config))


def _java(main: str, *arguments: str) -> list[str]:
    # Two cores: what C2 would compile for longer is not earned back before the tests are over
    quick = ["-XX:TieredStopAtLevel=1"]
    memory = ["-Xms128m", "-Xmx512m", "-XX:MaxMetaspaceSize=160m", "-XX:+UseSerialGC"]
    logging = f"-Dlog4j2.configurationFile={_SOURCE / 'log4j2.properties'}"
    return [programs.path("java"), *quick, *memory, logging, "-cp", f"{_jars()}/*", main, *arguments]


engine = Engine(
    name="kafka",
    title="Kafka",
    programs={"kcat": "kcat", "java": "openjdk-17-jre-headless", "mvn": "maven"},
    build=_build,
    prepare=_prepare,
    command=_command,
    patience=180.0,  # on a busy machine Java takes its time
)
