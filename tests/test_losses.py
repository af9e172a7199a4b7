"""Losses of peers by hand: numbers that a calculator gives, entry by entry."""
from math import exp, log

import pytest
import torch

from trmml.train.losses import asl, hill, splc


def sigmoid(x): return 1/(1 + exp(-x))
def softplus(x): return log(1 + exp(x))
def scores(*x): return torch.tensor([x], dtype=torch.float64)
def labels(*y): return torch.tensor([y], dtype=torch.int8)


@pytest.mark.parametrize('s', [-2., .3, 1.7])
def test_hill(s):
    "A positive: focused, against a margin; anything else: lambda less the probability, times its square."
    pm, p = sigmoid(s - .5), sigmoid(s)
    positive, other = (1 - pm)**3*softplus(.5 - s), (1.2 - p)*p**2
    for y, want in ((1, positive), (0, other), (-1, other)):
        assert hill(scores(s), labels(y), 1.2, .5, 3.).item() == pytest.approx(want, rel=1e-6)
    assert hill(scores(s), labels(1)).item() == pytest.approx((1 - sigmoid(s - 1))**2*softplus(1 - s), rel=1e-6)
    assert hill(scores(s), labels(0)).item() == pytest.approx((1.5 - p)*p**2, rel=1e-6)


@pytest.mark.parametrize('epoch', [0, 1, 2])
def test_splc(epoch):
    "A confident unknown is a positive from epoch `start` on."
    for s, confident in ((2., True), (.2, False)):
        p = sigmoid(s)
        as_positive, as_negative = (1 - p)**2*softplus(-s), p**2*softplus(s)
        want = as_positive if confident and epoch >= 1 else as_negative
        assert splc(scores(s), labels(0), epoch).item() == pytest.approx(want, rel=1e-6)
        assert splc(scores(s), labels(0), epoch, start=3).item() == pytest.approx(as_negative, rel=1e-6)
        pm = sigmoid(s - 1)
        assert splc(scores(s), labels(1), epoch).item() == pytest.approx((1 - pm)**2*softplus(1 - s), rel=1e-6)


def test_asl():
    "Focusing of both sides, probabilities shifted; no logarithm of less than eps."
    for s in (-1., .8):
        p, q = sigmoid(s), max(sigmoid(s) - .1, 0)
        assert asl(scores(s), labels(1), 1., 2., .1).item() == pytest.approx(-(1 - p)*log(p), rel=1e-6)
        assert asl(scores(s), labels(-1), 1., 2., .1).item() == pytest.approx(-q**2*log(1 - q), rel=1e-6)
        assert asl(scores(s), labels(0)).item() == 0
    assert asl(scores(-60.), labels(1)).item() == pytest.approx(-log(1e-8), rel=1e-6)
