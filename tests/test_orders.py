"""The order of operations in training: every step of every trained method beside a plain re-statement.

Two operations may commute in evaluation mode and not in training (an average before or behind BatchNorm), or
have one value and two gradients (a clamp, a weight that is detached). So what is published is written once more
here, in plain torch, as it is described, and compared step by step: loss, gradient of every parameter, and after
the optimiser's step every parameter and every buffer (statistics of BatchNorm, averages, banks, memories)."""
import copy
import io
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import logsigmoid, normalize, softplus
from torch.testing import assert_close

import trmml.clip
from trmml.clip import imagenet as backbones
from trmml.clip import tokenize
from trmml.features import Store, ThreeViews
from trmml.files import read_checked
from trmml.methods import create
from trmml.methods.taidpt import CaptionStore
from trmml.metrics import mean_ap
from trmml.train import TensorStore, fit, optimizer, predict
from trmml.train.learner import batches_of, epoch_rows, set_rates, train_step

NAMES = ['cat', 'dog', 'bus', 'potted plant']
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def clip(): return trmml.clip.load('doodle-clip', None, 128)


@pytest.fixture(scope='module')
def tower():
    "A ResNet of four channels, with layers and names of the large ones."
    with torch.random.fork_rng():
        torch.manual_seed(0); model = backbones.SmallResNet(width=4)
    return backbones.Tower(model, 'doodle-resnet', 'random', 64)


class Given(Store):
    "Images, or three views of them, held in memory."
    def __init__(self, *x): self.x, self.gives = x, 'views'
    def __len__(self): return len(self.x[0])
    def images(self, clip): return self
    def batch(self, rows, device=None, dtype=None): return ThreeViews(*(x[rows] for x in self.x)) if len(self.x) == 3 else self.x[0][rows]


def images(n, size=64, seed=0): return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
def features(n, d, side=4, seed=0):
    f = torch.randn(n, d, side, side, generator=torch.Generator().manual_seed(seed)); return TensorStore(f, f.mean((2, 3)) + .1*f[:, :, 0, 0])
def known(n, kinds=(-1, 0, 1), seed=1):
    y = torch.tensor(kinds)[torch.randint(len(kinds), (n, len(NAMES)), generator=torch.Generator().manual_seed(seed))].to(torch.int8)
    y[0], y[1] = 1, torch.tensor([1, 0, kinds[0], 1]); return y


# ---- the loop: a step of the method beside a step of its re-statement

def adam(p, g, s, lr, beta=.9, l2=0., decay=0.):
    s['t'] = t = s.get('t', 0) + 1
    p.mul_(1 - lr*decay); g = g + l2*p
    s['m'] = beta*s.get('m', 0) + (1 - beta)*g; s['v'] = .999*s.get('v', 0) + .001*g**2
    p.sub_(lr*s['m']/(1 - beta**t)/((s['v']/(1 - .999**t)).sqrt() + 1e-8))


def sgd(p, g, s, lr, l2=0.):
    g = g + l2*p; s['b'] = .9*s['b'] + g if 'b' in s else g; p.sub_(lr*s['b'])


def twin(method):
    "A copy with its own parameters and buffers, before a step; what is frozen is shared."
    kept = {id(o): o for o in (method.clip, getattr(method, 'hooked', None), getattr(method, 'plain', None)) if o is not None}
    out = copy.deepcopy(method, kept)
    for p in out.parameters(): p.grad = None
    return out


def same_gradients(method, plain, tol):
    both = {k: tuple(torch.zeros_like(p) if q.grad is None else q.grad for q in (p, w)) for (k, p), (_, w) in zip(method.named_parameters(), plain.named_parameters())}
    whole = sum(w.norm()**2 for _, w in both.values())**.5; assert whole > 0
    for k, (g, w) in both.items(): assert (g - w).norm() <= tol*w.norm() + 1e-6*whole, f'gradient of {k}: {(g - w).norm()/w.norm():.1e} apart'


def same_state(method, plain, lr):
    learned, mine, theirs = dict(method.named_parameters()), method.state_dict(), plain.state_dict(); assert list(mine) == list(theirs)
    for k, v in mine.items():
        name = f'{k} after the step'
        if not v.is_floating_point(): assert torch.equal(v, theirs[k]), name
        else: assert_close(v, theirs[k], rtol=1e-6 if k in learned else 1e-4, atol=2e-3*lr if k in learned else 1e-5, msg=lambda m: f'{name}: {m}')


def beside(method, store, labels, restate, step, rule, most=2, tol=1e-3, after=None, norm=None):
    "Train a method, and before each step ask `restate` for its loss, `step` and `rule` for what the optimiser does."
    store, labels = method.training_set(store, labels); opt, memory, r, values = optimizer(method), {}, method.recipe, []
    for epoch in range(r['epochs']):
        batches = batches_of(store, labels, r['batch'], epoch, r['epochs'], 0, r['drop_last'])
        method.train(); method.begin_epoch(epoch, r['epochs'])
        for i, b in enumerate(batches[:most]):
            now = SimpleNamespace(epoch=epoch, epochs=r['epochs'], i=i, n=len(batches), step=b.step, steps=b.steps, rows=b.rows, store=store, labels=labels)
            plain = twin(method); total = restate(plain, store.batch(b.rows), labels[b.rows], now); total.backward()
            if norm: nn.utils.clip_grad_norm_(plain.parameters(), norm)
            found = train_step(method, opt, store, labels, b, CPU)
            assert_close(found['total'], total.detach(), rtol=1e-4, atol=1e-5); same_gradients(method, plain, tol); values.append(total.item())
            with torch.no_grad():
                for (k, p), (_, q) in zip(method.named_parameters(), plain.named_parameters()):
                    if p.grad is not None: step(q, p.grad, memory.setdefault(k, {}), **(how := rule(k, q, now)))
                if after: after(plain, now)
            same_state(method, plain, how['lr'])
    return values


def one_cycle(lr, steps, rise):
    "Rates and beta 1 of PyTorch's own OneCycle."
    opt = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.); s = torch.optim.lr_scheduler.OneCycleLR(opt, lr, steps, pct_start=rise); out = []
    for i in range(steps):
        out.append((opt.param_groups[0]['lr'], opt.param_groups[0]['betas'][0])); opt.step()
        if i < steps - 1: s.step()
    return out


def cosine(lr, now): return min(1e-5, lr) if now.epoch == 0 else lr*(1 + math.cos(math.pi*(now.epoch - 1)/now.epochs))/2


# ---- CLIP, plainly

def cosines(a, b): return normalize(a, dim=-1) @ normalize(b, dim=-1).T


def encoded(clip, x, end):
    "All tokens of embedded sentences through open_clip's own transformer, and the end tokens."
    model = clip.model; x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
    x = model.ln_final(x) @ model.text_projection
    return x, x[torch.arange(len(x)), end]


def prompted(clip, ctx):
    "(P, C, d): a start token, free vectors, the name, a full stop, an end token, padding to 77."
    n = ctx.shape[-2]; ids = tokenize([' '.join('X'*n) + f' {c}.' for c in NAMES]); e = clip.model.token_embedding(ids).detach()
    return torch.stack([encoded(clip, torch.cat([e[:, :1], v.expand(len(ids), -1, -1), e[:, 1 + n:]], 1), ids.argmax(1))[1] for v in ctx])


