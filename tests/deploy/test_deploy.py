"""What `chimera deploy` writes is what Compose, Kubernetes and the heads themselves take."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import jsonschema  # type: ignore[import-untyped]  # it ships no types
import kubernetes_validate  # type: ignore[import-untyped]  # it ships no types
import msgspec
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema  # type: ignore[import-untyped]  # it ships no types
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from chimera import Event, Service, SettingsError
from chimera.cli.main import main
from chimera.core.timing import Timing
from chimera.run.engines import Engines, open_engine
from chimera.run.front.gateway import Gateway
from chimera.run.serving import STOP_S
from chimera.run.settings import Settings, read_settings
from chimera.web.probes import Probes
from chimera_deploy import Options, deploy
from chimera_deploy.engines import ENGINES, STACKS
from chimera_deploy.fleet import planned, urls
from chimera_deploy.kubernetes import GRACE_S, LEAVE_S, USER
from chimera_faults.fleet import free_ports

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "deploy"
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
NAMES = ["a", "x1", "a-b-c", "top-" + "long-" * 10 + "one"]

Deploy = Callable[..., Path]


class Lent(msgspec.Struct):
    """What a service borrows."""

    key: str


def service(name: str, partitions: int = 8, *, borrows: str | None = None) -> Service:
    made = Service(name, partitions=partitions)
    if borrows:
        made.borrow(borrows, Lent)
    return made


@contextmanager
def importable(*services: Service) -> Iterator[str]:
    """The services in a module of their own; gives the part of chimera.toml that lists them."""
    module = ModuleType("deployed_services")
    vars(module).update({f"s{index}": each for index, each in enumerate(services)})
    sys.modules[module.__name__] = module
    try:
        yield "".join(
            f'[services.{each.name}]\napp = "{module.__name__}:s{index}"\n' for index, each in enumerate(services)
        )
    finally:
        del sys.modules[module.__name__]


def settings_of(text: str, environment: Mapping[str, str] = {}) -> Settings:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        return read_settings(Path(file.name), environment)


@pytest.fixture
def deployed(tmp_path: Path) -> Deploy:
    """Deploys services; gives the folder with what was written. `head` and `tail` go around them in chimera.toml."""

    def make(*services: Service, head: str = "", tail: str = "", **options: Any) -> Path:
        with importable(*services) as listed:
            (tmp_path / "chimera.toml").write_text(f"{head}\n{listed}\n{tail}")
            deploy(tmp_path / "chimera.toml", tmp_path / "deploy", Options(**options))
        return tmp_path / "deploy"

    return make


def manifests(out: Path) -> list[dict[str, Any]]:
    files = sorted((out / "kubernetes").rglob("*.yaml"))
    return [
        each for path in files if path.name != "kustomization.yaml" for each in yaml.safe_load_all(path.read_text())
    ]


def of_kind(out: Path, kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in manifests(out) if each["kind"] == kind}


def containers(out: Path) -> dict[str, dict[str, Any]]:
    """The container of each Deployment, by the Deployment's name."""
    return {
        name: each["spec"]["template"]["spec"]["containers"][0] for name, each in of_kind(out, "Deployment").items()
    }


def composed(out: Path) -> dict[str, Any]:
    written: dict[str, Any] = yaml.load((out / "compose/compose.yaml").read_text(), yaml.CSafeLoader)
    return written


