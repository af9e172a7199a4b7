"""The CLIP-based peers: published numbers, slow references, training through the one learner."""
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize
from torch.testing import assert_close

import trmml.clip
from test_datasets import ATTRIBUTES
from trmml import data, runs
from trmml.data import VOC_CLASSES
from trmml.data.cub200 import attribute_words
from trmml.data.nuswide import CONCEPTS
from trmml.doodles import VOC_KINDS
from trmml.features import Rows
from trmml.labels import partial, single_positive
from trmml.train import TensorStore, fit, optimizer, predict, save_checkpoint
from trmml.train.method import Batch, count_parameters
from trmml.methods import METHODS, OFFICIAL, TITLES, IMAGENET_METHODS, arguments, check_inputs, create, find
from trmml.methods.dualcoop import DualCoOp, DualCoOpMean, DualCoOpTaI, position_shift
from trmml.methods.dualcoop_plus import WTA, DualCoOpPlus, evidence_logits, winners
from trmml.methods.hspnet import FAMILIES, HSPNet, family, kept, usual_family
from trmml.methods.averaging import cycle as one_cycle
from trmml.methods.class_graph import adjacency, calibration
from trmml.methods.scpnet import SCPNet, consistency, hard_targets, splc_loss, thresholds
from trmml.features.augment import random_change
from trmml.methods.ensemble import ensemble
from trmml.methods.taidpt import TaIDPT, caption_labels, local_scores, name_captions, phrases, read_captions, synonyms, SYNONYMS, unplaced_features
from trmml.metrics import average_precision, mean_ap

VOC = Path(__file__).resolve().parents[2]/'shared'/'data'/'voc2007_test_scores.npz'
NAMES = ['cat', 'dog', 'bus', 'person', 'sofa', 'chair']
COCO = dict(keep=62, hard=2, soft=1., temperature=.2, lr=3e-5, gcn_lr=1e-5, epochs=60, stretch=4/3)   # SCPNet's, by its authors
TREE = (['farm', 'street', 'living room', 'person'], [0, 0, 1, 3, 2, 2])
SETUP = {'vision-only': dict(unit=200.), 'sparc': dict(template='a photo of a {}.'), 'hspnet': dict(parents=TREE, hidden=32), 'hspnet-frozen': dict(parents=TREE, hidden=32), 'scpnet': dict(hidden=32),
         'scpnet-frozen': dict(hidden=32), 'taidpt': dict(n_captions=200, batch=128), 'taiadapter': dict(n_captions=200, batch=128),
         **{k: dict(text_settings=dict(n_captions=200, batch=128)) for k in ('taidpt+dualcoop', 'taidpt+trmml', 'taiadapter+dualcoop')}}
TRAINED = [m for m in METHODS if find(m)[0].trainable]
FROZEN = [m for m in TRAINED if m not in ('scpnet', 'hspnet') + tuple(IMAGENET_METHODS)]


class Shapes(trmml.clip.CLIP):
    "A CLIP of which only the shapes and the token embedding exist."
    logit_scale = 100.
    def text(self, said): return torch.zeros(len(said), self.d)


def shapes(name):
    with torch.device('meta'): model = trmml.clip.architecture(name)
    model.token_embedding = nn.Embedding.from_pretrained(torch.zeros(model.token_embedding.weight.shape))
    model.logit_scale = nn.Parameter(torch.tensor(math.log(100)))
    return Shapes(model, name, 'shapes alone', 448)


@pytest.fixture(scope='module')
def rn101(): return shapes('RN101')


@pytest.fixture(scope='module')
def rn50(): return shapes('RN50')


@pytest.fixture(scope='module')
def clip(): return trmml.clip.load('doodle-clip')


@pytest.fixture(scope='module')
def world(clip):
    "Planted features: 60 pictures of 4 x 4 positions, and their labels."
    g = torch.Generator().manual_seed(0)
    G = normalize(clip.text([f'a photo of a {c}.' for c in NAMES]), dim=-1)
    y = (torch.rand(60, 6, generator=g) < .4).to(torch.int8)*2 - 1
    f = .3*torch.randn(60, clip.d, 4, 4, generator=g)/clip.d**.5
    f.flatten(2)[:, :, 0] += torch.einsum('nc,cd->nd', (y == 1).float(), G)
    return TensorStore(f, f.mean((2, 3))), y


def learnable(method): return count_parameters(method)['learnable']
def many(n): return [f'class {i}' for i in range(n)]


# ---- 1: masks

def test_masks_of_voc():
    "Ratios of the published masks; the counts of positives and negatives need the labels themselves."
    known = [(partial(np.ones((5011, 20), np.int8), p/10) == 1).mean() for p in range(1, 10)]
    assert [round(k, 4) for k in known] == [.1009, .2016, .3010, .3998, .5005, .6015, .6997, .7996, .8998]
    assert 740 + 9368 == round(known[0]*5011*20) and 3674 + 46489 == round(known[4]*5011*20)


@pytest.mark.skipif(not (data.data_root()/'VOCdevkit'/'VOC2007').is_dir(), reason='VOC 2007 is not on this machine')
def test_known_labels_of_voc():
    train, test = (data.load('voc2007', s).labels for s in ('train', 'test'))
    assert ((train == 1).sum(), (test == 1).sum()) == (7306, 7013)
    for p, pos, neg in (.1, 740, 9368), (.5, 3674, 46489):
        Y = partial(train, p); assert ((Y == 1).sum(), (Y == -1).sum()) == (pos, neg)


@pytest.mark.skipif(not VOC.exists(), reason='shared/data/voc2007_test_scores.npz is not beside the repository')
def test_positives_of_voc(): assert (np.load(VOC)['targets'] == 1).sum() == 7013


# ---- 2, 5, 6: sizes

def test_sizes_of_prompts(rn101, rn50):
    assert learnable(DualCoOp(rn101, many(80))) == 1_310_720 == 1.25*2**20
    assert round(count_parameters(DualCoOp(rn101, many(80)))['total']/2**20, 2) == 91.17
    assert learnable(DualCoOp(rn101, many(20))) == 327_680
    assert learnable(DualCoOp(rn101, many(80), class_specific=False)) == 16_384 == learnable(TaIDPT(rn50, many(80)))
    assert learnable(DualCoOpTaI(rn101, many(80))) == 1_310_720 + 2
    assert learnable(DualCoOpMean(rn101, many(80))) == 1_310_720 + 1
    assert learnable(DualCoOpPlus(rn101, many(80))) == 80*3*21*512 + 1 and learnable(DualCoOpPlus(rn101, many(80), class_specific=False)) == 3*21*512 + 1


def test_sizes_of_scpnet(rn101, rn50):
    small, large = SCPNet(rn50, many(80), **COCO), SCPNet(rn101, many(80), **COCO)
    size = lambda part: sum(p.numel() for p in part.parameters())
    assert [round(size(p)/1e6, 2) for p in (small.core.visual, small.core.gcn, large.core.visual, large.core.gcn)] == [38.32, 8.39, 56.26, 6.29]
    assert size(small.core.prompts) == 2048
    assert [round(count_parameters(large)[k]/2**20, 2) for k in ('learnable', 'total')] == [59.66, 96.02]
    frozen = SCPNet(rn101, many(80), **COCO, tower='frozen')
    assert learnable(frozen) == size(large.core.gcn) + 2048 and count_parameters(frozen)['total'] > count_parameters(large)['learnable']


