"""Zero-shot scores of a folder: the sum of the reference, statistics from few photos, synonyms, a model without a label."""
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import trmml.data
from trmml import TRMML, cli
from trmml.clip import backbones
from trmml.features import extract
from trmml.metrics import mean_ap
from trmml.photos import fitting
from trmml.photos.zero_shot import class_words, scale_of, score_store, sentences, start_from, text_vectors

QUICK = dict(backbone='doodle-clip', workers=0, progress=False)


@pytest.fixture(scope='module')
def test_split():
    clip, ds = backbones.load('doodle-clip'), trmml.data.load('doodles', 'test')
    return clip, ds, extract(clip, ds).in_memory()


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A dozen photos."
    root = tmp_path_factory.mktemp('bare')
    ds = trmml.data.load('doodles', 'train', root=root, train=12, test=4, progress=False, n_jobs=1)
    shutil.copytree(Path(ds.paths[0]).parent, root/'photos')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('TRMML_FEATURES', str(root/'features'))
        yield root


def test_pooled_dense_and_their_sum_are_those_of_the_reference(test_split):
    clip, ds, store = test_split
    start = start_from(clip, class_words(list(ds.classes)), store)
    s = score_store(store, start.T)
    total = start(store.batch(torch.arange(len(ds))))
    assert [round(100*mean_ap(v, ds.labels), 1) for v in (s[:, 0], s[:, 1], total)] == [54.3, 57.4, 64.8]


@pytest.mark.parametrize('n', [2, 10, 100])
def test_statistics_of_few_photos_are_enough(test_split, n):
    clip, ds, store = test_split
    start = start_from(clip, class_words(list(ds.classes)), store.subset(np.random.RandomState(0).permutation(len(ds))[:n]))
    assert mean_ap(start(store.batch(torch.arange(len(ds)))), ds.labels) > (.625 if n == 2 else .64)


def test_two_photos_are_the_least(test_split):
    clip, ds, store = test_split
    with pytest.raises(ValueError, match='1 image: .* at least 2'): start_from(clip, class_words(['cat', 'dog']), store.subset([0]))


def test_a_class_that_never_varies_has_a_spread():
    x = torch.zeros(5, 2, 3); x[:, :, 0] = torch.arange(5.)[:, None]
    mean, std = scale_of(x)
    assert (std > 0).all() and torch.isfinite((x - mean)/std).all()
    x[0] = torch.nan
    assert torch.isfinite(scale_of(x)[0]).all()


def test_synonyms_are_averaged_and_the_name_is_among_them(test_split):
    clip = test_split[0]
    unit = torch.nn.functional.normalize
    both = text_vectors(clip, class_words({'dog': ['cow']}))[0]
    parts = unit(clip.text(['a photo of a dog.', 'a photo of a cow.']).float(), dim=-1)
    torch.testing.assert_close(both, unit(parts.mean(0), dim=-1))
    assert class_words({'tvmonitor': 'television', 'cat': None}) == {'tvmonitor': ['tv monitor', 'television'], 'cat': ['cat']}
    assert sentences('an old dog') == ['a photo of an old dog.'] and sentences('Dogs bark.') == ['Dogs bark.']


@pytest.mark.parametrize('classes, words', [({'dog': [3]}, "'dog'"), ({'dog': 5}, "'dog'"), ([''], 'is no name'), ({'dog': ['']}, "'dog'")])
def test_words_that_are_none(classes, words):
    with pytest.raises(ValueError, match=words): class_words(classes)


def test_too_long_a_description_names_its_class(test_split):
    with pytest.raises(ValueError, match="class 'much'"): text_vectors(test_split[0], {'cat': ['cat'], 'much': ['word '*90]})


def test_a_model_without_a_label(place, monkeypatch):
    "Predicts, explains, is saved and comes back; says that nothing calibrates it."
    def never(*_, **__): raise AssertionError('training began')
    monkeypatch.setattr(fitting, 'train', never)
    with pytest.warns(UserWarning, match='there is no label to calibrate with'):
        model = TRMML(**QUICK).fit(place/'photos', None, classes={'tvmonitor': ['screen'], 'dog': None, 'cat': []})
    p = model.predict(place/'photos')
    assert list(p.columns) == model.classes_ == model.zero_shot_ == ['tvmonitor', 'dog', 'cat'] and p.notna().all(axis=None)
    assert model.metrics_ == {} and model.cross_ is None and not model.checked_.any() and p.to_numpy().mean() < .3
    one = model.predict(place/'photos'/p.index[0])
    np.testing.assert_allclose(one.to_numpy()[0], p.to_numpy()[0], rtol=1e-4)   # a single photo: statistics are kept
    R = model.regions(place/'photos'/p.index[0])
    assert all(r.ndim == 2 and 0 <= r.min() and r.max() <= 1 for r in R.values()) and len(model.explain(place/'photos'/p.index[0]).axes) > 1
    again = TRMML.load(model.save(place/'model'), progress=False)
    pd.testing.assert_frame_equal(again.predict(place/'photos'), p, check_exact=True)
    assert 'not calibrated' in (place/'model'/'README.md').read_text()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert list(again.add_classes('cow').predict(place/'photos').columns) == [*model.classes_, 'cow']


def test_one_class_and_a_table_of_blanks(place):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert TRMML(['dog'], **QUICK).fit(place/'photos').predict(place/'photos').shape == (12, 1)
        blank = pd.DataFrame(np.nan, sorted(p.name for p in (place/'photos').iterdir()), ['dog', 'cat'])
        model = TRMML(**QUICK).fit(place/'photos', blank)
    assert model.classes_ == model.zero_shot_ == ['dog', 'cat']


def test_neither_labels_nor_classes(place):
    with pytest.raises(ValueError, match=r'classes=\[...\]'): TRMML(**QUICK).fit(place/'photos')


def test_the_console_starts_without_labels(place, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        cli.main(['fit', str(place/'photos'), '--classes', 'dog, tv monitor', '--backbone', 'doodle-clip', '--workers', '0', '--quiet', '--out', str(tmp_path/'m')])
    assert stop.value.code == 0 and capsys.readouterr().out.strip() == str(tmp_path/'m')
    assert TRMML.load(tmp_path/'m', progress=False).classes_ == ['dog', 'tv monitor']
