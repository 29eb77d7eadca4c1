"""What a projector keeps of the documents that it has written."""

from chimera.ports import Document
from chimera.views.folding.recent import MOST_BYTES, PAUSE, Recent


def document(key: str, data: bytes | None = b"1", view: str = "sales") -> Document:
    return Document(view, key, data, 1)


def test_what_was_written_is_kept_at_its_new_revision() -> None:
    recent = Recent("sales")
    recent.wrote([document("a"), document("b"), document("x", view="sales.waiting")], 7)
    recent.wrote([document("b", None), document("a", b"2")], 8)
    assert recent.among(["a", "b", "c", "x"]) == {"a": Document("sales", "a", b"2", 8)}


def test_the_oldest_makes_room() -> None:
    recent = Recent("sales")
    large = b"1" * (MOST_BYTES // 3)
    for revision, key in enumerate("abac", 1):
        recent.wrote([document(key, large)], revision)
    assert set(recent.among("abc")) == {"a", "c"}
    recent.wrote([document("d", b"1" * (MOST_BYTES + 1))], 9)
    assert recent.among("abcd") == {}
    recent.wrote([document("a", large)], 10)
    assert set(recent.among("abcd")) == {"a"}


def test_what_is_forgotten_takes_no_room_and_is_kept_when_it_is_written_again() -> None:
    recent = Recent("sales")
    for revision in range(1, 9):
        recent.wrote([document("a", b"1" * (MOST_BYTES // 2))], revision)
        recent.forget()
        assert recent.among("a") == {}
    recent.wrote([document("a")], 9)
    assert set(recent.among("a")) == {"a"}


def test_where_others_write_the_same_documents_nothing_is_kept_for_a_while() -> None:
    recent = Recent("sales")
    recent.wrote([document("a")], 1)
    recent.refused()
    for revision in range(2, PAUSE + 2):
        recent.wrote([document("a")], revision)
        assert recent.among("a") == {}
    recent.wrote([document("a")], PAUSE + 2)
    assert set(recent.among("a")) == {"a"}
