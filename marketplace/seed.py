"""A small synthetic marketplace, the same for the same seed."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from marketplace.requests import Request, client, gig, order, stage, user

_START = datetime(2025, 3, 3, 8, tzinfo=UTC)
_DAYS = 60
_WAY = ("paid", "started", "delivered", "completed")
_FIRST_NAMES = (
    "Ada",
    "Amira",
    "Bruno",
    "Chiara",
    "Diego",
    "Elif",
    "Femi",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kaori",
    "Leila",
    "Mateo",
    "Nadia",
    "Oskar",
    "Priya",
    "Quentin",
    "Rosa",
    "Samir",
    "Tove",
    "Uma",
    "Viktor",
    "Wanjiru",
    "Yusuf",
    "Zoë",
)
_LAST_NAMES = (
    "Abebe",
    "Bianchi",
    "Castillo",
    "Demir",
    "Eriksen",
    "Fontaine",
    "García",
    "Haddad",
    "Ivanova",
    "Jansen",
    "Kowalski",
    "Lindqvist",
    "Moreau",
    "Nakamura",
    "Okafor",
    "Pereira",
    "Rahman",
    "Silva",
    "Tanaka",
    "Weiss",
)
_CITIES = (
    "Lisbon",
    "Nairobi",
    "Kraków",
    "Osaka",
    "Medellín",
    "Tallinn",
    "Lagos",
    "Izmir",
    "Ghent",
    "Kochi",
    "Malmö",
)
_TRADES = {
    "Logo design": ("a minimalist logo for your brand", "a logo drawn by hand", "a logo that keeps its soul"),
    "Writing": ("a clear product description", "a warm newsletter your readers finish", "a proofread of your thesis"),
    "Translation": ("a translation that reads like an original", "subtitles for your film", "a localised app page"),
    "Web development": ("a fast landing page", "a tidy online shop", "a repair for that one bug"),
    "Illustration": ("a portrait in watercolour", "a children's book spread", "a map of an imagined city"),
    "Music": ("a jingle of fifteen seconds", "a mix and master of your song", "a cello line for your track"),
    "Video": ("an explainer video of one minute", "a cut of your holiday footage", "a title sequence"),
    "Data": ("a dashboard from your spreadsheet", "a forecast you can explain", "a cleaned-up dataset"),
}
_COMPANIES = ("Alder", "Bluebird", "Copper", "Driftwood", "Evergreen", "Foxglove", "Harbour", "Juniper", "North")
_FORMS = ("Bakery", "Books", "Clinic", "Coffee", "Hotels", "Labs", "Logistics", "Records", "School", "Studio")
_INDUSTRIES = {
    "Bakery": "Food",
    "Books": "Publishing",
    "Clinic": "Health",
    "Coffee": "Food",
    "Hotels": "Travel",
    "Labs": "Software",
    "Logistics": "Transport",
    "Records": "Music",
    "School": "Education",
    "Studio": "Design",
}


class Seed:
    name = "seed"

    def __init__(self, seed: int = 7, sellers: int = 24, gigs: int = 70, clients: int = 60, orders: int = 400) -> None:
        self.notes: Counter[str] = Counter()
        self._seed = seed
        self._sellers = [f"seller-{number:02d}" for number in range(1, sellers + 1)]
        self._gigs = gigs
        self._clients = clients
        self._orders = orders

    def total(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Request]:
        random = Random(self._seed)  # noqa: S311 - a repeatable marketplace, not a secret
        trades = {seller_id: random.choice(list(_TRADES)) for seller_id in self._sellers}
        yield from self._users(random, trades)
        gigs = list(self._offers(random, trades))
        yield from gigs
        yield from self._top_clients(random)
        yield from self._order_events(random, gigs)

    def _users(self, random: Random, trades: dict[str, str]) -> Iterator[Request]:
        for number, (seller_id, trade) in enumerate(trades.items()):
            name = f"{_FIRST_NAMES[number % len(_FIRST_NAMES)]} {random.choice(_LAST_NAMES)}"
            years = random.randint(2, 19)
            yield user(seller_id, name, random.choice(_CITIES), f"{trade} for {years} years. Replies within a day.")

    def _offers(self, random: Random, trades: dict[str, str]) -> Iterator[Request]:
        for number in range(1, self._gigs + 1):
            seller_id = self._sellers[(number - 1) % len(self._sellers)]
            trade = trades[seller_id]
            title = f"I will make you {random.choice(_TRADES[trade])}"
            yield gig(f"gig-{number:03d}", seller_id, title, trade, random.randrange(1500, 40001, 500))

    def _top_clients(self, random: Random) -> Iterator[Request]:
        names = [f"{company} {form}" for company in _COMPANIES for form in _FORMS]
        for number in range(1, self._clients + 1):
            name = names[random.randrange(len(names))]
            yield client(random.choice(self._sellers), f"client-{number:03d}", name, _INDUSTRIES[name.split()[1]])

    def _order_events(self, random: Random, gigs: list[Request]) -> Iterator[Request]:
        """Every order's requests in their order, those of different orders interleaved by time."""
        lives = (self._life(random, number, random.choice(gigs)) for number in range(1, self._orders + 1))
        timed = [event for life in lives for event in life]
        yield from (request for _, request in sorted(timed, key=lambda event: event[0]))

    def _life(self, random: Random, number: int, bought: Request) -> Iterator[tuple[datetime, Request]]:
        order_id, at = f"order-{number:04d}", _START + timedelta(minutes=random.randrange(_DAYS * 24 * 60))
        amount = bought.body["price_cents"] * random.choice((1, 1, 1, 2))
        buyer_id = f"buyer-{random.randint(1, 150):03d}"
        yield at, order(order_id, buyer_id, bought.body["seller_id"], bought.key, amount, at)
        for reached in _WAY[: random.choice((0, 1, 2, 3, 4, 4, 4, 4, 4))]:
            at += timedelta(minutes=random.randint(10, 3 * 24 * 60))
            if random.random() < 0.04:
                yield at, stage(order_id, "cancelled", at)
                return
            yield at, stage(order_id, reached, at)
