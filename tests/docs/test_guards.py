"""Every promise and every guard of the protocol names what proves it, and that is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.guards import Guard, guards
from tests.docs.promises import PROMISES, functions_by_name, marked
from tests.products.reservation_mutants import BY_NAME as RESERVATIONS
from tests.products.reservation_mutants import OF_TRANSACTIONS
from tests.simulation import mutant_accepted, mutant_near
from tests.simulation.mutants import BY_NAME

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
MUTANTS = {*BY_NAME, *mutant_accepted.MUTANTS, *mutant_near.MUTANTS, *RESERVATIONS, *OF_TRANSACTIONS}
SEARCH = re.compile(r"`((?:hole|goal|spare)-[\w-]+)`")

each_guard = pytest.mark.parametrize("guard", guards(), ids=lambda guard: guard.name)


@cache
def searches() -> dict[str, str]:
    """The searches of the model, each with the name of the dictionary of model/check.py that has it."""
    return {
        ast.literal_eval(key): target.id
        for node in ast.parse((ROOT / "model" / "check.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
        if isinstance(target, ast.Name)
        for key in node.value.keys
        if key is not None
    }


@each_guard
def test_a_guard_names_what_is_there(guard: Guard) -> None:
    """The rule, the files, the searches, the mutants and the tests of a guard exist."""
    assert guard.rule.partition(".")[0] in {*PROMISES, "Epoch", "Reservations"}
    assert [path for path in guard.code if not (ROOT / path).exists()] == []
    assert [name for name in guard.searches if name not in searches()] == []
    assert [name for name in guard.mutants if name not in MUTANTS] == []
    assert [name for name in guard.tests if name not in functions_by_name()] == []


@each_guard
def test_a_guard_is_noticed_when_it_is_gone(guard: Guard) -> None:
    """A guard without a search, a mutant or a test is an opinion."""
    assert guard.searches or guard.mutants or guard.tests


def test_every_mutant_drops_a_guard() -> None:
    """Whatever the model or the simulation drops is in the table, so that none of them is lost."""
    dropped = {name for name, where in searches().items() if "MUTANTS" in where and not name.startswith("goal-")}
    assert dropped - {name for guard in guards() for name in guard.searches} == set()
    assert MUTANTS - {name for guard in guards() for name in guard.mutants} == set()


def test_every_search_that_a_page_names_exists() -> None:
    """Searches are named as `model/check.py` names them."""
    named = {name for page in (ROOT / "docs").rglob("*.md") for name in SEARCH.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert named <= searches().keys()


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_is_on_the_page_and_proven(promise: str) -> None:
    """A promise whose words are not in the protocol is a secret, and one that no test is marked for is a wish."""
    assert f"**{promise} " in PROTOCOL
    assert marked()[promise]


def test_a_marker_names_a_promise() -> None:
    """A marker whose promise is not in the protocol proves nothing."""
    assert marked().keys() == set(PROMISES)
