"""Executors of what a service declares: its commands, through the log or direct, and its reactions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from chimera.caller import AskedBy
from chimera.commands.apart.kept import KeptEvents
from chimera.commands.apart.rules import rules_of
from chimera.commands.execute import Executor, Invoke, ToldToCaller
from chimera.commands.parking import Parking
from chimera.core import names
from chimera.core.aio.resources import Calling, NoCaller
from chimera.core.context import Context
from chimera.errors import Unreadable
from chimera.forms import Decodes, readers_of
from chimera.journal.consumers import Consumer, consumers_of
from chimera.journal.failures import decoded
from chimera.messages import AnyCommand, AnyEvent, Message
from chimera.parts import Reaction
from chimera.supplies import Work
from chimera.transaction import Transaction
from chimera.versions import is_newer, too_new


def parking_of(context: Context, consumer: str) -> Parking:
    """The messages that a consumer has parked."""
    return Parking(consumer, rules_of(context, consumer), context)


def commands_executor(context: Context) -> Executor:
    """The executor of commands that come through the log."""
    parking = parking_of(context, names.COMMANDS)
    return Executor(context, names.COMMANDS, _handle_commands(context), parking, inbox=True)


def direct_executor(context: Context) -> Executor:
    """The executor of commands whose senders wait for the answer."""
    return Executor(context, names.DIRECT, _handle_commands(context), ToldToCaller(), inbox=True)


def reaction_executor(context: Context, reaction: Reaction, source: str, kept: KeptEvents | None = None) -> Executor:
    """The executor of a reaction, on one source's events; those that are `kept` are not handled again."""
    consumer = names.reaction_consumer(reaction.name, source)
    invoke = _handle_events(context, reaction, kept or KeptEvents(context, consumer))
    return Executor(context, consumer, invoke, parking_of(context, consumer), batch=reaction.batch)


def executor_of(context: Context, consumer: Consumer) -> Executor:
    """The executor of a consumer's messages in the store: of commands, or of a reaction."""
    if isinstance(consumer.declared, Reaction):
        return reaction_executor(context, consumer.declared, consumer.source)
    return commands_executor(context)


def executors_of(context: Context) -> dict[str, Executor]:
    """The executors of all messages in the store, that park there what fails, by consumer."""
    stored = [each for each in consumers_of(context.service) if each.parks and not each.keeps_documents]
    return {each.name: executor_of(context, each) for each in stored}


def _handle_commands(context: Context) -> Invoke:
    service = context.service
    handlers = {
        type_: (reader, calling)
        for handler in service.handlers.values()
        for calling in [context.resources.calling(handler.signature, Transaction)]
        for type_, reader in readers_of(handler.command, service.name).items()
    }

    around = context.resources.around()

    async def call(calling: Calling, command: AnyCommand, tx: Transaction) -> object:
        if calling.is_bare:
            return await calling.function(command, tx)
        try:
            return await calling(command, own={Transaction: tx}, asked=tx.asked)
        except NoCaller as error:
            raise Unreadable(str(error)) from error

    async def invoke(messages: Sequence[Message], tx: Transaction) -> object:
        message = messages[0]
        if not message.type:
            raise Unreadable(message.fault or "it came in a record that can't be read")
        if is_newer(message.type, handlers):
            raise Unreadable(too_new(message.type, handlers))
        if message.type not in handlers:
            raise Unreadable(f"{service.name} handles no {message.type}; it handles: {', '.join(handlers)}")
        decoder, calling = handlers[message.type]
        command = decoded(decoder, message)
        if around is None:
            return await call(calling, command, tx)
        work = Work("command", message.type.partition(".")[2], messages, tx.asked.caller)
        return await around(work, partial(call, calling, command, tx))

    return invoke


def _handle_events(context: Context, reaction: Reaction, kept: KeptEvents) -> Invoke:
    calling, around = context.resources.calling(reaction.signature, Transaction), context.resources.around()
    decoders: dict[str, Decodes[AnyEvent]] = {}
    for event in reaction.events:
        decoders |= readers_of(event, event.__source__)

    def read(message: Message) -> AnyEvent:
        if is_newer(message.type, decoders):
            raise Unreadable(too_new(message.type, decoders))
        if message.type not in decoders:
            raise Unreadable(f"the reaction {reaction.name!r} handles no {message.type} here; another build of it does")
        return decoded(decoders[message.type], message)

    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        events = list(map(read, await kept.new_of(messages, tx)))
        if not events:
            return
        happened = events if reaction.batch else events[0]
        caller = tx.asked.caller
        go_on = (
            partial(calling.function, happened, tx)
            if calling.is_bare
            else partial(calling, happened, own={Transaction: tx}, asked=AskedBy(caller))
        )
        await (go_on() if around is None else around(Work("reaction", reaction.name, messages, caller), go_on))

    return invoke