def test_sizes_of_hspnet(rn50):
    method = HSPNet(rn50, [c for v in FAMILIES['coco'].values() for c in v])
    assert sum(p.numel() for p in method.core.meta.parameters()) == 6_295_552
    assert method.core.A.shape == (80, 80) and method.core.A_P.shape == (12, 12)


# ---- 3: positions

def test_numbers_of_positions(rn101, rn50, clip):
    assert position_shift(rn101, 14, 14).shape == (197, 512)
    f = torch.randn(1, 128, 14, 14)
    assert DualCoOp(clip, NAMES).positions(f).shape[1] == 197 and DualCoOpTaI(clip, NAMES).positions(f).shape[1] == DualCoOpPlus(clip, NAMES).positions(f).shape[1] == 196
    visual, x = rn50.model.visual, torch.zeros(1, 3, 224, 224, device='meta')
    assert trmml.clip.dense_features(visual.attnpool, trmml.clip.feature_map(visual, x)).flatten(2).shape == (1, 1024, 49)
    assert TaIDPT(clip, NAMES).grained(torch.randn(1, 3, 224, 224))[2].shape == (1, 6, 49)


# ---- 4: equal prompts

@pytest.mark.parametrize('kind', [DualCoOp, DualCoOpTaI, DualCoOpMean])   # not DualCoOp++, whose positive votes are turned down
def test_equal_prompts_cannot_decide(kind, clip):
    method = kind(clip, NAMES)
    with torch.no_grad(): method.prompts.ctx[1] = method.prompts.ctx[0]
    torch.testing.assert_close(method.eval().scores(torch.randn(2, 3, 64, 64)), torch.full((2, 6), .5))


# ---- DualCoOp++: evidence and the winner that takes all

def slow_plus(u, G, kappa, scale, omega, form):
    "(B, C) logits in loops over images, classes and positions, in double precision."
    unit = lambda v: v/np.linalg.norm(v); out = np.zeros((len(u), G.shape[1]))
    for i, positions in enumerate(u):
        a, b, e = (np.array([[unit(x) @ unit(t) for x in positions] for t in g]) for g in G)                 # (C, n) each
        for c in range(G.shape[1]):
            look = np.exp(kappa*e[c]); look /= look.sum()
            for n in range(len(positions)):
                rival = np.exp(omega*a[:, n].max()*a[:, n]); share = rival/rival.sum()
                vote = {'norm': share[c]/share.max(), 'add': 1 + share[c], 'none': 1}[form]
                out[i, c] += scale*look[n]*(vote*a[c, n] - b[c, n])
    return out


@pytest.mark.parametrize('form', WTA)
def test_dualcoop_plus_in_loops(form):
    g = torch.Generator().manual_seed(0); u, G = torch.randn(3, 7, 5, generator=g), torch.randn(3, 4, 5, generator=g)
    pos, neg, w = evidence_logits(normalize(u, dim=-1), G, 20., 19., 8., form)
    np.testing.assert_allclose(pos - neg, slow_plus(u.double().numpy(), G.double().numpy(), 20., 19., 8., form), rtol=2e-4, atol=2e-4)
    assert_close(w.sum(-1), torch.ones(3, 4))


def test_only_one_class_keeps_its_vote():
    "The most similar class keeps all of it, one as similar half of a share, one far away nothing; classes at other positions do not matter."
    a = torch.tensor([[.3, .3, .1], [.1, .2, .3], [.1, .1, .2]])[None]                                       # (1, C = 3, n = 3)
    w = winners(a, 400.); assert_close(w[0, :, 0], torch.tensor([1., math.exp(400*.3*-.2), math.exp(400*.3*-.2)])); assert w.max(1).values.eq(1).all()
    assert_close(w[..., 1:], winners(a[..., 1:], 400.)); assert_close(winners(a, 400., 'add').sum(1), torch.full((1, 3), 4.)); assert winners(a, 1., 'none').eq(1).all()
    assert w[0, 1, 1] > w[0, 2, 1]                                                                           # a closer loser keeps more


def test_classes_compete_in_training_and_in_scoring(clip):
    "As in the trainer: one forward pass for both."
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)); out = {}
    for form in WTA:
        m = create('dualcoop-plus', clip, NAMES, wta=form, wta_sharpness=20.)
        with torch.no_grad(): m.prompts.ctx.mul_(20); out[form] = m.train().scores(x), m.eval().scores(x)
        assert_close(*out[form], atol=1e-5, rtol=1e-4)
    for a, b in (('norm', 'add'), ('norm', 'none'), ('add', 'none')):
        for i in 0, 1: assert (out[a][i] - out[b][i]).abs().max() > 1e-3, (a, b, i)


PLUS = dict(n_ctx=3, class_specific=False, spatial=1., sharpness=1., wta='add', wta_sharpness=9., loss_w=1., gamma_pos=0., gamma_neg=0., shift=0., seed=5, unknown='negative', loss='bce')


@pytest.mark.parametrize('name', PLUS)
def test_each_option_of_dualcoop_plus_has_an_effect(name, clip):
    x, y = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 0, -1]*2, [-1, 1, 0]*2], dtype=torch.int8)
    def grown(**how):
        m = create('dualcoop-plus', clip, NAMES, **how)
        with torch.no_grad(): m.prompts.ctx.mul_(20); m.evidence.ctx.mul_(20)
        return m.loss(x, y)['total'].item()
    assert grown() == grown() and abs(grown(**{name: PLUS[name]}) - grown()) > 1e-4*abs(grown())


def test_evidence_and_decision_are_prompts_of_their_own(clip):
    "Three draws; the map moves with the evidential prompts alone, and the temperature of the map is learned."
    m = create('dualcoop-plus', clip, NAMES).eval(); x = torch.randn(2, 3, 64, 64); R, s = m.regions(x), m.scores(x)
    draws = torch.cat([m.prompts.ctx, m.evidence.ctx]).flatten(1).detach(); assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < .05
    assert_close(R.flatten(2).sum(-1), torch.ones(2, 6))
    with torch.no_grad(): m.prompts.ctx.mul_(20)
    m.train().eval(); assert torch.equal(m.regions(x), R) and not torch.allclose(m.scores(x), s, atol=1e-4)
    with torch.no_grad(): m.evidence.ctx.mul_(20)
    m.train().eval(); assert not torch.allclose(m.regions(x), R, atol=1e-4) and m.log_spatial.requires_grad


# ---- 5, 6: graphs and families

@pytest.mark.parametrize('C, keep, T, published', [(80, 62, .2, .4682), (20, 20, .3, .4224), (81, 50, .2, .5219), (312, 312, .3, .0441)])
def test_graph_of_scpnet(C, keep, T, published):
    R = .6 + .3*torch.rand(C, C, generator=torch.Generator().manual_seed(C)); R = ((R + R.T)/2).fill_diagonal_(1.)
    A = adjacency(R, keep); S = calibration(A, T)
    torch.testing.assert_close(A.sum(1), torch.ones(C)); torch.testing.assert_close(A.diag(), torch.full((C,), .8))
    assert ((A > 0).sum(1) == keep).all() and (A[A == 0] == S[A == 0]).all()
    assert S.diag().mean().item() == pytest.approx(published, abs=5e-5)
    i = 3; row = np.where(A[i].numpy() > 0, np.exp(A[i].double().numpy()/T), 0)
    np.testing.assert_allclose(S[i], row/row.sum(), rtol=1e-4)


