from chimera import Command, Event
from marketplace.types import Id, Line, Price


class PublishGig(Command, key="gig_id"):
    gig_id: Id
    seller_id: Id
    title: Line
    category: Line
    price_cents: Price


class GigPublished(Event, source="gig-page", key="gig_id"):
    """`previous_seller_id` is who had the gig before, so that a list by seller can let go of it."""

    gig_id: str
    seller_id: str
    title: str
    category: str
    price_cents: int
    previous_seller_id: str | None = None

    @property
    def seller_ids(self) -> list[str]:
        """Every seller whose list of gigs changes."""
        return list(dict.fromkeys(filter(None, (self.previous_seller_id, self.seller_id))))
