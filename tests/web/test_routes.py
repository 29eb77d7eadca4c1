"""Every route of the public contract, as black boxes see it."""

from __future__ import annotations

import re
import shlex
import time
import uuid
from collections.abc import Callable
from html import unescape
from typing import Any, TypeVar

import pytest

from chimera import Position
from tests.web.served import Answer, Served

Found = TypeVar("Found")

SERVICES = ("orders", "analytics", "top-clients", "gig-page", "user-page", "search")
HTML = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")]
NO_SALES = {"placed": 0, "paid": 0, "started": 0, "delivered": 0, "completed": 0, "cancelled": 0}


def new(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:10]}"


def place(served: Served, **fields: Any) -> tuple[dict[str, Any], Answer]:
    body = {"order_id": new("order"), "buyer_id": "b", "seller_id": new("seller"), "gig_id": "g", "amount_cents": 500}
    body |= fields
    answer = served.ask("POST", "/orders", body)
    assert answer.status == 201, answer
    return body, answer


def settled(served: Served, service: str, answer: Answer) -> Answer:
    command = answer.json["command_id"]
    return served.ask("GET", f"/_chimera/{service}/commands/{command}?wait=10")


def wait_for(found: Callable[[], Found | None], seconds: float = 60) -> Found:
    until = time.monotonic() + seconds
    while not (answer := found()) and time.monotonic() < until:
        time.sleep(0.02)
    assert answer, f"not within {seconds} s"
    return answer


def test_an_order_is_accepted_at_once_and_can_be_read_when_its_command_is_done(served: Served) -> None:
    body, answer = place(served, at="2025-05-01T10:00:00+02:00")
    assert answer.headers["location"] == f"/orders/{body['order_id']}"
    assert answer.json == {"command_id": answer.json["command_id"], "order_id": body["order_id"]}
    state = settled(served, "orders", answer)
    assert (state.status, state.json["state"]) == (200, "done")
    assert state.headers["chimera-position"] == state.json["position"]
    order = served.ask("GET", f"/orders/{body['order_id']}")
    assert order.kind == "application/json"
    assert order.json == {
        **{name: value for name, value in body.items() if name != "at"},
        "stage": "placed",
        "placed_at": "2025-05-01T08:00:00Z",
        "changed_at": "2025-05-01T08:00:00Z",
    }


def test_an_order_without_an_id_gets_one(served: Served) -> None:
    answer = served.ask("POST", "/orders", {"buyer_id": "b", "seller_id": "s", "gig_id": "g", "amount_cents": 1})
    assert answer.status == 201
    assert answer.headers["location"] == f"/orders/{answer.json['order_id']}"
    assert settled(served, "orders", answer).json["state"] == "done"
    assert served.ask("GET", answer.headers["location"]).json["order_id"] == answer.json["order_id"]


def test_a_whole_number_may_be_written_with_a_point(served: Served) -> None:
    body = {"order_id": new("o"), "buyer_id": "b", "seller_id": "s", "gig_id": "g", "amount_cents": 71.0}
    assert settled(served, "orders", served.ask("POST", "/orders", body)).json["state"] == "done"
    assert served.ask("GET", f"/orders/{body['order_id']}").json["amount_cents"] == 71


def test_an_order_goes_through_its_stages_and_a_step_back_is_rejected_with_its_reason(served: Served) -> None:
    body, _ = place(served)
    path = f"/orders/{body['order_id']}"
    for stage in ("paid", "delivered"):
        answer = served.ask("POST", f"{path}/stage", {"stage": stage})
        assert (answer.status, answer.headers["location"]) == (201, path)
        assert settled(served, "orders", answer).json["state"] == "done"
    back = settled(served, "orders", served.ask("POST", f"{path}/stage", {"stage": "paid"}))
    assert (back.status, back.json["state"], back.json["reason"]) == (200, "rejected", "stage_backwards")
    assert served.ask("GET", path).json["stage"] == "delivered"


def test_an_order_as_a_page(served: Served) -> None:
    body, answer = place(served)
    settled(served, "orders", answer)
    page = served.ask("GET", f"/orders/{body['order_id']}", headers=HTML)
    assert (page.status, page.kind) == (200, "text/html; charset=utf-8")
    assert page.headers["vary"] == "accept"
    assert body["order_id"].encode() in page.body