def test_settings_of_scpnet(clip):
    "Defaults are VOC 2012's; `like`, which chose among data sets, says where settings are now; NUS-WIDE's scale is learned."
    voc = SCPNet(clip, NAMES, tower='frozen', hidden=8)
    assert (voc.hard, voc.soft, [voc.recipe[k] for k in ('lr', 'gcn_lr', 'epochs', 'stretch', 'batch')]) == (5, 2., [4e-5, 2e-4, 120, 1., 128])
    own = SCPNet(clip, NAMES, tower='frozen', hidden=8, **COCO | dict(keep=2))
    assert (own.hard, own.soft, own.recipe['gcn_lr'], own.recipe['stretch']) == (2, 1., 1e-5, 4/3)
    assert ((own.core.A > 0).sum(1) == 2).all() and own.S.diag().mean() > voc.S.diag().mean()
    for like in 'coco', 'voc':
        with pytest.raises(TypeError, match=r"like='\w+': .*runs\.recipe\('scpnet', 'coco2014'\).*`trmml recipe scpnet coco2014`"): create('scpnet-frozen', clip, NAMES, like=like)
    with pytest.raises(TypeError, match="no setting 'liked'"): create('scpnet-frozen', clip, NAMES, liked='coco')
    scale = lambda **k: SCPNet(clip, NAMES, tower='frozen', hidden=8, **k).core.log_scale
    assert not scale().requires_grad and scale(learn_scale=True).requires_grad
    assert scale(learn_scale=True).exp().item() == pytest.approx(clip.logit_scale) == pytest.approx(10*scale().exp().item())


KINDS = dict(coco=[c for v in FAMILIES['coco'].values() for c in v], voc=VOC_CLASSES, nus=list(CONCEPTS), cub=ATTRIBUTES)   # classes of a family


def test_counts_of_hspnet():
    assert [kept(n) for n in (12, 4, 6, 20)] == [9, 3, 4, 15] and [kept(n) for n in (80, 20, 81, 312)] == [60, 15, 60, 234]
    counts = {k: np.bincount(family(k, c)[1].numpy()).tolist() for k, c in KINDS.items()}
    assert counts['coco'] == [1, 8, 5, 10, 5, 10, 7, 10, 6, 6, 5, 7] and counts['voc'] == [7, 6, 6, 1]
    assert counts['nus'] == [9, 1, 33, 4, 33, 1] and sum(counts['cub']) == 312 and len(counts['cub']) == 20
    nus = '242444422424224440404044444222224224532222342302222404422014242003244244424220424'
    assert family('nus', CONCEPTS)[1].tolist() == [int(c) for c in nus]
    voc = [0, 0, 2, 0, 1, 0, 0, 2, 1, 2, 1, 2, 2, 0, 3, 1, 2, 1, 0, 1]
    assert family('voc', VOC_CLASSES)[1].tolist() == voc == family('doodles', VOC_KINDS)[1].tolist()
    assert family('doodles', VOC_KINDS)[0] == ['street', 'living room', 'farm', 'person'] and family('voc', VOC_KINDS)[0] == ['vehicles', 'household', 'animals', 'person']
    runs_of = '9x9 13x15 12x15 11x15 1x4 6x15 17x6 15x15 3x11 1x15 0x15 19x14 9x3 4x15 14x15 10x15 8x15 13x5 18x5 7x14 6x4 17x4 8x4 5x15 16x15 9x15 2x15 13x4'
    cub = [int(p) for t in runs_of.split() for p in [t.split('x')[0]]*int(t.split('x')[1])]
    for names in ATTRIBUTES, [attribute_words(a) for a in ATTRIBUTES]: assert family('cub', names)[1].tolist() == cub


@pytest.mark.parametrize('name', ['coco', 'voc', 'nus', 'cub'])
def test_families_go_by_names(name, clip):
    "Whatever the order and the spelling; twenty foreign names are not VOC's."
    other = trmml.clip.CLIP(clip.model, 'another', 'doodle-clip', 256)
    order = np.random.RandomState(5).permutation(len(KINDS[name])); raw, words = (
        KINDS[name], [attribute_words(a) for a in KINDS[name]] if name == 'cub' else [data.clean_name(c).upper() for c in KINDS[name]])
    for classes in raw, words:
        assert usual_family(other, classes) == name
        parents, index = family(name, classes); again, moved = family(name, [classes[i] for i in order])
        assert again == parents and moved.tolist() == index[order].tolist() and usual_family(other, [classes[i] for i in order]) == name


def test_families_of_foreign_names(clip):
    other = trmml.clip.CLIP(clip.model, 'another', 'doodle-clip', 256); foreign = [f'defect {i}' for i in range(20)]
    for classes, unknown, found in ((foreign, 20, ['object']), (foreign[:2] + ['zebra', 'dining table', 'horse'], 2, ['animal', 'furniture', 'object'])):
        with pytest.warns(UserWarning, match=f'no parent of {unknown} of {len(classes)} classes') as said: parents, index = usual_family(other, classes)
        assert len(said) == 1 and parents == found and [parents[i] for i in index][:2] == ['object']*2
    with pytest.raises(ValueError, match="'voc' knows no parent of 20 of 20 classes, 'defect 0' the first"): family('voc', foreign)
    with pytest.warns(UserWarning, match='2 of 6 classes'): method = HSPNet(clip, [*NAMES[:4], 'dent', 'scratch'], tower='frozen', hidden=8)
    assert method.core.index.tolist() == [1, 1, 0, 2, 3, 3] and method.core.t_P.shape[0] == 4      # street, farm, person, object
    with warnings.catch_warnings():
        warnings.simplefilter('error'); method = HSPNet(clip, NAMES[::-1], tower='frozen', hidden=8)
    assert method.core.index.tolist() == [1, 1, 3, 0, 2, 2] and method.recipe['gcn_lr'] == 7e-4


# ---- 7: SPLC

def test_splc_against_the_definition():
    rng = np.random.RandomState(0); z, Y = rng.randn(5, 7)*2, rng.randint(-1, 2, (5, 7))
    for epoch in 0, 1, 5:
        for assume in True, False:
            total = 0.
            for b in range(5):
                for c in range(7):
                    y, s = Y[b, c], z[b, c] - (Y[b, c] == 1); p = 1/(1 + math.exp(-s))
                    found = y == 0 and p > .6 and epoch >= 1
                    if y == 0 and not found and not assume: continue
                    total -= (1 - p)**2*math.log(p) if y == 1 or found else p**2*math.log(1 - p)
            assert splc_loss(torch.tensor(z), torch.tensor(Y), epoch, assume).item() == pytest.approx(total, rel=1e-5)


def test_splc_without_labels():
    z, none = torch.tensor([[1.5, -.5, .2, .6]]), torch.zeros(1, 4, dtype=torch.int8); p = z.sigmoid()
    torch.testing.assert_close(splc_loss(z, none, 0), -(p**2*(1 - p).log()).sum())
    found = torch.tensor([[True, False, False, True]])          # sigmoid(.6) = .646: no margin is taken off
    torch.testing.assert_close(splc_loss(z, none, 1), -torch.where(found, (1 - p)**2*p.log(), p**2*(1 - p).log()).sum())


