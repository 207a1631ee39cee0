"""What was timed, as Markdown and as CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from mixbench.bench.formats._csv import Value, lines
from mixbench.bench.formats.letters import visible
from mixbench.bench.formats.markdown import ESCAPES, grid
from mixbench.bench.speed.phases import PHASES

PER_STEP = ["method", "images/s", "of baseline", "of limit"]
PER_STEP += ["step, ms", "of baseline", "mean, ms", "of baseline", "peak, MiB", "of baseline"]
SHARES = ["method", *PHASES, "beyond one forward + backward"]


@dataclass(frozen=True)
class Line:
    """What one subject took: seconds per step of each turn, as in ``Track``; bytes; shares.

    ours: the method here that does the same, of another library's.
    """

    name: str
    loop: Sequence[float]
    alone: Sequence[float]
    peak: int
    shares: Mapping[str, float]
    passes: str = ""
    ours: str = ""


@dataclass(frozen=True)
class Speeds:
    """The lines of one run, of which the first is the baseline's.

    batch: images of a step. limits: seconds per step of each turn, of the network alone, "plain" and
    "compiled"; problem: why the latter is not there. where: what numbers depend on. refusals: why
    some of what was asked for is not among the lines.
    """

    setting: str
    batch: int
    lines: Sequence[Line]
    limits: Mapping[str, Sequence[float]]
    problem: str
    where: Mapping[str, str | int]
    refusals: Mapping[str, str]

    @property
    def limit(self) -> Sequence[float]:
        """The faster of the limits."""
        return min(self.limits.values(), key=median)

    def markdown(self) -> str:
        """A grid of speeds, one of where the time goes, and what they mean."""
        speeds = grid([self._heads(), *map(self._speeds, self.lines), self._limit()])
        goes = grid([SHARES, *map(_shares, self.lines)])
        return f"{speeds}\n{goes}\n{' '.join(self._caption())}\n"

    def csv(self) -> str:
        """Setting, method, quantity, value; what is of no method is of all."""
        rows: list[tuple[Value, ...]] = [("setting", "method", "quantity", "value")]
        rows += [(self.setting, "", key, value) for key, value in self.where.items()]
        for way, seconds in self.limits.items():
            limit = f"limit, {way}"
            rows += [(self.setting, limit, "images_per_second", self.batch / mean(seconds))]
            rows += [(self.setting, limit, "step_median_seconds", median(seconds))]
            rows += [(self.setting, limit, "step_mean_seconds", mean(seconds))]
        for line in self.lines:
            rows += [(self.setting, line.name, *each) for each in self.quantities(line).items()]
        return lines(rows)

    def quantities(self, line: Line) -> dict[str, float]:
        """By name. Ratios of images/s are the higher the faster, those of steps the lower."""
        base, rate = self.lines[0], self._rate(line)
        return {
            "images_per_second": rate,
            "images_per_second_of_baseline": typical_ratio(base.loop, line.loop),
            "images_per_second_of_limit": typical_ratio(self.limit, line.loop),
            **self._of_ours(line),
            "loop_median_seconds": median(line.loop),
            "step_median_seconds": median(line.alone),
            "step_median_of_baseline": typical_ratio(line.alone, base.alone),
            "step_mean_seconds": mean(line.alone),
            "step_mean_of_baseline": mean(line.alone) / mean(base.alone),
            "peak_bytes": line.peak,
            "peak_of_baseline": line.peak / base.peak,
            **{f"share_{phase}": line.shares[phase] for phase in PHASES},
        }

    def _rate(self, line: Line) -> float:
        return self.batch / mean(line.loop)

    def _of_ours(self, line: Line) -> dict[str, float]:
        same = [each.loop for each in self.lines if each.name == line.ours]
        return {"images_per_second_of_ours": typical_ratio(same[0], line.loop)} if same else {}

    @property
    def _compared(self) -> bool:
        """Whether there are other libraries."""
        return any(line.ours for line in self.lines)

    def _heads(self) -> list[str]:
        return PER_STEP + ["of ours"] * self._compared

    def _speeds(self, line: Line) -> list[str]:
        found = self.quantities(line)
        row = [
            visible(line.name),
            f"{found['images_per_second']:.0f}",
            f"{found['images_per_second_of_baseline']:.3f}",
            f"{found['images_per_second_of_limit']:.3f}",
            f"{1e3 * found['step_median_seconds']:.2f}",
            f"{found['step_median_of_baseline']:.3f}",
            f"{1e3 * found['step_mean_seconds']:.2f}",
            f"{found['step_mean_of_baseline']:.3f}",
            f"{found['peak_bytes'] / 2**20:.0f}",
            f"{found['peak_of_baseline']:.2f}",
        ]
        ours = found.get("images_per_second_of_ours")
        return row + [f"{ours:.3f} ({line.ours})" if ours else "-"] * self._compared

    def _limit(self) -> list[str]:
        base = self.lines[0]
        rate = self.batch / mean(self.limit)
        row = ["limit", f"{rate:.0f}", f"{typical_ratio(base.loop, self.limit):.3f}", "1.000"]
        row += [f"{1e3 * median(self.limit):.2f}", f"{typical_ratio(self.limit, base.alone):.3f}"]
        row += [f"{1e3 * mean(self.limit):.2f}", f"{mean(self.limit) / mean(base.alone):.3f}"]
        return row + ["-"] * (2 + self._compared)

    def _caption(self) -> Iterator[str]:
        """Its sentences."""
        where = ", ".join(f"{key}: {value}" for key, value in self.where.items())
        yield f"Setting: {_code(self.setting)}. {_prose(where)}. All take turns."
        yield "Images/s are those of training, with the making of batches, on average. A step is loss,"
        yield "gradients and update on a batch that is there: the median, and the mean. Ratios are"
        yield "medians of those in the same turn, but for the mean's. Limit is forward, backward and"
        yield f"update of the same network on one batch that is there, {self._ways()}."
        if self._compared:
            yield "Other libraries' loops are as their documentation shows: processes crop image by image,"
            yield "networks are contiguous in memory, and nothing is compiled."
        yield "The peak is that of all tensors at once. It and the shares of time are of further steps,"
        yield "which are neither compiled nor recorded. Teachers are untrained."
        for name, why in self.refusals.items():
            yield f"Not applicable: {_code(name)}, {_prose(why)}."

    def _ways(self) -> str:
        """Which limit is the faster, and by how much."""
        if self.problem:
            return f"not compiled ({_prose(self.problem)})"
        ratio = typical_ratio(self.limits["compiled"], self.limits["plain"])
        if self.limit is self.limits["compiled"]:
            return f"compiled, which takes {ratio:.3f} times as long as not compiled"
        return f"not compiled, since compiled it takes {ratio:.3f} times as long"


def typical_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of each turn."""
    return median(a / b for a, b in zip(mine, theirs, strict=True))


def _shares(line: Line) -> list[str]:
    parts = [f"{100 * line.shares[phase]:.1f} %" for phase in PHASES]
    return [visible(line.name), *parts, line.passes or "-"]


def _code(spelling: str) -> str:
    inside = visible(spelling).replace("`", "'")
    return f"`{inside}`"


def _prose(text: str) -> str:
    """Text that means nothing to Markdown."""
    return "".join(ESCAPES.get(letter, letter) for letter in visible(text).replace("`", "'"))