def test_an_unknown_order_is_a_404(served: Served) -> None:
    answer = served.ask("GET", "/orders/nobody")
    assert (answer.status, answer.kind) == (404, "application/problem+json")


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", "application/json, text/html;q=0.5", "text/plain"])
def test_json_is_answered_unless_html_is_preferred(served: Served, accept: str) -> None:
    answer = served.ask("GET", "/sellers/s/sales", headers=[("Accept", accept)])
    assert answer.kind == "application/json"


@pytest.mark.parametrize("accept", ["text/html", "text/html, application/json;q=0.9", "TEXT/HTML, */*"])
def test_html_is_answered_where_it_is_preferred(served: Served, accept: str) -> None:
    answer = served.ask("GET", "/sellers/s/sales", headers=[("Accept", accept)])
    assert answer.kind.startswith("text/html")


def test_a_sellers_sales_follow_the_orders(served: Served) -> None:
    body, answer = place(served, at="2025-05-02T23:30:00-03:00")
    position = settled(served, "orders", answer).headers["chimera-position"]
    path = f"/sellers/{body['seller_id']}/sales"
    sales = served.ask("GET", path, headers=[("Chimera-After", position)])
    assert sales.json == {
        "seller_id": body["seller_id"],
        "orders": 1,
        "stages": {**NO_SALES, "placed": 1},
        "revenue_cents": 500,
    }
    assert "chimera-behind" not in sales.headers
    by_day = served.ask("GET", f"{path}?by=day", headers=[("Chimera-After", position)])
    counts = {"orders": 1, "stages": {**NO_SALES, "placed": 1}, "revenue_cents": 500}
    assert by_day.json == {"seller_id": body["seller_id"], "days": [{"day": "2025-05-03", **counts}]}
    assert served.ask("GET", f"{path}?b%79=da%79").json == by_day.json
    for page in (path, f"{path}?by=day"):
        html = served.ask("GET", page, headers=[*HTML, ("Chimera-After", position)])
        assert (html.status, html.kind) == (200, "text/html; charset=utf-8")


def test_a_seller_without_orders_has_zeros(served: Served) -> None:
    nobody = new("seller")
    sales = served.ask("GET", f"/sellers/{nobody}/sales")
    assert sales.json == {"seller_id": nobody, "orders": 0, "stages": NO_SALES, "revenue_cents": 0}
    assert served.ask("GET", f"/sellers/{nobody}/sales?by=day").json == {"seller_id": nobody, "days": []}


def test_a_read_says_how_far_it_is_when_it_is_behind(served: Served) -> None:
    began = time.monotonic()
    answer = served.ask("GET", "/sellers/s/sales", headers=[("Chimera-After", "orders/0@999999, top-clients/1@5")])
    assert answer.status == 200
    assert answer.headers["chimera-behind"].startswith("orders/0@")
    assert 1.5 < time.monotonic() - began < 30


def test_who_follows_is_given_the_positions_of_what_she_is_shown(served: Served) -> None:
    body, answer = place(served)
    settled(served, "orders", answer)
    path, seen = f"/sellers/{body['seller_id']}/sales", "orders/0@0"
    assert "chimera-position" not in served.ask("GET", path).headers
    for _ in range(3):
        shown = served.ask("GET", path, headers=[("Chimera-After", seen)])
        given = {each.source: each for each in map(Position.parse, shown.headers["chimera-position"].split(","))}
        assert given["orders"].number > 0
        assert "chimera-behind" not in shown.headers
        seen = shown.headers["chimera-position"]
    gone = served.ask("GET", "/users/nobody", headers=[("Chimera-After", f"{seen},users-gigs/0@999999")])
    assert gone.status == 404
    assert gone.headers["chimera-position"].startswith("orders/")