def test_splc_has_gradient_through_its_focus():
    z = torch.tensor([[.3]], requires_grad=True); splc_loss(z, torch.tensor([[-1]]), 0).backward()
    p = 1/(1 + math.exp(-.3))
    assert z.grad.item() == pytest.approx(p*(1 - p)*(-2*p*math.log(1 - p) + p**2/(1 - p)), rel=1e-5)


# ---- SCPNet's consistency, in loops

def slow_consistency(p, z, S, n, N, K, Y):
    B, C = p.shape; a = [max(n[c]/max(max(n), K*N - sum(n), 1), 1/C) for c in range(C)]
    hard, soft, said = 0., 0., np.zeros((B, C), bool)
    for b in range(B):
        top = sorted(range(C), key=lambda c: -p[b, c])[:K]
        sure = [c for c in top if p[b, c] >= .95*a[c]/(2 - a[c])]
        for c in range(C): said[b, c] = (c in sure or Y[b, c] == 1) and Y[b, c] != -1
        if not sure: continue
        for c in range(C):
            q = 1/(1 + math.exp(-z[b, c])); r = sum(S[c, j]*p[b, j] for j in range(C))
            hard -= math.log(q) if said[b, c] else math.log(1 - q)
            soft -= r*math.log(q) + (1 - r)*math.log(1 - q)
    return hard, soft, said


def test_consistency_against_loops():
    rng = np.random.RandomState(1); p, z, Y = rng.rand(6, 5), rng.randn(6, 5), rng.randint(-1, 2, (6, 5))
    S = calibration(adjacency(torch.rand(5, 5).fill_diagonal_(1.), 4), .3).double(); n = np.array([30, 5, 0, 12, 2])
    hard, soft, said = slow_consistency(p, z, S.numpy(), n.tolist(), 40, 2, Y)
    tau = thresholds(torch.tensor(n), 40, 2).double()
    y, use = hard_targets(torch.tensor(p), tau, 2, torch.tensor(Y))
    np.testing.assert_array_equal(y, said)
    assert consistency(torch.tensor(z), y, use).item() == pytest.approx(hard, rel=1e-5)
    assert consistency(torch.tensor(z), torch.tensor(p) @ S.T, use).item() == pytest.approx(soft, rel=1e-5)


def test_memory_of_scpnet(clip, world):
    "What is remembered of a picture is its last hard label; thresholds follow."
    method = SCPNet(clip, NAMES, tower='frozen', hidden=32); store, labels = world
    with pytest.warns(UserWarning, match='one view three times'): method.training_set(store, labels)
    rows = torch.tensor([3, 7]); batch = Batch(rows, step=0, steps=10); method.before_step(optimizer(method), 0, 10, batch)
    method.loss(store.batch(rows), labels[rows], batch)
    said = method.memory.nonzero()[:, 0].unique().tolist(); assert set(said) <= {3, 7} and said
    assert (method.memory[rows] | (labels[rows] != 1)).all() and not (method.memory[rows] & (labels[rows] == -1)).any()
    before = method.memory.clone(); method.loss(store.batch(torch.tensor([0, 1])), labels[:2])   # outside of training
    assert torch.equal(method.memory, before)


# ---- 8: schedules

def trace(method, steps_an_epoch, loops, epochs):
    opt = optimizer(method); out = []
    for e in epochs:
        method.before_step(opt, e*steps_an_epoch, loops*steps_an_epoch, None)
        out.append({round(g['lr_factor'], 3): g['lr'] for g in opt.param_groups} | dict(beta=opt.param_groups[0]['betas'][0]))
    return out


def test_learning_rates_of_scpnet(clip):
    out = trace(SCPNet(clip, NAMES, **COCO, hidden=8), 642, 60, range(17))
    assert [f'{t[1.]:.1e}' for t in out[:5]] == ['1.2e-06', '1.5e-06', '2.3e-06', '3.6e-06', '5.4e-06']
    assert f'{out[15][1.]:.1e}' == '3.0e-05' == f'{out[16][1.]:.1e}'
    assert all(t[.333] == pytest.approx(t[1.]/3) for t in out)      # the graph network's own
    assert out[0]['beta'] == pytest.approx(.95) and out[16]['beta'] == pytest.approx(.85, abs=1e-4)


def test_learning_rates_of_hspnet(rn50):
    out = trace(HSPNet(rn50, KINDS['coco'], hidden=8, gcn_lr=5e-4), 642, 60, [0, 1, 2, 3, 16])
    assert [f'{t[1.]:.1e}' for t in out] == ['4.0e-06', '4.9e-06', '7.7e-06', '1.2e-05', '1.0e-04']
    assert all(t[5.] == pytest.approx(5*t[1.]) for t in out)


def test_one_cycle_is_that_of_pytorch():
    opt = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.); s = torch.optim.lr_scheduler.OneCycleLR(opt, 1., 150, pct_start=.2)
    for i in range(150):
        f, b = one_cycle(i, 150); g = opt.param_groups[0]
        assert f == pytest.approx(g['lr'], abs=1e-9) and b == pytest.approx(g['betas'][0], abs=1e-9), i
        opt.step(); s.step() if i < 149 else None


def test_schedule_of_a_very_short_training():
    for n in range(2, 12):
        for f, b in (one_cycle(i, n) for i in range(n)): assert 0 < f <= 1 + 1e-9 and .85 - 1e-9 <= b <= .95 + 1e-9


def test_decay_spares_vectors(clip):
    method = HSPNet(clip, NAMES, TREE, hidden=8); groups = method.parameter_groups()
    assert sum(len(g['params']) for g in groups) == len([p for p in method.core.parameters() if p.requires_grad])
    for g in groups: assert all((p.ndim == 1) == (g['weight_decay'] == 0.) for p in g['params'])
    opt = optimizer(method); assert type(opt).__name__ == 'Adam' and {g['weight_decay'] for g in opt.param_groups} == {0., 1e-4}


# ---- the average, BatchNorm

def test_average_of_weights(clip):
    method = SCPNet(clip, NAMES, hidden=8, tower='frozen', batch=20)
    start = method.core.prompts.ctx.detach().clone(); method.before_step(optimizer(method), 0, 3*method.recipe['epochs'], None)
    move = torch.linspace(-1, 1, 128).expand_as(start)         # a constant would be lost in the layer norm
    with torch.no_grad(): method.core.prompts.ctx += move
    method.after_step()
    torch.testing.assert_close(method.ema.prompts.ctx - start, (1 - .82**(1/3))*move, atol=1e-6, rtol=1e-4)   # three steps an epoch
    x = torch.randn(2, 3, 64, 64); z = method.eval().logits(x)
    method.averaged = False; assert not torch.allclose(z, method.logits(x))


@pytest.mark.parametrize('name', ['scpnet', 'hspnet'])
def test_batchnorm_wakes_up_in_the_second_epoch(name, clip):
    method = create(name, clip, NAMES, **SETUP[name]); x = torch.randn(4, 3, 64, 64); bn = method.core.visual.bn1
    before = bn.running_mean.clone(), clip.model.visual.bn1.running_mean.clone()
    method.train(); method.begin_epoch(0, 2); method.loss(x, torch.zeros(4, 6, dtype=torch.int8)); assert torch.equal(bn.running_mean, before[0])
    method.train(); method.begin_epoch(1, 2); method.loss(x, torch.zeros(4, 6, dtype=torch.int8)); assert not torch.equal(bn.running_mean, before[0])
    assert torch.equal(clip.model.visual.bn1.running_mean, before[1])              # the frozen CLIP is another
    method.eval(); assert not bn.training and not method.ema.training


