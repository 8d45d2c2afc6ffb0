"""What every optimizer keeps to, whatever it thinks: the table of methods is the list of tests."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest

from ftmeta.benchmark.replay import look_up
from ftmeta.benchmark.table import Table
from ftmeta.errors import UserError
from ftmeta.optimizers import METHODS, Experience, Optimizer, Outcome, Problem, Step
from ftmeta.optimizers.state import Recorded

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SLOW = {"quicktune": 10, "smac": 25, "dehb": 60}  # asks that are enough
ASKS = 150


@pytest.fixture(params=list(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    missing = [package for package in METHODS[name].needs if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed (pip install 'ftmeta[baselines]')")
    return name


def run(optimizer: Optimizer, table: Table, asks: int) -> list[Step]:
    """One step at a time."""
    steps = []
    for _ in range(asks):
        step = optimizer.ask()
        if step is None:
            break
        steps.append(step)
        optimizer.tell(look_up(table, step))
    return steps


def make(method: str, problem: Problem, experience: Experience, seed: int = 0) -> Optimizer:
    return METHODS[method].make(problem, experience, seed)


def asks_of(method: str) -> int:
    return SLOW.get(method, ASKS)


def test_steps_go_on_from_what_was_reached(method: str, problem: Problem, experience: Experience, table: Table) -> None:
    optimizer = make(method, problem, experience)
    reached: dict[int, int] = {}
    broken: set[int] = set()
    told: list[Outcome] = []
    for _ in range(asks_of(method)):
        step = optimizer.ask()
        if step is None:
            assert optimizer.ask() is None  # for good: nothing is under way
            break
        assert 0 <= step.candidate < len(problem.candidates)
        assert step.candidate not in broken
        assert step.start == reached.get(step.candidate, 0) < step.fidelity <= problem.max_fidelity
        outcome = look_up(table, step)
        reached[step.candidate] = step.start + len(outcome.scores)
        broken |= {step.candidate} if outcome.broke_off else set()
        optimizer.tell(outcome)
        told.append(outcome)
    points = {
        (one.step.candidate, one.step.start + i): score for one in told for i, score in enumerate(one.scores, start=1)
    }
    if points:
        assert optimizer.incumbent in points
    else:
        assert optimizer.incumbent is None
        assert method == "zero-shot"


def test_a_seed_is_a_sequence_of_steps(method: str, problem: Problem, experience: Experience, table: Table) -> None:
    asks = min(asks_of(method), 40)
    once, again, other = (run(make(method, problem, experience, seed), table, asks) for seed in (3, 3, 4))
    assert once == again
    if METHODS[method].one_seed:
        assert once == other


def test_two_slots_never_work_on_one_candidate(
    method: str, problem: Problem, experience: Experience, table: Table
) -> None:
    optimizer = make(method, problem, experience)
    under_way: list[Step] = []
    for _ in range(min(asks_of(method), 40)):
        while len(under_way) < 2:
            step = optimizer.ask()
            if step is None:
                break
            assert step.candidate not in {one.candidate for one in under_way}
            under_way.append(step)
        if not under_way:
            break
        optimizer.tell(look_up(table, under_way.pop(0)))


def test_what_was_not_asked_for_cannot_be_told(method: str, problem: Problem, experience: Experience) -> None:
    with pytest.raises((ValueError, KeyError)):
        make(method, problem, experience).tell(Outcome(Step(1, 0, 1), (0.5,), 1.0))


def test_a_killed_search_goes_on_where_it_was(
    method: str, problem: Problem, experience: Experience, table: Table, tmp_path: Path
) -> None:
    asks = min(asks_of(method), 30)
    wanted = run(make(method, problem, experience), table, asks)
    path = tmp_path / "state.jsonl"
    half = len(wanted) // 2
    with Recorded(lambda: make(method, problem, experience), path) as optimizer:
        run(optimizer, table, half)
        pending = optimizer.ask()
    with path.open("ab") as file:
        file.write(b'{"tell": [1, 0')  # torn by the kill
    with Recorded(lambda: make(method, problem, experience), path) as optimizer:
        assert optimizer.under_way == ([] if pending is None else [pending])
        for step in list(optimizer.under_way):
            optimizer.tell(look_up(table, step))
        rest = run(optimizer, table, asks - half - 1)
    assert wanted[:half] + ([] if pending is None else [pending]) + rest == wanted


def test_the_root_logger_is_left_alone(method: str, problem: Problem, experience: Experience) -> None:
    """Packages that set it would mute the rest of the program."""
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("ftmeta").disabled
    make(method, problem, experience).ask()
    assert (root.level, list(root.handlers), logging.getLogger("ftmeta").disabled) == before


def test_a_state_of_another_search_is_refused(
    problem: Problem, experience: Experience, table: Table, tmp_path: Path
) -> None:
    path = tmp_path / "state.jsonl"
    with Recorded(lambda: make("random", problem, experience, 0), path) as optimizer:
        run(optimizer, table, 5)
    with pytest.raises(UserError, match=r"state.jsonl is not the state of this optimizer .*another method, seed"):
        Recorded(lambda: make("random", problem, experience, 1), path)
