"""`complete`: what is filled is right, and what is lost is little, per class and answer; classes that cannot be judged are left alone."""
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from trmml import cli
from trmml.photos import TRMML, decide, filling
from trmml.photos.filling import count, in_lines, left_alone, levels, worry


def calibrated(n, C, seed, low=-5., spread=2.):
    "Probabilities that are right, of classes from rare to common, and labels drawn from them."
    r = np.random.RandomState(seed)
    p = 1/(1 + np.exp(-spread*r.randn(n, C) - np.linspace(low, -low, C)))
    return p, r.rand(n, C) < p


def by_hand(p, confidence):
    "One class, cell after cell, from the definition."
    out = np.zeros(len(p), int)
    for answer, q in (1, 1 - p), (-1, p):
        best = 0
        for limit in sorted(set(q[(p >= .5) == (answer == 1)])):   # ties are taken together
            S = q <= limit
            if q[S].sum() <= (1 - confidence)*min(S.sum(), q.sum()) + 1e-9: best = max(best, limit + 1e-15)
        if best: out[(q <= best) & ((p >= .5) == (answer == 1))] = answer
    return out


@pytest.mark.parametrize('confidence', [.6, .8, .9, .99])
def test_the_definition(confidence):
    p, _ = calibrated(60, 9, 0)
    p = np.round(p, 2).clip(.01, .99)                # with ties
    filled, sure = decide(p, np.zeros(p.shape, int), confidence)
    for c in range(9): np.testing.assert_array_equal(filled[:, c], by_hand(p[:, c], confidence), err_msg=f'class {c}')
    np.testing.assert_allclose(sure[filled != 0], np.maximum(p, 1 - p)[filled != 0])
    assert np.isnan(sure[filled == 0]).all()


def test_both_promises_are_kept_on_calibrated_scores():
    "Of what is filled 90 % is right, and at most a tenth of each kind is lost, in rare and common classes."
    p, y = calibrated(20000, 7, 1)
    filled, _ = decide(p, np.zeros(p.shape, int), .9)
    for c in range(7):
        one, zero = filled[:, c] == 1, filled[:, c] == -1
        if one.sum() > 200: assert y[one, c].mean() > .88
        if zero.sum() > 200: assert y[zero, c].mean() < .12
        assert (y[:, c] & zero).sum() <= .12*y[:, c].sum() and (~y[:, c] & one).sum() <= .12*(~y[:, c]).sum()
    rare = filled[:, 0]
    plain = np.maximum(p, 1 - p)[:, 0] >= .9
    assert y[plain & (p[:, 0] < .5), 0].sum() > 2*y[rare == -1, 0].sum()      # what the plain rule lost


def test_nothing_known_is_no_achievement():
    "A class in 3 % of the photos of which the model knows nothing: nothing at all, not 0 everywhere."
    assert (decide(np.full((500, 1), .03), np.zeros((500, 1), int))[0] == 0).all()
    assert (decide(np.full((500, 1), .97), np.zeros((500, 1), int))[0] == 0).all()


def test_both_answers_alike():
    p, _ = calibrated(200, 5, 2)
    Y = np.zeros(p.shape, int)
    np.testing.assert_array_equal(decide(p, Y)[0], -decide(1 - p, Y)[0])


def test_order_of_photos_does_not_matter():
    p, _ = calibrated(100, 4, 3)
    p, Y, mix = p.round(1), np.zeros(p.shape, int), np.random.RandomState(0).permutation(100)
    np.testing.assert_array_equal(decide(p, Y)[0][mix], decide(p[mix], Y)[0])