# ---- 9: ensembles

@pytest.mark.skipif(not VOC.exists(), reason='shared/data/voc2007_test_scores.npz is not beside the repository')
def test_published_ensemble():
    z = np.load(VOC); y = np.where(z['targets'] == 1, 1, -1)
    tai, dual = (z['tai_global'] + z['tai_local'])/2, z['dualcoop_local']
    percent = lambda s, labels=y: round(100*mean_ap(s, labels), 2)
    assert (percent(tai), percent(dual)) == (88.07, 94.18)
    assert [percent(ensemble(tai, dual, r)) for r in (.5, .6, .7, .8, .9, .95)] == [93.76, 94.29, 94.63, 94.76, 94.61, 94.43]
    assert [percent(ensemble(tai, dual, r), z['targets']) for r in (.7, .8, .9)] == [95.49, 95.63, 95.53]   # difficult ignored
    assert (percent(tai, z['targets']), percent(ensemble(tai, dual))) == (88.99, 94.61)


# ---- 10: the metric

def test_metric():
    y = torch.full((50, 3), -1); y[:5] = 1
    assert mean_ap(torch.arange(50, 0, -1)[:, None].expand(50, 3).float(), y) == pytest.approx(1.)
    for k in 1, 4, 50:
        one = torch.full((50, 1), -1); one[k - 1] = 1
        assert average_precision(torch.arange(50, 0, -1).float()[:, None], one).item() == pytest.approx(1/k)


# ---- TaI-DPT on sentences and pictures

def test_local_scores_in_loops():
    g = torch.Generator().manual_seed(0); f, G = torch.randn(2, 6, 8, generator=g), torch.randn(3, 8, generator=g)
    keep = torch.tensor([[True]*6, [True]*4 + [False]*2]); s, w = local_scores(f, G, 50., 4., keep)
    for b, n in enumerate((6, 4)):
        for c in range(3):
            cos = np.array([torch.cosine_similarity(f[b, i], G[c], dim=0).item() for i in range(n)]); e = np.exp(50*(cos - cos.max()))
            assert s[b, c].item() == pytest.approx(4*(cos*e).sum()/e.sum(), rel=1e-4)
    assert (w[1, :, 4:] == 0).all()


@pytest.mark.parametrize('text, there', [
    ('A man riding a motorbike past two buses', 'person motorbike bus'), ('Bottles on dinner tables, a telly', 'bottle diningtable tvmonitor'),
    ('an airplane; an air plane; jets', 'aeroplane'), ('a carpet and a cartoon of a catalog', ''), ('Kitty on the park bench', 'cat chair'),
    ('potted plants near COUCHES', 'pottedplant sofa'), ('sheep, women and children', 'sheep person'), ('', '')])
def test_words_to_labels(text, there):
    Y = caption_labels([text], phrases(VOC_KINDS, SYNONYMS['voc']), 20)
    assert [VOC_KINDS[c] for c in np.flatnonzero(Y[0] == 1)] == sorted(there.split())


def test_singulars_of_nuswide():
    singular = [w[:-1] for w in 'birds buildings cars clouds flags flowers horses plants rocks sports whales'.split()]
    said = [f'a {w} at noon' for w in singular]; Y = caption_labels(said, phrases(CONCEPTS, SYNONYMS['nus']), 81)
    assert [[CONCEPTS[c] for c in np.flatnonzero(y == 1)] for y in Y] == [[f'{w}s'] for w in singular]


def test_synonyms_go_by_names():
    for which, names in dict(voc=VOC_KINDS, coco=KINDS['coco'], nus=CONCEPTS).items():
        assert synonyms(names) is synonyms(names[::-1]) is synonyms([data.clean_name(n) for n in names]) is SYNONYMS[which]
    assert synonyms(many(80)) == synonyms(many(81)) == synonyms(ATTRIBUTES) == synonyms(['cat']) == {}
    assert synonyms(many(3), 'coco') is SYNONYMS['coco']
    with pytest.raises(ValueError, match="lists='pets': use one of 'voc', 'coco', 'nus'"): synonyms(['cat'], 'pets')


@pytest.mark.parametrize('name', ['taidpt', 'taiadapter', 'taidpt+trmml', 'taidpt+dualcoop', 'taiadapter+dualcoop'])
def test_captions_are_checked_before_anything_is_read(name, tmp_path):
    "By the method's name alone, also those of an ensemble's member."
    given = lambda c: dict(captions=c) if '+' not in name else dict(text_settings=(('captions', c),))
    empty, other, right = tmp_path/'no.txt', tmp_path/'no.csv', tmp_path/'yes.txt'; empty.touch(); other.write_text('a'); right.write_text('a cat\n')
    for c in None, 'doodles', 'names', ['a cat'], str(right), right: check_inputs(name, **given(c))
    for wrong, kind, words in ((tmp_path/'nowhere.json', FileNotFoundError, "no captions at .*nowhere.json: give a JSON file in COCO's format, or a text file .*'names'"),
                               (empty, ValueError, 'no.txt is empty'), (other, ValueError, 'no.csv is of no known kind'), ([], ValueError, 'needs sentences'), ([1], ValueError, 'needs sentences')):
        with pytest.raises(kind, match=words): check_inputs(name, **given(wrong))
    check_inputs('trmml'); check_inputs('zeroshot', captions='nowhere.json')


def test_captions_from_files(tmp_path):
    path = tmp_path/'captions_train2017.json'
    path.write_text(json.dumps(dict(annotations=[dict(image_id=i, caption=f'{i} {k}') for k in range(3) for i in (7, 3)])))
    assert read_captions(path) == ['3 0', '7 0'] and read_captions(str(path), 1) == ['3 0']
    for text in '[]', '{"images": []}', '{"annotations": [{"caption": "a"}]}', 'a cat':
        path.write_text(text)
        with pytest.raises(ValueError, match=r"captions_train2017.json is not in the format of COCO's captions, with annotations of image_id and caption \("): read_captions(path)
    path.write_text('{"annotations": []}')
    with pytest.raises(ValueError, match='holds no captions'): read_captions(path)
    lines = tmp_path/'said.txt'; lines.write_text(' a cat \n\ntwo dögs\r\n', encoding='utf-8'); assert read_captions(lines) == ['a cat', 'two dögs']