def asl(z, y, eps, unknown=0, gammas=(1, 2)):
    "Focusing weights are constants; (B, C), 0 where nothing is known."
    p = z.sigmoid(); q = (1 - p + .05).clamp(max=1)
    each = -torch.where(y == 1, (1 - p).detach()**gammas[0]*p.clamp(min=eps).log(), (1 - q).detach()**gammas[1]*q.clamp(min=eps).log())
    return each*(y != unknown)


# ---- DualCoOp, its two other forms, CoOp

def all_tokens(clip, x):
    "(B, 1 + n, d): the mean token and the grid with positional embedding, through both projections of the attention pool."
    pool, visual = clip.model.visual.attnpool, clip.model.visual
    with torch.no_grad():
        f = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(x))))).flatten(2).mT
        return pool.c_proj(pool.v_proj(torch.cat([f.mean(1, keepdim=True), f], 1) + pool.positional_embedding))


def votes_at_all_positions(clip, x, G):
    u, k = all_tokens(clip, x), clip.logit_scale; a, b = (cosines(u, g).mT for g in G)     # (B, C, 1 + n)
    w = (.2*k*a).softmax(-1); return (k*(w*a)).sum(-1) - (k*(w*b)).sum(-1)


def test_dualcoop(clip):
    "The mean token, the positional embedding, both projections, then unit length; one softmax for both prompts; a weighted sum."
    def restate(m, x, y, now): return .03*asl(votes_at_all_positions(clip, x, prompted(clip, m.prompts.ctx)), y, 1e-6).sum()
    m = create('dualcoop', clip, NAMES, n_ctx=3, epochs=3, batch=4, lr=.5)
    beside(m, Given(images(6, 128)), known(6), restate, sgd, lambda k, p, now: dict(lr=cosine(.5, now), l2=5e-4), most=1)


def warmed_up(lr, now): return .005 if now.epoch == 0 else lr*(1 + math.cos(math.pi*(now.epoch - 1)/now.epochs))/2


@pytest.mark.parametrize('name', ['positivecoop', 'negativecoop'])
def test_one_prompt(clip, name):
    "A vector is added to the text feature before it is brought to unit length, the other side is a vector; prompts have a hundredth of the rate, and all the same one in the first epoch."
    def restate(m, x, y, now):
        G = [prompted(clip, m.prompts.ctx)[0] + m.added, m.free]
        return .03*asl(votes_at_all_positions(clip, x, G if name == 'positivecoop' else G[::-1]), y, 1e-6).sum()
    m = create(name, clip, NAMES, n_ctx=3, epochs=3, batch=4, lr=.5)
    beside(m, Given(images(6, 128)), known(6), restate, sgd, lambda k, p, now: dict(lr=warmed_up(.005 if 'ctx' in k else .5, now)), most=1)


def test_without_text(clip):
    "Positions as they are, not of unit length; each of two outputs per class is pooled by its own softmax, the second is presence."
    def restate(m, x, y, now):
        o = (all_tokens(clip, x)/50 @ m.layer.weight.T + m.layer.bias).mT; z = 3*((.7*o).softmax(-1)*o).sum(-1); return .03*asl(z[:, 4:] - z[:, :4], y, 1e-6).sum()
    m = create('vision-only', clip, NAMES, unit=50., spatial=.7, sharpness=3., epochs=3, batch=4, lr=.05)
    beside(m, Given(images(6, 128)), known(6), restate, sgd, lambda k, p, now: dict(lr=warmed_up(.05, now)), most=1)


def pixel_votes(m, f, spatial, sharpness):
    u = f.dense.flatten(2).mT; a, b = (cosines(u, g).mT for g in prompted(m.clip, m.prompts.ctx)); w = (spatial*a).softmax(-1)
    return (w*a*sharpness).sum(-1) - (w*b*sharpness).sum(-1)


def test_dualcoop_of_taidpt(clip):
    "No mean token, temperatures that learn (and decay) as logarithms, a mean over images."
    def restate(m, f, y, now): return asl(pixel_votes(m, f, m.log_spatial.exp(), m.log_sharpness.exp()), y, 1e-8).sum()/len(y)
    m = create('dualcoop-tai', clip, NAMES, n_ctx=3, epochs=3, batch=4, lr=.05)
    beside(m, features(6, clip.d), known(6), restate, sgd, lambda k, p, now: dict(lr=cosine(.05, now), l2=5e-4), most=1)


def test_dualcoop_reproduced(clip):
    "A whole training by PyTorch's own OneCycle (which moves beta 1, too), AdamW and average of weights; the average is the result."
    store, y = features(13, clip.d), known(13)
    m, plain = (create('dualcoop-reproduced', clip, NAMES, n_ctx=3, epochs=4, batch=4, lr=.01, average=.8) for _ in range(2))
    log = fit(m, store, y, valid=(store, y))
    opt = torch.optim.AdamW(plain.parameters(), lr=.01, weight_decay=5e-4)
    turn = torch.optim.lr_scheduler.OneCycleLR(opt, .01, total_steps=12, pct_start=.2)
    mean = torch.optim.swa_utils.AveragedModel(plain.prompts, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(.8))
    two = {k: plain.get_parameter(k).detach().clone() for k in ('log_spatial', 'log_sharpness')}
    mean.update_parameters(plain.prompts)                                       # the first call copies: the average begins at the start
    plain.train()
    for epoch in range(4):
        for rows in epoch_rows(13, 4, 0, epoch)[:3]:                            # the last, incomplete batch is left out
            opt.zero_grad(); loss = asl(pixel_votes(plain, store.batch(rows), plain.log_spatial.exp(), plain.log_sharpness.exp()), y[rows], 1e-8).sum()/4
            loss.backward(); opt.step(); mean.update_parameters(plain.prompts)
            for k, v in two.items(): v.mul_(.8).add_(plain.get_parameter(k).detach(), alpha=.2)
            if turn.last_epoch < 11: turn.step()
    assert_close(m.prompts.ctx, mean.module.ctx, rtol=1e-4, atol=1e-5)
    for k, v in two.items(): assert_close(m.get_parameter(k), v, rtol=1e-4, atol=1e-6)
    assert (m.prompts.ctx - plain.prompts.ctx).abs().max() > 1e-3 and len(log) == 4
    assert log[-1]['valid_map_average'] == pytest.approx(mean_ap(predict(m, store), y)) and log[-1]['valid_map'] == pytest.approx(mean_ap(predict(plain, store), y), abs=1e-6)


@pytest.mark.parametrize('name', ['scpnet-frozen', 'hspnet-frozen'])
def test_an_average_of_its_own_is_not_averaged_again(clip, name):
    with pytest.raises(TypeError, match="averages its weights itself: use 'decay' instead of 'average'"): create(name, clip, NAMES, average=.9)


def test_methods_with_an_imagenet_backbone_have_ema(tower):
    with pytest.raises(TypeError, match="averages its weights itself: use 'ema' instead of 'average'"): create('splc-frozen', tower, NAMES, average=.9)


