"""What every method shares: options, recipes, schedules and losses, each by hand or beside PyTorch's own."""
import math

import pytest
import torch
from torch import nn

from trmml import clip as clips
from trmml.methods import create
from trmml.train import Method
from trmml.train.losses import asl, hill
from trmml.train.method import OPTIONAL, as_features, check_options, classification
from trmml.train.schedules import epoch_cosine, learning_rate, one_cycle

NAMES = ['cat', 'dog', 'sofa']


@pytest.fixture(scope='module')
def clip(): return clips.load('doodle-clip', weights=None, image_size=64)


class Linear(Method):
    recipe = dict(Method.recipe, epochs=7)
    def __init__(self, clip, classes, **settings):
        super().__init__(clip, classes, **settings)
        self.head = nn.Linear(clip.d, len(classes))
    def encode_text(self): return self.head.weight
    def scores(self, x): return self.head(as_features(self.clip, x).pooled).sigmoid()
    def loss(self, x, labels, batch=None): return dict(total=self.head.weight.sum())


class Longer(Linear): pass


@pytest.mark.parametrize('setting, value, words', [
    ('rise', 1.5, 'a share from 0 to 1'), ('cycle_momentum', 'yes', 'True, False'), ('average', 1., 'below 1')])
def test_a_wrong_entry_of_a_recipe_stops_before_the_training(clip, setting, value, words):
    with pytest.raises(ValueError, match=words): Linear(clip, NAMES, **{setting: value})


@pytest.mark.parametrize('name, good, bad', [
    ('topk', 1, 0), ('tau_nce', 1e-9, 0), ('tau_nce', 9., math.inf), ('alpha', 0, -1e-9), ('alpha', 9., math.inf), ('eta', .999, 1), ('warmup', 1, 1.001),
    ('bank_above', 0, 1), ('tau_start', 100, 100.1), ('tau_start', 1e-9, 0), ('gamma', 0, math.nan)])
def test_ends_of_ranges(name, good, bad):
    check_options(**{name: good})
    with pytest.raises(ValueError, match=f'{name}='): check_options(**{name: bad})


def test_recipes_of_classes_below(clip):
    assert Linear.recipe == {**OPTIONAL, **Method.recipe, 'epochs': 7} and Longer.recipe is Linear.recipe
    method = Linear(clip, NAMES)
    method.eval()
    assert not method.training
    method.train()
    assert method.training


def test_the_classification_loss_is_the_asymmetric_one_of_the_paper(clip):
    method, s, y = create('dualcoop', clip, NAMES), torch.randn(4, 3), torch.tensor([[1, 0, -1]]*4)
    torch.testing.assert_close(classification(method, s, y), asl(s, y, gamma_pos=1., gamma_neg=2., shift=.05, reduction='batch', eps=1e-8))
    assert classification(method, s, y, gamma_neg=4.) != classification(method, s, y)


@pytest.mark.parametrize('steps, rise', [(100, .3), (37, .25), (12, .5)])
def test_one_cycle_is_that_of_pytorch(steps, rise):
    opt = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1., betas=(.9, .999))
    cycle = torch.optim.lr_scheduler.OneCycleLR(opt, 1., total_steps=steps, pct_start=rise)
    for step in range(steps):
        lr, beta = one_cycle(step, steps, rise)
        assert lr == pytest.approx(opt.param_groups[0]['lr'], rel=1e-9) and beta == pytest.approx(opt.param_groups[0]['betas'][0], rel=1e-9)
        opt.step()
        if step < steps - 1: cycle.step()


def test_a_cosine_by_epochs():
    assert [round(epoch_cosine(2., e, 4), 6) for e in range(4)] == [1e-5, 2., round(2*(1 + math.cos(math.pi/4))/2, 6), 1.]
    assert epoch_cosine(1e-6, 0, 4) == 1e-6                                               # never above the maximum
    assert [learning_rate('cosine', 2., s, 12, 4) for s in range(0, 12, 3)] == [epoch_cosine(2., e, 4) for e in range(4)]
    assert [learning_rate('cosine', 2., s, 12, 4, .5) for s in (0, 2, 3)] == [.5, .5, 2.]
    assert learning_rate('constant', .1, 5, 9, 3) == .1 and learning_rate('onecycle', .1, 5, 90, 3) == .1*one_cycle(5, 90)[0]


def test_hill_by_hand():
    s, y = torch.tensor([[.7, -1.2, .3]]), torch.tensor([[1, -1, 0]])
    p = s.sigmoid()[0]
    pm = (s[0, 0] - 1).sigmoid()
    expected = (1 - pm)**2*math.log1p(math.exp(1 - .7)) + (1.5 - p[1])*p[1]**2 + (1.5 - p[2])*p[2]**2
    assert hill(s, y).item() == pytest.approx(expected.item(), rel=1e-6)
