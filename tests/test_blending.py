"""The weight of what was learned: nothing for noise, more for more knowledge; never below zero-shot on doodles; what cross-fitting sees."""
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from trmml import TRMML
from trmml.clip import backbones
from trmml.data import load
from trmml.labels import partial
from trmml.metrics import mean_ap
from trmml.model import TRMML as TextRegionMatching
from trmml.photos import fitting, saving
from trmml.photos.blending import Blended, guessed_weight, weigh
from trmml.photos.folds import CrossFitted, checked, deal, rounds
from trmml.photos.matcher import at_rest

QUICK = dict(backbone='doodle-clip', workers=0, progress=False, prompts='shared')


def made(N, C, strength, seed, known=.5):
    "Scores of a method and of zero-shot, and labels that follow the latter and, by `strength`, the former."
    r = np.random.RandomState(seed); s, z = r.randn(N, C), 1.8*r.randn(N, C)
    y = r.rand(N, C) < 1/(1 + np.exp(-(strength*s + .8*z - 2.5)))
    return s, z, np.where(r.rand(N, C) < known, np.where(y, 1, -1), 0)


def test_the_weight_follows_what_the_method_knows():
    w = [weigh(*made(800, 10, k, 0)).mean() for k in (0, .4, .8, 1.6)]
    assert w[0] < .13 and abs(w[1] - .5) < .12 and abs(w[2] - 1) < .15 and abs(w[3] - 2) < .25


def test_labels_that_are_noise_give_no_weight():
    r = np.random.RandomState(0)
    noise = [weigh(r.randn(300, 20), 1.8*r.randn(300, 20), np.where(r.rand(300, 20) < .5, np.where(r.rand(300, 20) < .1, 1, -1), 0)).mean() for _ in range(10)]
    assert np.mean(noise) < .2 and np.median(noise) < .2
    zero = [weigh(*made(300, 20, 0, seed)).mean() for seed in range(10)]
    assert np.mean(zero) < .1


def test_a_method_that_is_worse_than_noise_has_no_weight():
    s, z, Y = made(400, 5, .8, 0)
    assert (weigh(-s, z, Y) == 0).all()


def test_few_positives_lean_to_zero_shot_and_to_one_weight():
    small, large = (weigh(*made(n, 8, 1., 1)) for n in (12, 1000))
    assert small.mean() < .6*large.mean()
    s, z, Y = made(1000, 8, 1., 1)
    Y[:, 0] = np.where(np.arange(1000) < 4, Y[:, 0], 0); s[:, 1] = np.random.RandomState(5).randn(1000)   # class 0 is hardly known, class 1 was not learned
    w = weigh(s, z, Y)
    assert abs(w[0] - w[2:].mean()) < .25 and w[1] < .4*w[2:].mean()


def test_nothing_known_is_zero_shot():
    s, z, Y = made(30, 4, 1, 0)
    assert (weigh(s, z, Y*0) == 0).all() and guessed_weight(Y*0)[0] == 0 and 0 < guessed_weight(Y)[0] <= 4


def test_parts_do_not_depend_on_labels_and_cover_every_labelled_photo():
    Y = np.where(np.random.RandomState(0).rand(61, 4) < .3, 1, 0).astype(np.int8)
    parts = rounds(Y, 3, seed=1)
    held = np.concatenate([rows for _, rows in parts])
    assert sorted(held) == np.flatnonzero(Y.any(1)).tolist() and all(not set(a) & set(b) for a, b in parts)
    unlabelled = np.flatnonzero(~Y.any(1))
    assert all(set(unlabelled) <= set(a) for a, _ in parts)
    other = np.where(Y == 1, -1, 0).astype(np.int8)
    assert all((a[1] == b[1]).all() for a, b in zip(parts, rounds(other, 3, seed=1)))
    assert (deal(50, 3, 0) != deal(50, 3, 1)).any() and rounds(Y[:20], 3) == []
    assert checked(CrossFitted(['a'], np.array([[1., np.nan]]), np.array([[1, 1]])), 2).tolist() == [False, False]


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "Thirty doodles with half of the cells known, fitted with few epochs."
    root = tmp_path_factory.mktemp('small')
    with pytest.MonkeyPatch.context() as m, warnings.catch_warnings():
        m.setenv('TRMML_FEATURES', str(root/'features')); warnings.simplefilter('ignore')
        ds = load('doodles', 'train', root=root, train=60, test=4, progress=False, n_jobs=1)
        Y = partial(ds.labels, .5, 0)[:30]
        table = pd.DataFrame(Y, ds.paths[:30], ds.classes).replace({0: pd.NA, -1: 0})
        model = TRMML(**QUICK, epochs=6, seed=0).fit(list(ds.paths[:30]), table)
        yield root, ds, table, Y, model


def test_never_below_zero_shot(small):
    "On the images that were not labelled, beyond noise."
    root, ds, table, Y, model = small
    z = Blended(model.method_.clip, model.method_.classes, model.method_.start)
    store = fitting.features_of(model, ds, model.method_.clip)
    ours, zero = (mean_ap(fitting.store_logits(m, store)[30:], ds.labels[30:]) for m in (model.method_, z))
    plain = mean_ap(fitting.store_logits(model.method_.matcher, store)[30:], ds.labels[30:])
    assert ours > zero - .01 and ours > plain


