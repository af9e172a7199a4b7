"""Own photos from end to end: no figure, weight or doubt may come from labels that it is judged on."""
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trmml import TRMML
from trmml.cli import main
from trmml.data import load
from trmml.photos import ask, fitting
from trmml.photos.figures import interval, measure, on_many, parts, single_error, words

QUICK = dict(backbone='doodle-clip', prompts='shared', epochs=1, workers=0)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Twenty-five doodles, the six classes with most positives, half of the cells known."
    root = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('TRMML_FEATURES', str(root/'features'))
        ds = load('doodles', 'train', root=root, train=25, test=1, progress=False, n_jobs=1)
        truth = pd.DataFrame((ds.labels == 1).astype(int), ds.paths, ds.classes)
        truth = truth[truth.sum().nlargest(6).index]
        yield truth.where(np.random.RandomState(0).rand(*truth.shape) < .5).astype('Int8'), root


@pytest.fixture(scope='module')
def checked(photos, tmp_path_factory):
    "Cross-fitted, with all that it warned of."
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        model = TRMML(**QUICK, progress=False).fit(list(photos[0].index), photos[0])
    return model, [str(w.message) for w in told], model.save(tmp_path_factory.mktemp('model')/'m')


def noise(seed, n, C=12, known=.5):
    r = np.random.RandomState(seed)
    Y = np.where(r.rand(n, C) < .1*np.exp(np.linspace(-1, 1, C)), 1, -1)*(r.rand(n, C) < known)
    both = (Y == 1).any(0) & (Y == -1).any(0)
    return r.randn(n, both.sum()), Y[:, both], .1*np.exp(np.linspace(-1, 1, C))[both].mean()


@pytest.mark.parametrize('n, most', [(20, .05), (60, .025)])
def test_many_photos_of_noise_have_the_share_of_chance(n, most):
    "Not less: a class with a single positive, by luck, has no large share."
    off = [on_many(s, Y, parts(n, 40, i))[0] - share for i in range(50) for s, Y, share in [noise(i, n)]]
    assert abs(np.mean(off)) < most, np.mean(off)


def test_few_positives_have_an_interval_and_no_figure_of_many():
    s, Y, _ = noise(1, 20)
    m = measure(1/(1 + np.exp(-s)), Y)
    assert m['positives'] >= 10 and m['mAP_many'] is None and m['mAP_interval'][0] < m['mAP_chance_many'] < m['mAP_interval'][1]
    assert 'on many such photos (95 % CI' in words(m) and 'chance' in words(m)
    s, Y, _ = noise(1, 200)
    assert f"on many such photos {100*measure(1/(1 + np.exp(-s)), Y)['mAP_many']:.0f} %" in words(measure(1/(1 + np.exp(-s)), Y))
    perfect = measure((Y + 1)/2*.98 + .01, Y)   # all positives first: the next may not be
    assert perfect['mAP'] == 1 and perfect['mAP_interval'][0] < 1 - 1/perfect['positives']
    assert single_error(s, Y) >= 1/(Y == 1).sum() and interval(.5, np.zeros(3)) == [.5, .5]
    old = {k: v for k, v in m.items() if k != 'mAP_chance_many'} | dict(mAP_many=.3)
    assert 'on many such photos 30 %' in words(old)   # of a model that an earlier version saved


def test_figures_take_their_weight_from_other_photos(photos, monkeypatch):
    "A weight that is large with all labels, and 0 with those of the other photos, shows up in no figure."
    n = len(photos[0][photos[0].notna().any(axis=1)])
    monkeypatch.setattr(fitting, 'weigh', lambda s, z, Y: np.full(Y.shape[1], 50. if len(Y) == n else 0.))
    model = TRMML(**QUICK, progress=False).fit(list(photos[0].index), photos[0])
    assert (model.method_.weight == 50).all() and model.metrics_['mAP'] == model.metrics_['mAP_zero_shot']


def test_one_warning_of_classes_without_a_positive(checked):
    assert sum('cannot be learned' in w for w in checked[1]) <= 1


def test_evaluate_is_beside_zero_shot_and_says_what_was_trained_on(photos, checked, capsys):
    loaded = TRMML.load(checked[2], progress=False)
    m = loaded.evaluate(list(photos[0].index), photos[0])
    assert 0 < m['mAP_zero_shot'] < 1 and 'over_zero_shot' in m and capsys.readouterr().err == ''
    checked[0].progress = True
    try: checked[0].evaluate(list(photos[0].index), photos[0])
    finally: checked[0].progress = False
    assert '25 of 25 photos have names of photos that the model was trained on' in capsys.readouterr().err


def test_nothing_to_ask(photos, checked, tmp_path, capsys):
    full = photos[0].fillna(0)
    with pytest.warns(UserWarning, match='nothing to ask for'): assert len(ask(checked[0], full, list(full.index))) == 0
    full.rename_axis('image').to_csv(tmp_path/'full.csv')
    with pytest.raises(SystemExit) as stop: main(['ask', str(checked[2]), str(tmp_path/'full.csv'), '--photos', str(Path(full.index[0]).parent), '--out', str(tmp_path/'next.csv')])
    said = capsys.readouterr().err
    assert stop.value.code == 0 and 'nothing to ask for' in said and 'fill in' not in said


def test_only_photos_kept_from_training_are_doubted(photos, capsys):
    "After a fit with some photos held out, the model has learned the labels of the others."
    model = TRMML(**QUICK, held_out=.4, progress=False).fit(list(photos[0].index), photos[0])
    model.progress = True
    found = model.doubtful(photos[0], list(photos[0].index), n=999)
    assert len(found) and set(found.photo) <= set(model.cross_.names) and len(model.cross_.names) == 10
    assert '15 of 25 photos are left out' in capsys.readouterr().err


def test_one_photo_held_out_is_enough_to_go_on(photos):
    model = TRMML(**QUICK, held_out=.04, progress=False).fit(list(photos[0].index), photos[0])
    assert len(model.cross_.names) == 1 and model.facts_['trained_on'] == 24


def test_no_photo_kept_from_training_is_said(photos, tmp_path):
    with pytest.warns(UserWarning, match='no labelled photo was kept from training to calibrate with'):
        model = TRMML(**QUICK, folds=0, progress=False).fit(list(photos[0].index), photos[0])
    assert '**not calibrated**' in (model.save(tmp_path/'m')/'README.md').read_text()
    p = model.predict(list(photos[0].index)).to_numpy()
    assert (model.method_.weight > .3).all() and max(model.calibration_.a) < .75 and .03 < p.mean() < .17
    assert json.loads((tmp_path/'m'/'model.json').read_text())['metrics'] == {}


def test_a_check_on_trained_photos_is_refused(photos):
    some = photos[0].iloc[:12]
    with pytest.raises(ValueError, match='valid: 2 of 2 photos are also trained on'):
        TRMML(**QUICK, progress=False).fit(list(some.index), some, valid=(list(some.index[:2]), some.iloc[:2].fillna(0)))


def test_more_parts_than_photos():
    Y = np.where(np.random.RandomState(0).rand(25, 3) < .5, 1, -1)
    rounds = fitting.split(TRMML(folds=60), Y).rounds
    assert len(rounds) == 25 and all(len(rows) == 1 for _, rows in rounds)