def test_clients_are_stored_when_the_answer_comes(served: Served) -> None:
    seller = new("seller")
    path = f"/sellers/{seller}/clients"
    assert served.ask("GET", path).json == {"seller_id": seller, "clients": []}
    added = served.ask("POST", path, {"client_id": "acme", "name": "Acme"})
    assert (added.status, added.headers["location"]) == (201, path)
    assert added.json == {"client_id": "acme", "name": "Acme", "industry": None}
    assert added.headers["chimera-position"].startswith("top-clients/")
    assert uuid.UUID(added.headers["chimera-command"])
    assert served.ask("GET", path).json["clients"] == [added.json]
    made = served.ask("POST", path, {"name": "Made up", "industry": "Tea"})
    assert made.status == 201
    assert [client["name"] for client in served.ask("GET", path).json["clients"]] == ["Acme", "Made up"]
    assert b"Made up" in served.ask("GET", path, headers=HTML).body
    again = served.ask("POST", path, {"client_id": "acme", "name": "Other"})
    assert (again.status, again.kind, again.json["reason"]) == (409, "application/problem+json", "client_exists")
    assert served.ask("DELETE", f"{path}/acme").status == 200
    gone = served.ask("DELETE", f"{path}/acme")
    assert (gone.status, gone.json["reason"]) == (404, "client_unknown")
    assert [client["name"] for client in served.ask("GET", path).json["clients"]] == ["Made up"]


def test_a_gig_is_shown_with_its_sellers_top_clients(served: Served) -> None:
    seller, gig = new("seller"), new("gig")
    fields = {"seller_id": seller, "title": "A logo", "category": "design", "price_cents": 900}
    assert served.ask("GET", f"/gigs/{gig}").status == 404
    assert served.ask("PUT", f"/gigs/{gig}", fields).status == 201
    assert served.ask("PUT", f"/gigs/{gig}", {**fields, "title": "Two logos"}).status == 200
    added = served.ask("POST", f"/sellers/{seller}/clients", {"client_id": "acme", "name": "Acme"})
    after = [("Chimera-After", added.headers["chimera-position"])]
    shown = served.ask("GET", f"/gigs/{gig}", headers=after)
    assert shown.status == 200
    gig_shown = shown.json
    clients = gig_shown.pop("top_clients")
    assert gig_shown == {"gig_id": gig, **fields, "title": "Two logos"}
    assert clients["clients"] == [added.json]
    assert clients["state"] in ("fresh", "stale")
    page = served.ask("GET", f"/gigs/{gig}", headers=[*HTML, *after])
    assert b"Two logos" in page.body
    assert b"Acme" in page.body


def test_a_user_is_shown_with_gigs_top_clients_and_completed_orders(served: Served) -> None:
    user, gig = new("user"), new("gig")
    assert served.ask("GET", f"/users/{user}").status == 404
    assert served.ask("PUT", f"/users/{user}", {"name": "Ada <b>", "about": "Two\nlines"}).status == 201
    again = served.ask("PUT", f"/users/{user}", {"name": "Ada <b>", "city": "Lyon"})
    assert (again.status, again.json) == (200, {"user_id": user, "name": "Ada <b>", "city": "Lyon", "about": None})
    gig_fields = {"seller_id": user, "title": "Maths", "category": "tuition", "price_cents": 100}
    published = served.ask("PUT", f"/gigs/{gig}", gig_fields)
    served.ask("POST", f"/sellers/{user}/clients", {"client_id": "acme", "name": "Acme"})
    body, placed = place(served, seller_id=user)
    settled(served, "orders", placed)
    done = settled(served, "orders", served.ask("POST", f"/orders/{body['order_id']}/stage", {"stage": "completed"}))
    after = ",".join(each.headers["chimera-position"] for each in (again, published, done))

    def with_clients() -> Answer | None:
        answer = served.ask("GET", f"/users/{user}", headers=[("Chimera-After", after)])
        return answer if answer.json["top_clients"]["clients"] else None

    shown = wait_for(with_clients)
    assert shown.json["gigs"] == [{"gig_id": gig, "title": "Maths", "category": "tuition", "price_cents": 100}]
    assert shown.json["completed_orders"] == 1
    assert [client["name"] for client in shown.json["top_clients"]["clients"]] == ["Acme"]
    page = served.ask("GET", f"/users/{user}", headers=HTML)
    assert b"Ada &lt;b&gt;" in page.body