def test_what_a_fit_keeps(small):
    root, ds, table, Y, model = small
    labelled = np.flatnonzero((Y != 0).any(1))
    assert model.cross_.names == [ds.paths[i] for i in labelled] and (model.cross_.labels == Y[labelled]).all()
    assert np.isfinite(model.cross_.scores).all() and model.cross_.scores.dtype == np.float32
    both = ((Y == 1).any(0) & (Y == -1).any(0))
    assert (model.checked_ == both).all() and model.facts_['folds'] == 3 and model.facts_['trained_on'] == 30
    assert len(model.checkpoints_) == 4 and all(f.exists() for f in model.checkpoints_)
    assert model.raw(ds.paths[:2]).shape == (2, 20) and {'mAP', 'mAP_zero_shot'} <= set(model.metrics_)


def test_cross_fitted_scores_are_not_those_of_the_kept_model(small):
    "What the kept model says of its own training photos is another thing."
    root, ds, table, Y, model = small
    own = fitting.store_logits(model.method_.matcher, fitting.features_of(model, ds, model.method_.clip)).numpy()[:30]
    assert mean_ap(own, Y) > mean_ap(model.cross_.scores - 0, Y[(Y != 0).any(1)]) or (model.method_.weight == 0).all()


def test_saved_with_its_cross_fitted_scores_and_without_checkpoints(small, tmp_path):
    root, ds, table, Y, model = small
    files = list(model.checkpoints_)
    again = TRMML.load(model.save(tmp_path/'m'), progress=False)
    assert not any(f.exists() for f in files)
    pd.testing.assert_frame_equal(again.predict(ds.paths[:3]), model.predict(ds.paths[:3]), check_exact=True)
    assert (again.cross_.scores == model.cross_.scores).all() and (again.checked_ == model.checked_).all()
    assert str(root) not in (tmp_path/'m'/'model.json').read_text()   # photos were given by whole paths


def test_plain_quick_fit(small, monkeypatch):
    root, ds, table, Y, model = small
    calls = []; train = fitting.train
    monkeypatch.setattr(fitting, 'train', lambda *a, **k: calls.append(1) or train(*a, **k))
    with pytest.warns(UserWarning, match='no labelled photo was kept from training to calibrate with'):
        quick = TRMML(**QUICK, epochs=1, folds=0).fit(list(ds.paths[:30]), table)
    assert len(calls) == 1 and quick.metrics_ == {} and quick.cross_ is None and (quick.method_.weight > 0).all()
    calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        held = TRMML(**QUICK, epochs=1, held_out=.4).fit(list(ds.paths[:30]), table)
    assert len(calls) == 1 and len(held.cross_.names) == 12 and held.facts_['trained_on'] == 18


@pytest.mark.parametrize('how, words', [(dict(folds=1), "folds=1: use a whole number from 2"), (dict(folds=.5), 'folds=0.5'), (dict(held_out=1.), 'a share')])
def test_settings_that_cannot_be_meant(how, words):
    with pytest.raises(ValueError, match=words): TRMML(**how)


def test_a_model_of_the_format_before_loads(small, tmp_path):
    "Text-region matching alone, one slope, an offset and deviations."
    root, ds, table, Y, model = small
    old = TRMML.load(model.save(tmp_path/'new'), progress=False)
    old.method_, old.cross_ = old.method_.matcher, None
    old.save(tmp_path/'old')
    file = tmp_path/'old'/'model.json'; said = json.loads(file.read_text())
    said |= dict(format=1, calibration=dict(a=.5, b=-1., delta=[.1]*20)); del said['cross']; del said['settings']['folds']
    file.write_text(json.dumps(said))
    again = TRMML.load(tmp_path/'old', progress=False)
    logits = fitting.store_logits(old.method_, fitting.features_of(model, ds, model.method_.clip))[:3]
    np.testing.assert_allclose(again.predict(ds.paths[:3]), torch.sigmoid(.5*logits - .9), atol=2e-3)
    with pytest.raises(ValueError, match='older version'): again.add_classes('yeti')
    assert saving.FORMAT == 2 and again.cross_ is None and not again.checked_.any()


def test_a_blend_is_its_parts():
    clip = backbones.load('doodle-clip'); matcher = at_rest(TextRegionMatching(clip, ['cat', 'dog']))
    x = torch.randn(2, 3, 128, 128); T = torch.nn.functional.normalize(torch.randn(2, clip.d), dim=-1)
    start = fitting.ZeroShotSum(T, torch.zeros(2, 2), torch.ones(2, 2))
    with torch.no_grad():
        s, f = matcher.logits(x), clip.features(x)
        blend = Blended(clip, ['cat', 'dog'], start, matcher, [2., 0.], (torch.tensor([1., 1.]), torch.tensor([4., 4.])))
        torch.testing.assert_close(blend.logits(x), start(f) + torch.tensor([.5, 0.])*(s - 1))
        torch.testing.assert_close(blend.scores(x), blend.logits(x).sigmoid())
        torch.testing.assert_close(blend.regions(x), matcher.regions(x))