def test_sentences_made_from_names(clip):
    "One to four classes each, any class with any other, by seed; said once where nobody asked for them."
    said = name_captions(KINDS['coco'], 4000, 3); Y = caption_labels(said, phrases(KINDS['coco'], {}), 80) == 1; n = Y.sum(1)
    assert [(n == k).mean() for k in (1, 2, 3, 4)] == pytest.approx([.25]*4, abs=.03) and Y.sum(0).min() > 60 and said != name_captions(KINDS['coco'], 4000, 4)
    assert read_captions('names', 9, 3, KINDS['coco']) == name_captions(KINDS['coco'], 9, 3) and len(read_captions('names', classes=['cat'])) == 5000
    other = trmml.clip.CLIP(clip.model, 'another', 'doodle-clip', 256)
    for kind in 'taidpt', 'taiadapter':
        with pytest.warns(UserWarning, match='has no captions and learns from sentences made from class names.*captions=') as told: tokens, Y = create(kind, other, NAMES, n_captions=300).sentences()
        assert len(told) == 1 and (Y == 1).sum(1).max() >= 3
        with warnings.catch_warnings():
            warnings.simplefilter('error'); named, _ = create(kind, other, NAMES, captions='names', n_captions=300).sentences(); create(kind, clip, NAMES, n_captions=50).sentences()
        assert torch.equal(named, tokens)


def test_pictures_without_positions(clip):
    "Against CLIP's own attention, with the embedding really set to zero."
    import copy
    other = copy.deepcopy(clip.model.visual); other.attnpool.positional_embedding.data.zero_()
    x = torch.randn(2, 3, 128, 128)
    torch.testing.assert_close(unplaced_features(clip, x).pooled, other(x), atol=1e-4, rtol=1e-3)


def test_changes_of_wide_pictures():
    "A move is a share of the side it goes along: the middle of a flat picture stays in it."
    from PIL import Image
    flat = Image.new('RGB', (200, 40), (100, 100, 100)); torch.manual_seed(0)
    for i in range(400): assert random_change(flat).getpixel((100, 20)) != (0, 0, 0), i


# ---- from a model of open_clip, class names and a plain batch

@pytest.fixture(scope='module')
def small():
    "A model of open_clip, made here, with random weights; nothing of doodle-clip is in it."
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=32, vision_cfg=dict(layers=(1, 1, 1, 1), width=16, image_size=64), text_cfg=dict(width=32, heads=2, layers=2))
    return trmml.clip.CLIP(model, 'mine', 'random', 64)


@pytest.mark.parametrize('name', [m for m in METHODS if m.removesuffix('-frozen') not in IMAGENET_METHODS])
def test_from_a_model_of_open_clip(name, small):
    more = {k: dict(captions=['a cat and a dog', 'a bus']) for k in ('taidpt', 'taiadapter')}
    more |= {k: dict(text_settings=more['taidpt']) for k in METHODS if '+' in k}
    method = create(name, small, NAMES, **{**SETUP.get(name, {}), **more.get(name, {})})
    x, y = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([[1, 0, -1]*2, [-1, 1, 0]*2, [0, -1, 1]*2])
    if method.trainable:
        terms = method.loss(['a cat', 'a dog', 'a cat by a bus'] if name in more and '+' not in name else x, y)
        assert all(isinstance(k, str) and v.isfinite() for k, v in terms.items()) and terms['total'].requires_grad
    s = method.eval().scores(x); assert s.shape == (3, 6) and s.isfinite().all() and 0 <= s.min() and s.max() <= 1
    assert s.std(0).min() > 0                                          # pictures differ


def test_zero_shot_is_that_of_open_clip(small):
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        v = small.model.encode_image(x, normalize=True)
        t = small.model.encode_text(open_clip.get_tokenizer('RN50')([f'a photo of a {c}.' for c in NAMES]), normalize=True)
    assert_close(2*create('zeroshot', small, NAMES).scores(x) - 1, v @ t.T, atol=1e-5, rtol=1e-4)


# ---- all of them behind the one interface

def test_every_name_is_found_and_listed():
    from trmml.train.method import Method
    assert all(issubclass(find(m)[0], Method) for m in METHODS) and set(TITLES) == set(METHODS)
    listed = (Path(__file__).resolve().parents[1]/'nbs'/'methods'/'0_methods.ipynb').read_text(encoding='utf-8')
    assert all(f'`{m.removesuffix("-frozen")}`' in listed for m in METHODS)


@pytest.mark.parametrize('name', METHODS)
def test_scores_of_a_plain_batch(name, clip):
    method = create(name, clip, NAMES, **SETUP.get(name, {})).eval()
    x = torch.randn(3, 3, 64, 64); s = method.scores(x)
    assert s.shape == (3, 6) and s.isfinite().all() and 0 <= s.min() and s.max() <= 1
    assert name in TITLES
    if '+' not in name: torch.testing.assert_close(method.scores(x[:1]), s[:1], atol=1e-4, rtol=1e-3)
    if hasattr(method, 'logits'):                                      # same order of pictures in each class
        a, b = method.logits(x), s
        assert ((a[:, None] > a[None]) <= (b[:, None] >= b[None])).all()


@pytest.mark.parametrize('name', TRAINED)
def test_loss_has_named_terms_and_gradient(name, clip):
    method = create(name, clip, NAMES, **SETUP.get(name, {}))
    y = torch.tensor([[1, 0, -1, 0, 0, -1], [-1, 1, 0, 0, 0, 0]], dtype=torch.int8)
    x = ['a cat', 'a dog'] if name in ('taidpt', 'taiadapter') else torch.randn(2, 3, 64, 64)
    terms = method.loss(x, y); assert terms['total'].ndim == 0 and terms['total'].isfinite()
    before = {k: v.clone() for k, v in clip.state_dict().items()}
    terms['total'].backward(); assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())
    assert all(torch.equal(v, before[k]) for k, v in clip.state_dict().items()) and all(p.grad is None for p in clip.parameters())


WRONG_SETTINGS = [   # of which methods, a value that is wrong, what will do
    ('trmml', dict(eta=1.), 'below 1'), ('trmml', dict(eta=-.1), 'from 0'), ('trmml', dict(eta=float('nan')), 'from 0'), ('trmml', dict(region='false'), 'True, False'),
    ('trmml', dict(kd=1), 'True, False'), ('trmml', dict(contrastive=None), 'True, False'), ('trmml', dict(length=0), 'from 1'), ('trmml', dict(topk=0), 'from 1'),
    ('trmml', dict(topk=2.5), 'from 1'), ('trmml', dict(warmup=25), 'from 0 to 1'), ('trmml', dict(n_ctx=0), 'from 1'), ('trmml', dict(tau_nce=0), 'above 0'),
    ('trmml', dict(kind='tanh'), "'sigmoid', 'softmax'"), ('trmml', dict(alpha='1'), 'from 0'), ('dualcoop', dict(n_ctx=True), 'from 1'), ('dualcoop', dict(loss_w=0.), 'above 0'),
    ('dualcoop', dict(class_specific='no'), 'True, False'), ('dualcoop', dict(spatial=-1.), 'from 0'), ('dualcoop-tai', dict(spatial=0.), 'above 0'),
    ('dualcoop-plus', dict(spatial=0.), 'above 0'), ('dualcoop-plus', dict(wta='all'), "'norm', 'add', 'none'"), ('dualcoop-plus', dict(wta_sharpness=-2.), 'above 0'),
    ('dualcoop-plus', dict(wta_sharpness=True), 'above 0'), ('dualcoop-mean', dict(spatial=-1.), 'from 0'), ('dualcoop', dict(sharpness=float('inf')), 'above 0'), ('dualcoop', dict(shift=1.5), 'below 1')]


