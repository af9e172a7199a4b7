"""Figures of models of one's own photos: with an interval that covers, beside chance and zero-shot on the same cells, none from too few labels."""
import itertools
import json
import time
import warnings

import numpy as np
import pandas as pd
import pytest

from trmml import TRMML
from trmml.metrics import average_precision, decision_metrics
from trmml.photos import calibrate, example, figures, no_change, saving, thresholds
from trmml.photos.figures import FEWEST, apart, chance, measure, on_many, parts, resampled, single_error, words


def draw(seed, N=60, C=12, gap=1.5, known=.5, share=.1):
    "Scores and labels of photos from one population."
    rule, r = np.random.RandomState(5), np.random.RandomState(seed); prior = share*np.exp(np.linspace(-1, 1, C))
    Y = np.where(r.rand(N, C) < prior, 1, -1); s = r.randn(N, C) + (gap + .7*rule.randn(C)*(gap > 0))*(Y == 1) + .5*r.randn(N, 1)
    return s, np.where(r.rand(N, C) < known, Y, 0).astype(np.int8)


def usable(Y): return (Y == 1).any(0) & (Y == -1).any(0)


@pytest.mark.parametrize('k, n', [(1, 2), (2, 5), (3, 6), (1, 6), (6, 6)])
def test_chance_is_the_mean_over_all_orders(k, n):
    orders = [np.isin(np.arange(n), c) for c in itertools.combinations(range(n), k)]
    ap = average_precision(-np.tile(np.arange(n)[:, None], len(orders)), np.where(np.array(orders).T, 1, -1)).mean().item()
    assert chance(k, n - k) == pytest.approx(ap, abs=1e-12)


def test_resamples_are_photos_taken_again(monkeypatch):
    "With ties, unknown labels, classes without a positive; whatever fits into memory at a time."
    r = np.random.RandomState(0); s, Y = r.randn(40, 5).round(1), r.randint(-1, 2, (40, 5)); Y[:, 4] = -1
    w = r.multinomial(40, np.ones(40)/40, 7)
    expected = [average_precision(np.repeat(s, n, 0), np.repeat(Y, n, 0)).numpy() for n in w]
    np.testing.assert_allclose(resampled(s, Y, w), expected)
    monkeypatch.setattr(figures, 'MOST', 1); np.testing.assert_allclose(resampled(s, Y, w), expected)


def test_quarters_make_halves():
    half, one, two = parts(21, 50, 0)
    assert (half == one + two).all() and set(half.sum(1)) == {10} and set(one.sum(1)) == {5} and len({tuple(h) for h in half}) == 50


@pytest.mark.parametrize('N, how', [(40, {}), (120, {}), (60, dict(gap=0.)), (60, dict(gap=3.))])
def test_the_interval_covers_and_the_correction_corrects(N, how):
    "The mAP of many photos lies in 88 to 100 of 100 intervals; from few photos mAP itself is too high."
    true = average_precision(*draw(99, 20000, known=1., **how)).numpy(); inside, fixed, plain = [], [], []
    for seed in range(100):
        s, Y = draw(seed, N, **how); s, Y, t = s[:, usable(Y)], Y[:, usable(Y)], true[usable(Y)].mean()
        m, off = on_many(s, Y, parts(N, 60, seed)); inside.append(abs(m - t) <= 1.96*np.hypot(off.std(), single_error(s, Y))); fixed.append(m - t)
        plain.append(average_precision(s, Y).mean().item() - t)
    assert np.mean(inside) >= .88 and abs(np.mean(fixed)) < max(.02, np.mean(plain)/3)


def test_noise_gets_what_chance_gets():
    said = [measure(np.random.RandomState(1000 + i).rand(60, 12), draw(i)[1]) for i in range(30)]
    assert np.mean([m['mAP'] for m in said]) == pytest.approx(np.mean([m['mAP_chance'] for m in said]), abs=.02)
    assert np.mean([m['mAP_interval'][0] <= .1254 <= m['mAP_interval'][1] for m in said]) >= .9   # the mean share
    assert np.mean([m['mAP_many'] for m in said if m['mAP_many'] is not None]) == pytest.approx(.1254, abs=.03)   # not below it, as by chance alone


