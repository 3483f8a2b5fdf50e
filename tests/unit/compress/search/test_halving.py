"""Successive halving, driven as workers drive it: a made-up board, one job at a time or several at once."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.compress.search.halving import by_front, by_score, entrants, next_todo, standings, state_of
from kd3d.compress.search.settings import SearchSettings
from kd3d.compress.search.study import Job

SEARCHES = st.builds(
    lambda rungs, eta, trials: SearchSettings("grid", trials=trials, rungs=tuple(sorted(rungs)), eta=eta),
    st.sets(st.integers(1, 400), min_size=1, max_size=4),
    st.floats(1.2, 6),
    st.integers(1, 14),
)
SCORES = st.lists(st.floats(0, 1), min_size=14 * 4, max_size=14 * 4)


class Desk:
    """What the board is for a worker, in memory. ``died`` says which places in the sequence of jobs are lost."""

    def __init__(self, search, scores, *, ranking=by_score, died=(), diverged=()):
        self.search, self.scores, self.ranking = search, scores, ranking
        self.died, self.diverged = set(died), set(diverged)
        self.jobs = []

    def next(self):
        return next_todo(standings(self.jobs), self.search.trials, self.search, self.ranking)

    def take(self, todo):
        name = todo.name if todo.kind == "train" else str(len(standings(self.jobs)))
        number = len(self.jobs)
        owner = {"owner": {"id": "w"}}
        self.jobs.append(Job(number, name, todo.rung, "running", None, {}, owner, number))
        return number

    def end(self, number):
        job = self.jobs[number]
        state, attrs, values = "complete", {}, (self.scores[4 * int(job.name) + job.rung], float(job.name))
        if number in self.died:
            state, attrs, values = "lost", {"reason": "its worker died"}, None
        elif job.name in self.diverged:
            state, attrs, values = "failed", {"reason": "nan"}, None
        self.jobs[number] = Job(number, job.name, job.rung, state, values, {}, attrs, number)

    def run(self, workers=1):
        """Work with ``workers`` at once, of which the one that began first ends first."""
        at_work = []
        while True:
            todo = self.next()
            if todo.kind in ("train", "new") and len(at_work) < workers:
                at_work.append(self.take(todo))
            elif at_work:
                self.end(at_work.pop(0))
            else:
                assert todo.kind == "done", "nobody works, and there is nothing to do but wait"
                return self

    @property
    def trained(self):
        return Counter((job.name, job.rung) for job in self.jobs if job.state == "complete")

    @property
    def spent(self):
        return sum(self.search.steps_to(rung) * count for (_, rung), count in self.trained.items())


@settings(max_examples=60, deadline=None)
@given(SEARCHES, SCORES, st.integers(1, 5))
def test_nobody_is_trained_twice_the_best_go_on_and_the_steps_are_those_planned(search, scores, workers):
    desk = Desk(search, scores).run(workers)
    assert set(desk.trained.values()) == {1}
    assert desk.spent == search.planned_steps(search.trials)
    for rung, count in enumerate(search.survivors(search.trials)):
        here = [name for name, reached in desk.trained if reached == rung]
        assert len(here) == count
        if rung + 1 < len(search.rungs):
            best = max(here, key=lambda name: (scores[4 * int(name) + rung], -int(name)))
            assert (best, rung + 1) in desk.trained
            on = [scores[4 * int(name) + rung] for name, reached in desk.trained if reached == rung + 1]
            off = [scores[4 * int(n) + rung] for n in here if (n, rung + 1) not in desk.trained]
            assert not off or min(on) >= max(off)


@settings(max_examples=50, deadline=None)
@given(SEARCHES, SCORES, st.integers(2, 6))
def test_the_number_of_workers_changes_nothing(search, scores, workers):
    assert Desk(search, scores).run().trained == Desk(search, scores).run(workers).trained


@settings(max_examples=50, deadline=None)
@given(SEARCHES, SCORES, st.integers(1, 4), st.sets(st.integers(0, 30), max_size=6))
def test_lost_work_is_taken_up_and_the_outcome_is_the_same(search, scores, workers, died):
    """Unless one student loses three workers at one rung: then it is given up, so that it cannot take them all."""
    desk = Desk(search, scores, died=died).run(workers)
    lost = Counter((job.name, job.rung) for job in desk.jobs if job.state == "lost")
    assert max(lost.values(), default=0) <= 3
    assert set(desk.trained.values()) <= {1}
    if max(lost.values(), default=0) < 3:
        assert desk.trained == Desk(search, scores).run().trained


@settings(max_examples=50, deadline=None)
@given(SEARCHES, SCORES, st.sets(st.integers(0, 13)))
def test_students_that_diverge_are_failed_and_their_places_go_to_others(search, scores, diverged):
    names = {str(number) for number in diverged}
    desk = Desk(search, scores, diverged=names).run()
    students = standings(desk.jobs)
    assert len(students) == search.trials
    good = search.trials - len(names & {student.name for student in students})
    last = sum(reached == len(search.rungs) - 1 for _, reached in desk.trained)
    assert last == min(good, search.survivors(search.trials)[-1])
    for student in students:
        assert (state_of(student, search, ended=True) == "failed") == (student.name in names)


def test_a_student_that_is_still_in_training_is_waited_for():
    search = SearchSettings("grid", trials=2, rungs=(1, 2))
    desk = Desk(search, [0.1] * 56)
    first, second = desk.take(desk.next()), desk.take(desk.next())
    desk.end(first)
    assert desk.next().kind == "wait"  # who goes on is not known before the second is scored
    desk.end(second)
    assert (desk.next().kind, desk.next().name, desk.next().rung) == ("train", "0", 1)


def test_states_before_and_after_the_end():
    search = SearchSettings("grid", trials=2, rungs=(1, 2))
    desk = Desk(search, [0.1, 0.1, 0, 0, 0.9, 0.9] + [0.0] * 50).run()
    loser, winner = standings(desk.jobs)
    assert (state_of(loser, search, ended=False), state_of(loser, search, ended=True)) == ("running", "pruned")
    assert state_of(winner, search, ended=False) == "complete"
    assert [s.name for s in entrants([loser, winner], 1, 2, settings=search, ranking=by_score)] == [winner.name]


POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=12)


def beaten(one, others):
    return any(
        other != one and other[0] >= one[0] and all(a <= b for a, b in zip(other[1:], one[1:], strict=True))
        for other in others
    )


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_fronts_come_one_after_the_other_the_most_accurate_first(points):
    order = by_front(points)
    assert sorted(order) == list(range(len(points)))
    first = [place for place in order if not beaten(points[place], points)]
    assert order[: len(first)] == first
    assert [points[place][0] for place in first] == sorted((points[p][0] for p in first), reverse=True)
    for place, one in enumerate(order):
        assert not any(beaten(points[one], [points[other]]) for other in order[place + 1 :])


@settings(max_examples=50, deadline=None)
@given(POINTS)
def test_ranking_by_score_is_stable(points):
    order = by_score(points)
    assert order == sorted(range(len(points)), key=lambda place: -points[place][0])
