"""ADVL's learned scalars: the temperature T and the weights E (vision) and F (text) of Eq. 2 and 3.

A learned weight on a loss that is never negative can only shrink, since nothing pulls back, and unconstrained it would go on
below zero and reward distance. So all three are positive through softplus, and there are two ways to keep them from fading:
`fixed`, or `uncertainty`, which adds minus the logarithms of the weights that the distances really have (the log-scales of the
Laplace distributions whose likelihood the L1 terms are): E / T and F / T where confidence divides by T, else E and F.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.objectives.base import Terms

MODES = {"learned": True, "fixed": False, "uncertainty": True}
"""Whether T, E and F learn."""
FADED = 0.05
"""Share of its start below which a weight over the temperature counts as gone."""


class Scalars(nn.Module):
    """temperature, vision, text: starts of T, E and F, all > 0. mode: a key of MODES."""

    def __init__(self, *, temperature: float = 1.0, vision: float = 1.0, text: float = 1.0, mode: str = "learned"):
        super().__init__()
        self.mode, self._starts = mode, {"T": temperature, "E": vision, "F": text}
        # softplus(x) = start
        raw = torch.tensor([temperature, vision, text], dtype=torch.float64).expm1().log().float()
        self.raw = nn.Parameter(raw, requires_grad=MODES[mode])

    def values(self) -> dict[str, Tensor]:
        """T, E and F."""
        return dict(zip("TEF", F.softplus(self.raw), strict=True))

    def regulariser(self, used: str, *, over_temperature: bool) -> Terms:
        """The term that keeps the weights `used` ("E", "F" or "EF") from fading; empty unless the mode is "uncertainty".
        over_temperature: whether the loss has them divided by T, which would otherwise grow with them without end."""
        if self.mode != "uncertainty" or not used:
            return {}
        values = self.values()
        scale = values["T"].log() if over_temperature else 0.0
        return {"uncertainty": -torch.stack([values[name].log() - scale for name in used]).sum()}

    def faded(self, used: str) -> list[str]:
        """What to tell a user: each weight over T that has fallen under FADED of its start."""
        now, warnings = {name: float(value.detach()) for name, value in self.values().items()}, []
        for name in used:
            share = now[name] / now["T"] / (self._starts[name] / self._starts["T"])
            if share < FADED:
                warnings.append(
                    f"{name}/T has fallen to {100 * share:.1f} % of its start: the student hardly hears this teacher any "
                    "more (objective.weights=fixed keeps it)"
                )
        return warnings
