"""``docs/security.md`` says what the tests prove, no less and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from checks import GROUPS
from page import PAGE, marked_tests, page

CHECKS = [check for group in GROUPS for check in group.checks]


def test_every_check_has_a_test() -> None:
    tests = marked_tests()
    assert [check.id for check in CHECKS if not tests.get(check.id)] == []


def test_no_test_claims_a_check_that_there_is_not() -> None:
    assert sorted(set(marked_tests()) - {check.id for check in CHECKS}) == []


@pytest.mark.security("O2")
def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run 'make docs'"


def test_markers_of_functions_classes_and_files_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_a.py").write_text(
        "import pytest\n"
        "pytestmark = [pytest.mark.slow, pytest.mark.security('A')]\n"
        "@pytest.mark.security('B', 'C')\n"
        "async def test_one(): ...\n"
        "@pytest.mark.security('D')\n"
        "class TestMany:\n"
        "    @pytest.mark.security('B')\n"
        "    def test_two(self): ...\n"
        "    def helper(self): ...\n"
    )
    one, two = "tests/test_a.py::test_one", "tests/test_a.py::test_two"
    assert marked_tests(folder) == {"A": [one, two], "B": [one, two], "C": [one], "D": [two]}
