"""Checkpoints and the log of a training: what goes on is what was stopped, with its average, its loss scale and what it says of itself."""
from pathlib import Path

import pytest
import torch
from torch import nn

from trmml import clip as clips
from trmml.metrics import pseudo_quality
from trmml.train import Method, TensorStore, fit
from trmml.train.averages import Average
from trmml.train.checkpoints import Changed, code_digest, describe_training, load_checkpoint, save_checkpoint
from trmml.train.learner import optimizer, shown, valid_maps
from trmml.train.method import as_features

NAMES = ['cat', 'dog', 'sofa']
LABELS = torch.tensor([[1, 0, -1], [-1, 1, 0], [0, -1, 1]]*4, dtype=torch.int8)


@pytest.fixture(scope='module')
def clip(): return clips.load('doodle-clip', weights=None, image_size=64)


@pytest.fixture
def store(clip):
    g = torch.Generator().manual_seed(0)
    return TensorStore(torch.randn(12, clip.d, 2, 2, generator=g), torch.randn(12, clip.d, generator=g))


class Linear(Method):
    recipe = dict(Method.recipe, epochs=4, batch=4, lr=.01)

    def __init__(self, clip, classes, place=None, **settings):
        super().__init__(clip, classes, **settings)
        self.head = nn.Linear(clip.d, len(classes))
        if place is not None: self.recipe = self.recipe | dict(place=place)

    def encode_text(self): return self.head.weight
    def scores(self, x): return self.head(as_features(self.clip, x).pooled).sigmoid()

    def loss(self, x, labels, batch=None):
        p = self.scores(x)
        self.pseudo = (p > .5).to(torch.int8)
        return dict(total=nn.functional.binary_cross_entropy(p, (labels == 1).float()))


class Sign(Linear):
    def scores(self, x): return self.head(as_features(self.clip, x).pooled).sigmoid().square()


def made(clip, kind=Linear, **settings):
    torch.manual_seed(1)
    return kind(clip, NAMES, **settings)


class Stop(Exception): pass


def stopped_at(method, epoch):
    begin = method.begin_epoch
    def stop(k, n):
        if k == epoch: raise Stop
        begin(k, n)
    method.begin_epoch = stop
    return method


@pytest.mark.parametrize('share', [0., .8])
def test_a_stopped_training_goes_on(clip, store, tmp_path, share):
    "Weights, and their average where one is kept."
    whole, half, rest = (made(clip, average=share) for _ in range(3))
    log = fit(whole, store, LABELS)
    with pytest.raises(Stop): fit(stopped_at(half, 2), store, LABELS, checkpoint=tmp_path/'a.ckpt', every=1)
    assert (tmp_path/'a.ckpt').exists()
    assert fit(rest, store, LABELS, checkpoint=tmp_path/'a.ckpt') == log
    for k, v in whole.state_dict().items(): assert torch.equal(v, rest.state_dict()[k]), k
    if share: assert not torch.equal(whole.head.weight, made_without_average(clip, store))


def made_without_average(clip, store):
    method = made(clip)
    fit(method, store, LABELS)
    return method.head.weight


class Scaler:
    "A loss scale that can be told from another."
    def __init__(self, scale): self.scale = scale
    def state_dict(self): return dict(scale=self.scale)
    def load_state_dict(self, state): self.scale = state['scale']


def test_the_loss_scale_and_the_average_are_kept(clip, tmp_path):
    method = made(clip)
    opt, mean = optimizer(method), Average(method, .5)
    opt.scaler = Scaler(512.)
    for k in mean.mean: mean.mean[k].fill_(3.)
    save_checkpoint(tmp_path/'a.ckpt', method, opt, [dict(epoch=0)], None, mean)
    other, fresh = optimizer(method), Average(method, .5)
    other.scaler = Scaler(1.)
    assert load_checkpoint(tmp_path/'a.ckpt', method, other, None, fresh) == [dict(epoch=0)]
    assert other.scaler.scale == 512. and all((v == 3).all() for v in fresh.mean.values())


