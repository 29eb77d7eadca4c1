"""Chimera: two-headed microservices with commands, events, O(1) views, and shared data in three strategies."""

from chimera.borrowed import Borrowed
from chimera.entities import Entity
from chimera.errors import ChimeraError, Conflict, DeclarationError, Invalid, Rejected, SettingsError, Unavailable
from chimera.folds import DELETED, View
from chimera.messages import Command, Event, Message, Position
from chimera.parts import Borrow, Handling, Reply
from chimera.reader import Reader
from chimera.service import Service
from chimera.transaction import Reads, Transaction

__all__ = [
    "DELETED",
    "Borrow",
    "Borrowed",
    "ChimeraError",
    "Command",
    "Conflict",
    "DeclarationError",
    "Entity",
    "Event",
    "Handling",
    "Invalid",
    "Message",
    "Position",
    "Reader",
    "Reads",
    "Rejected",
    "Reply",
    "Service",
    "SettingsError",
    "Transaction",
    "Unavailable",
    "View",
]
