"""A service behind a gateway that limits what one address may ask for."""

from __future__ import annotations

from chimera import Reader, Service

shop = Service("shop")


@shop.get("/things/{thing}")
async def thing(thing: str, read: Reader) -> dict[str, str]:
    return {"thing": thing}
