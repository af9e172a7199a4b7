"""Probabilities of one's own photos: calibrated for rare classes too, shrunk where labels are few, thresholds exactly 0.5 without enough labels."""
import os
import warnings

import numpy as np
import pytest
import torch

from trmml.photos import calibrate, calibration_error, no_change, set_aside, thresholds
from trmml.photos.calibration import LEAST, SHARED, Place, few, minimum, rarity, slopes, total
from trmml.photos.fitting import assume, judge, split
from trmml.photos.settings import Settings


def held_out(Y, seed): return split(Settings(held_out=.2, seed=seed), Y).held

RARE = np.array([.05]*19 + [.5])   # shares of 19 rare classes and a common one


def calibrated(seed, N=128, known=.5):
    "Perfectly calibrated scores: logits, probabilities, labels."
    r = np.random.RandomState(seed); s = r.randn(N, 20) + np.log(RARE/(1 - RARE)); p = 1/(1 + np.exp(-s))
    return s, p, np.where(r.rand(N, 20) < known, np.where(r.rand(N, 20) < p, 1, -1), 0).astype(np.int8)


@pytest.mark.parametrize('part', ['all photos, cross-fitted', 'a fifth of the photos, held out'])
def test_rare_classes_keep_their_share_on_calibrated_scores(part):
    "Mean over 100 data sets within 10 % of what is true, and the common class too."
    found = []
    for seed in range(100):
        s, p, Y = calibrated(seed)
        rows = np.arange(128) if part.startswith('all') else held_out(Y, seed)
        q = calibrate(s[rows], Y[rows])(s).numpy()
        found.append([p[:, :19].mean(), q[:, :19].mean(), p[:, 19].mean(), q[:, 19].mean()])
    rare, ours, common, same = np.mean(found, 0)
    assert abs(ours/rare - 1) < .1 and abs(same/common - 1) < .15


def test_rare_classes_get_their_share_back_where_scores_lost_it():
    "Scores that are standardised per class, as those of the estimator are."
    found = []
    for seed in range(100):
        s, p, Y = calibrated(seed); found.append([p[:, :19].mean(), calibrate(s - s.mean(0), Y)(s - s.mean(0)).numpy()[:, :19].mean()])
    rare, ours = np.mean(found, 0)
    assert abs(ours/rare - 1) < .1


def test_photos_are_held_out_whatever_their_labels():
    "Rare positives are held out as often as any label: a fifth of them, over 300 draws."
    Y = calibrated(0)[2]; held = [(Y[held_out(Y, seed)] == 1).sum(0) for seed in range(300)]
    assert np.mean(held, 0)[:19].sum() == pytest.approx(.2*(Y[:, :19] == 1).sum(), rel=.05)
    rows, out = set_aside(50, .3, 1)
    assert len(out) == 15 and sorted([*rows, *out]) == list(range(50)) and (np.diff(out) > 0).all()
    assert set_aside(50, .3, 1)[1].tolist() == out.tolist() != set_aside(50, .3, 2)[1].tolist()
    Y[::2] = 0; assert len(held_out(Y, 0)) == 13 and (Y[held_out(Y, 0)] != 0).any(1).all()   # of those with labels


def test_probabilities_add_up_to_the_positives():
    for seed in range(5):
        s, _, Y = calibrated(seed); q = calibrate(3*s + 1, Y)(3*s + 1).numpy()
        assert q[Y != 0].sum() == pytest.approx((Y == 1).sum(), rel=1e-4)


def test_the_minimum_is_that_of_another_method():
    "L-BFGS by automatic differentiation on the sum as it is written."
    s, _, Y = calibrated(3); M = np.zeros((20, 2, 3)); M[:, 0, 0] = M[:, 1, 1] = 1; M[:, 1, 2] = rarity(Y); own = np.array([1/.3**2, 1/.5**2])
    at, V = minimum(Place(np.zeros(3), np.zeros((20, 2))), 2*s, Y, M, own)
    w = torch.zeros(43, dtype=torch.float64, requires_grad=True); opt = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-10, line_search_fn='strong_wolfe')
    def value(w):
        v = torch.from_numpy(M)@w[:3] + w[3:].reshape(20, 2)
        loss = torch.nn.functional.softplus(-torch.from_numpy(Y)*(v[:, 0].exp()*torch.from_numpy(2*s) + v[:, 1]))[torch.from_numpy(Y) != 0].sum()
        return loss + (torch.from_numpy(SHARED)*w[:3]**2).sum()/2 + (torch.from_numpy(own)*w[3:].reshape(20, 2)**2).sum()/2
    def closure(): opt.zero_grad(); loss = value(w); loss.backward(); return loss
    opt.step(closure)
    assert total(at, 2*s, Y, M, own) == pytest.approx(value(w).item(), abs=1e-6)
    np.testing.assert_allclose(at.theta, w[:3].detach(), atol=1e-3); np.testing.assert_allclose(at.own.ravel(), w[3:].detach(), atol=1e-3)
    assert (V > 0).all() and (V <= 1/own + .2).all()
    q, F = slopes(at.of(M), 2*s, Y)
    np.testing.assert_allclose(q, -own*at.own, atol=1e-3); assert np.linalg.eigvalsh(F).min() > -1e-9