def test_search_finds_gigs_with_their_sellers_name_and_top_clients(served: Served) -> None:
    seller, gig, word = new("seller"), new("gig"), f"w{uuid.uuid4().hex}"
    served.ask("PUT", f"/users/{seller}", {"name": "Grace"})
    served.ask("POST", f"/sellers/{seller}/clients", {"client_id": "acme", "name": "Acme"})
    fields = {"seller_id": seller, "title": f"Compiler {word}", "category": "code", "price_cents": 100}
    served.ask("PUT", f"/gigs/{gig}", fields)

    def a_result() -> Answer | None:
        answer = served.ask("GET", f"/search?q={word}&category=code&page=1")
        return answer if "Grace" in answer.body.decode() else None

    found = wait_for(a_result)
    assert (found.json["total"], found.json["pages"], found.json["page"]) == (1, 1, 1)
    [result] = found.json["results"]
    assert (result["gig_id"], result["seller_name"]) == (gig, "Grace")
    assert result["top_clients"]["state"] in ("fresh", "stale", "absent")
    assert served.ask("GET", f"/search?q={word}&category=other").json["results"] == []
    page = served.ask("GET", f"/search?q={word}", headers=HTML)
    assert word.encode() in page.body


@pytest.mark.parametrize("path", ["/sellers/{}/clients", "/gigs/{}", "/users/{}"])
def test_a_direct_command_sent_twice_with_one_key_is_one_command(served: Served, path: str) -> None:
    target = path.format(new("id"))
    bodies: dict[str, dict[str, Any]] = {
        "/gigs/{}": {"seller_id": "s", "title": "t", "category": "c", "price_cents": 1},
        "/users/{}": {"name": "n"},
        "/sellers/{}/clients": {"name": "n"},
    }
    method = "POST" if path.endswith("clients") else "PUT"
    headers = [("Idempotency-Key", uuid.uuid4().hex)]
    first = served.ask(method, target, bodies[path], headers)
    heads = served.kept()
    second = served.ask(method, target, bodies[path], headers)
    assert (second.status, second.body) == (first.status, first.body)
    for name in ("chimera-command", "chimera-position"):
        assert second.headers[name] == first.headers[name]
    assert served.kept() == heads


def test_an_asynchronous_command_sent_twice_with_one_key_is_one_command(served: Served) -> None:
    headers = [("Idempotency-Key", uuid.uuid4().hex)]
    body = {"buyer_id": "b", "seller_id": new("seller"), "gig_id": "g", "amount_cents": 5}
    first, second = (served.ask("POST", "/orders", body, headers) for _ in range(2))
    assert (first.status, second.status) == (201, 201)
    assert first.body == second.body
    assert first.headers["location"] == second.headers["location"]
    state = settled(served, "orders", second)
    served.settle()
    assert settled(served, "orders", first).body == state.body
    sales = served.ask(
        "GET", f"/sellers/{body['seller_id']}/sales", headers=[("Chimera-After", state.json["position"])]
    )
    assert sales.json["orders"] == 1


def test_the_states_of_many_commands(served: Served) -> None:
    ids = [place(served)[1].json["command_id"] for _ in range(3)]
    for command in ids:
        served.ask("GET", f"/_chimera/orders/commands/{command}?wait=10")
    query = "&".join(f"id={command}" for command in [*ids, "nobody"])
    states = served.ask("GET", f"/_chimera/orders/commands?{query}").json["commands"]
    assert [states[command]["state"] for command in [*ids, "nobody"]] == ["done"] * 3 + ["unknown"]


def test_an_unknown_command_is_a_404_at_once(served: Served) -> None:
    served.settle()
    began = time.monotonic()
    answer = served.ask("GET", f"/_chimera/orders/commands/{uuid.uuid4()}?wait=30")
    assert (answer.status, answer.json["reason"]) == (404, "command_unknown")
    assert time.monotonic() - began < 20


def test_the_journal_is_read_from_any_position(served: Served) -> None:
    body, answer = place(served)
    place_, _, number = settled(served, "orders", answer).json["position"].partition("@")
    partition = place_.partition("/")[2]
    path = f"/_chimera/orders/journal?partition={partition}"
    page = served.ask("GET", f"{path}&after={int(number) - 1}&limit=1").json
    [event] = page["events"]
    assert (page["partition"], page["after"]) == (int(partition), int(number) - 1)
    assert event["specversion"] == "1.0"
    assert (event["source"], event["type"], event["subject"]) == ("orders", "orders.OrderPlaced", body["order_id"])
    assert (event["partition"], event["number"]) == (int(partition), int(number))
    assert event["data"]["amount_cents"] == 500
    assert served.ask("GET", f"{path}&after={number}").json["events"] == []