def test_a_checkpoint_says_of_which_training_it_is(clip, store, tmp_path):
    "Another seed is refused; other photos are told apart, and the checkpoint without a word of them is taken."
    method = made(clip)
    opt = optimizer(method)
    about = describe_training(method, LABELS, 3, store)
    assert about['images'] == store.digest and about['seed'] == 3 and 'images' not in describe_training(method, LABELS, 3)
    save_checkpoint(tmp_path/'a.ckpt', method, opt, [dict(epoch=0)], about)
    assert load_checkpoint(tmp_path/'a.ckpt', method, opt, about) == [dict(epoch=0)]
    with pytest.raises(ValueError, match='seed 3, here 4'): load_checkpoint(tmp_path/'a.ckpt', method, opt, about | dict(seed=4))
    with pytest.raises(Changed, match='the photos changed'): load_checkpoint(tmp_path/'a.ckpt', method, opt, about | dict(images='cd34'))
    assert load_checkpoint(tmp_path/'a.ckpt', method, opt, {k: v for k, v in about.items() if k != 'images'})
    assert describe_training(made(clip, place=Path('x')), LABELS)['place'] == 'x'   # what JSON does not have becomes text


def test_whose_code_counts():
    "Functions of a class of one's own; those of this library are told by its version."
    class Other(Linear):
        def scores(self, x): return self.head(x)
    class Third(Linear):
        def scores(self, x): return self.head(x)
    assert len({code_digest(c) for c in (Linear, Sign, Other)}) == 3 and code_digest(Other) == code_digest(Third)
    before = code_digest(Linear)
    kept, Method.begin_epoch = Method.begin_epoch, lambda self, epoch, epochs: epoch + 1
    try: assert code_digest(Linear) == before
    finally: Method.begin_epoch = kept


def test_pseudo_labels_are_measured_where_the_truth_is_known(clip, store):
    truth = torch.where(LABELS == 0, -1, LABELS)
    known, unknown = (fit(made(clip, epochs=1), store, LABELS, **given)[0] for given in (dict(truth=truth), {}))
    method = made(clip, epochs=1)
    rows = {k: v for k, v in known.items() if k.startswith('pseudo_')}
    assert rows and not any(k.startswith('pseudo_') for k in unknown)
    labelled = fit(method, store, LABELS, truth=truth)[0]
    assert {k: labelled[k] for k in rows} == pytest.approx(rows, nan_ok=True)
    class Sure(Linear):
        def loss(self, x, labels, batch=None):
            out = super().loss(x, labels, batch)
            self.pseudo = torch.where(labels == 0, -1, 0).to(torch.int8)   # always right
            return out
    right = fit(made(clip, Sure, epochs=1), store, LABELS, truth=truth)[0]
    want = pseudo_quality(torch.where(LABELS == 0, -1, 0), LABELS, truth)
    assert {k: right[f'pseudo_{k}'] for k in want} == pytest.approx(want, nan_ok=True) and want['neg_precision'] == 1


def test_what_a_bar_shows():
    "Losses in three digits; neither rates nor the quality of pseudo-labels."
    assert shown(dict(epoch=3, lr=.1, lr_1=.2, pseudo_unknown=4, total=.12345, kd=2)) == dict(total='0.123', kd='2')


def test_mean_ap_of_the_moment_and_of_the_average(clip, store):
    method = made(clip)
    mean = Average(method, .5)
    for v in mean.mean.values(): v.neg_()
    assert valid_maps(method, None, None) == {} and set(valid_maps(method, None, (store, LABELS))) == {'valid_map'}
    both = valid_maps(method, mean, (store, LABELS))
    assert set(both) == {'valid_map', 'valid_map_average'} and both['valid_map'] != both['valid_map_average']


def test_a_checkpoint_of_other_photos_is_set_aside_by_name(clip, store, tmp_path):
    "As .old; a damaged one as .damaged; the training begins anew, and says so."
    fit(made(clip), store, LABELS, checkpoint=tmp_path/'a.ckpt')
    other = TensorStore(store.dense, store.pooled + 1)
    with pytest.warns(UserWarning, match='the photos changed'): fit(made(clip), other, LABELS, checkpoint=tmp_path/'a.ckpt')
    assert (tmp_path/'a.ckpt.old').exists() and (tmp_path/'a.ckpt').exists()
    (tmp_path/'a.ckpt').write_bytes(b'x'*99)
    with pytest.warns(UserWarning, match='is damaged'): log = fit(made(clip), other, LABELS, checkpoint=tmp_path/'a.ckpt')
    assert (tmp_path/'a.ckpt.damaged').exists() and len(log) == 4


def test_truth_is_of_the_labels_that_are_trained_on(clip, store):
    "A method that makes a training set of its own is not measured by the rows of another."
    class Twice(Linear):
        def training_set(self, store, labels): return TensorStore(store.dense.repeat(2, 1, 1, 1), store.pooled.repeat(2, 1)), labels.repeat(2, 1)
        def see_truth(self, truth): raise AssertionError
    log = fit(made(clip, Twice, epochs=1), store, LABELS, truth=LABELS)
    assert not any(k.startswith('pseudo_') for k in log[0])
