"""The estimator in scikit-learn's tools: cross-validation, searches, pipelines, clone, output, and the parts of check_estimator that fit.

Not run of `check_estimator`, since they hand over a matrix of numbers as X, where TRMML takes paths of photos: every check of `fit` and
`predict` on random numbers (nan, inf, sparse, dtypes, sample order, subsets, one sample, one feature, n_features_in_, classifiers' labels).
Not fulfilled on purpose: `check_do_not_raise_errors_in_init_or_set_param` (a setting that cannot be meant is refused when it is given, not
an hour later), and `check_fit2d_1feature` and the like.
"""
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks as checks, get_tags
from sklearn.utils.validation import check_is_fitted

import trmml.data
from trmml import TRMML
from trmml.photos import figures_of

warnings.simplefilter('ignore')


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "24 photos, three classes, a fifth of the cells unknown."
    root = tmp_path_factory.mktemp('sklearn'); os.environ['TRMML_FEATURES'] = str(root/'features')
    ds = trmml.data.load('doodles', 'train', root=root, train=24, test=4, progress=False, n_jobs=1)
    at = (ds.labels == 1).sum(0).argsort()[-3:]
    y = (ds.labels[:, at] == 1).astype(float); y[np.random.RandomState(0).rand(*y.shape) < .2] = np.nan
    yield list(ds.paths), y, [ds.classes[i] for i in at]
    del os.environ['TRMML_FEATURES']


def quick(classes, **how): return TRMML(classes, 'doodle-clip', epochs=1, workers=0, progress=False, **how)


@pytest.fixture(scope='module')
def fitted(photos): X, y, names = photos; return quick(names).fit(X, y)


def test_tags(photos):
    tags = get_tags(quick(photos[2]))
    assert tags.input_tags.string and tags.input_tags.one_d_array and not tags.input_tags.two_d_array
    assert tags.target_tags.multi_output and not tags.target_tags.single_output and not is_classifier(quick(photos[2]))


@pytest.mark.filterwarnings('ignore')
def test_cross_validation_with_unknown_labels(photos):
    X, y, names = photos
    scores = cross_val_score(quick(names), X, y, cv=2, error_score='raise')
    assert scores.shape == (2,) and ((0 < scores) & (scores <= 1)).all()
    many = cross_validate(quick(names), np.array(X), y, cv=2, scoring=figures_of, error_score='raise')
    np.testing.assert_allclose(many['test_mAP'], scores)
    assert (many['test_minus_calibration_error'] <= 0).all() and {'test_CF1', 'test_OF1'} <= set(many)


@pytest.mark.filterwarnings('ignore')
def test_search(photos):
    X, y, names = photos
    search = GridSearchCV(quick(names), dict(prompts=['own', 'shared']), cv=2, error_score='raise').fit(X, y)
    assert search.best_params_['prompts'] in ('own', 'shared') and search.predict(X[:2]).shape == (2, 3)
    assert search.predict_proba(X[:2]).shape == (2, 3)


@pytest.mark.filterwarnings('ignore')
def test_pipelines(photos):
    X, y, names = photos
    line = make_pipeline(quick(names)).fit(X, y)
    assert list(line.predict(X[:2]).columns) == names and line.score(X, y) > 0
    two = make_pipeline(quick(names), MultiOutputClassifier(LogisticRegression())).fit(X, np.nan_to_num(y).astype(int))
    assert two.predict(X[:3]).shape == (3, 3)
    two.set_output(transform='pandas')
    assert list(two[:-1].transform(X[:2]).columns) == names == list(two[:-1].get_feature_names_out())


def test_output(photos, fitted):
    X = photos[0][:3]; p = fitted.predict(X)
    assert isinstance(fitted.predict_proba(X), np.ndarray) and isinstance(fitted.transform(X), np.ndarray)
    np.testing.assert_array_equal(fitted.predict_proba(X), p)
    again = clone(fitted.set_output(transform='pandas'))   # a clone keeps it
    assert again._sklearn_output_config == {'transform': 'pandas'} and not hasattr(again, 'method_')
    pd.testing.assert_frame_equal(fitted.transform(X), p); fitted.set_output(transform='default')
    with pytest.raises(ValueError, match="transform='list': use one of default"): fitted.set_output(transform='list')


def test_fitted_or_not(photos, fitted):
    check_is_fitted(fitted)
    with pytest.raises(NotFittedError): check_is_fitted(quick(photos[2]))
    with pytest.raises(NotFittedError, match='call fit'): quick(photos[2]).predict_proba(photos[0])


def test_pickle(photos, fitted):
    "Several processes of a search send estimators to each other."
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(photos[0][:2]), fitted.predict_proba(photos[0][:2]))


def test_classes_added_later(photos, fitted, tmp_path):
    "`add_classes` after a fit: old columns as before, new ones last, in every answer."
    X, y, names = photos
    model = quick(names, prompts='shared').fit(X, y); more = model.add_classes(['purple umbrella', 'yeti'])
    assert more.classes_ == [*names, 'purple umbrella', 'yeti'] and model.classes_ == names
    np.testing.assert_allclose(more.predict_proba(X[:3])[:, :3], model.predict_proba(X[:3]), rtol=1e-4)
    again = TRMML.load(more.save(tmp_path/'m'), progress=False)
    np.testing.assert_array_equal(again.predict_proba(X[:3]), more.predict_proba(X[:3]))
    assert again.zero_shot_ == ['purple umbrella', 'yeti'] and list(again.get_feature_names_out()) == more.classes_
    with pytest.raises(ValueError, match='is a class already'): more.add_classes('yeti')


FITTING = [n for n in ('check_estimator_cloneable', 'check_no_attributes_set_in_init', 'check_valid_tag_types', 'check_estimator_repr',
                       'check_get_params_invariance', 'check_set_params', 'check_estimator_tags_renamed',
                       'check_parameters_default_constructible') if hasattr(checks, n)]


@pytest.mark.parametrize('name', FITTING)
def test_check_estimator(name):
    given = TRMML(backbone='doodle-clip', epochs=1)
    getattr(checks, name)('TRMML', given)


def test_scikit_learn_is_no_dependency():
    code = "import sys; from trmml import TRMML; TRMML(); import trmml.photos; assert 'sklearn' not in sys.modules, [m for m in sys.modules if 'sklearn' in m][:3]"
    subprocess.run([sys.executable, '-c', code], check=True, env=dict(os.environ, PYTHONWARNINGS='ignore'))