@pytest.mark.parametrize("service", SERVICES)
def test_what_chimera_adds_to_each_service(served: Served, service: str) -> None:
    base = f"/_chimera/{service}"
    heads = served.ask("GET", f"{base}/heads").json["heads"]
    assert sorted(heads) == sorted(map(str, range(8)))
    assert served.ask("GET", f"{base}/journal/heads").json.keys() == {"heads"}
    page = served.ask("GET", f"{base}/journal?partition=0").json
    assert (page["partition"], page["after"]) == (0, 0)
    borrows = served.ask("GET", f"{base}/borrows").json["borrows"]
    assert [borrow["name"] for borrow in borrows] == (
        ["top-clients"] if service in ("gig-page", "user-page", "search") else []
    )
    status = served.ask("GET", f"{base}/status").json
    assert status["service"] == service
    assert {"commands", "relay"} <= {consumer["consumer"] for consumer in status["consumers"]}
    assert served.ask("GET", f"{base}/health/live").json == {"status": "live"}
    assert served.ask("GET", f"{base}/health/ready").json == {"status": "ready"}
    for path in (f"{base}/metrics", "/metrics"):
        metrics = served.ask("GET", path)
        assert metrics.kind.startswith("text/plain; version=0.0.4")
        assert b"# TYPE chimera_handled_total counter" in metrics.body
    assert served.ask("GET", f"{base}/share/nothing").json["reason"] == "share_unknown"
    unknown = served.ask("PUT", f"{base}/borrows/nothing", {"mode": "sync"})
    assert (unknown.status, unknown.json["reason"]) == (404, "borrow_unknown")


def test_shared_documents_are_asked_for_by_key(served: Served) -> None:
    seller = new("seller")
    served.ask("POST", f"/sellers/{seller}/clients", {"client_id": "acme", "name": "Acme"})
    answer = served.ask("GET", f"/_chimera/top-clients/share/top-clients?key={seller}&key=nobody&key={seller}")
    clients = [{"client_id": "acme", "name": "Acme", "industry": None}]
    shared = answer.json
    positions = shared.pop("positions")
    assert shared == {"share": "top-clients", "documents": {seller: {"seller_id": seller, "clients": clients}}}
    assert positions.keys() == {seller, "nobody"}
    assert Position.parse(positions[seller]).number > 0


@pytest.mark.parametrize("mode", ["async", "hybrid", "sync"])
def test_a_borrow_is_switched_while_it_serves(served: Served, mode: str) -> None:
    path = "/_chimera/search/borrows/top-clients"
    answer = served.ask("PUT", path, {"mode": mode})
    assert (answer.status, answer.json["wanted"]) == (200, mode)
    assert wait_for(lambda: served.ask("GET", "/_chimera/search/borrows").json["borrows"][0]["mode"] == mode)
    assert served.ask("GET", "/search").status == 200


def test_the_front_page_and_the_description(served: Served) -> None:
    page = served.ask("GET", "/", headers=[("Host", "market.example:81")])
    assert page.kind == "text/html; charset=utf-8"
    for service in SERVICES:
        assert f"/_chimera/{service}/status".encode() in page.body
    assert b"http://market.example:81/orders" in page.body
    assert b"<evil>" not in served.ask("GET", "/", headers=[("Host", "x<evil>")]).body
    described = served.ask("GET", "/openapi.json")
    assert (described.kind, described.json["openapi"]) == ("application/json", "3.1.0")
    assert "/orders/{order_id}" in described.json["paths"]


def test_head_answers_like_get_without_a_body(served: Served) -> None:
    for path in ("/sellers/s/sales", "/sellers/s/clients", "/search", "/", "/metrics", "/_chimera/orders/heads"):
        get, head = served.ask("GET", path), served.ask("HEAD", path)
        assert head.status == 200
        assert head.body == b""
        assert head.headers["content-type"] == get.headers["content-type"]
        if path != "/metrics":
            assert head.headers["content-length"] == get.headers["content-length"]
    assert served.ask("HEAD", "/orders/nobody").status == 404


