"""Equations 1-15 as printed in the paper and read in the notebooks, in loops over plain numbers, against the code."""
import math

import numpy as np
import pytest
import torch

from trmml.contrastive import nce_loss
from trmml.contrastive_fast import fast_nce_loss
from trmml.distillation import distil, kd_loss, match_both
from trmml.losses import asymmetric_loss, total_loss
from trmml.prototypes import MemoryBank, Thresholds, agree, class_means, pseudo_labels, topk_pixels
from trmml.regions import DecoderLayers, RegionDecoder, dual_logits, matching, pool_regions, region_maps
from trmml.regions_fast import FastRegionDecoder

B, C, D, H, W = 3, 4, 5, 2, 3
RNG = np.random.RandomState(0)
X = {k: RNG.randn(*s) for k, s in dict(F=(B, C, D), G=(C, D), G_neg=(C, D), e=(B, C, H, W), f=(B, D, H, W), z_r=(B, C), z_q=(B, C), s=(B, C), bank=(C, 2, D)).items()}
Y = np.array([[1, 0, -1, 1], [-1, 1, 0, 1], [1, -1, -1, 0]])
LABELS = torch.tensor(Y, dtype=torch.int8)
PLACES = [(i, j) for i in range(H) for j in range(W)]


def t(name): return torch.tensor(X[name], dtype=torch.float32)
def same(got, want): np.testing.assert_allclose(np.asarray(got.detach() if torch.is_tensor(got) else got, float), np.asarray(want, float), rtol=1e-4, atol=1e-5)
def dot(a, b): return sum(float(x)*float(y) for x, y in zip(a, b))
def cos(a, b): return dot(a, b)/math.sqrt(dot(a, a))/math.sqrt(dot(b, b))
def sigmoid(x): return 1/(1 + math.exp(-x))
def table(entry): return [[entry(b, c) for c in range(C)] for b in range(B)]


def test_equation_1():
    same(matching(t('F'), t('G'), 1/.07), table(lambda b, c: cos(X['F'][b, c], X['G'][c])/.07))
    same(dual_logits(t('F'), t('G'), t('G_neg'), 20.), table(lambda b, c: 20*(cos(X['F'][b, c], X['G'][c]) - cos(X['F'][b, c], X['G_neg'][c]))))


def test_equation_2(): same(region_maps(t('e')), [[[[sigmoid(X['e'][b, c, i, j]) for j in range(W)] for i in range(H)] for c in range(C)] for b in range(B)])


def layer(m, x): return [dot(row, x) + float(bias) for row, bias in zip(m.weight.tolist(), m.bias.tolist())]
def standard(m, x):
    mean = sum(x)/len(x); spread = math.sqrt(sum((v - mean)**2 for v in x)/len(x) + m.eps)
    return [(v - mean)/spread*w + b for v, w, b in zip(x, m.weight.tolist(), m.bias.tolist())]
def gelu(x): return x*(1 + math.erf(x/math.sqrt(2)))/2


@pytest.mark.parametrize('form', [RegionDecoder, FastRegionDecoder])
def test_equation_3(form):
    torch.manual_seed(0); d = form(D)
    for p in d.parameters(): torch.nn.init.normal_(p, std=.5)
    energies, F_q = d(t('G'), t('f'))
    for b in range(B):
        places = [standard(d.norm_f, X['f'][b, :, i, j]) for i, j in PLACES]
        keys, values = [layer(d.k, x) for x in places], [layer(d.v, x) for x in places]
        for c in range(C):
            q = layer(d.q, standard(d.norm_q, X['G'][c])); e = [dot(q, k)/math.sqrt(D) for k in keys]
            w = [math.exp(v)/sum(map(math.exp, e)) for v in e]
            A = layer(d.out, [sum(u*v[n] for u, v in zip(w, values)) for n in range(D)])
            M = layer(d.mlp[3], [gelu(v) for v in layer(d.mlp[0], standard(d.norm_a, A))])
            same(energies[b, c].flatten(), e); same(F_q[b, c], [a + m for a, m in zip(A, M)])


def test_equation_4():
    "The sum as printed, up to its length, which no cosine sees: ours is divided by the sum of the weights."
    R = region_maps(t('e')); got = pool_regions(R, t('f'))
    for b in range(B):
        for c in range(C):
            e = {p: sigmoid(X['e'][b, c][p]) for p in PLACES}
            same(got[b, c]*sum(e.values()), [sum(e[p]*X['f'][b, n][p] for p in PLACES) for n in range(D)])


def test_equation_5():
    F_q = X['F'][::-1].copy(); r, q = match_both(t('F'), torch.tensor(F_q).float(), t('G'), t('G_neg'), 10.)
    for got, F in (r, X['F']), (q, F_q): same(got, table(lambda b, c: 10*(cos(F[b, c], X['G'][c]) - cos(F[b, c], X['G_neg'][c]))))


@pytest.mark.parametrize('printed', [True, False])
def test_equation_6(printed):
    def kl(b, c):
        r, q = sigmoid(X['z_r'][b, c]), sigmoid(X['z_q'][b, c])
        return r*math.log(r/q) + (0 if printed else (1 - r)*math.log((1 - r)/(1 - q)))
    same(kd_loss(t('z_r'), t('z_q'), one_sided=printed), sum(map(sum, table(kl)))/B)


def test_the_region_score_teaches_unless_said_otherwise():
    r, q = t('z_r'), t('z_q')
    assert torch.equal(distil(r, q), kd_loss(r, q)) and not torch.equal(kd_loss(r, q), kd_loss(q, r))
    with pytest.raises(ValueError, match="teacher='text': use 'region', 'query' or 'both'"): distil(r, q, 'text')