@pytest.mark.parametrize('name, wrong, words', WRONG_SETTINGS, ids=[f'{n} {w}' for n, w, _ in WRONG_SETTINGS])
def test_a_setting_out_of_range_is_named(name, wrong, words, clip):
    (key, value), = wrong.items()
    with pytest.raises(ValueError) as caught: create(name, clip, NAMES, **wrong)
    assert f'{key}={value!r}'.rstrip('.0') in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize('asl, error, words', [(dict(gama_neg=2.), TypeError, "'gama_neg'"), (dict(gamma_neg=-2.), ValueError, 'gamma_neg=-2.0')])
def test_settings_of_the_asymmetric_loss_are_checked_too(clip, asl, error, words):
    with pytest.raises(error, match=words): create('trmml', clip, NAMES, **asl)


def test_settings_on_the_edge_are_taken(clip):
    create('trmml', clip, NAMES, eta=0, warmup=0, topk=1, length=1, n_ctx=1, beta=0); create('trmml', clip, NAMES, warmup=1, eta=np.float64(.5), topk=np.int64(2))
    create('dualcoop', clip, NAMES, spatial=0, shift=0); create('dualcoop-mean', clip, NAMES)


def quick(name, clip, **more):
    settings = dict(SETUP.get(name, {}), epochs=3)
    if '+' not in name: settings = dict(settings, batch=settings.get('batch', 20))
    return create(name, clip, NAMES, **{**settings, **more})


@pytest.mark.parametrize('name', FROZEN)
@pytest.mark.filterwarnings('ignore:SCPNet sees one view')
def test_two_trainings_are_one(name, clip, world):
    "Seeds decide everything; other random numbers drawn before do not."
    store, labels = world; known = torch.from_numpy(partial(labels.numpy(), .6)); out = []
    for noise in 1, 2:
        torch.manual_seed(noise); np.random.seed(noise)
        method = quick(name, clip); log = fit(method, store, known, truth=labels); out.append(predict(method, store))
        assert log and all(math.isfinite(r['total']) for r in log)
    assert torch.equal(*out)


@pytest.mark.parametrize('name', ['scpnet', 'hspnet'])
def test_two_trainings_of_a_tower_are_one(name, tmp_path, world):
    "The views too are decided by the seed alone."
    from PIL import Image
    tiny = trmml.clip.load('doodle-clip', image_size=64); store = TensorStore(world[0].dense[:8], world[0].pooled[:8])
    for i in range(8): Image.fromarray(np.random.RandomState(i).randint(0, 256, (80, 96, 3), np.uint8)).save(tmp_path/f'{i}.png')
    store.paths, out = sorted(tmp_path.glob('*.png')), []
    for noise in 1, 2:
        torch.manual_seed(noise); np.random.seed(noise)
        method = quick(name, tiny, epochs=2, batch=4); log = fit(method, store, world[1][:8]); out.append(method.state_dict())
        assert all(math.isfinite(r['total']) for r in log)
    assert all(torch.equal(a, b) for a, b in zip(*(o.values() for o in out)))
    assert not torch.equal(method.core.visual.conv1.weight, tiny.model.visual.conv1.weight)       # it was trained


class Killed(Exception): pass


class Fragile(TensorStore):
    left = 10**9
    def batch(self, rows, device=None, dtype=torch.float32):
        self.left -= 1
        if self.left < 0: raise Killed
        return super().batch(rows, device, dtype)


@pytest.mark.parametrize('name', ['dualcoop-tai', 'scpnet-frozen', 'hspnet-frozen'])
@pytest.mark.filterwarnings('ignore:SCPNet sees one view')
def test_goes_on_after_a_kill(name, clip, world, tmp_path):
    store, labels = world; whole = quick(name, clip); fit(whole, store, labels)
    weak = Fragile(store.dense, store.pooled); weak.left = 7
    with pytest.raises(Killed): fit(quick(name, clip), weak, labels, checkpoint=tmp_path/'a.ckpt', every=1)
    again = quick(name, clip); assert len(fit(again, store, labels, checkpoint=tmp_path/'a.ckpt', every=1)) == 3
    for a, b in zip(whole.state_dict().values(), again.state_dict().values()): assert torch.equal(a, b)


@pytest.mark.parametrize('other, words', [
    (dict(name='coop'), "method 'DualCoOp', here 'CoOp'"), (dict(epochs=4), 'epochs 3, here 4'), (dict(lr=.5), r'lr .*, here 0.5'),
    (dict(loss='bce'), "loss 'asl', here 'bce'"), (dict(unknown='negative'), "unknown 'skip', here 'negative'")])
def test_a_checkpoint_of_another_training_is_refused(clip, world, tmp_path, other, words):
    store, labels = world; ckpt = tmp_path/'a.ckpt'; fit(quick('dualcoop', clip), store, labels, checkpoint=ckpt)
    before = ckpt.read_bytes()
    with pytest.raises(ValueError, match=f'a.ckpt: the checkpoint of another training .*{words}.*delete it'):
        fit(quick(**{'name': 'dualcoop', 'clip': clip, **other}), store, labels, checkpoint=ckpt)
    assert ckpt.read_bytes() == before


def test_a_checkpoint_of_other_labels_classes_or_seed_is_refused(clip, world, tmp_path):
    store, labels = world; ckpt = tmp_path/'a.ckpt'; fit(quick('dualcoop', clip), store, labels, checkpoint=ckpt)
    again = lambda labels=labels, names=NAMES, seed=0: fit(create('dualcoop', clip, names, epochs=3, batch=20), store, labels, seed, checkpoint=ckpt)
    for words, given in (('labels', dict(labels=-labels)), ('seed 0, here 1', dict(seed=1)), ('classes', dict(names=NAMES[::-1]))):
        with pytest.raises(ValueError, match=f'a.ckpt: the checkpoint of another training .{words}'): again(**given)
    assert len(again()) == 3                                                      # its own is welcome
    method = quick('dualcoop', clip); save_checkpoint(ckpt, method, optimizer(method), [])
    with pytest.raises(ValueError, match='a.ckpt: .* older version .*delete it'): again()