def test_zero_shot_on_the_same_cells():
    s, Y = draw(0, 120); p = calibrate(s, Y)(s)
    same = measure(p, Y, before=s, zero=3*s + 1); assert same['mAP_zero_shot'] == same['mAP'] and np.allclose([same['over_zero_shot'], *same['over_zero_shot_interval']], 0)
    worse = measure(p, Y, before=s, zero=s + 2*np.random.RandomState(0).randn(*s.shape)); gain, (low, high) = worse['over_zero_shot'], worse['over_zero_shot_interval']
    assert low < gain < high and gain > .1 and worse['mAP'] == same['mAP'] and worse['mAP_zero_shot'] < same['mAP']
    width = np.diff(worse['mAP_interval'])[0]; assert high - low < 2*width   # paired: the same halves of the photos
    hole = s.copy(); hole[:60] = np.nan
    m = measure(p, Y, before=s, zero=hole); assert m['photos'] == (Y[60:] != 0).any(1).sum() and m['labels'] == (Y[60:] != 0).sum()
    assert measure(p, Y)['mAP_zero_shot'] is None and 'over_zero_shot' not in measure(p, Y) and 'zero-shot' not in words(measure(p, Y))


def test_thresholds_and_calibration_come_from_other_photos():
    "A photo's own labels have no part in its decisions; on noise, F1 is not flattered."
    s, Y = draw(0, 60); P, yes = apart(s, Y, False, seed=3); other = Y.copy(); other[7] = np.where(Y[7] == 0, 1, -Y[7])
    again, decided = apart(s, other, False, seed=3); np.testing.assert_array_equal(again[7], P[7]); np.testing.assert_array_equal(decided[7], yes[7])
    assert not np.allclose(again, P)
    errors = []
    for seed in range(20):
        s, Y = draw(seed, 40, gap=0.); q = calibrate(s, Y)(s).numpy(); m = measure(q, Y, before=s)
        errors.append([m['CF1'], decision_metrics(q >= thresholds(q, Y)[0], Y)['CF1']])
    honest, same = np.mean(errors, 0); assert honest < same - .01


def test_thresholds_from_elsewhere_decide():
    s, Y = draw(0, 120); p = 1/(1 + np.exp(-s)); m = measure(p, Y, limits=np.full(12, .7)); f = decision_metrics(p >= .7, Y)
    assert (m['CF1'], m['OF1']) == (f['CF1'], f['OF1']) and 'error_before' not in m


def test_the_number_is_plain_map_of_classes_with_both_kinds():
    s, Y = draw(0, 60); Y[:, 0] = np.where(Y[:, 0] == -1, 0, Y[:, 0]); Y[3, 0] = 1; m = measure(s*0 + 1/(1 + np.exp(-s)), Y)
    assert m['mAP'] == pytest.approx(average_precision(s[:, usable(Y)], Y[:, usable(Y)]).mean().item()) and not usable(Y)[0]
    assert m['classes'] == usable(Y).sum() < m['all_classes'] == 12 and m['positives'] == (Y[:, usable(Y)] == 1).sum()
    assert m['mAP_chance'] == pytest.approx(chance((Y == 1).sum(0), (Y == -1).sum(0))[usable(Y)].mean())


TOO_FEW = dict(photos=lambda Y: Y*(np.arange(300) < FEWEST['photos'] - 1)[:, None], positives=lambda Y: np.where((Y == 1) & ((Y == 1).cumsum() > 9).reshape(Y.shape), -1, Y),
               classes=lambda Y: np.where((Y == 1) & (np.arange(12) > 1), -1, Y))
@pytest.mark.parametrize('what', TOO_FEW)
def test_no_figure_from_too_few(what):
    s, Y = draw(0, 300, share=.2); Y = TOO_FEW[what](Y); m = measure(calibrate(s, Y)(s), Y, before=s)
    assert set(m) == {'photos', 'labels', 'classes', 'all_classes', 'positives'} and m[what] == FEWEST[what] - 1
    assert 'too few to measure (at least 20 photos, 10 positives, 3 classes)' in words(m) and 'mAP' not in words(m)


