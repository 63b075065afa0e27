"""Ridge regression against the textbook: the penalised normal equations, and leave-one-out by really leaving out."""

from __future__ import annotations

import torch

from vldistill.training.anchor import STRENGTHS, fit_ridge


def solved(x, y, strength):
    """Weight and bias with an unpenalised bias, by the normal equations."""
    centre_x, centre_y = x.mean(0), y.mean(0)
    x, y = x - centre_x, y - centre_y
    weight = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y).T
    return weight, centre_y - weight @ centre_x


def made(count=24, inputs=5, outputs=3, noise=0.3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=draw, dtype=torch.float64) + 2
    true = torch.randn(outputs, inputs, generator=draw, dtype=torch.float64)
    return x, x @ true.T + 1 + noise * torch.randn(count, outputs, generator=draw, dtype=torch.float64)


def test_the_fit_is_that_of_the_normal_equations():
    x, y = made()
    fit = fit_ridge(x, y)
    weight, bias = solved(x, y, fit.strength)
    torch.testing.assert_close(fit.weight.double(), weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fit.bias.double(), bias, atol=1e-5, rtol=1e-5)


def test_the_strength_and_the_share_explained_are_by_leaving_one_out():
    x, y = made(noise=2.0)
    fit = fit_ridge(x, y)
    centred = x - x.mean(0)
    scale = torch.linalg.svdvals(centred).square().mean()

    def error(strength):
        total = 0.0
        for row in range(len(x)):
            kept = [other for other in range(len(x)) if other != row]
            weight, bias = solved(x[kept], y[kept], strength)
            total += float((y[row] - weight @ x[row] - bias).square().sum())
        return total

    # The closed form holds the centre of all rows fixed for the penalty, which differs from leaving out by little at this size.
    errors = {float(strength * scale): error(float(strength * scale)) for strength in STRENGTHS}
    best = min(errors, key=errors.get)
    assert 0.3 < fit.strength / best < 3
    nearest = min(errors, key=lambda strength: abs(strength - fit.strength))
    assert abs(fit.r2 - (1 - errors[nearest] / float((y - y.mean(0)).square().sum()))) < 0.02


def test_more_features_than_samples_are_no_obstacle():
    x, y = made(count=8, inputs=20)
    fit = fit_ridge(x, y)
    assert torch.isfinite(fit.weight).all() and fit.strength > 0


def test_what_cannot_be_explained_is_not_claimed():
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(200, 10, generator=draw) for _ in range(2))
    assert fit_ridge(x, y).r2 < 0.05
    assert fit_ridge(x, torch.ones(200, 2)).r2 == 0.0
