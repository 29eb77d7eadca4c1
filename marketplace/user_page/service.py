"""Owns the users' profiles; shows a seller with gigs, top clients and how many orders were completed."""

from asyncio import gather

from msgspec.structs import asdict

from chimera import Reader, Reply, Service, Transaction, anyone, owner_of
from marketplace.callers import operator
from marketplace.gig_page.messages import GigPublished
from marketplace.orders.messages import OrderMoved
from marketplace.top_clients.messages import ShownClients, TopClients
from marketplace.types import Id
from marketplace.user_page.messages import ChangeUser, UserChanged
from marketplace.user_page.model import (
    CompletedOrders,
    SellerGigs,
    User,
    UserPage,
    completing_seller,
    count_completed,
    list_gig,
)
from marketplace.user_page.pages import user_page as render_user

user_page = Service("user-page")
user_page.entity(User)
clients = user_page.borrow("top-clients", TopClients, mode="hybrid")

gigs = user_page.view(SellerGigs, key="seller_id", absent="empty")
gigs.on(GigPublished, key=lambda event: event.seller_ids)(list_gig)

completed = user_page.view(CompletedOrders, key="seller_id", absent="empty")
completed.on(OrderMoved, key=completing_seller)(count_completed)


@user_page.handle("PUT /users/{user_id}", direct=True, allow=owner_of("user_id") | operator)
async def change_user(command: ChangeUser, tx: Transaction) -> Reply[User]:
    before = await tx.load(User, command.user_id)
    user = User(**asdict(command))
    tx.save(user)
    tx.emit(UserChanged(user.user_id, user.name, user.city))
    return Reply(user, 200 if before else 201)


@user_page.get("/users/{user_id}", page=render_user, allow=anyone)
async def show_user(user_id: Id, read: Reader) -> UserPage | None:
    user, offered, finished, borrowed = await gather(
        read.load(User, user_id),
        read.view(gigs, user_id),
        read.view(completed, user_id),
        read.borrowed(clients, user_id),
    )
    if user is None:
        return None
    return UserPage(
        **asdict(user),
        gigs=offered.gigs if offered else [],
        top_clients=ShownClients.of(borrowed),
        completed_orders=finished.completed_orders if finished else 0,
    )
