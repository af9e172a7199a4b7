"""Small parts of the compared methods that trainings on a handful of images do not ask for: defaults, names of weights, other losses."""
from inspect import signature

import pytest
import torch

from trmml import clip as clips
from trmml.methods import create
from trmml.methods.ensemble import Ensemble
from trmml.methods.heads import _resnet
from trmml.methods.imagenet import Curriculum
from trmml.train import Method

NAMES = ['cat', 'dog', 'sofa']


@pytest.fixture(scope='module')
def clip(): return clips.load('doodle-clip', weights=None, image_size=64)


@pytest.mark.parametrize('kind', ['softmax', 'sigmoid', 'dual'])
def test_scores_of_coop(clip, kind):
    "Of a softmax the cosines, moved to 0 to 1; else sigmoids."
    method = create('coop', clip, NAMES, loss_kind=kind, n_ctx=2)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): z, got = method.logits(x), method.scores(x)
    assert torch.allclose(got, (1 + z/method.sharpness)/2 if kind == 'softmax' else z.sigmoid())


class Part(Method):
    recipe = dict(Method.recipe)
    made = []
    def __init__(self, name, clip, classes, **settings):
        super().__init__(clip, classes)
        self.made.append((name, settings))
    def encode_text(self): return torch.zeros(3, self.clip.d)
    def scores(self, x): return torch.zeros(len(x), 3)
    def loss(self, x, labels, batch=None): return dict(total=torch.zeros(()))


def test_members_of_an_ensemble(clip):
    "TaI-DPT and its own DualCoOp, with one seed, unless their settings say otherwise."
    Part.made = []
    Ensemble(clip, NAMES, make=Part)
    Ensemble(clip, NAMES, seed=4, image_settings=dict(seed=5), make=Part)
    assert [(n, s['seed']) for n, s in Part.made] == [('taidpt', 0), ('dualcoop-tai', 0), ('taidpt', 4), ('dualcoop-tai', 5)]


def test_published_parts_of_a_resnet():
    assert _resnet('net.') == {'net.0.': 'trunk.visual.conv1.', 'net.1.': 'trunk.visual.bn1.', **{f'net.{k + 3}.': f'trunk.visual.layer{k}.' for k in range(1, 5)}}
    assert _resnet('net.', False) == {f'net.{k}.': f'trunk.visual.{k}.' for k in ('conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4')}


def test_epochs_of_a_curriculum(): assert signature(Curriculum).parameters['first'].default == 5