def test_momentum_that_moves(clip):
    "SGD's momentum and Adam's beta 1 go against the rate, as in PyTorch; without the entry they stay."
    for kind, key in ('sgd', 'momentum'), ('adamw', 'betas'):
        for moves in True, False:
            m = create('dualcoop-tai', clip, NAMES, n_ctx=2, epochs=4, batch=4, lr=.01, optimizer=kind, schedule='onecycle', rise=.4, cycle_momentum=moves)
            opt, seen, theirs = optimizer(m), [], []
            ref = optimizer(m); turn = torch.optim.lr_scheduler.OneCycleLR(ref, .01, total_steps=20, pct_start=.4, cycle_momentum=moves)
            for i in range(20):
                set_rates(opt, m.recipe, i, 20); seen.append((opt.param_groups[0]['lr'], opt.param_groups[0][key]))
                theirs.append((ref.param_groups[0]['lr'], ref.param_groups[0][key]))
                if i < 19: ref.step(); turn.step()
            np.testing.assert_allclose([[a, *np.atleast_1d(b)] for a, b in seen], [[a, *np.atleast_1d(b)] for a, b in theirs], rtol=1e-9)


def test_without_a_softmax(clip):
    def restate(m, f, y, now): return asl(pixel_votes(m, f, 0., m.log_sharpness.exp()), y, 1e-8).sum()/len(y)
    m = create('dualcoop-mean', clip, NAMES, n_ctx=3, epochs=3, batch=4, lr=.01); rates = one_cycle(.01, 9, .3)
    beside(m, features(12, clip.d), known(12), restate, adam, lambda k, p, now: dict(lr=rates[now.step][0], decay=1e-2), most=1)


@pytest.mark.parametrize('kind', ['dual', 'softmax', 'sigmoid'])
def test_coop(clip, kind):
    def restate(m, f, y, now):
        s = torch.stack([clip.logit_scale*cosines(f.pooled, g) for g in prompted(clip, m.prompts.ctx)])
        if kind != 'softmax': return asl(s[0] - (s[1] if kind == 'dual' else m.threshold), y, 1e-8).sum()/len(y)
        rows = [-(v.log_softmax(0)*(t == 1)).sum()/(t == 1).sum() for v, t in zip(s[0], y) if (t == 1).any()]
        return sum(rows)/max(len(rows), 1) if rows else 0*s.sum()
    m = create('coop', clip, NAMES, n_ctx=3, epochs=2, batch=4, lr=.05, loss_kind=kind); y = known(6); y[2:5] = -1     # images without a positive count where there is no softmax
    beside(m, features(6, clip.d), y, restate, sgd, lambda k, p, now: dict(lr=cosine(.05, now), l2=5e-4), most=1)


# ---- TRM-ML

def rings(bank, vectors, c):
    "One vector after the other into the ring of its class."
    for v, i in zip(vectors, c):
        bank.V[i, bank.head[i]] = v/v.norm(); bank.head[i] = (bank.head[i] + 1) % bank.V.shape[1]; bank.filled[i] = (bank.filled[i] + 1).clamp(max=bank.V.shape[1])


def judged(s, t, y, ready):
    "Pseudo-labels by the thresholds of before, which then move to this batch's known labels (Eq. 9-11)."
    high, low = torch.maximum(t.theta_pos, t.theta_neg), torch.minimum(t.theta_pos, t.theta_neg)
    out = ((s >= high).int() - (s <= low).int())*(t.seen_pos & t.seen_neg & ready)
    for c in range(s.shape[1]):
        for name, label in ('pos', 1), ('neg', -1):
            here = s[y[:, c] == label, c] if ready[c] else s[:0, c]
            if not len(here): continue
            theta, seen = getattr(t, f'theta_{name}'), getattr(t, f'seen_{name}')
            theta[c] = .9*theta[c] + .1*here.mean() if seen[c] else here.mean(); seen[c] = True
    return out


def contrasted(project, text, F_r, y, bank):
    "Each class's text against its own samples one by one and those of other classes together (Eq. 13), tau = .1."
    own = [[*F_r[y[:, c] == 1, c], *bank.V[c, :bank.filled[c]]] for c in range(len(text))]
    own = [normalize(project(normalize(torch.stack(v), dim=-1)), dim=-1) if v else None for v in own]; terms = []
    for c, g in enumerate(normalize(project(normalize(text, dim=-1)), dim=-1)):
        others = [v for i, v in enumerate(own) if i != c and v is not None]
        if own[c] is None: continue
        rest = (torch.cat(others) @ g/.1).exp().sum(); terms.append(torch.stack([-((a := (v @ g/.1).exp())/(a + rest)).log() for v in own[c]]).mean())
    return sum(terms)/len(terms)