def test_what_is_known_blank_or_not_allowed():
    p, _ = calibrated(50, 4, 4)
    Y = np.random.RandomState(0).randint(-1, 2, p.shape)
    p[0] = np.nan
    for how in dict(confidence=.7), dict(coverage=1.):
        filled, sure = decide(p, Y, **how, allowed=[True, False, True, True])
        assert (filled[Y != 0] == Y[Y != 0]).all() and (filled[:, 1] == Y[:, 1]).all() and (filled[0] == Y[0]).all()
        assert np.isnan(sure[Y != 0]).all() and np.isnan(sure[:, 1]).all()
    may = ((Y == 0) & ~np.isnan(p))[:, [0, 2, 3]]
    assert np.isfinite(sure).sum() == may.sum()
    some = decide(p, Y, coverage=.3)[0]
    assert ((some != 0) & (Y == 0)).sum() == round(.3*((Y == 0) & ~np.isnan(p)).sum())


def test_coverage_takes_the_highest_levels():
    p, _ = calibrated(80, 5, 5)
    Y = np.zeros(p.shape, int)
    L, filled = levels(p, Y == 0), decide(p, Y, coverage=.4)[0]
    assert L[filled != 0].min() >= L[filled == 0].max()


@pytest.mark.parametrize('shape', [(0, 3), (1, 1), (5, 0)])
def test_small_tables(shape):
    filled, sure = decide(np.full(shape, .9), np.zeros(shape, int))
    assert filled.shape == sure.shape == shape


# ---- classes left alone

def fitted(**more):
    return SimpleNamespace(**(dict(classes_=['dog', 'cat', 'sofa', 'new'], zero_shot_=['new'], metrics_=dict(mAP=.5),
                                   facts_=dict(positives=[0, 9, 9], negatives=[9, 9, 0])) | more))


def test_reasons():
    assert left_alone(fitted(checked_=np.array([True, True, True]))) == ['no label says 1', '', 'no label says 0', 'never trained']
    assert 'not seen' in left_alone(fitted(checked_=np.array([True, False, True])))[1]
    assert 'not seen' in left_alone(fitted(metrics_={}))[1]                                    # nothing was held out
    assert 'not seen' in left_alone(fitted(facts_=dict(positives=[9, 4, 9], negatives=[9]*3)))[1]   # never held out by older versions
    assert len(left_alone(fitted(checked_=[True]*4))) == 4                                     # a model with the added class in checked_


class Model(filling.Filling):
    "Scores without a training."
    method_, photos_, classes_, zero_shot_, metrics_ = None, None, ['dog', 'cat', 'sofa'], [], dict(mAP=.5)
    facts_, checked_ = dict(positives=[3, 3, 0], negatives=[9, 9, 9]), [True, True, False]
    def raw(self, paths, skip_unreadable=False): return torch.tensor(P)
    def calibration_(self, raw): return raw


P = np.array([[.99, .02, .001], [.98, .03, .001], [.3, .02, .001], [.01, .6, .001], [.01, .01, .001], [.01, .01, .001]], np.float32)


@pytest.fixture
def folder(tmp_path):
    for k in range(6): (tmp_path/f'{k}.png').write_bytes(b'x')
    return tmp_path


def table(**columns): return pd.DataFrame(columns, [f'{k}.png' for k in range(6)], dtype=object)


def test_complete_leaves_a_class_without_positives_alone(folder, capsys):
    blank = [None]*6
    f = Model().complete(table(dog=blank, cat=blank, sofa=[0] + [None]*5), folder)
    assert f.labels.sofa.tolist()[0] == 0 and f.labels.sofa.isna().sum() == 5 and f.confidence.sofa.isna().all()
    assert f.counts.left_alone.tolist() == ['', '', 'no label says 1'] and f.counts.blanks.tolist() == [6, 6, 5]
    err = capsys.readouterr().err
    assert f'{int(f.counts.ones.sum() + f.counts.zeros.sum())} of 17 blanks filled: {int(f.counts.ones.sum())} x 1' in err
    assert 'left alone, no label says 1: sofa' in err and str(f) in err
    np.testing.assert_allclose(f.counts.positives, [2.3, .69, .005], atol=1e-5)


def test_expected_wrong_is_one_minus_the_confidence(folder):
    f = Model(progress=False).complete(table(dog=[None]*6, cat=[None]*6, sofa=[None]*6), folder, confidence=.7)
    assert f.counts.ones.sum() > 0
    np.testing.assert_allclose(f.counts.wrong_ones.sum() + f.counts.wrong_zeros.sum(), np.nansum(1 - f.confidence), atol=1e-5)