def test_members_have_checkpoints_of_their_own(clip, world, tmp_path):
    store, labels = world; method = quick('taidpt+dualcoop', clip)
    log = fit(method, store, labels, checkpoint=tmp_path/'key.abc.ckpt', every=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['key.abc.0.ckpt', 'key.abc.1.ckpt']
    assert [r['member'] for r in log] == ['TaIDPT']*3 + ['DualCoOpTaI']*3
    before = predict(method, store); again = quick('taidpt+dualcoop', clip)
    assert len(fit(again, store, labels, checkpoint=tmp_path/'key.abc.ckpt', every=1)) == 6
    assert torch.equal(predict(again, store), before)


@pytest.fixture(scope='module')
def doodles(tmp_path_factory):
    from trmml.report.parameters import small
    root = tmp_path_factory.mktemp('doodles'); return root, small('doodles', root, train=24, test=16)


@pytest.mark.parametrize('name, protocol', [('taidpt+dualcoop', 'partial'), ('scpnet-frozen', 'single'), ('hspnet-frozen', 'partial'), ('taiadapter', 'partial')])
@pytest.mark.filterwarnings('ignore')
def test_as_a_run(name, protocol, doodles, tmp_path):
    "From a description to a result file, and back to the trained method."
    root, folder = doodles
    settings = dict(epochs=1) if '+' not in name else dict(epochs=1, text_settings=(('n_captions', 100),))
    if name in ('scpnet-frozen', 'hspnet-frozen'): settings['hidden'] = 16
    if name == 'taiadapter': settings['n_captions'] = 100
    run = runs.Run(folder, name, .5, 3, protocol, settings=settings, image_size=64)
    result = runs.perform(run, root, tmp_path)
    there = {r.key + s for r in [run, *runs.members(run)] for s in ('.json', '.safetensors')}
    assert 0 < result['mAP'] < 1 and {p.stem[:16] + p.suffix for p in (tmp_path/'runs').iterdir()} == there and len(there) == (6 if '+' in name else 2)
    test, labels = runs.inputs(run, root).test
    assert mean_ap(predict(runs.trained(run, tmp_path, root), test), labels) == pytest.approx(result['mAP'], abs=1e-6)


@pytest.mark.filterwarnings('ignore')
def test_members_of_an_ensemble_are_trained_once(doodles, tmp_path, monkeypatch):
    "What a table has of a member is taken over; the result is that of a training in place."
    root, folder = doodles; given = dict(epochs=2, text_settings=(('n_captions', 100),))
    low, high = (runs.Run(folder, 'taidpt+dualcoop', k, 3, settings=given, image_size=64) for k in (.2, .8))
    x = runs.inputs(low, root); (store, known, truth), (test, labels), train, small = x.train, x.test, x.split('train'), x.clip
    whole = create('taidpt+dualcoop', small, train.prompts, seed=3, **given); log = fit(whole, store, known, 3, truth=truth)
    performing = sys.modules['trmml.runs.perform']; names, real = [], performing.fit
    monkeypatch.setattr(performing, 'fit', lambda m, *a, **k: names.append(type(m).__name__) or real(m, *a, **k))
    first, _ = runs.perform_all([low, high], root, tmp_path, n_jobs=1, progress=False)
    assert sorted(names) == ['DualCoOpTaI', 'DualCoOpTaI', 'TaIDPT']          # sentences know nothing of ratios
    assert_close(predict(runs.trained(low, tmp_path, root), test), predict(whole, test), atol=1e-4, rtol=1e-4)
    assert [(r['member'], r['epoch']) for r in first['log']] == [(r['member'], r['epoch']) for r in log]
    assert [r['total'] for r in first['log']] == pytest.approx([r['total'] for r in log], rel=1e-4)


def test_a_run_of_scpnet_sees_views_of_its_pictures(doodles, tmp_path, recwarn):
    "Also where a part of them is held out: one extraction serves all rows."
    root, folder = doodles
    for held_out in 0., .25:
        r = runs.Run(folder, 'scpnet-frozen', .5, 3, settings=dict(epochs=1, hidden=16), image_size=64, held_out=held_out)
        x = runs.inputs(r, root); (store, known, _), _, train, small = x.train, x.test, x.split('train'), x.clip
        rows = getattr(store, 'rows', torch.arange(24)); assert store.paths == [train.paths[i] for i in rows]
        method = create('scpnet-frozen', small, train.prompts, hidden=16); seen, _ = method.training_set(store, torch.as_tensor(known))
        assert type(seen).__name__ == 'FeatureViews' and len(seen) == len(store) == (18 if held_out else 24)
        x, w, u = seen.batch(torch.arange(4)); assert (x.pooled != w.pooled).any(1).all() and (x.pooled != u.pooled).any(1).all()
    assert len(list((root/'features').glob('*/done'))) == 2 + 5             # plain: train and test; views of train: 3 weak, 2 strong
    assert not [w for w in recwarn if 'one view three times' in str(w.message)]


def test_single_positives_are_taken_for_all(clip, world):
    "Without a known negative unknowns are assumed negative, as published; with one they are not."
    store, labels = world
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for seen, assumed in (torch.from_numpy(single_positive(labels.numpy())), True), (labels, False):
            method = quick('scpnet-frozen', clip, epochs=1); fit(method, store, seen); assert method.assume is assumed


def test_towers_that_need_pictures(clip, world):
    store, labels = world
    for name in 'scpnet', 'hspnet':
        with pytest.raises(ValueError, match='tower="frozen"'): fit(quick(name, clip), store, labels)
    assert Rows(TensorStore(store.dense, store.pooled), [1, 2]).paths is None


# ---- what is written about them

@pytest.mark.parametrize('name', OFFICIAL)
def test_table_of_arguments(name):
    t = arguments(name); assert len(t) == len(OFFICIAL[name]) and t.notna()['official option'].all()


def test_defaults_are_the_official_ones():
    "Constants tied to CLIP's logit scale, at the scale 100 they were made for."
    scale = lambda name, a: round(100*arguments(name)['default'][a], 1)
    assert (scale('dualcoop', 'spatial'), scale('dualcoop', 'sharpness')) == (20., 100.)
    assert (scale('dualcoop-tai', 'spatial'), scale('dualcoop-tai', 'sharpness')) == (20.1, 49.9)
    assert (scale('dualcoop-plus', 'spatial'), scale('dualcoop-plus', 'sharpness'), scale('dualcoop-plus', 'wta_sharpness')) == (20.1, 20.1, 200.)
    for name in 'positivecoop', 'negativecoop': assert (scale(name, 'spatial'), scale(name, 'sharpness')) == (20., 100.)
    own = arguments('vision-only')['default']; assert (own['spatial'], own['sharpness'], own['lr']) == (1., 5., .005)     # of no logit scale
    own = arguments('sparc')['default']; assert own['template'] == 'imagenet' and own.isna()['compounds']
    assert (scale('taidpt', 'scale'), scale('taidpt', 'kappa'), scale('taidpt', 'kappa_test')) == (4., 50., 40.)
    assert (scale('scpnet', 'sharpness'), scale('hspnet', 'sharpness')) == (10., 10.)


@pytest.mark.parametrize('name', [m for m in runs.read_recipes() if runs.entry(m).get('trials')])
def test_no_method_gets_more_trials(name):
    assert len(runs.trials(name)) == 12 == len({json.dumps(t, sort_keys=True) for t in runs.trials(name)}) and name in METHODS


def test_a_method_of_ones_own_is_short():
    cells = json.loads((Path(__file__).resolve().parents[1]/'nbs'/'tutorials/add_a_method.ipynb').read_text())['cells']
    own = [''.join(c['source']) for c in cells if 'register(' in ''.join(c['source']) and c['cell_type'] == 'code']
    assert len(own) == 1 and 'class TopPositions(Method)' in own[0] and len([l for l in own[0].splitlines() if l.strip()]) <= 10


@pytest.mark.parametrize('name', ['taidpt', 'taidpt+dualcoop'])
def test_missing_captions_stop_a_run_before_its_features(name, doodles, tmp_path, monkeypatch):
    root, folder = doodles; said = dict(captions='nowhere.json'); given = said if '+' not in name else dict(text_settings=tuple(said.items()))
    run = runs.Run(folder, name, .5, 7, settings=given, image_size=64)
    monkeypatch.setattr(sys.modules['trmml.runs.inputs'], 'open_features', lambda *a, **k: pytest.fail('features were read'))
    for go in (lambda: runs.perform(run, root, tmp_path), lambda: runs.perform_all([run], root, tmp_path, n_jobs=1, progress=False)):
        with pytest.raises(FileNotFoundError, match="no captions at nowhere.json: give a JSON file"): go()
