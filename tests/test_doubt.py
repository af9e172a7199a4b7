"""Labels in doubt: what is named, in which order, and which scores it may rest on."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from trmml.photos import TRMML, doubtful_cells
from trmml.photos.doubt import Doubting, contradicted, doubt, other, rows_of


def drawn(seed, n=3000, C=11):
    r = np.random.RandomState(seed)
    p = 1/(1 + np.exp(-2.5*r.randn(n, C) - np.r_[np.full(C - 1, -4.), 0]))
    return p, np.where(r.rand(n, C) < p, 1, -1), r


def hits(d, wrong, n=100): return wrong.ravel()[np.argsort(np.where(np.isnan(d), 9, -d), axis=None, kind='stable')[:n]].sum()


def test_flipped_labels_come_first():
    p, true, r = drawn(0)
    wrong = r.rand(*p.shape) < .02
    cells = doubtful_cells(p, np.where(wrong, -true, true), 100)
    assert wrong[tuple(cells.T)].mean() > .85


def test_overlooked_positives_come_first_too():
    "A model does not see every positive; by the probability of the other answer alone these stand before what was overlooked."
    p, true, r = drawn(1)
    wrong = (r.rand(*p.shape) < .1) & (true == 1)
    Y = np.where(wrong, -true, true)
    assert hits(doubt(p, Y), wrong) > 1.5*hits(other(p, Y), wrong)


def test_with_equal_rates_the_order_is_that_of_the_other_answer():
    p, true, r = drawn(2, C=1)
    p, true = np.c_[p, 1 - p], np.c_[true, -true]                     # as many of each kind
    Y = np.where(r.rand(*p.shape) < .05, -true, true)
    both = np.r_[Y, -Y], np.r_[p, 1 - p]
    d, o = doubt(both[1], both[0]), other(both[1], both[0])
    assert (np.diff(o.ravel()[np.argsort(d, axis=None, kind='stable')]) > -1e-9).all()


def test_what_is_contradicted():
    p = np.array([[.9], [.8], [.6], [.1], [.05], [.95]])
    Y = np.array([[1], [1], [-1], [-1], [1], [-1]])
    # typical 1: (.9 + .8 + .05)/3 = .58; typical 0: (.4 + .9 + .05)/3 = .45, so even
    assert contradicted(p, Y).ravel().tolist() == [False, False, True, False, True, True]
    assert not contradicted(p, np.abs(Y)).any()
    assert not contradicted(np.full((6, 1), .49), Y).any()


def test_blanks_and_unknown_scores_are_never_named():
    p, true, r = drawn(3, 50, 4)
    Y = np.where(r.rand(50, 4) < .5, true, 0)
    p[r.rand(50, 4) < .3] = np.nan
    cells = doubtful_cells(p, Y, 10**6)
    assert len(cells) == ((Y != 0) & ~np.isnan(p)).sum() and len(set(map(tuple, cells.tolist()))) == len(cells)
    d = doubt(p, Y)[tuple(cells.T)]
    assert np.isfinite(d).all() and (np.diff(d) <= 1e-12).all()


def test_certain_scores():
    "Probabilities of exactly 0 and 1 divide by nothing."
    with np.errstate(all='raise'):
        d = doubt(np.array([[0., 1.], [1., 0.]]), np.array([[1, 1], [-1, -1]]))
    np.testing.assert_allclose(d, [[1, 0], [1, 0]], atol=1e-9)


def test_photos_by_name():
    assert rows_of(['b.png', 'p/a.png', 'c.png'], ['a.png', 'x/b.png']).tolist() == [1, 0, -1]
    assert rows_of(['b.png'], ['x/b.png', 'y/b.png']).tolist() == [-2]             # may be either
    assert rows_of(['b.png'], ['b.png', 'b.png']).tolist() == [-2]                 # names of a saved model have no folders
    assert rows_of(['C:\\photos\\b.png'], ['b.png']).tolist() == [0]


class Model(Doubting):
    "Cross-fitted scores without a training; those of the model itself all say 1."
    method_, photos_, classes_, facts_ = None, None, ['dog', 'cat'], dict(folds=3)
    scored = None
    def calibration_(self, z): return torch.sigmoid(torch.as_tensor(z))
    def raw(self, paths, skip_unreadable=False):
        self.scored = [p.rsplit('/', 1)[-1] for p in paths]
        return torch.full((len(paths), 2), 5.)


@pytest.fixture
def model():
    m = Model(progress=False)
    m.cross_ = SimpleNamespace(names=['a.png', 'b.png', 'c.png', 'd.png'], labels=np.array([[1, 1], [-1, -1], [-1, -1], [-1, -1]]),
                               scores=torch.tensor([[3., -3], [-3, -1], [4, -2], [-4, np.nan]]))
    return m


def test_labels_of_the_fit(model):
    t = model.doubtful()
    assert list(zip(t.photo, t['class'], t.given)) == [('c.png', 'dog', 0), ('a.png', 'cat', 1)]
    assert list(t.columns) == ['photo', 'class', 'given', 'probability', 'doubt', 'label'] and (t.label == '').all()
    assert len(model.doubtful(n=1)) == 1 and len(model.doubtful(n=99)) == 7


def test_labels_of_a_table(model, tmp_path):
    "Corrected, in another order, with a new photo, which the model itself may score."
    for n in 'abcde': (tmp_path/f'{n}.png').write_bytes(b'x')
    t = pd.DataFrame(dict(dog=[1, 1, 0], cat=[0, None, 0]), ['c.png', 'a.png', 'e.png'], dtype=object)
    found = model.doubtful(t, tmp_path, n=99)
    assert model.scored == ['e.png'] and set(found.photo) == {'a.png', 'c.png', 'e.png'} and len(found) == 5
    assert found.photo[0] == 'e.png' and found[found.photo == 'c.png'].set_index('class').given.dog == 1


def test_no_scores_no_doubts(model):
    model.cross_ = None
    with pytest.raises(ValueError, match='no cross-fitted scores'): model.doubtful()
    with pytest.raises(ValueError, match='not fitted'): TRMML().doubtful()


@pytest.mark.parametrize('n', [0, -1, 1.5, 'all'])
def test_how_many(model, n):
    with pytest.raises(ValueError, match='n='): model.doubtful(n=n)