def test_classes_are_shrunk_by_their_positives_and_negatives():
    "Two classes with the same flaw: with hundreds of labels it is found, with five most of it stays."
    r = np.random.RandomState(0); s = 2*r.randn(600, 8); Y = np.where(r.rand(600, 8) < 1/(1 + np.exp(-s)), 1, -1)
    flawed = s.copy(); flawed[:, :2] += 2; Y[5:, 1] = 0
    c = calibrate(flawed, Y)
    assert abs(c.b[0] + 2) < .5 and abs(c.b[1]) < abs(c.b[0])/2 and abs(c.a[1] - c.shared[0]) < .3
    Y[:, 2] = 0; c = calibrate(flawed, Y); assert (c.a[2], c.b[2]) == pytest.approx(c.shared)


def test_rarity_is_the_share_with_four_average_positives_added():
    "A class with a handful of labels counts as an average one, one with hundreds by its own share."
    Y = np.zeros((400, 3), np.int8); Y[:, 0] = np.where(np.arange(400) < 8, 1, -1); Y[:4, 1] = -1; Y[:, 2] = np.where(np.arange(400) < 192, 1, -1)
    pi = 200/804; odds = lambda x: np.log(x/(1 - x))
    np.testing.assert_allclose(rarity(Y), [odds((k + 4)/(n + 4/pi)) - odds(pi) for k, n in ((8, 400), (0, 4), (192, 400))])
    assert abs(rarity(Y)[1]) < .4 and rarity(Y)[0] < -2 and rarity(np.concatenate([Y, Y*0], 1))[3:] == pytest.approx(0)


def test_order_within_a_class_never_changes():
    "Not even where labels contradict the scores."
    s, _, Y = calibrated(0)
    for scores in s, -s, np.random.RandomState(0).randn(*s.shape): assert min(calibrate(scores, Y).a) > 0


def test_cells_without_a_score_count_as_unknown():
    s, _, Y = calibrated(0); hole = np.random.RandomState(1).rand(*s.shape) < .3
    a, b = calibrate(np.where(hole, np.nan, s), Y), calibrate(s, np.where(hole, 0, Y))
    np.testing.assert_allclose(a.a + a.b, b.a + b.b, rtol=1e-9)
    q = a(np.where(hole, np.nan, s)).numpy(); assert (np.isnan(q) == hole).all()
    t, own = thresholds(q, Y); assert np.isfinite(t).all()
    assert calibration_error(q, Y) == pytest.approx(calibration_error(np.nan_to_num(q), np.where(hole, 0, Y)))


@pytest.mark.parametrize('yes, no', [(6, 7), (LEAST, 0), (0, 50), (0, 0)])
def test_too_few_labels_change_nothing(yes, no):
    "Plain sigmoid and thresholds of exactly 0.5, and the warning says so (F4: it named 0.5 and gave 0.652)."
    Y = np.zeros((60, 6), np.int8); Y.ravel()[:yes] = 1; Y.ravel()[yes:yes + no] = -1; s = np.random.RandomState(0).randn(60, 6)
    said = f'{yes} positive and {no} negative labels are too few' if yes + no else 'there is no label to calibrate with'
    with pytest.warns(UserWarning, match=said): found = judge(s, Y, s)
    assert found.calibration == assume(6) and found.thresholds.tolist() == [.5]*6 and found.own == 0 and 'mAP' not in found.metrics
    assert 'thresholds 0.5' in few(Y)


def test_enough_labels_are_calibrated_without_a_word():
    s, _, Y = calibrated(0)
    with warnings.catch_warnings(): warnings.simplefilter('error'); found = judge(s, Y, s)
    assert found.calibration != no_change(20) and not few(Y) and len(set(found.thresholds)) > 5


def test_thresholds_have_the_highest_expected_f1():
    "Of calibrated probabilities, against a search by hand; a class that is hardly expected follows the others."
    r = np.random.RandomState(0); p = np.stack([r.rand(400), r.rand(400)**3, r.rand(400)**6, r.rand(400)*1e-3], 1); Y = np.where(r.rand(400, 4) < p, 1, -1)
    t, own = thresholds(p, Y)
    def f1(t, p): return 2*p[p >= t].sum()/((p >= t).sum() + p.sum())
    for c in range(3): assert f1(t[c], p[:, c]) > max(f1(x, p[:, c]) for x in np.linspace(.005, .995, 199)) - .005
    assert t[0] > t[1] > t[2] and own.tolist() == [True, True, True, False]
    shared = max(np.linspace(.005, .995, 199), key=lambda x: 2*p[p >= x].sum()/((p >= x).sum() + p.sum())); assert abs(t[3] - shared) < .1


@pytest.mark.skipif('TRMML_SLOW' not in os.environ, reason='half a minute: set TRMML_SLOW')
def test_rare_classes_keep_their_share_on_doodles():
    "Cross-fitted scores of 120 photos with half of the cells known, five draws, judged by the hidden half."
    from trmml.data import load
    from trmml.report import calibration as report
    import pandas as pd
    ds = load('doodles', 'train'); X, zero = report.prepared(ds)
    s = report.summary(pd.concat([report.one_draw(X, zero, ds.labels, 120, .5, seed) for seed in range(5)])).set_index(['size', 'when'])
    assert abs(s.ratio['rare', 'after'] - 1) < .1 and (s.error.xs('after', level=1) < s.error.xs('before', level=1)/2).all()
