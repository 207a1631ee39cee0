"""What training costs by each method, beside the baseline, other libraries, and the machine's limit."""

from collections.abc import Sequence
from contextlib import ExitStack

from mixbench.bench.catalogue import inapplicable
from mixbench.bench.cells import setting
from mixbench.bench.lab import Lab, open_data, reproducible, tuned
from mixbench.bench.speed.course import Course
from mixbench.bench.speed.memory import LiveBytes
from mixbench.bench.speed.peers import peers_of
from mixbench.bench.speed.report import Speeds
from mixbench.bench.speed.subjects import Subject, subject
from mixbench.bench.speed.turns import race

__all__ = ["BASELINE", "LiveBytes", "Speeds", "Subject", "speed", "subject"]

BASELINE = "baseline"
TURN = {"cpu": 1, "cuda": 10}
"""Steps of a turn: on a GPU, the host waits for the last one only."""


def speed(
    name: str,
    methods: Sequence[str],
    lab: Lab,
    rounds: int,
    warmup: int,
    against: Sequence[str] = (),
) -> Speeds:
    """What training costs by each of the methods, and by the peers of the packages ``against``.

    rounds: the turns of each, after ``warmup``. Raises BadInput if there is no such peer.
    """
    others = [peer for package in dict.fromkeys(against) for peer in peers_of(package)]
    asked = dict.fromkeys([BASELINE, *methods, *(peer.ours for peer in others)])
    steps = TURN.get(lab.device.type, 1)
    alike = reproducible(0, lab.device, lab.deterministic)
    with alike, tuned(lab), ExitStack() as ending:
        where = setting(name)
        course = Course(where, open_data(where, lab, seed=0), lab, ending)
        refusals = {each: inapplicable(name, each) for each in asked}
        refusals |= {peer.name: peer.refusal(where.recipe, course.data) for peer in others}
        limits, problem = course.limits()
        racing = [course.method(each) for each in asked if not refusals[each]]
        racing += [course.peer(peer) for peer in others if not refusals[peer.name]]
        race([*limits, *racing], rounds, warmup, steps, lab.device)
        return Speeds(
            setting=name,
            batch=course.data.batch,
            lines=[course.line(track, rounds) for track in racing],
            limits={track.subject.name: track.alone for track in limits},
            problem=problem,
            where={**course.circumstances(), "turns": rounds, "steps of a turn": steps},
            refusals={each: why for each, why in refusals.items() if why},
        )