def best(b, c, k): return sorted(PLACES, key=lambda p: -X['e'][b, c][p])[:k]


def test_equation_7():
    got = topk_pixels(t('e'), t('f'), 2, (LABELS == 1).nonzero(as_tuple=True))
    same(got, [[X['f'][b][(slice(None), *p)] for p in best(b, c, 2)] for b, c in zip(*np.nonzero(Y == 1))])


def test_equation_8():
    bank = MemoryBank(C, 8, D); bank.push(topk_pixels(t('e'), t('f'), 2, (LABELS == 1).nonzero(as_tuple=True)), LABELS)
    def mean(b, c):
        kept = [X['f'][n][(slice(None), *p)] for n in range(B) if Y[n, c] == 1 for p in best(n, c, 2)]
        return sum(cos(X['F'][b, c], v) for v in kept)/len(kept) if kept else 0.
    same(bank.mean_similarity(t('F')), table(mean))


def mean_of(s, y, value, c):
    "Eq. 9 with its signs: y and the minus in front cancel on negatives."
    rows = [b for b in range(B) if y[b, c] == value]
    return value/len(rows)*sum(s[b, c]*y[b, c] for b in rows) if rows else None


def test_equation_9():
    pos, neg, has_pos, has_neg = class_means(t('s'), LABELS)
    for value, got, has in (1, pos, has_pos), (-1, neg, has_neg):
        want = [mean_of(X['s'], Y, value, c) for c in range(C)]
        assert has.tolist() == [w is not None for w in want]; same(got, [w or 0. for w in want])


def test_equation_10():
    s, pos, neg = np.array([[.9, .5, .1], [.6, .4, .3]]), np.array([.6, .2, .3]), np.array([.3, .5, .3])
    want = [[1 if x >= max(p, n) else -1 if x <= min(p, n) else 0 for x, p, n in zip(row, pos, neg)] for row in s]
    want[1][2] = 0                                                             # a tie of both says nothing
    assert pseudo_labels(*(torch.tensor(v) for v in (s, pos, neg)), torch.ones(3, dtype=torch.bool)).tolist() == want
    assert {v for row in want for v in row} == {1, 0, -1}


def test_equation_11():
    th, eta = Thresholds(C), .7; theta = {1: [None]*C, -1: [None]*C}
    for s, y in (X['s'], Y), (X['z_r'], -Y), (X['z_q'], Y):
        th.update(torch.tensor(s).float(), torch.tensor(y), eta)
        for value, old in theta.items():
            for c in range(C):
                new = mean_of(s, y, value, c)
                if new is not None: old[c] = new if old[c] is None else eta*old[c] + (1 - eta)*new
    same(th.theta_pos, [v or 0. for v in theta[1]]); same(th.theta_neg, [v or 0. for v in theta[-1]])


def test_equation_12():
    for v in 1, 0, -1:
        for w in 1, 0, -1: assert agree(torch.tensor([[v]]), torch.tensor([[w]])).item() == (1 if v == w == 1 else -1 if v == w == -1 else 0)


@pytest.mark.parametrize('banked', [False, True])
def test_equation_13(banked):
    filled, tau, losses = [2, 1, 0, 2], .3, []
    samples = [(c, X['F'][b, c]) for b in range(B) for c in range(C) if Y[b, c] == 1]
    if banked: samples += [(c, X['bank'][c, k]) for c in range(C) for k in range(filled[c])]
    for c in range(C):
        mine = [math.exp(cos(X['G'][c], v)/tau) for k, v in samples if k == c]; others = sum(math.exp(cos(X['G'][c], v)/tau) for k, v in samples if k != c)
        if mine: losses.append(sum(-math.log(m/(m + others)) for m in mine)/len(mine))
    for loss in (nce_loss, fast_nce_loss): same(loss(t('G'), t('F'), LABELS, *((t('bank'), torch.tensor(filled)) if banked else ()), tau=tau), sum(losses)/len(losses))


def test_equation_14():
    def loss(b, c, gamma_pos=1.5, gamma_neg=2.5, shift=.1):
        p = sigmoid(X['z_r'][b, c]); p_m = max(p - shift, 0)
        return {1: -(1 - p)**gamma_pos*math.log(p), -1: -p_m**gamma_neg*math.log(1 - p_m), 0: 0.}[int(Y[b, c])]
    same(asymmetric_loss(t('z_r'), LABELS, 1.5, 2.5, .1), sum(map(sum, table(loss))))


def test_equation_15():
    q, r, kd, nce = 1.25, .5, 3., 7.
    same(total_loss(*map(torch.tensor, (q, r, kd, nce)))['total'], q + r + .05*kd + .01*nce)                 # as printed
    same(total_loss(*map(torch.tensor, (q, r, kd, nce)), 2., .5, .25)['total'], q + 2*r + .5*kd + .25*nce)


def test_parts_of_the_regions():
    "What is 16 bits becomes float32 before it is divided; the width of the MLP; from which sum a region counts as empty."
    F, G = torch.randn(2, 3, 8).bfloat16(), torch.randn(2, 3, 8)
    got = dual_logits(F, *G)
    assert got.dtype == torch.float32 and torch.equal(got, dual_logits(F.float(), *G))
    widths = [DecoderLayers(8, **given).mlp[0].out_features for given in ({}, dict(hidden=5))]
    assert widths == [32, 5]
    R, f = torch.zeros(1, 1, 2, 2), torch.ones(1, 3, 2, 2)
    for total, mean in (1.2e-6, 1.), (5e-7, .5), (0., 0.):
        R[..., 0, 0] = total
        assert torch.allclose(pool_regions(R, f), torch.full((1, 1, 3), mean), rtol=1e-5)