def env_of(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def dot_env(out: Path) -> dict[str, str]:
    """The variables of `.env`, the password filled in as Compose does."""
    lines = [line for line in (out / "compose/.env").read_text().splitlines() if not line.startswith("#")]
    found = dict(line.split("=", 1) for line in lines)
    return {name: value.replace("${ENGINES_PASSWORD}", found["ENGINES_PASSWORD"]) for name, value in found.items()}


def probes_of(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}


def check_manifests(out: Path, version: str) -> None:
    for each in manifests(out):
        kubernetes_validate.validate(each, version, strict=True)


def check_compose(written: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(get_builtin_schema("vendor.compose-spec")).validate(written)


def check_names(out: Path) -> None:
    """What schemas leave to the server: names, labels, and that everything that is pointed at is there."""
    deployments, services, container = of_kind(out, "Deployment"), of_kind(out, "Service"), containers(out)
    for each in manifests(out):
        assert DNS_LABEL.fullmatch(each["metadata"]["name"])
        assert all(LABEL_VALUE.fullmatch(value) for value in each["metadata"].get("labels", {}).values())
    selectors = [each["spec"]["selector"]["matchLabels"] for each in deployments.values()]
    assert len({tuple(selector.items()) for selector in selectors}) == len(deployments)
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in deployments.items()}
    for name, each in deployments.items():
        assert each["spec"]["selector"]["matchLabels"].items() <= pods[name].items()
    for name, each in services.items():
        chosen = [pod for pod, labels in pods.items() if each["spec"]["selector"].items() <= labels.items()]
        assert chosen == ["gateway" if name == "gateway" else f"{name}-read"]
        assert each["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container[chosen[0]]["ports"]}
    for name, each in of_kind(out, "HorizontalPodAutoscaler").items():
        assert each["spec"]["scaleTargetRef"]["name"] == name
        assert "replicas" not in deployments[name]["spec"]
    for name, each in of_kind(out, "PodDisruptionBudget").items():
        assert each["spec"]["selector"] == deployments[name]["spec"]["selector"]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_marketplace(version: str) -> None:
    check_manifests(COMMITTED, version)
    check_names(COMMITTED)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_odd_names_another_stack_and_a_namespace(deployed: Deploy, version: str) -> None:
    out = deployed(*map(service, NAMES), stack="kafka", namespace="shop-2", image="localhost:5000/team/shop:1.0")
    check_manifests(out, version)
    check_names(out)
    assert {each["image"] for each in containers(out).values()} == {"localhost:5000/team/shop:1.0"}
    assert yaml.safe_load((out / "kubernetes/kustomization.yaml").read_text())["namespace"] == "shop-2"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec["containers"][0].update(imagePullPolice="Always"),
        lambda spec: spec["containers"][0]["livenessProbe"].update(periodSeconds="often"),
        lambda spec: spec.update(terminationGracePeriod=30),
        lambda spec: spec["containers"][0].pop("name"),
    ],
    ids=["a misspelt field", "a wrong type", "an unknown field", "a missing field"],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_broken_manifest_is_found(spoil: Callable[[dict[str, Any]], None], version: str) -> None:
    broken = of_kind(COMMITTED, "Deployment")["gateway"]
    spoil(broken["spec"]["template"]["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


@pytest.mark.parametrize("stack", list(STACKS))
def test_compose_takes_every_stack_and_every_engine(deployed: Deploy, stack: Any) -> None:
    check_compose(composed(COMMITTED))
    used = {engine for engines in STACKS.values() for engine in engines.values()} | {"memcached"}
    assert used == set(ENGINES)
    tail = 'last_known = "memcached://127.0.0.1:1"\n'
    written = composed(deployed(*map(service, NAMES), tail=tail, stack=stack))
    check_compose(written)
    assert {"memcached", *STACKS[stack].values()} <= written["services"].keys()


def test_a_broken_compose_file_is_found() -> None:
    broken = composed(COMMITTED)
    broken["services"]["gateway"]["healthchecks"] = {}
    with pytest.raises(jsonschema.ValidationError):
        check_compose(broken)


def test_what_is_committed_is_what_the_command_writes_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("CHIMERA_STORE", "mysql://ann:secret@elsewhere/x")  # of this machine, so it must not count
    for name in ("chimera.toml", "Dockerfile"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    command = ["--config", str(tmp_path / "chimera.toml"), "deploy", "--out", str(tmp_path / "deploy")]
    ran = CliRunner().invoke(main, command, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "embedded engines can't be shared between machines" in ran.output
    assert contents(tmp_path / "deploy") == contents(COMMITTED), "run: chimera deploy"


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_kustomize_is_given_every_file_but_the_example_of_a_secret() -> None:
    folder = COMMITTED / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    there = {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}
    assert set(listed) == there - {"kustomization.yaml", "secret.example.yaml"}


@pytest.fixture
def marketplace() -> Settings:
    return read_settings(ROOT / "chimera.toml", {})


def test_every_command_is_one_of_the_command_line(marketplace: Settings) -> None:
    commands = {name: [*each["command"], *each["args"]] for name, each in containers(COMMITTED).items()}
    in_compose = [
        [*each["entrypoint"], *each["command"]]
        for each in composed(COMMITTED)["services"].values()
        if each["image"] == "chimera-marketplace:latest"
    ]
    assert sorted(commands.values()) == sorted(in_compose)
    every = containers(COMMITTED)
    for name, (program, command, *arguments) in commands.items():
        assert program == "chimera"
        parsed = main.commands[command].make_context(command, arguments).params
        assert parsed["port"] == every[name]["ports"][0]["containerPort"]
        if command == "run":
            head = "read" if parsed["read"] else "write"
            assert parsed["read"] != parsed["write"]
            assert name == f"{parsed['service']}-{head}"
    assert set(commands) == {f"{name}-{head}" for name in marketplace.services for head in ("read", "write")} | {
        "gateway"
    }


async def test_every_probe_is_a_route(marketplace: Settings) -> None:
    engines, gateway = Engines(marketplace, fleet=True), Gateway(marketplace)
    every, deployments = containers(COMMITTED), of_kind(COMMITTED, "Deployment")
    for name in marketplace.services:
        probes = Probes(engines.context(name))
        routes = {route.template for route in [*probes.routes(), *probes.process_routes()] if route.method == "GET"}
        for head in ("read", "write"):
            assert {probe["path"] for probe in probes_of(every[f"{name}-{head}"]).values()} <= routes
            metadata = deployments[f"{name}-{head}"]["spec"]["template"]["metadata"]
            assert metadata["annotations"]["prometheus.io/path"] in routes
    for path in {probe["path"] for probe in probes_of(every["gateway"]).values()}:
        gateway.site()._router.find("GET", path.encode(), b"")
    for each in every.values():
        assert {probe["port"] for probe in probes_of(each).values()} <= {port["name"] for port in each["ports"]}
        assert all(each[name]["timeoutSeconds"] > Timing().check_s for name in probes_of(each))
    await engines.close()
    await gateway.close()


@pytest.mark.parametrize("name", ["orders-read", "orders-write", "gateway"])
async def test_what_is_deployed_runs_answers_its_probes_and_stops_in_time(name: str, tmp_path: Path) -> None:
    """On the embedded engines, which are what differs from a cluster here, with the address and the port."""
    container, port = containers(COMMITTED)[name], str(free_ports())
    known = {key: value for key, value in os.environ.items() if not key.startswith("CHIMERA_")}
    environment = {**known, **env_of(container), "CHIMERA_HOST": "127.0.0.1", "CHIMERA_STATE": str(tmp_path)}
    arguments = [port if argument == "8080" else argument for argument in container["args"]]
    head = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chimera", *arguments), cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert head.stdout is not None
        assert await head.stdout.readline() == f"ready http://127.0.0.1:{port}\n".encode()
        async with aiohttp.ClientSession() as session:
            for path in {probe["path"] for probe in probes_of(container).values()} | {"/metrics"}:
                async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                    assert response.status == 200, path
        assert await healthcheck(name, port) == 0
    finally:
        head.send_signal(signal.SIGTERM)
        async with asyncio.timeout(GRACE_S - LEAVE_S):
            assert await head.wait() == 0
    assert await healthcheck(name, port) != 0


async def healthcheck(name: str, port: str) -> int:
    """The exit status of what Compose asks that container, of a head on another port."""
    kind, program, *arguments = composed(COMMITTED)["services"][name.removesuffix("-read")]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    ask = [argument.replace("8080", port) for argument in arguments]
    process = await asyncio.create_subprocess_exec(sys.executable, *ask, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


def test_a_pod_has_more_time_to_stop_than_a_head_takes() -> None:
    assert LEAVE_S + 2 * STOP_S + Timing().drain_s < GRACE_S
    for name, each in of_kind(COMMITTED, "Deployment").items():
        pod = each["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == GRACE_S
        assert ("lifecycle" in pod["containers"][0]) == (not name.endswith("-write"))
    stop = composed(COMMITTED)["services"]["orders"]["stop_grace_period"]
    assert int(stop.removesuffix("s")) > 2 * STOP_S + Timing().drain_s


def test_pods_have_few_rights() -> None:
    for each in of_kind(COMMITTED, "Deployment").values():
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not pod["enableServiceLinks"]
        assert not pod["automountServiceAccountToken"]
    assert f"USER {USER}:{USER}" in (ROOT / "Dockerfile").read_text()


def test_the_gateway_has_no_passwords() -> None:
    assert "envFrom" not in containers(COMMITTED)["gateway"]
    environment = composed(COMMITTED)["services"]["gateway"]["environment"]
    assert {name for name in environment if not name.endswith("__URL")} == {"CHIMERA_HOST"}


def test_a_borrower_and_the_gateway_find_the_owners() -> None:
    url = "http://top-clients:8080"
    for environment in (
        env_of(containers(COMMITTED)["gig-page-read"]),
        env_of(containers(COMMITTED)["gig-page-write"]),
        composed(COMMITTED)["services"]["gig-page"]["environment"],
        env_of(containers(COMMITTED)["gateway"]),
    ):
        given = {name: value for name, value in environment.items() if "${" not in value}
        assert read_settings(ROOT / "chimera.toml", given).base("top-clients", fleet=True) == url
    assert of_kind(COMMITTED, "Service")["top-clients"]["spec"]["ports"][0]["port"] == 8080


def test_the_owners_of_events_and_of_shares_are_found(deployed: Deploy) -> None:
    class Happened(Event, source="facts", key="fact_id"):
        fact_id: str

    watcher = service("watcher", borrows="cards")

    @watcher.on(Happened)
    async def note(event: Happened, tx: Any) -> None: ...

    out = deployed(watcher, service("facts"), service("cards"), service("other"))
    assert env_of(containers(out)["watcher-write"]).keys() == {
        "CHIMERA_HOST",
        "CHIMERA_SERVICES__CARDS__URL",
        "CHIMERA_SERVICES__FACTS__URL",
    }
    with pytest.raises(SettingsError, match=r"'cards'; add \[services.cards\]"):
        deployed(watcher, service("facts"))


def test_one_service_is_a_fleet(deployed: Deploy) -> None:
    out = deployed(service("shop"))
    assert set(of_kind(out, "Deployment")) == {"shop-read", "shop-write", "gateway"}
    check_manifests(out, VERSIONS[-1])
    check_compose(composed(out))


@given(st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True))
@example("a" * 57)
@example("a" * 58)
@example("a--b")
@example("gateway")
def test_a_name_is_refused_or_fits_everywhere(name: str) -> None:
    with importable(service(name)) as listed:
        settings = settings_of(listed)
        try:
            fleet = planned(settings, Options(), None)
        except SettingsError:
            assert "--" in name or name.endswith("-") or len(name) > 57 or name == "gateway"
            return
        environment = urls([member.name for member in fleet.members])
        (at,) = settings_of(listed, environment).services.values()
    assert at.url == f"http://{name}:8080"
    assert DNS_LABEL.fullmatch(name)
    assert DNS_LABEL.fullmatch(f"{name}-write")
    assert len(f"{name}_views") <= 63  # PostgreSQL cuts off what is longer


@pytest.mark.parametrize("name", ["a--b", "a-", "a" * 58, "gateway", "mysql"])
def test_a_name_that_can_not_be_deployed_is_refused_in_a_line(deployed: Deploy, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^.*\[services.{name}\].*$"):
        deployed(service(name))


@pytest.mark.parametrize(
    ("options", "text"), [({"image": "a b"}, "--image 'a b'"), ({"namespace": "A"}, "--namespace")]
)
def test_options_that_can_not_be_are_refused(deployed: Deploy, options: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=f"^{text}.*$"):
        deployed(service("shop"), **options)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_engine_is_opened_by_its_urls(engine: str) -> None:
    for kind in ENGINES[engine].paths:
        for url in (ENGINES[engine].url(kind), ENGINES[engine].example(kind)):
            open_engine(kind, url.replace("${ENGINES_PASSWORD}", "secret").replace("{service}", "gig-page"))


@pytest.mark.parametrize("stack", list(STACKS))
def test_every_service_has_its_own_place_in_every_engine(deployed: Deploy, stack: Any) -> None:
    out = deployed(service("one"), service("two"), stack=stack)
    given = {name: value for name, value in dot_env(out).items() if name.startswith("CHIMERA_")}
    settings = read_settings(out.parent / "chimera.toml", given)
    kinds = [kind for kind in STACKS[stack] if kind != "log"]
    places = [settings.engine_url(kind, name) for kind in kinds for name in settings.services]
    assert len(set(places)) == len(places)
    secret = of_kind(out, "Secret")["chimera-engines"]["stringData"]
    assert secret.keys() == given.keys()
    for name, container in containers(out).items():
        assert ("envFrom" in container) == (name != "gateway")


def test_the_engines_that_the_settings_name_are_used_and_their_passwords_never_written(deployed: Deploy) -> None:
    head = 'log = "kafka://ann:secret@127.0.0.1:1"\nstore = "sqlite:///x.db"\n'
    tail = 'views = "redis://:secret@127.0.0.1:1/0"\n'
    out = deployed(service("one"), service("two"), head=head, tail=tail)
    assert {
        name: url.partition(":")[0] for name, url in dot_env(out).items() if ":" in url and name.startswith("CHIMERA_")
    } == {
        "CHIMERA_LOG": "kafka",
        "CHIMERA_STORE": "mysql",
        "CHIMERA_VIEWS": "mongodb",
        "CHIMERA_LAST_KNOWN": "redis",
        "CHIMERA_SERVICES__TWO__VIEWS": "redis",
    }
    services = composed(out)["services"]
    assert {"kafka", "mysql", "mongodb", "redis"} == services.keys() & ENGINES.keys()
    assert "mongodb" in services["one"]["depends_on"]
    assert "CHIMERA_SERVICES__TWO__VIEWS" not in services["one"]["environment"]
    assert not [name for name, text in contents(out).items() if "secret@" in text]


def test_an_engine_that_can_not_be_that_is_refused(deployed: Deploy) -> None:
    with pytest.raises(SettingsError, match=r"^store: kafka can't be that; it can be: log$"):
        deployed(service("one"), head='store = "kafka://127.0.0.1:1"')
    with pytest.raises(SettingsError, match=r"^\[services.one\] log: its URL names no engine; there are: .*$"):
        deployed(service("one"), tail='log = "carrier-pigeon://ann:secret@loft"')


def test_embedded_engines_are_told_of_in_a_line(tmp_path: Path) -> None:
    config, out = tmp_path / "chimera.toml", tmp_path / "out"
    with importable(service("one")) as listed:
        config.write_text(f'log = "kafka://127.0.0.1:1"\n{listed}')
        (line,) = [line for line in deploy(config, out, Options()) if line.startswith("embedded")]
        assert line == (
            "embedded engines can't be shared between machines: for Kubernetes set CHIMERA_STORE, CHIMERA_VIEWS "
            f"in a Secret, see {out}/kubernetes/secret.example.yaml"
        )
        engines = 'log = "kafka://127.0.0.1:1"\nstore = "mysql://u@h/d"\nviews = "mongodb://h/d"\n'
        config.write_text(engines + listed)
        assert not [line for line in deploy(config, out, Options()) if line.startswith("embedded")]


def test_what_was_set_on_this_machine_is_kept(tmp_path: Path) -> None:
    with importable(service("one")) as listed:
        (tmp_path / "chimera.toml").write_text(listed)
        assert not [line for line in deploy(tmp_path / "chimera.toml", tmp_path, Options()) if "kept" in line]
        (tmp_path / "compose/.env").write_text("PUBLISH=127.0.0.1:9\n")
        assert [line for line in deploy(tmp_path / "chimera.toml", tmp_path, Options(stack="kafka")) if "kept" in line]
    assert (tmp_path / "compose/.env").read_text() == "PUBLISH=127.0.0.1:9\n"


def test_write_heads_are_as_many_as_asked_for_but_not_more_than_partitions(deployed: Deploy) -> None:
    found = of_kind(deployed(service("few", 2), service("many", 8), workers=5), "Deployment")
    assert {name: each["spec"].get("replicas") for name, each in found.items()} == {
        "few-read": None,
        "few-write": 2,
        "many-read": None,
        "many-write": 5,
        "gateway": None,
    }


def test_a_file_says_by_what_command_it_was_written(deployed: Deploy) -> None:
    out = deployed(service("shop"), image="shop:1", workers=3, stack="kafka")
    command = "`chimera deploy --image shop:1 --workers 3 --stack kafka`"
    assert all(command in text.partition("\n")[0] for text in contents(out).values())


def test_the_image_is_built_where_there_is_a_dockerfile(deployed: Deploy, tmp_path: Path) -> None:
    assert "build" not in composed(deployed(service("shop")))["services"]["shop"]
    (tmp_path / "Dockerfile").touch()
    assert composed(deployed(service("shop")))["services"]["shop"]["build"] == {"context": "../.."}


def test_the_engines_are_the_versions_that_the_tests_run_on() -> None:
    tested = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {name: engine.container["image"] for name, engine in ENGINES.items()} == {
        name: each["image"] for name, each in tested.items()
    }


def test_every_engine_says_when_it_is_healthy_and_all_wait_for_it() -> None:
    services = composed(COMMITTED)["services"]
    assert all("healthcheck" in each for each in services.values())
    for each in services.values():
        for name, condition in each.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert name in services
    assert set(services["gateway"]["depends_on"]) == {
        "orders",
        "analytics",
        "top-clients",
        "gig-page",
        "user-page",
        "search",
    }


def test_without_pyyaml_it_says_what_to_install(deployed: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(SettingsError, match=r"^chimera deploy needs PyYAML: pip install 'chimera-kit\[deploy\]'$"):
        deployed(service("shop"))


def test_a_folder_that_can_not_be_written_is_an_error_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with importable(service("shop")) as listed:
        (tmp_path / "chimera.toml").write_text(listed)
        with pytest.raises(SettingsError, match=r"^.* can't be written .*; name another folder with --out$"):
            deploy(tmp_path / "chimera.toml", tmp_path / "taken", Options())


def test_a_service_by_another_name_is_refused() -> None:
    with importable(service("shop")) as listed, pytest.raises(SettingsError, match="calls itself 'shop'"):
        planned(settings_of(listed.replace("services.shop", "services.store")), Options(), None)