@pytest.mark.parametrize(
    "path", ["/nothing", "/orders/a/b/c", "/_chimera/nobody/heads", "/_chimera/orders", "//", "/Orders"]
)
def test_an_unknown_path_is_a_404(served: Served, path: str) -> None:
    answer = served.ask("GET", path)
    assert (answer.status, answer.kind) == (404, "application/problem+json")


def test_a_description_says_which_refusals_a_route_may_answer(served: Served) -> None:
    described = served.ask("GET", "/openapi.json").json
    answers = {
        (method, path): operation["responses"]
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    for responses in answers.values():
        assert responses.keys() >= {"400", "414", "422", "431", "503"}
    retry = described["components"]["responses"]["503"]["headers"]["Retry-After"]
    assert (retry["required"], retry["schema"]["type"]) == (True, "integer")
    for service in SERVICES:
        assert "410" in answers["get", f"/_chimera/{service}/journal"]
        assert "404" in answers["get", f"/_chimera/{service}/commands/{{command_id}}"]
    assert answers["put", "/gigs/{gig_id}"].keys() >= {"404", "409", "413", "422", "500"}
    assert "Idempotency-Key" in answers["post", "/orders"]["409"]["description"]


def test_a_key_that_comes_again_with_another_payload_is_refused(served: Served) -> None:
    headers = [("Idempotency-Key", uuid.uuid4().hex)]
    body = {"buyer_id": "b", "seller_id": new("seller"), "gig_id": "g", "amount_cents": 5}
    first = served.ask("POST", "/orders", body, headers)
    for _ in range(2):
        other = served.ask("POST", "/orders", {**body, "amount_cents": 6}, headers)
        assert (other.status, other.kind) == (409, "application/problem+json")
        assert other.json["field"] == "header.Idempotency-Key"
        settled(served, "orders", first)
    assert served.ask("POST", "/orders", body, headers).body == first.body


def test_a_description_links_what_is_served(served: Served) -> None:
    described = served.ask("GET", "/openapi.json").json
    ids = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    sales = described["paths"]["/sellers/{seller_id}/sales"]["get"]
    assert next(each for each in sales["parameters"] if each["name"] == "by")["schema"]["enum"] == ["day"]
    assert set(sales["responses"]["200"]["content"]) == {"application/json", "text/html"}
    assert {tag["name"] for tag in described["tags"]} == {*SERVICES, "process"}


def test_the_examples_of_the_front_page_work_as_they_are(served: Served) -> None:
    site = "http://market.example"
    page = served.ask("GET", "/", headers=[("Host", "market.example")]).body.decode()
    lines = [
        line for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL) for line in unescape(block).splitlines()
    ]
    assert len(lines) > 10
    for line in lines:
        words = shlex.split(line)
        [url] = [word for word in words if word.startswith(site)]
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        body = words[words.index("-d") + 1].encode() if "-d" in words else None
        answer = served.ask(method, url.removeprefix(site), body)
        assert answer.status in (200, 201), f"{line}: {answer}"
        served.settle()


def _but_ages(body: bytes) -> bytes:
    """How old a borrowed value is goes on between two answers, and with it the body's length."""
    return re.sub(rb'"age_s":[0-9.]+', b'"age_s":0', body)


def test_through_a_gateway_everything_is_as_without(gateway: Served, served: Served) -> None:
    described = served.ask("GET", "/openapi.json").json
    assert gateway.ask("GET", "/openapi.json").json["paths"] == described["paths"]
    for path in ("/sellers/s/sales", "/search", "/_chimera/orders/heads", "/_chimera/analytics/health/ready"):
        for method in ("GET", "HEAD"):
            through, direct = gateway.ask(method, path), served.ask(method, path)
            assert through.status == direct.status == 200
            assert _but_ages(through.body) == _but_ages(direct.body)
            for name in ("content-type", "vary"):
                assert through.headers.get(name) == direct.headers.get(name)
            assert int(through.headers["content-length"]) == len(through.body) or method == "HEAD"
    assert gateway.ask("PATCH", "/orders").headers["allow"] == "POST"
    assert b"# TYPE chimera_handled_total counter" in gateway.ask("GET", "/metrics").body
