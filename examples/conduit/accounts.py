"""Users: who they are, whom they follow."""

from __future__ import annotations

from typing import Annotated, Any

from common import Follows, Hasher, Named, Profile, Tokens, not_blank, refused, set_up
from msgspec import UNSET, UnsetType, structs

from chimera import (
    Caller,
    Command,
    Entity,
    Event,
    NewId,
    Reader,
    Reads,
    Reply,
    Service,
    Transaction,
    anyone,
    somebody,
)

accounts = Service("accounts")
accounts.provide(Hasher)
set_up(accounts)


@accounts.entity
class User(Entity, key="user_id", table="users", unique=[("username",), ("email",)]):
    user_id: str
    username: str
    email: str
    password: str
    bio: str | None = None
    image: str | None = None


@accounts.entity
class Follow(Entity, key=("follower_id", "followed_id"), table="follows"):
    follower_id: str
    followed_id: str


class UserChanged(Event, source="accounts", key="user_id"):
    user_id: str


class FollowsChanged(Event, source="accounts", key="user_id"):
    user_id: str


class NameChanged(Event, source="accounts", key="username"):
    username: str


class Register(Command, key="user_id"):
    user_id: Annotated[str, NewId]
    username: str
    email: str
    password: str
    bio: str | None = None
    image: str | None = None


class LogIn(Command, key="email"):
    email: str
    password: str


class ChangeUser(Command, key="change_id"):
    change_id: Annotated[str, NewId]
    username: str | UnsetType | None = UNSET
    email: str | UnsetType | None = UNSET
    password: str | UnsetType | None = UNSET
    bio: str | UnsetType | None = UNSET
    image: str | UnsetType | None = UNSET


class FollowUser(Command, key="username"):
    username: str


class UnfollowUser(Command, key="username"):
    username: str


@accounts.handle("POST /api/users", direct=True, body="user", allow=anyone)
async def register(command: Register, tx: Transaction, hasher: Hasher, tokens: Tokens) -> Reply[Any]:
    not_blank(username=command.username, email=command.email, password=command.password)
    fields = structs.asdict(command) | {"password": await hasher.hash(command.password)}
    await tx.claim(user := User(**fields))
    tx.emit(UserChanged(user.user_id))
    tx.emit(NameChanged(user.username))
    return Reply(shown(user, tokens), 201)


@accounts.handle("POST /api/users/login", direct=True, body="user", allow=anyone)
async def log_in(command: LogIn, tx: Transaction, hasher: Hasher, tokens: Tokens) -> Reply[Any]:
    not_blank(email=command.email, password=command.password)
    user = await tx.load_by(User, email=command.email)
    if user is None or not await hasher.fits(command.password, user.password):
        raise refused(401, "credentials", "invalid")
    return Reply(shown(user, tokens))


@accounts.handle("PUT /api/user", direct=True, body="user", allow=somebody)
async def change_user(
    command: ChangeUser, tx: Transaction, caller: Caller, hasher: Hasher, tokens: Tokens
) -> dict[str, Any]:
    before = await known(tx, caller)
    given = {name: value for name, value in structs.asdict(command).items() if value is not UNSET}
    del given["change_id"]
    not_blank(**{name: value for name, value in given.items() if name in ("username", "email", "password")})
    given |= {name: given[name] or None for name in ("bio", "image") if name in given}
    if "password" in given:
        given["password"] = await hasher.hash(given["password"])
    await tx.claim(user := structs.replace(before, **given))
    tx.emit(UserChanged(user.user_id))
    for name in {before.username, user.username} if before.username != user.username else ():
        tx.emit(NameChanged(name))
    return shown(user, tokens)


@accounts.handle("POST /api/profiles/{username}/follow", direct=True, allow=somebody)
async def follow(command: FollowUser, tx: Transaction, caller: Caller) -> Reply[Any]:
    followed = await named(tx, command.username)
    tx.save(Follow(caller.subject, followed.user_id))
    tx.emit(FollowsChanged(caller.subject))
    return Reply({"profile": profile(followed, following=True)})


@accounts.handle("DELETE /api/profiles/{username}/follow", direct=True, allow=somebody)
async def unfollow(command: UnfollowUser, tx: Transaction, caller: Caller) -> dict[str, Any]:
    followed = await named(tx, command.username)
    tx.delete(Follow(caller.subject, followed.user_id))
    tx.emit(FollowsChanged(caller.subject))
    return {"profile": profile(followed, following=False)}


@accounts.get("/api/user", allow=somebody)
async def current_user(read: Reader, caller: Caller, tokens: Tokens) -> dict[str, Any]:
    return shown(await known(read, caller), tokens)


@accounts.get("/api/profiles/{username}", allow=anyone)
async def one_profile(username: str, read: Reader, caller: Caller | None) -> dict[str, Any]:
    user = await named(read, username)
    following = caller is not None and await read.load(Follow, caller.subject, user.user_id) is not None
    return {"profile": profile(user, following=following)}


@accounts.share("profiles", key="user_id", changed_by=[UserChanged])
async def profiles(user_ids: list[str], read: Reads) -> dict[str, Profile]:
    users = await read.find(User, user_id=user_ids)
    return {user.user_id: Profile(user.username, user.bio, user.image) for user in users}


@accounts.share("follows", key="user_id", changed_by=[FollowsChanged])
async def follows(user_ids: list[str], read: Reads) -> dict[str, Follows]:
    found = {user_id: Follows([]) for user_id in user_ids}
    for each in await read.find(Follow, follower_id=user_ids):
        found[each.follower_id].user_ids.append(each.followed_id)
    return found


@accounts.share("names", key="username", changed_by=[NameChanged])
async def names(usernames: list[str], read: Reads) -> dict[str, Named]:
    return {user.username: Named(user.user_id) for user in await read.find(User, username=usernames)}


async def known(read: Reads, caller: Caller) -> User:
    user = await read.load(User, caller.subject)
    if user is None:
        raise refused(401, "token", "is invalid")
    return user


async def named(read: Reads, username: str) -> User:
    user = await read.load_by(User, username=username)
    if user is None:
        raise refused(404, "profile", "not found")
    return user


def shown(user: User, tokens: Tokens) -> dict[str, Any]:
    own = {"email": user.email, "token": tokens.make(user.user_id)}
    return {"user": own | {"username": user.username, "bio": user.bio, "image": user.image}}


def profile(user: User, *, following: bool) -> dict[str, Any]:
    return {"username": user.username, "bio": user.bio, "image": user.image, "following": following}
