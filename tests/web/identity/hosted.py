"""The desk, as settings name it."""

from __future__ import annotations

from tests.web.identity.issuer import desk_service

desk = desk_service()
