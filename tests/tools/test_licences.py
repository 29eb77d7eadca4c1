"""What Chimera stands on may be used, is listed, and is installed as it is locked."""

from __future__ import annotations

import pytest
from audit import unlike_the_lock, yanked
from licences import ALLOWED, PAGE, Package, faults, is_allowed, locked, packages, page_of, row_of


def test_every_dependency_has_a_licence_that_may_be_used_and_is_listed_with_it() -> None:
    found = packages()
    assert len(found) > 100
    assert faults(found, PAGE.read_text()) == []
    assert {each.name for each in found if each.use == "library"} >= {"msgspec", "uvicorn", "multidict"}


def test_a_dependency_under_another_licence_is_told() -> None:
    wrong = Package("shady", "1.0", "AGPL-3.0-only", "library")
    [told] = faults([wrong], page_of([wrong]))
    assert told.startswith("shady 1.0 (library) is under 'AGPL-3.0-only', which is none that may be used")
    assert faults([wrong._replace(licence="unknown", use="development")], page_of([wrong]))
    assert faults([wrong._replace(licence="MPL-2.0")], page_of([wrong]))


def test_a_dependency_that_is_not_on_the_page_as_it_is_is_told() -> None:
    fine = Package("fine", "1.0", "MIT", "library")
    assert faults([fine], page_of([fine])) == []
    assert faults([fine._replace(version="1.1")], page_of([fine]))
    assert row_of(fine) in page_of([fine])


@pytest.mark.parametrize(
    ("expression", "may_be"),
    [
        ("MIT", True),
        ("MIT AND Apache-2.0", True),
        ("(MIT AND PSF-2.0)", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("unknown", False),
    ],
)
def test_an_expression_is_allowed_where_one_way_of_it_is(expression: str, may_be: bool) -> None:
    assert is_allowed(expression, ALLOWED) is may_be


def test_what_is_installed_otherwise_than_locked_and_what_was_withdrawn_is_told() -> None:
    assert unlike_the_lock({"a": "1", "b": "2", "pip": "9", "c": "3"}, {"a": "1", "b": "1", "d": "4"}) == [
        "b 2 is installed, and 1 is locked; type: make clean test",
        "c 3 is installed, and no version of it is locked; type: make clean test",
    ]
    report = {
        "install": [
            {"metadata": {"name": "a", "version": "1"}, "is_yanked": True},
            {"metadata": {"name": "b", "version": "2"}, "is_yanked": False},
        ]
    }
    assert yanked(report) == ["a 1 was yanked from the index; lock another version"]
    assert len(locked()) > 100