def test_trmml(clip):
    "Keys are centred before the first forward pass; the contrast sees the bank of before; labels are judged, thresholds moved, the bank filled, in this order."
    found = []
    def restate(m, f, y, now):
        x, d, dec = normalize(f.dense.flatten(2).mT, dim=-1), clip.d, m.decoder
        if now.step == 0:
            with torch.no_grad(): dec.k.bias.copy_(-dec.k.weight @ dec.norm_f(x).mean((0, 1))); m.centred.fill_(True)
        e = dec.q(dec.norm_q(m.queries)) @ dec.k(dec.norm_f(x)).mT/d**.5                                # (B, C, n)
        A = dec.out(e.softmax(-1) @ dec.v(dec.norm_f(x))); F_q = A + dec.mlp(dec.norm_a(A))
        R = e.sigmoid(); F_r = R @ x/R.sum(-1, keepdim=True); G = prompted(clip, m.prompts.ctx)
        z_r, z_q = (m.log_scale.exp().clamp(max=100.001)*(F.cosine_similarity(v, G[0], dim=-1) - F.cosine_similarity(v, G[1], dim=-1)) for v in (F_r, F_q))
        nce = contrasted(m.projector, G[0], F_r, y, m.bank)
        second = now.epoch >= 1; assert m.in_second_stage == second
        with torch.no_grad():
            if second and now.epoch == 1 and now.i == 0: assert_close(m.T, normalize(G[0], dim=-1))      # text prototypes: once, as the stage begins
            unit = normalize(F_r, dim=-1); ready = m.bank.filled > 0
            visual = judged(torch.stack([(unit[:, c] @ m.bank.V[c, :max(int(m.bank.filled[c]), 1)].T).mean(1) for c in range(len(NAMES))], 1), m.by_visual, y, ready)
            text = judged((unit*(m.T if second else normalize(G[0], dim=-1))).sum(-1), m.by_text, y, ready | True)
            b, c = (y == 1).nonzero().T
            rings(m.bank, [x[i, j] for i, k in zip(b, c) for j in e[i, k].topk(2).indices], c.repeat_interleave(2))
            pseudo = torch.where((visual == text) & second, visual, 0); t = torch.where(y == 0, pseudo.to(y), y); found.append(int((pseudo[y == 0] != 0).sum()))
        p, q = z_r.detach(), z_q; kd = sum((s*p).sigmoid()*(logsigmoid(s*p) - logsigmoid(s*q)) for s in (1, -1)).sum()/len(y)
        return asl(z_q, t, 1e-8).sum()/len(y) + asl(z_r, t, 1e-8).sum()/len(y) + .05*kd + .01*nce
    m = create('trmml', clip, NAMES, n_ctx=3, epochs=3, batch=8, lr=.003, length=5, topk=2); rates = one_cycle(.003, 9, .3)
    with torch.no_grad():                                                                                # not the silent start, which hides orders
        for p in m.decoder.parameters(): p.add_(.05*torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    beside(m, features(24, clip.d), known(24), restate, adam, lambda k, p, now: dict(lr=rates[now.step][0], decay=1e-2), most=3)
    assert sum(found) > 0 and all(n == 0 for n in found[:3])


# ---- methods that learn from sentences

SAID = ['a cat and a dog', 'the dog sleeps', 'a bus', 'a cat by a plant in a pot', 'two dogs in front of a bus', 'a potted plant']
SAYS = torch.tensor([[1, 1, -1, -1], [-1, 1, -1, -1], [-1, -1, 1, -1], [1, -1, -1, -1], [-1, 1, 1, -1], [-1, -1, -1, 1]])


def sentences(clip): return CaptionStore(clip, torch.cat([tokenize([s]) for s in SAID]), limit=0), SAYS       # features in float32


def test_taidpt(clip):
    "Every token in the joint space, padding far away before the softmax; constants 4 and 50; every pair of a positive and a negative."
    store, y = sentences(clip); k = clip.logit_scale/100
    def restate(m, _, y, now):
        ids = store.tokens[now.rows]
        with torch.no_grad(): words, whole = encoded(clip, clip.model.token_embedding(ids), ids.argmax(1))
        G = prompted(clip, m.prompts.ctx); s_g = 4*k*cosines(whole, G[0])
        r = cosines(words, G[1]).mT - 10000.*(ids == 0)[:, None]; s_l = (4*k*r*(50*k*r).softmax(-1)).sum(-1)
        return sum(sum((1 - s[b, i] + s[b, j]).clamp(min=0) for b in range(len(y)) for i in (y[b] == 1).nonzero()[:, 0] for j in (y[b] == -1).nonzero()[:, 0]) for s in (s_g, s_l))/len(y)
    m = create('taidpt', clip, NAMES, captions=SAID, n_ctx=3, epochs=3, batch=4, lr=.01); m.training_set = lambda *_: (store, y)
    beside(m, store, y, restate, sgd, lambda k, p, now: dict(lr=cosine(.01, now), l2=5e-4), most=1)


def test_taiadapter(clip):
    "Noise on unit vectors, unit length again, a residual bottleneck, unit length, a score; a mean over sentences."
    store, y = sentences(clip); rates = one_cycle(.01, 8, .3)
    def restate(m, _, y, now):
        ids = store.tokens[now.rows]; g = torch.Generator().manual_seed(now.step)
        with torch.no_grad(): v = normalize(encoded(clip, clip.model.token_embedding(ids), ids.argmax(1))[1], dim=-1)
        size = torch.rand(len(v), 1, generator=g); e = normalize(v + size*torch.randn(v.shape, generator=g)/v.shape[1]**.5, dim=-1)
        a = m.adapter; return asl(a.head(normalize(e + a.up(a.down(e).relu()), dim=-1)), y, 1e-8).sum()/len(y)
    m = create('taiadapter', clip, NAMES, captions=SAID, epochs=4, batch=4, lr=.01); m.training_set = lambda *_: (store, y)
    beside(m, store, y, restate, adam, lambda k, p, now: dict(lr=rates[now.step][0], decay=1e-2), most=1)


# ---- SCPNet and HSPNet

def splc(z, y, epoch, assume=True):
    "The margin first, then who is believed (with the margin taken off), then a focal weight with gradient; a sum."
    z = torch.where(y == 1, z - 1, z); yes = (y == 1) | ((z.sigmoid() > .6) & (y != -1) & (epoch >= 1)); p = z.sigmoid()
    each = -torch.where(yes, (1 - p)**2*logsigmoid(z), p**2*logsigmoid(-z)); return (each*(yes | (y != 0) | assume)).sum()


def averaged(old, new, decay):
    for a, b in zip(old.state_dict().values(), new.state_dict().values()): a.copy_(decay*a + (1 - decay)*b if a.is_floating_point() else b)


def scp_rule(rates, lr, times):
    "Two decays, two rates: vectors and biases do not decay, what is called gcn has its own rate."
    def rule(k, p, now):
        r, beta = rates[now.step]
        return dict(lr=r*(times if k.startswith('core.gcn') else 1), beta=beta, l2=0. if p.ndim == 1 or k.endswith('bias') else 1e-4)
    return rule


def gcn(core, A, t):
    *first, last = core.gcn.weights
    for W in first: t = F.leaky_relu(A @ (t @ W), .2)
    return A @ (t @ last)


def seen_by(core, clip, x, epoch):
    "Unit vectors of images, by open_clip's own forward pass; BatchNorm is still in the first epoch."
    if core.visual is None: return normalize(x.pooled, dim=-1)
    core.visual.train(epoch > 0); return normalize(core.visual(x), dim=-1)


@pytest.mark.parametrize('frozen, kinds', [(False, (0, 1)), (True, (0, 1)), (True, (-1, 0, 1))], ids=['single', 'single, frozen', 'partial, frozen'])
@pytest.mark.filterwarnings('ignore:SCPNet sees one view')
def test_scpnet(clip, frozen, kinds):
    "Three views in one pass; thresholds of before; a memory of the last labels; graph, then residual, then unit length; the average after the step."
    N, hard = 8, 2; said = []
    def restate(m, x, y, now):
        R = cosines(*[clip.text([f'a photo of a {c}.' for c in NAMES])]*2); A = R.fill_diagonal_(0.)/R.sum(1, keepdim=True)*.2; A.fill_diagonal_(.8); S = (A/.3).softmax(1)
        assert_close(m.core.A, A); t = prompted(clip, m.core.prompts.ctx)[0]; t = normalize(gcn(m.core, A, t) + t, dim=-1)
        v = seen_by(m.core, clip, x if frozen else torch.cat(x), now.epoch); z, weak, strong = (m.core.log_scale.exp()*v @ t.T).chunk(3) if not frozen else [m.core.log_scale.exp()*v @ t.T]*3
        assert m.core.log_scale.exp() == pytest.approx(clip.logit_scale/10)
        n = m.memory.sum(0).double(); a = (n/max(n.max().item(), hard*N - n.sum().item(), 1)).clamp(min=1/len(NAMES)); tau = .95*a/(2 - a); p, q = weak.detach().sigmoid(), strong.sigmoid(); loss = 0.
        for b in range(len(y)):
            top = p[b].topk(hard).indices; sure = [c.item() for c in top if p[b, c] >= tau[c]]
            label = torch.tensor([(c in sure or y[b, c] == 1) and y[b, c] != -1 for c in range(len(NAMES))]); said.append(label.sum().item())
            if label.any(): m.memory[now.rows[b]] = label
            if not sure: continue
            for target, w in (label.float(), 1.), (S @ p[b], 2.): loss = loss - w*(target*q[b].clamp(min=1e-8).log() + (1 - target)*(1 - q[b]).clamp(min=1e-8).log()).sum()
        return splc(z, y, now.epoch, assume=-1 not in kinds) + .125*loss
    m = create('scpnet-frozen' if frozen else 'scpnet', clip, NAMES, keep=4, hard=hard, soft=2., temperature=.3, hidden=12, epochs=3, batch=4, lr=.001, gcn_lr=.004, stretch=4/3)
    store = features(N, clip.d) if frozen else Given(*(images(N, 128, s) for s in range(3)))
    beside(m, store, known(N, kinds), restate, adam, scp_rule(one_cycle(.001, 8, .2), .001, 4), tol=5e-3, most=1 + frozen, after=lambda m, now: averaged(m.ema, m.core, .82**(1/now.n)))
    assert 0 < sum(said) < len(NAMES)*len(said)


@pytest.mark.parametrize('frozen', [False, True])
def test_hspnet(clip, frozen):
    "Parents along their graph, not of unit length, through the meta-net; their children's contexts; the same graph network for both levels."
    parents, index = ['animal', 'thing'], [0, 0, 1, 1]
    def level(names, keep):
        R = cosines(*[clip.text([f'a photo of a {c}.' for c in names])]*2); kept = torch.zeros_like(R).scatter(1, R.topk(keep, 1).indices, 1.)*R
        kept.fill_diagonal_(0.); return (kept/kept.sum(1, keepdim=True).clamp(min=1e-12)*.2).fill_diagonal_(.8)
    def restate(m, x, y, now):
        c = m.core; mix = lambda t, A: c.gcn_share*gcn(c, A, t) + (1 - c.gcn_share)*t
        up = mix(clip.text([f'a photo of a {p}.' for p in parents]), level(parents, 1)); ctx = c.meta[2](c.meta[0](up).relu())[index].unflatten(-1, (4, -1))
        t = torch.cat([prompted_alone(clip, ctx[i], name) for i, name in enumerate(NAMES)]); t = normalize(mix(t, level(NAMES, 3)), dim=-1)
        return splc(clip.logit_scale/10*seen_by(c, clip, x, now.epoch) @ t.T, y, now.epoch)
    m = create('hspnet-frozen' if frozen else 'hspnet', clip, NAMES, parents=(parents, index), hidden=12, epochs=3, batch=4, lr=.001, gcn_lr=.005, stretch=4/3)
    store = features(8, clip.d) if frozen else Given(images(8, 128))
    beside(m, store, known(8, (0, 1)), restate, adam, scp_rule(one_cycle(.001, 8, .2), .001, 5), tol=5e-3, most=1 + frozen, after=lambda m, now: averaged(m.ema, m.core, .82**(1/now.n)))


def prompted_alone(clip, ctx, name):
    ids = tokenize([' '.join('X'*len(ctx)) + f' {name}.']); e = clip.model.token_embedding(ids).detach()
    return encoded(clip, torch.cat([e[:, :1], ctx[None], e[:, 1 + len(ctx):]], 1), ids.argmax(1))[1]


def test_gradients_of_a_trained_encoder_on_a_cpu():
    "In training mode, against float64: contiguous memory loses nothing, channels last (which is faster) a few thousandths."
    v0 = trmml.clip.load('doodle-clip').model.visual; x = torch.rand(12, 3, 128, 128, generator=torch.Generator().manual_seed(5))
    def gradients(form, dtype=torch.float32):
        v = copy.deepcopy(v0).to(dtype).to(memory_format=form).requires_grad_(True).train()
        normalize(trmml.clip.attention_pool(v.attnpool, trmml.clip.feature_map(v, x.to(dtype).contiguous(memory_format=form))), dim=-1).pow(3).sum().backward()
        return {k: p.grad.double() for k, p in v.named_parameters() if p.grad is not None}
    exact = gradients(torch.contiguous_format, torch.float64)
    for form, worst in (torch.contiguous_format, 1e-3), (torch.channels_last, 1e-1):
        apart = [((g - exact[k]).norm()/exact[k].norm()).item() for k, g in gradients(form).items() if exact[k].norm() > 1e-9]
        assert max(apart) < worst and sorted(apart)[len(apart)//2] < worst/10


# ---- methods on an ImageNet backbone

def seen_map(m, x):
    "The map of layer4, and its mean; BatchNorm is still before layer4 if only that is trained."
    if m.trunk is None: return x.dense, x.pooled
    v = m.trunk.visual; v.train()
    if m.tower == 'layer4': v.eval(); v.layer4.train()
    f = v.layer4(v.layer3(v.layer2(v.layer1(v.maxpool(v.relu(v.bn1(v.conv1(x)))))))); return f, f.mean((2, 3))


def scored(m, x): return m.net.fc(seen_map(m, x)[1])


def hcp_rule(lr, drop, l2): return lambda k, p, now: dict(lr=lr*.1**(now.epoch//drop), l2=l2)


def known_alone(s, y, margin=0.):
    "Mean over what is known, soft positives included; 0 of nothing."
    each = [F.binary_cross_entropy_with_logits(v, t) if t > margin else F.binary_cross_entropy_with_logits(-v, -t) for v, t in zip(s.flatten(), y.to(s.dtype).flatten()) if abs(t) > margin]
    return sum(each)/max(len(each), 1) + 0*s.sum()


def partial_bce(s, y):
    share = (y != 0).float().mean(1, keepdim=True)
    return ((5.45 - 4.45*share)*torch.where(y == 1, softplus(-s), softplus(s))*(y != 0)).sum()/y.numel()


@pytest.mark.parametrize('name', ['partial-bce', 'curriculum'])
def test_partial_bce_and_curriculum(tower, name):
    "Found labels: in evaluation mode, before each epoch, from scratch; they count in g."
    taken = []
    def restate(m, x, y, now):
        if name == 'curriculum' and now.epoch >= 1 and now.i == 0:
            probe = twin(m).eval()
            with torch.no_grad(): s = scored_still(probe, now.store.x[0])
            test_labels = torch.where((s.abs() >= .3) & (now.labels == 0), s.sign(), 0).to(torch.int8); assert torch.equal(m.found, test_labels); taken.append(int(test_labels.abs().sum()))
        if name == 'curriculum' and now.epoch >= 1: y = torch.where(y == 0, m.found[now.rows], y)
        return partial_bce(scored(m, x), y)
    more = dict(theta=.3, first=1) if name == 'curriculum' else {}
    m = create(name, tower, NAMES, epochs=3, batch=4, lr=.01, drop=2, **more)
    beside(m, Given(images(6)), known(6), restate, adam, hcp_rule(.01, 2, 5e-4)); assert name == 'partial-bce' or min(taken) > 0


def scored_still(m, x):
    v = m.trunk.visual; return m.net.fc(v.layer4(v.layer3(v.layer2(v.layer1(v.maxpool(v.relu(v.bn1(v.conv1(x)))))))).mean((2, 3)))


def nl(p): return -(p + 1e-5).log()


def test_lsan(tower):
    def restate(m, x, y, now):
        p = scored(m, x).sigmoid(); return torch.where(y == 1, .9*nl(p) + .1*nl(1 - p), .9*nl(1 - p) + .1*nl(p)).mean()
    m = create('lsan', tower, NAMES, epochs=2, batch=4, lr=.01); beside(m, Given(images(6)), known(6, (0, 1)), restate, adam, lambda k, p, now: dict(lr=.01))


def test_role(tower):
    "Each side is taught with the other held fixed; the table of labels is one parameter, so that all its rows move."
    def restate(m, x, y, now):
        if now.step == 0: assert_close(m.theta[now.labels == 1].sigmoid(), torch.full((int((now.labels == 1).sum()),), .995)); assert m.theta[now.labels == 0].sigmoid().sub(.5).abs().max() <= .1 + 1e-6
        p, q = scored(m, x).sigmoid(), m.theta[now.rows].sigmoid(); C = len(NAMES); total = 0.
        for a, b in (p, q.detach()), (q, p.detach()): total = total + (nl(a)*(y == 1)).mean() + (b*nl(a) + (1 - b)*nl(1 - a)).mean() + (a.sum(1).mean() - 1.5)**2/C**2
        return total/2
    m = create('role', tower, NAMES, k=1.5, epochs=2, batch=4, lr=.01)
    beside(m, Given(images(8)), known(8, (0, 1)), restate, adam, lambda k, p, now: dict(lr=.1 if k == 'theta' else .01))


@pytest.mark.parametrize('scheme', ['R', 'Ct', 'Cp'])
def test_largeloss(tower, scheme):
    "The largest assumed negatives of a batch: rejected, turned for this step, or turned for good once the step is done."
    turned = []
    def restate(m, x, y, now):
        s = scored(m, x); y = torch.where(m.flipped[now.rows], 1, y); loss = F.binary_cross_entropy_with_logits(s, (y == 1).float(), reduction='none')
        k = 0 if now.epoch == 0 else math.ceil(s.numel()*.1*(now.epoch if scheme != 'Cp' else 1) - 1e-6)
        if not k: return loss.mean()
        tau = loss.detach()[y != 1].sort(descending=True).values[min(k, int((y != 1).sum())) - 1]; large = (y != 1) & (loss.detach() >= tau); turned.append(int(large.sum()))
        if scheme == 'Cp': m.flipped[now.rows] |= (y != 1) & (loss.detach() > tau)
        return torch.where(large, 0. if scheme == 'R' else F.binary_cross_entropy_with_logits(s, torch.ones_like(s), reduction='none'), loss).mean()
    m = create('largeloss', tower, NAMES, scheme=scheme, delta=10., epochs=3, batch=8, lr=.003)
    beside(m, Given(images(12)), known(12, (0, 1)), restate, adam, lambda k, p, now: dict(lr=.03 if k.startswith('net') else .003))
    assert turned[0] == 4 and (scheme == 'Cp' or turned[2] == 7)


@pytest.mark.parametrize('name', ['hill', 'splc'])
def test_hill_and_splc(tower, name):
    "Pixels in 0..1; a sum; decay on matrices; the schedule's rate and beta 1; averages of weights and of BatchNorm after the step."
    mean, std = (torch.tensor(v)[:, None, None] for v in ((.485, .456, .406), (.229, .224, .225)))
    def restate(m, x, y, now):
        s = scored(m, x*std + mean); p, pm = s.sigmoid(), (s - 1).sigmoid()
        if name == 'hill': return torch.where(y == 1, -(1 - pm)**2*pm.log(), (1.5 - p)*p**2).sum()
        return splc(s, torch.where(y == 1, 1, 0), now.epoch)
    rates = one_cycle(.002, 12, .2)
    def rule(k, p, now): r, beta = rates[now.step]; return dict(lr=r, beta=beta, l2=.05 if p.ndim >= 2 else 0.)
    def after(m, now): averaged(m.mean[0], m.net, .9); averaged(m.mean[1], m.trunk, .9)
    m = create(name, tower, NAMES, epochs=3, batch=4, lr=.002, stretch=2., ema=.9, weight_decay=.05, raw_pixels=True)
    beside(m, Given(images(8)), known(8, (0, 1)), restate, adam, rule, after=after)


# ---- graphs of classes

def spread(m, f, shared=False):
    "Averages of 2 x 2, then channels and BatchNorm, decoupling, three messages, a score: logits, vectors."
    net = m.net; f = F.avg_pool2d(f, 2) if f.shape[-1] >= 14 else f
    if len(list(net.reduce.parameters())): f = net.reduce[1].train()(net.reduce[0](f))
    x, d, g = f.flatten(2).mT, net.decouple, net.head.graph
    e = d.fc_a(d.fc3((d.fc1(x)[:, None]*d.fc2(m.W)[None, :, None]).tanh()))[..., 0]; v = e.softmax(-1) @ x
    return answered(m, v, shared), v


def answered(m, v, shared=False):
    g, h = m.net.head.graph, v
    for _ in range(3):
        a = torch.cat([torch.einsum('ij,bjd->bid', m.G, h), torch.einsum('ji,bjd->bid', m.G, h)], -1)
        z = (g.Wz(a) + g.Uz(h)).sigmoid(); r = (g.Wr(a) + (g.Uz if shared else g.Ur)(h)).sigmoid(); h = (1 - z)*h + z*(g.Wh(a) + g.Uh(r*h)).tanh()
    o = m.net.head.fc(torch.cat([h, v], -1)).tanh(); return (o*m.net.head.classifier.weight).sum(-1) + m.net.head.classifier.bias


def counted(labels):
    "P(j | i) among known positives."
    p = (labels == 1).float(); return torch.stack([torch.stack([(p[:, i]*p[:, j]).sum()/p[:, i].sum() if i != j else torch.tensor(1.) for j in range(p.shape[1])]) for i in range(p.shape[1])])


def agreed(v, y, rng):
    "Cosines of every pair of images and class, negatives thinned to 2n drawn and the n hardest."
    groups = dict(pp=[], pn=[], nn=[])
    for a in range(len(v)):
        for b in range(a + 1, len(v)):
            for c in range(v.shape[1]):
                kind = {(1, 1): 'pp', (1, -1): 'pn', (-1, 1): 'pn', (-1, -1): 'nn'}.get((int(y[a, c]), int(y[b, c])))
                if kind: cos = F.cosine_similarity(v[a, c], v[b, c], dim=0, eps=1e-9); groups[kind].append(1 - cos if kind == 'pp' else 1 + cos)
    n = len(groups['pp'])
    for kind in 'pn', 'nn':
        if n and groups[kind]: x = groups[kind]; groups[kind] = [x[i] for i in rng.permutation(len(x))[:2*n]] + sorted(x, key=lambda t: -t.item())[:n]
    return torch.stack(sum(groups.values(), [])).mean()


WORDS = torch.randn(4, 5, generator=torch.Generator().manual_seed(9))


def wide_map(n, d=24, side=14):
    "A map large enough to be averaged, neighbours alike but not equal, so that averages spread less."
    return features(n, d, side)


MAPS = ['2 x 2', '14 x 14', '14 x 14, frozen']
GRAPHS = [('layer4', lambda n: Given(images(n, 64))), ('layer4', lambda n: Given(images(n, 448))), ('frozen', wide_map)]


def graph_method(name, tower, part, store, **more):
    net = tower if part != 'frozen' else SimpleNamespace(d=24, device=CPU, model=nn.Identity(), name='planted')
    return create(name, net, NAMES, tower=part, words=WORDS, epochs=3, batch=5, lr=.003, hidden=6, drop=2, **more)


def warm(now): return now.i/now.n if now.epoch == 0 else 1.


@pytest.mark.parametrize('part, store, shared', [(*g, False) for g in GRAPHS] + [(*GRAPHS[2], True)], ids=[*MAPS, 'shared gate'])
def test_ssgrl(tower, part, store, shared):
    def restate(m, x, y, now):
        if now.step == 0: assert_close(m.G, counted(now.labels))
        return known_alone(spread(m, seen_map(m, x)[0], shared)[0], y)
    m = graph_method('ssgrl', tower, part, store, shared_gate=shared); beside(m, store(10), known(10), restate, adam, hcp_rule(.003, 2, 5e-4), most=1)


@pytest.mark.parametrize('part, store', GRAPHS, ids=MAPS)
def test_sst(tower, part, store):
    "The bank takes this batch first; then labels are found, with the threshold of the epoch; unknown pairs count as negative."
    taken = []
    def restate(m, x, y, now):
        s, v = spread(m, seen_map(m, x)[0]); C = len(NAMES); h = m.net.pairs; u = h.fc1(v); pairs = [(i, j) for i in range(C) for j in range(i + 1, C)]
        k = torch.stack([(h.fc3(h.fc2(torch.cat([u[:, i], u[:, j]], -1)).relu())*h.classifier.weight[n]).sum(-1) + h.classifier.bias[n] for n, (i, j) in enumerate(pairs)], 1)
        for c in range(C):
            new = v[y[:, c] == 1, c].detach(); m.bank[c] = torch.cat([new, m.bank[c]])[:m.length]; m.filled[c] = min(m.filled[c] + len(new), m.length)
        both = torch.stack([(y[:, i] == 1) & (y[:, j] == 1) for i, j in pairs], 1); p = k.sigmoid(); q = (1 - p + .05).clamp(max=1)
        pair = -torch.where(both, (1 - p)*p.clamp(min=1e-8).log(), (1 - q)**2*q.clamp(min=1e-8).log()).mean()      # the weight has a gradient
        loss = known_alone(s, y) + warm(now)*(10*pair + .05*agreed(v, y, np.random.RandomState([0, now.step])))
        if now.epoch < 1: return loss
        theta = .95 - .025*(now.epoch - 1); K = torch.eye(C).repeat(len(y), 1, 1)
        for n, (i, j) in enumerate(pairs): K[:, i, j] = K[:, j, i] = k[:, n].detach().sigmoid()
        for way in 'within', 'across':
            t = y.clone()
            for b, c in (y == 0).nonzero().tolist():
                mine = [K[b, c, j] for j in range(C) if y[b, j] == 1] if way == 'within' else [F.cosine_similarity(v[b, c].detach(), w, dim=0) for w in m.bank[c, :int(m.filled[c])]]
                t[b, c] = int(bool(mine) and bool(sum(mine)/len(mine) >= theta))
            taken.append((way, int((t != y).sum()), int((y == 0).sum()))); loss = loss + known_alone(s, t, theta)
        return loss
    m = graph_method('sst', tower, part, store, width=8, first=1, length=6)
    with torch.no_grad(): m.net.pairs.classifier.bias.add_(torch.linspace(1.5, 4.5, 6)); m.net.reduce[1].bias.add_(1.9 if store is GRAPHS[0][1] else .5)   # so that something is found, and not all
    beside(m, store(10), known(10), restate, adam, hcp_rule(.003, 2, 5e-4), most=2)
    for w in 'within', 'across': assert 0 < sum(n for way, n, _ in taken if way == w) < sum(n for way, _, n in taken if way == w)


@pytest.mark.parametrize('part, store, start', [(*g, .5) for g in GRAPHS] + [(*GRAPHS[2], 1.2)], ids=[*MAPS, 'share above 1'])
def test_sarb(tower, part, store, start):
    "Three passes of one head; shares are written back into 0..1 and learn through vectors and soft labels."
    def restate(m, x, y, now):
        s, v = spread(m, seen_map(m, x)[0]); rng = np.random.RandomState([0, now.step]); loss = known_alone(s, y) + .05*warm(now)*agreed(v, y, rng)
        if now.epoch < 1: return loss
        m.net.mix.data.clamp_(0, 1); alpha, beta = m.net.mix; f, t, other, last = v.clone(), y.float(), v.flip(0), y.flip(0)
        for b, c in (y == 0).nonzero().tolist():
            if last[b, c] == 1: f[b, c] = alpha*v[b, c] + (1 - alpha)*other[b, c]; t[b, c] = 1 - alpha
        loss = loss + known_soft(answered(m, f), t); g, u = v.clone(), y.float(); chance = rng.rand(*y.shape)*(y.numpy() == 0); n = rng.randint(m.prototypes.shape[1])
        for b, c in enumerate(chance.argmax(1)):
            if y[b, c] == 0: g[b, c] = beta*v[b, c] + (1 - beta)*m.prototypes[c, n]; u[b, c] = 1 - beta
        return loss + known_soft(answered(m, g), u)
    m = graph_method('sarb', tower, part, store, width=8, first=1, renew=5, clusters=2)
    m.net.mix.data[0] = start
    beside(m, store(10), known(10), restate, adam, hcp_rule(.003, 2, 5e-4), most=2); assert m.prototypes.abs().sum() > 0


def known_soft(s, t):
    "As `known_alone`; what is exactly 0 does not count, and targets have gradients."
    each = torch.where(t > 0, t*softplus(-s) + (1 - t)*softplus(s), softplus(s)); use = t != 0; return each[use].mean()


@pytest.mark.parametrize('norm', [10., .01])
def test_mlgcn(tower, norm):
    "The largest value of each channel; a graph from counts; the norm of all gradients together is cut before the step."
    def restate(m, x, y, now):
        if now.step == 0:
            P = counted(now.labels).fill_diagonal_(0.); B = (P >= .4).float(); A = .25*B/(B.sum(0) + 1e-6) + torch.eye(4); D = torch.diag(A.sum(1)**-.5)
            assert B.sum() > 0; assert_close(m.A, D @ A.T @ D)
        g = m.net.gcn; W = m.A @ (F.leaky_relu(m.A @ (m.W @ g.w1), .2) @ g.w2)
        return known_alone(seen_map(m, x)[0].amax((2, 3)) @ W.T, y)
    m = create('mlgcn', tower, NAMES, words=WORDS, hidden=6, epochs=2, batch=5, clip_norm=norm)
    beside(m, Given(images(10, 96)), known(10), restate, sgd, lambda k, p, now: dict(lr=.1 if k.startswith('net') else .01, l2=1e-4), norm=norm)


# ---- the learner: the last batch, the rate in the log

def test_a_last_incomplete_batch_is_dropped_if_the_recipe_says_so(tower):
    assert [[len(r) for r in epoch_rows(n, 4, 0, 1, drop)] for n in (8, 10, 3) for drop in (False, True)] == [[4, 4], [4, 4], [4, 4, 2], [4, 4], [3], [3]]
    assert torch.equal(torch.cat(epoch_rows(10, 4, 5, 1, True)), torch.cat(epoch_rows(10, 4, 5, 1))[:8])
    for drop, steps in (False, 9), (True, 6):
        m, seen = create('splc-frozen', tower, NAMES, batch=4, epochs=3, drop_last=drop), []; inner = m.before_step
        m.before_step = lambda opt, step, steps, batch: (seen.append((len(batch.rows), step, steps)), inner(opt, step, steps, batch))
        log = fit(m, features(10, tower.d, 1), known(10))
        assert [n for n, *_ in seen] == ([4, 4, 2] if not drop else [4, 4])*3 and [s[1:] for s in seen] == [(i, steps) for i in range(steps)]
        assert log[-1]['lr'] == pytest.approx(one_cycle(1e-4, steps, .2)[-1][0] if steps > 5 else 0)              # the schedule ends where the training does


def test_terms_are_means_over_the_rows_that_came(tower):
    m = create('partial-bce-frozen', tower, NAMES, batch=4, epochs=1, drop_last=True, lr=1e-9); store, y = features(10, tower.d, 1), known(10)
    log = fit(m, store, y); rows = torch.cat(epoch_rows(10, 4, 0, 0, True)); m.eval()
    assert log[0]['total'] == pytest.approx(m.loss(store.batch(rows), y[rows])['total'].item(), rel=1e-4)


def test_every_recipe_says_whether_the_last_batch_is_kept(clip):
    from trmml.methods import METHODS, find
    from trmml.train import Method
    assert {m for m in METHODS if find(m)[0].recipe['drop_last'] is not False} == {'dualcoop-reproduced'}   # its author's code drops it
    class Own(Method):
        recipe = dict(optimizer='sgd', lr=1., weight_decay=0., schedule='constant', epochs=1, batch=2)
        encode_text = loss = scores = None
    assert Own.recipe['drop_last'] is False and Own(clip, NAMES, drop_last=True).recipe['drop_last'] is True


def test_checkpoints_of_before_go_on_and_others_are_refused(tower, tmp_path):
    y, store = known(10), features(10, tower.d, 1); make = lambda **more: create('splc-frozen', tower, NAMES, batch=4, epochs=2, **more)
    log = fit(make(), store, y, checkpoint=tmp_path/'a.ckpt'); about = torch.load(io.BytesIO(read_checked(tmp_path/'a.ckpt')), weights_only=True)['about']
    assert 'drop_last' not in about and fit(make(), store, y, checkpoint=tmp_path/'a.ckpt') == log                 # what a checkpoint said before there was a choice
    with pytest.raises(ValueError, match='drop_last None, here True'): fit(make(drop_last=True), store, y, checkpoint=tmp_path/'a.ckpt')
    fit(make(drop_last=True), store, y, checkpoint=tmp_path/'b.ckpt')
    with pytest.raises(ValueError, match='drop_last True, here None'): fit(make(), store, y, checkpoint=tmp_path/'b.ckpt')


@pytest.mark.parametrize('name, more', [('splc-frozen', {}), ('sst-frozen', dict(words=WORDS, drop=1, hidden=4)), ('mlgcn-frozen', dict(words=WORDS, hidden=4)), ('largeloss', {}), ('role', {}), ('scpnet-frozen', dict(hidden=8))])
@pytest.mark.filterwarnings('ignore:SCPNet sees one view')
def test_the_rate_in_the_log_is_the_optimisers(tower, clip, name, more):
    net = clip if name.startswith('scp') else tower
    m = create(name, net, NAMES, batch=8, epochs=3, **more); used, after = {}, m.after_step; before = m.before_step
    def watch(opt, *a): before(opt, *a); used[m.epoch] = [g['lr'] for g in opt.param_groups]
    m.before_step = watch
    log = fit(m, features(16, net.d, 1) if 'frozen' in name else Given(images(16)), known(16))
    for row in log:
        rates = used[row['epoch']]; assert row['lr'] == rates[0]
        assert {k: v for k, v in row.items() if k.startswith('lr_')} == {f'lr_{i}': r for i, r in enumerate(rates) if r != rates[0]}
    assert (len(set(used[2])) > 1) == (name in ('largeloss', 'role', 'scpnet-frozen')) and (name != 'sst-frozen' or log[2]['lr'] == pytest.approx(log[0]['lr']/100))


# ---- losses by name: values and gradients of what `OFFICIAL_LOSSES` names

def test_losses_are_those_of_their_official_names():
    "The arithmetic of each counterpart, its order of clamps and its detached weights, on logits in +-17."
    from trmml.train import OFFICIAL_LOSSES, asl as asl_, assume_negative, focal, hill, known_bce, large_loss, lsan, role, splc as splc_
    g = torch.Generator().manual_seed(0); z0 = (34*torch.rand(6, 5, generator=g) - 17).double(); y = known(6).repeat(1, 2)[:, :5]; an = (y == 1).double(); theta = torch.randn(6, 5, generator=g).double()
    bce = lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction='none')
    def asymmetric(z, fixed, gammas, clip):                                                        # ASL's class; `fixed`: the weight has no gradient
        p, n = z.sigmoid(), (1 - z.sigmoid() + clip).clamp(max=1); loss = an*p.clamp(min=1e-8).log() + (1 - an)*n.clamp(min=1e-8).log()
        w = (1 - p*an - n*(1 - an))**(gammas[0]*an + gammas[1]*(1 - an)); return -(loss*(w.detach() if fixed else w)).sum()
    def soft(z):
        each = (y > 0)*bce(z, y.double()) + (y < 0)*bce(-z, -y.double()); return each[y != 0].mean()
    def spml(z, t): return -(z.sigmoid()*t + (1 - z.sigmoid())*(1 - t) + 1e-5).log()
    def role_(z):
        p, q = z.sigmoid(), theta.sigmoid(); out = 0.
        for a, b in (p, q), (q, p.detach()): out = out + ((-(a + 1e-5).log())*an).mean() + (-b*(a + 1e-5).log() - (1 - b)*(1 - a + 1e-5).log()).mean() + (a.sum(1).mean() - 1.5)**2/25
        return out/2
    def ll(z):
        loss = bce(z, an); k = math.ceil(30*.1*2); v = loss.detach()*(an == 0); tau = v.flatten().topk(k).values[-1]; return torch.where((v >= tau) & (an == 0), bce(z, 1 - an), loss).mean()
    pairs = dict(assume_negative=(assume_negative, lambda z: bce(z, an).mean()), known_bce=(known_bce, soft), lsan=(lsan, lambda z: (.9*spml(z, an) + .1*spml(z, 1 - an)).mean()),
                 role=(lambda z, y: role(z, y, theta, 1.5), role_), large_loss=(lambda z, y: large_loss(z, y.where(y == 1, 0), 2, 'Ct', 10.)[0], ll),
                 hill=(hill, lambda z: -(an*(1 - (z - 1).sigmoid())**2*(z - 1).sigmoid().log() - (1 - an)*(1.5 - z.sigmoid())*z.sigmoid()**2).sum()),
                 splc=(lambda z, y: splc_(z, y.where(y == 1, 0), 1), lambda z: splc(z, y.where(y == 1, 0), 1)),
                 asl=(lambda z, y: asl_(z, y, 1., 4., .05, assume=True), lambda z: asymmetric(z, True, (1, 4), .05)),
                 focal=(lambda z, y: focal(z, y, assume=True), lambda z: asymmetric(z, False, (2, 2), 0.)))
    assert set(pairs) == set(OFFICIAL_LOSSES) - {'partial_bce', 'first_theta'}
    for name, (ours, official) in pairs.items():
        a, b = (z0.clone().requires_grad_() for _ in range(2)); u, w = ours(a, y), official(b); u.backward(); w.backward()
        assert_close(u, w, rtol=1e-5, atol=1e-6, msg=lambda m: f'{name}: {m}'); assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=lambda m: f'gradient of {name}: {m}')
    a, b = (z0.clone().requires_grad_() for _ in range(2)); u, w = focal(a, y, assume=True), asymmetric(b, True, (2, 2), 0.); u.backward(); w.backward()
    assert_close(u, w, rtol=1e-5, atol=1e-6); assert (a.grad - b.grad).abs().max() > .3              # RLM's focal baseline: another gradient
    assert assume_negative(torch.tensor([[100.]]), torch.tensor([[-1]])) == 100 > spml(torch.tensor(100.), 0.) == pytest.approx(11.5, abs=.1)