def test_nothing_as_1_is_warned_of(folder):
    class Unsure(Model):
        def raw(self, paths, skip_unreadable=False): return torch.tensor(np.r_[[[.4, .4, .001]]*3, [[.001, .001, .001]]*3].astype(np.float32))
    blank = [None]*6
    with pytest.warns(UserWarning, match='no blank was filled with 1, though 2 positives are expected'):
        f = Unsure(progress=False).complete(table(dog=blank, cat=blank, sofa=blank), folder)
    assert f.counts.zeros.sum() == 6 and f.counts.ones.sum() == 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Model(progress=False).complete(table(dog=blank, cat=blank, sofa=blank), folder)


def test_worry_and_words():
    t = count(P, np.zeros((6, 3), int), np.zeros((6, 3), int), ['a', 'b', 'c'], ['x', 'x', 'y'])
    assert 'no class could be filled' in worry(t) and 'left alone, x: a, b' in in_lines(t)
    few = count(P*.1, np.zeros((6, 3), int), np.zeros((6, 3), int), ['a', 'b', 'c'], ['']*3)
    assert few.positives.sum() < 1 and worry(few) == '' and worry(few.assign(positives=1.)) != ''      # less than one is no reason
    many = pd.concat([t.assign(left_alone='')]*7)
    assert 'and 9 classes more' in in_lines(many)


# ---- on the console

def say(capsys, *args):
    with pytest.raises(SystemExit) as stop: cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_console(folder, capsys, monkeypatch):
    monkeypatch.setattr(cli, 'opened', lambda model, weights, device, quiet: Model(progress=not quiet))
    table(dog=[None]*6, cat=[None]*6, sofa=[None]*6).to_csv(folder/'labels.csv')
    ask = 'complete', 'm', folder/'labels.csv', '--photos', folder
    code, out, err = say(capsys, *ask, '--out', folder/'f.csv')
    assert (code, out.strip()) == (0, str(folder/'f.csv')) and 'of 18 blanks filled' in err and 'left alone, no label says 1: sofa' in err
    code, out, err = say(capsys, *ask, '--json', '--quiet')
    said = json.loads(out)
    assert (code, err) == (0, '') and said['classes']['sofa']['left_alone'] == 'no label says 1'
    cells = [v for row in said['labels'].values() for v in row.values()]
    assert (said['blanks'], said['ones'], said['zeros']) == (18, cells.count(1), cells.count(0))
    assert set(said['confidence']) == set(said['labels']) and said['expected_wrong'] > 0


def test_ctrl_c_says_what_is_so(capsys, monkeypatch):
    def stop(**_): raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'app', stop)
    for command in ('explain', 'export', 'answer'):
        code, _, err = say(capsys, command, 'x')
        assert code == 130 and 'begins anew' in err and 'goes on' not in err
    for command in ('predict', 'complete', 'evaluate', 'ask', 'doubt'):
        assert 'finished blocks of 64 photos are kept, and the same command goes on from there' in say(capsys, command, 'x')[2]
    assert 'answers given so far are in the table' in say(capsys, 'label', 'x')[2]
    for command, words in ('fit', 'goes on from there'), ('download', 'fetches the rest'), ('table', 'does the others'):
        assert words in say(capsys, command, 'x')[2] and 'nothing was written' not in say(capsys, command, 'x')[2]


def test_a_warning_is_a_line(capsys, monkeypatch):
    def app(**_):
        warnings.warn('mind this')
        return 0
    monkeypatch.setattr(cli, 'app', app)
    assert say(capsys, 'fit') == (0, '', 'note: mind this\n')
    with pytest.warns(UserWarning, match='outside'): warnings.warn('outside')      # the console's way ends with the command


def test_before_fit():
    with pytest.raises(ValueError, match='not fitted'): TRMML().complete('x')
