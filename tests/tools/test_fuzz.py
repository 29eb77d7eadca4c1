"""Nothing that reads what strangers send fails, hangs or grows: thousands of inputs here, a million by `make fuzz`."""

from __future__ import annotations

import pytest
from fuzz.__main__ import told, wrong
from fuzz.inputs import changed
from fuzz.run import SHARES, Done, Report, work


def test_inputs_changed_by_chance_do_no_harm() -> None:
    report = work(3000, 7, 0, 1)
    report.warm = report.end  # so few do not warm it
    assert wrong([report]) == []
    assert {name: done.inputs for name, done in report.targets.items()} == {n: 3 * each for n, each in SHARES.items()}


def test_the_same_seed_gives_the_same_inputs() -> None:
    from random import Random

    first, again, other = ([changed([b"abc"], Random(f"{seed}/{n}")) for n in range(50)] for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > 20


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (Report({"site": Done(1, 1.0, ["make fuzz: 500"])}), "make fuzz: 500"),
        (Report({}, 100.0, 150.0), "a process grew from 100 to 150 MiB"),
        (Report({}, tasks=2), "2 tasks were left"),
    ],
)
def test_what_goes_wrong_is_told_with_what_to_type(report: Report, says: str) -> None:
    assert wrong([report]) == [says]
    for name in SHARES:
        report.targets.setdefault(name, Done())
    assert f"- {says}" in told([report], 1, 1.0)
