"""The intake of `benchmarks.orders` thrice: open, for callers who are known, and with a rule for who may order."""

from benchmarks.orders import Order, place_order
from chimera import Caller, Request, Service, owner_of, role
from chimera.rules import Rule

OPERATOR = Caller("ann", frozenset({"operator"}))


async def who(request: Request) -> Caller | None:
    return OPERATOR


def _service(*, known: bool, allow: Rule | None = None) -> Service:
    service = Service("bench-orders")
    service.entity(Order)
    if known:
        service.authenticate(who)
    service.handle("POST /orders", allow=allow)(place_order)
    return service


opened = _service(known=False)
known = _service(known=True)
ruled = _service(known=True, allow=owner_of("seller_id") | role("operator"))
