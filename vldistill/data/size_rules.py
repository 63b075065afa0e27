"""What a student's size rule makes of images of unusual shape: which it distorts, shrinks to a strip, or mostly cuts off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

DISTORTED = 1.25
"""A change of the ratio of width to height by more than this is told."""
FEWEST_PATCHES = 2
"""Along a side; a strip of one patch says little."""
LEAST_SHARE = 0.5
"""Of an image's pixels; a square cut out of a long image shows less."""


@dataclass(frozen=True)
class Seen:
    """How a student sees an image. width, height: in pixels. patch: the side of a patch, None where it has none. share: of the
    image that is seen."""

    width: int
    height: int
    patch: int | None = None
    share: float = 1.0


Rule = Callable[[int, int], Seen]
"""From an image's width and height."""


def faults_of(width: int, height: int, seen: Seen) -> list[str]:
    """What is wrong with how an image is seen, in words that a count can stand before."""
    ratio = (seen.width / seen.height) / (width / height)
    faults = []
    # A square that is cut out has another shape, and no distortion.
    if seen.share == 1.0 and max(ratio, 1 / ratio) > DISTORTED:
        faults.append("distorted")
    if seen.patch is not None and min(seen.width, seen.height) < FEWEST_PATCHES * seen.patch:
        faults.append(f"shrunk below {FEWEST_PATCHES} patches a side")
    if seen.share < LEAST_SHARE:
        faults.append(f"cut to less than {LEAST_SHARE:.0%} of their pixels")
    return faults


@dataclass
class SizeFaults:
    """Counts of images by what is wrong with how they are seen, with the first of each."""

    total: int = 0
    faulty: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """In one line, empty where nothing is wrong."""
        counted = [f"{count:,} {fault} ({self.first[fault]})" for fault, count in self.counts.items()]
        return f"{self.faulty:,} of {self.total:,} images do not fit the size rule: {'; '.join(counted)}" if counted else ""


def size_faults(images: Iterable[tuple[str, int, int]], rule: Rule) -> SizeFaults:
    """images: path, width and height of each."""
    summary, known = SizeFaults(), {}
    for path, width, height in images:
        if (width, height) not in known:
            known[width, height] = (seen := rule(width, height)), faults_of(width, height, seen)
        seen, faults = known[width, height]
        summary.total += 1
        summary.faulty += bool(faults)
        for fault in faults:
            summary.counts[fault] = summary.counts.get(fault, 0) + 1
            summary.first.setdefault(fault, f"{path}, {width} x {height} becomes {seen.width} x {seen.height}")
    return summary