def test_a_single_class_is_measured_if_there_is_no_other():
    s, Y = draw(0, 120, C=12); m = measure(1/(1 + np.exp(-s[:, 11:])), Y[:, 11:]); assert m['classes'] == 1 and 'in 1 of 1 class:' in words(m)


def test_plain_values_the_same_every_time_and_fast():
    s, Y = draw(0, 300, C=20); p = calibrate(s, Y)(s); seconds = []
    for _ in range(2): start = time.process_time(); m = measure(p, Y, before=s, zero=s); seconds.append(time.process_time() - start)
    assert min(seconds) < 2 and json.loads(json.dumps(m)) == m == measure(p, Y, before=s, zero=s) != measure(p, Y, before=s, zero=s, seed=1)
    assert figures.HALVES >= 200
    with pytest.raises(ValueError, match='all must be'): measure(p, Y[:, :3])


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    "A model of noise: what it is shown does not matter here, what it says of itself does."
    photos, csv, truth = example(tmp_path, n=40); model = TRMML(backbone='doodle-clip', progress=False); C = len(truth.columns)
    model.method_, model.classes_, model.calibration_, model.thresholds_ = object(), list(truth.columns), no_change(C), np.full(C, .5)
    monkeypatch.setattr(model, 'raw', lambda paths, **_: np.random.RandomState(0).randn(len(paths), C))
    return model, photos, csv


def test_evaluate_says_what_it_rests_on(fitted):
    model, photos, csv = fitted; m = model.evaluate(photos, csv)
    assert {'photos', 'labels', 'classes', 'positives', 'mAP', 'mAP_interval', 'mAP_chance', 'mAP_many', 'AP', 'CF1', 'OF1', 'calibration_error'} <= set(m)
    assert abs(m['mAP'] - m['mAP_chance']) < .15 and json.dumps(m)


def test_evaluate_on_one_photo_says_that_it_is_too_few(fitted):
    model, photos, csv = fitted; table = pd.read_csv(csv, index_col=0); row = (table == 1).any(axis=1).to_numpy().argmax()
    with pytest.warns(UserWarning, match='evaluate: 1 photo, .* too few to measure'): m = model.evaluate(photos, table.iloc[[row]])
    assert 'mAP' not in m and m['AP'] == {} and m['photos'] == 1


def test_the_card_says_all_of_it():
    s, Y = draw(0, 120); m = measure(calibrate(s, Y)(s), Y, before=s, zero=s)
    said = dict(backbone=dict(name='RN50', weights='openai', image_size=224, sha256='0'*64), facts=dict(trained_on=120, positives=[1]*12, negatives=[1]*12),
                versions=dict(trmml='1'), metrics=m, classes=list('abcdefghijkl'), zero_shot=[], thresholds=[.5]*12, calibration=calibrate(s, Y)._asdict())
    text = saving.card(said)
    for part in (words(m), 'chance', 'zero-shot', '95 % CI', 'other photos', 'Probabilities are calibrated'): assert part in text
    bare = saving.card(said | dict(metrics={}, calibration=no_change(12)._asdict()))
    assert 'Not measured' in bare and 'not calibrated' in bare and 'mAP' not in bare and 'thresholds are 0.5' in bare
    one = saving.card(said | dict(metrics=measure(calibrate(s, Y)(s)[:1], Y[:1]))); assert 'too few to measure' in one and 'mAP' not in one


@pytest.mark.parametrize('positives, photos, told', [(2, 20, False), (9, 60, False), (10, 60, True)])
def test_many_photos_are_spoken_of_from_thirty_positives(positives, photos, told):
    "Below 30 positives, or 3 per class, there is an interval and no figure."
    from trmml.photos.figures import ranking
    rng = np.random.RandomState(0)
    labels = -np.ones((photos, 3), int)
    for c in range(3): labels[rng.permutation(photos)[:positives], c] = 1
    m = ranking(rng.rand(photos, 3), labels, None)
    assert (m['mAP_many'] is not None) == told and len(m['mAP_interval']) == 2
