"""What the peers in FastAPI take in."""

from pydantic import BaseModel


class PlaceOrder(BaseModel):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    note: str = ""
