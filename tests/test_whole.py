"""The whole of TRM-ML, training through both stages, beside a plain and slow re-statement in float64.

`Plain` is the paper's Eq. 1-15 with the readings that the notebooks of nbs/paper state, in loops over images, classes and
positions: no caches, no folded decoder, no ring of vectors, no helper of the library, its own AdamW and OneCycle. Every step
is compared: terms, gradients of every parameter, parameters, pseudo-labels, bank, thresholds, text prototypes; at the end
scores and regions. The library rounds to float32 by `Tensor.float()`; here `float()` leaves float64 as it is, so that both
sides compute in float64 and what differs is a difference in meaning."""
import math
import zlib
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from trmml.clip import CLIP, Features
from trmml.contrastive import gather_samples, nce_loss
from trmml.contrastive_fast import FastProjector, fast_nce_loss, gather_slots
from trmml.distillation import kd_loss, match_both
from trmml.model import BARE, WORDS, Moved, TRMML, remembered
from trmml.prototypes import MemoryBank, Thresholds, class_means, topk_pixels
from trmml.regions import RegionDecoder
from trmml.train import Batch, TensorStore, fit, predict

pytestmark = pytest.mark.filterwarnings('ignore:.*never positive among the known labels', 'ignore:.*never saw some words')

NAMES = ['cat', 'potted plant', 'bus', 'dog']                 # the last one is never positive, the one before never negative
C, D, H, W = len(NAMES), 8, 2, 3
PLACES = [(i, j) for i in range(H) for j in range(W)]
tokens_of = open_clip.tokenizer.SimpleTokenizer()
TOL = 1e-8                                                    # of what is 1e-6 in the requirement
rounded = torch.Tensor.float


@pytest.fixture(autouse=True)
def in_float64(monkeypatch): monkeypatch.setattr(torch.Tensor, 'float', lambda t: t if t.dtype == torch.float64 else rounded(t))


@pytest.fixture(scope='module')
def clip():
    "A CLIP of eight dimensions whose weights all count."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(embed_dim=D, vision_cfg=dict(layers=(1, 1, 1, 1), width=8, image_size=32),
                               text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=2))
        for name, p in model.transformer.named_parameters(): p.data += .1*torch.randn(p.shape)
        model.token_embedding.weight.data *= 10
    return CLIP(model, 'tiny', 'random', 32).double()


class Kept(TensorStore):
    "Features in float64."
    def batch(self, rows, device=None, dtype=None): return Features(self.dense[rows], self.pooled[rows])


def truth(n, seed=0): return torch.from_numpy(np.random.RandomState(seed).random_sample((n, C)) < .45)


def pictures(n, seed=0):
    "What is there adds its own direction at one position."
    g = torch.Generator().manual_seed(seed)
    dense, what = torch.randn(n, D, H, W, generator=g, dtype=torch.float64), torch.randn(C, D, generator=g, dtype=torch.float64)
    for k, c in truth(n, seed).nonzero(): dense[k, :, (k + c) % H, (k*c) % W] += 2*what[c]
    return Kept(dense, dense.mean((2, 3)))


def known(n, seed=0):
    "Half of the labels; class 2 is never negative, class 3 never positive."
    y = (2*truth(n, seed).int() - 1)*torch.from_numpy(np.random.RandomState(seed + 100).randint(0, 2, (n, C)))
    y[:, 2] = y[:, 2].clamp(min=0)
    y[:, 3] = y[:, 3].clamp(max=0)
    return y.to(torch.int8)


# ---- the re-statement

PAPER = dict(n_ctx=16, class_specific=True, region=True, contrastive=True, kind='sigmoid', start='aligned', gain=1., centre=True,
             length=64, seed=0, prototypes='both', text_prototypes='positive', topk=4, eta=.9, warmup=.25, kd=True, alpha=1.,
             beta=.05, gamma=.01, gamma_pos=1., gamma_neg=2., shift=.05, tau_nce=.1, score='region', loss='asl', unknown='skip',
             lr=5e-4, weight_decay=1e-2, epochs=40, batch=128)


def length_of(v): return v.dot(v).sqrt()
def unit(v): return v/length_of(v)
def cosine(a, b): return a.dot(b)/length_of(a)/length_of(b)
def sigmoid(z): return 1/(1 + (-z).exp())
def shares(x): return x.exp()/x.exp().sum()
def softplus(z): return (1 + z.exp()).log()
def gelu(x): return x*(1 + torch.erf(x/math.sqrt(2)))/2


def lively(name, shape, size=.15):
    "Noise for a parameter: the silent start hides in what order things are done."
    return size*torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())), dtype=torch.float64)


class Plain:
    "One training of TRM-ML in plain words."
    def __init__(self, clip, noise=True, **given):
        self.o, self.model = SimpleNamespace(**{**PAPER, **given}), clip.model
        self.tokens = tokens_of([f'{" ".join("X"*self.o.n_ctx)} {c}.' for c in NAMES], 77), tokens_of([f'a photo of a {c}.' for c in NAMES], 77)
        self.p = {k: v.detach().double() for k, v in self.first().items()}
        if noise:
            for k in self.p: self.p[k] += lively(k, self.p[k].shape)
        self.arrived, self.T, self.stage, self.centred = [[] for _ in NAMES], torch.zeros(C, D), 1, not (self.o.region and self.o.centre)
        self.theta = {kind: {1: [None]*C, -1: [None]*C} for kind in ('visual', 'text')}
        self.m, self.v = ({k: torch.zeros_like(p) for k, p in self.p.items()} for _ in range(2))

    @torch.random.fork_rng(devices=[])
    def first(self):
        "Names and values of what is learned, before the first step."
        o, width, out = self.o, self.model.token_embedding.embedding_dim, {}
        shape = 2, C if o.class_specific else 1, o.n_ctx, width
        out['prompts.ctx'] = .02*torch.randn(shape, generator=torch.Generator().manual_seed(o.seed))
        out['log_scale'] = self.model.logit_scale.detach().float().to(torch.float32)
        torch.manual_seed(o.seed)
        if o.region:
            Q = torch.stack([unit(v) for v in self.read(self.model.token_embedding(self.tokens[1]), self.tokens[1])])
            out['queries'] = Q if o.start == 'aligned' else torch.randn(C, D).double()*Q.std()
            parts = {f'decoder.{k}': nn.LayerNorm(D) for k in ('norm_q', 'norm_f', 'norm_a')}
            parts |= {f'decoder.{k}': nn.Linear(D, D) for k in 'q k v out'.split()}
            parts |= {'decoder.mlp.0': nn.Linear(D, 4*D), 'decoder.mlp.3': nn.Linear(4*D, D)}
            out |= {f'{k}.{n}': p for k, m in parts.items() for n, p in m.named_parameters()}
            if o.start == 'aligned':
                for k in 'q k v out'.split(): out |= {f'decoder.{k}.weight': torch.eye(D)*(o.gain if k == 'q' else 1), f'decoder.{k}.bias': torch.zeros(D)}
                out |= {'decoder.mlp.3.weight': torch.zeros(D, 4*D), 'decoder.mlp.3.bias': torch.zeros(D)}
        if o.contrastive:
            for i, (a, b) in zip((0, 2, 4), ((D, 2*D), (2*D, 2*D), (2*D, 2*D))):
                out |= {f'projector.mlp.{i}.{n}': p for n, p in nn.Linear(a, b).named_parameters()}
        return out

    # text: all 77 places of each sentence
    def read(self, x, tokens):
        m = self.model
        x = m.ln_final(m.transformer(x + m.positional_embedding, attn_mask=m.attn_mask)) @ m.text_projection
        return [x[k, int(tokens[k].argmax())] for k in range(len(x))]
    def sentences(self, sign):
        "g of each class: start token, context, name, full stop, end token."
        n, e = self.o.n_ctx, self.model.token_embedding(self.tokens[0]).detach()
        ctx = self.p['prompts.ctx'][sign]
        return self.read(torch.stack([torch.cat([e[c, :1], ctx[c if self.o.class_specific else 0], e[c, 1 + n:]]) for c in range(C)]), self.tokens[0])

    # layers; x is a vector, or one in each row
    def linear(self, name, x): return x @ self.p[f'{name}.weight'].T + self.p[f'{name}.bias']
    def standard(self, name, x):
        off = x - x.mean(-1, keepdim=True)
        return off/((off**2).mean(-1, keepdim=True) + 1e-5).sqrt()*self.p[f'{name}.weight'] + self.p[f'{name}.bias']
    def project(self, v):
        for i in 0, 2: v = self.linear(f'projector.mlp.{i}', v).clamp(min=0)
        return self.linear('projector.mlp.4', v)

    def energies_of(self, f, G):
        "Eq. 2 and 3: energies by class, a number for each position; F_q by class."
        if not self.o.region: return [self.tau()*(f @ unit(G[0][c])) for c in range(C)], None
        x, e, F_q = self.standard('decoder.norm_f', f), [], []
        keys, values = self.linear('decoder.k', x), self.linear('decoder.v', x)
        for c in range(C):
            q = self.linear('decoder.q', self.standard('decoder.norm_q', self.p['queries'][c]))
            e.append(keys @ q/math.sqrt(D))
            A = self.linear('decoder.out', shares(e[c]) @ values)
            F_q.append(A + self.linear('decoder.mlp.3', gelu(self.linear('decoder.mlp.0', self.standard('decoder.norm_a', A)))))
        return e, F_q
    def tau(self): return self.p['log_scale'].exp().clamp(max=100.001)          # its inverse
    def match(self, v, G, c): return self.tau()*(cosine(v, G[0][c]) - cosine(v, G[1][c]))   # Eq. 1, a pair of prompts

    def look(self, dense, G):
        "Everything of one image: Eq. 2-5."
        f = torch.stack([unit(dense[:, i, j]) for i, j in PLACES])
        e, F_q = self.energies_of(f, G)
        R = [sigmoid(x) if self.o.region and self.o.kind == 'sigmoid' else shares(x) for x in e]
        F_r = [r @ f/r.sum() for r in R]
        z_r = [self.match(F_r[c], G, c) for c in range(C)]
        return SimpleNamespace(f=f, e=e, R=R, F_r=F_r, z_r=z_r, z_q=z_r if F_q is None else [self.match(F_q[c], G, c) for c in range(C)])

    # prototypes
    def held(self, c): return self.arrived[c][-self.o.length:]
    def directions(self, G):
        g = [[unit(v.detach()) for v in G[sign]] for sign in (0, 1)]
        return [g[0][c] if self.o.text_prototypes == 'positive' else unit(g[0][c] - g[1][c]) for c in range(C)]
    def judged(self, kind, s, y, ready):
        "Eq. 10 by the thresholds of before; then Eq. 9 and 11."
        out, theta, o = [[0]*C for _ in s], self.theta[kind], self.o
        for c in range(C):
            if not ready[c]: continue
            pos, neg = theta[1][c], theta[-1][c]
            for b in range(len(s)):
                if pos is not None and neg is not None: out[b][c] = int(s[b][c] >= pos and s[b][c] >= neg) - int(s[b][c] <= pos and s[b][c] <= neg)
            for value in 1, -1:
                mine = [s[b][c] for b in range(len(s)) if y[b][c] == value or (value == -1 and y[b][c] == 0 and o.unknown == 'negative')]
                if not mine: continue
                mean = sum(mine)/len(mine)
                theta[value][c] = mean if theta[value][c] is None else o.eta*theta[value][c] + (1 - o.eta)*mean
        return out
    def estimate(self, seen, y, G):
        "Eq. 7-12; (B, C) pseudo-labels."
        F_r = [[v.detach() for v in s.F_r] for s in seen]
        T = self.T if self.stage == 2 else self.directions(G)
        visual = [[sum(cosine(v, w) for w in self.held(c))/len(self.held(c)) if self.held(c) else None for c, v in enumerate(vs)] for vs in F_r]
        visual = self.judged('visual', visual, y, [len(self.held(c)) > 0 for c in range(C)])
        text = self.judged('text', [[cosine(v, T[c]) for c, v in enumerate(vs)] for vs in F_r], y, [True]*C)
        for s, row in zip(seen, y):                                             # only now they enter the queues
            for c in range(C):
                best = sorted(range(len(PLACES)), key=lambda at: -s.e[c][at].item())[:self.o.topk] if row[c] == 1 else []
                self.arrived[c] += [s.f[at].detach() for at in best]
        if self.stage == 1 or self.o.prototypes == 'none': return [[0]*C for _ in y]
        if self.o.prototypes != 'both': return dict(visual=visual, text=text)[self.o.prototypes]
        return [[v if v == t else 0 for v, t in zip(*rows)] for rows in zip(visual, text)]

    # losses
    def contrast(self, seen, y, G):
        "Eq. 13: a class's text against its own samples, each beside all samples of other classes."
        own = [[s.F_r[c] for s, row in zip(seen, y) if row[c] == 1] + self.held(c) for c in range(C)]
        own = [torch.stack([unit(v) for v in self.project(torch.stack([unit(v) for v in vs]))]) if vs else None for vs in own]
        terms = []
        for c in range(C):
            a = unit(self.project(unit(G[0][c])))
            x = [0. if vs is None else (vs @ a/self.o.tau_nce).exp() for vs in own]
            others = sum(v.sum() for k, v in enumerate(x) if k != c and own[k] is not None)
            if own[c] is not None: terms.append(sum(-(v/(v + others)).log() for v in x[c])/len(x[c]))
        return sum(terms)/len(terms) if terms else torch.zeros(())
    def classified(self, z, y, epoch):
        "The sum over classes, the mean over images."
        y = [[-1 if v == 0 and self.o.unknown == 'negative' else v for v in row] for row in y]
        entries = [(b, c) for b in range(len(z)) for c in range(C)]
        suspects = sorted((z[b][c].item() for b, c in entries if y[b][c] == 0), reverse=True)[:math.ceil(.002*len(entries)*epoch - 1e-9)]
        each = [CLASSIFICATION[self.o.loss](z[b][c], y[b][c], o=self.o, share=sum(v != 0 for v in y[b])/C, epoch=epoch, worst=suspects[-1] if suspects else None) for b, c in entries]
        return sum(each)/len(z)
    def losses(self, images, y, epoch):
        "Terms by name, total among them (Eq. 15); pseudo-labels."
        o = self.o
        if not self.centred:
            x = [self.standard('decoder.norm_f', unit(d[:, i, j])) for d in images for i, j in PLACES]
            self.p['decoder.k.bias'] = (-self.p['decoder.k.weight'] @ (sum(x)/len(x))).detach().requires_grad_()
            self.centred = True
        G = self.sentences(0), self.sentences(1)
        seen = [self.look(d, G) for d in images]
        terms = {'nce': self.contrast(seen, y, G)} if o.contrastive else {}     # sees the queues of before
        pseudo = self.estimate(seen, y, G)
        filled = [[p if v == 0 else v for v, p in zip(*rows)] for rows in zip(y, pseudo)]
        z_r, z_q = [s.z_r for s in seen], [s.z_q for s in seen]
        terms['cls_r'] = self.classified(z_r, filled, epoch)
        if o.region:
            terms['cls_q'] = self.classified(z_q, filled, epoch)
            if o.kd: terms['kd'] = sum(divergence(r.detach(), q) for rows in zip(z_r, z_q) for r, q in zip(*rows))/len(y)
        weights = dict(cls_q=1, cls_r=o.alpha, kd=o.beta, nce=o.gamma)
        return {**terms, 'total': sum(weights[k]*v for k, v in terms.items())}, pseudo

    # training
    def step(self, images, y, epoch, now, steps):
        self.p = {k: v.detach().requires_grad_() for k, v in self.p.items()}
        terms, pseudo = self.losses(images, y, epoch)
        grads = {k: torch.zeros_like(p) if g is None else g for (k, p), g in zip(self.p.items(), torch.autograd.grad(terms['total'], list(self.p.values()), allow_unused=True))}
        lr, t = self.o.lr*one_cycle(now, steps), now + 1
        for k, g in grads.items():                                              # AdamW
            self.m[k], self.v[k] = .9*self.m[k] + .1*g, .999*self.v[k] + .001*g*g
            p = self.p[k].detach()*(1 - lr*self.o.weight_decay)
            self.p[k] = p - lr*(self.m[k]/(1 - .9**t))/((self.v[k]/(1 - .999**t)).sqrt() + 1e-8)
        return dict(terms={k: v.item() for k, v in terms.items()}, gradients=grads, pseudo=torch.tensor(pseudo), lr=lr, **self.state())
    def begin(self, epoch):
        "The first epoch behind the share of the first stage: text features become text prototypes."
        if self.stage == 1 and epoch >= self.o.warmup*self.o.epochs:
            self.T, self.stage = torch.stack(self.directions((self.sentences(0), self.sentences(1)))).detach(), 2
    def train(self, store, y, seed=0):
        "A list of steps; the order of rows depends on seed and epoch."
        o, N, out = self.o, len(y), []
        parts = [range(i, min(i + o.batch, N)) for i in range(0, N, o.batch)]
        for epoch in range(o.epochs):
            order = np.random.RandomState([seed, epoch]).permutation(N)
            self.begin(epoch)
            for part in parts:
                rows = [int(order[i]) for i in part]
                out.append(self.step([store.dense[r] for r in rows], [y[r].tolist() for r in rows], epoch, len(out), o.epochs*len(parts)) | dict(rows=rows, epoch=epoch))
        return out
    def state(self):
        "Parameters, and what is remembered, in the shapes of the library's buffers."
        V, L = torch.zeros(C, self.o.length, D, dtype=torch.float64), self.o.length
        for c in range(C):
            for n, v in enumerate(self.arrived[c]): V[c, n % L] = v             # the oldest of `length` is written over
        def moved(kind, value): return torch.tensor([0. if v is None else float(v) for v in self.theta[kind][value]], dtype=torch.float64)
        def seen(kind, value): return torch.tensor([v is not None for v in self.theta[kind][value]])
        n = torch.tensor([len(v) for v in self.arrived])
        buffers = {'bank.V': V, 'bank.filled': n.clamp(max=L), 'bank.head': n % L, 'T': self.T, 'stage': torch.tensor(self.stage), 'centred': torch.tensor(self.centred)}
        for kind in 'visual', 'text':
            for name, value in ('pos', 1), ('neg', -1): buffers |= {f'by_{kind}.theta_{name}': moved(kind, value), f'by_{kind}.seen_{name}': seen(kind, value)}
        return dict(parameters={k: v.detach().clone() for k, v in self.p.items()}, buffers=buffers)
    def answers(self, store):
        "Scores (N, C), regions (N, C, h, w)."
        with torch.no_grad():
            G = self.sentences(0), self.sentences(1)
            seen = [self.look(d, G) for d in store.dense]
            z = dict(region=lambda s, c: s.z_r[c], query=lambda s, c: s.z_q[c], mean=lambda s, c: (s.z_r[c] + s.z_q[c])/2)[self.o.score]
            scores = torch.stack([torch.stack([sigmoid(z(s, c)) for c in range(C)]) for s in seen])
            return scores, torch.stack([torch.stack([torch.stack([torch.stack([s.R[c][PLACES.index((i, j))] for j in range(W)]) for i in range(H)]) for c in range(C)]) for s in seen])


def one_cycle(now, steps):
    "Up for three tenths of the steps (one step at least) from 1/25, then down to 1/250,000, by half cosines."
    top = max(.3*steps - 1, 1)
    a, b, x = (1/25, 1, now/top) if now <= top else (1, 4e-6, (now - top)/(steps - 1 - top))
    return a + (b - a)*(1 - math.cos(math.pi*x))/2


def divergence(r, q): return sigmoid(r)*(sigmoid(r)/sigmoid(q)).log() + sigmoid(-r)*(sigmoid(-r)/sigmoid(-q)).log()   # Eq. 6, of yes and no


def asymmetric(z, y, o, assume=False, gammas=None, shift=None, **_):
    "Eq. 14 with its minus sign; focusing weights are constants."
    (plus, minus), shift = gammas or (o.gamma_pos, o.gamma_neg), o.shift if shift is None else shift
    p, q = sigmoid(z), (sigmoid(z) - shift).clamp(min=0)
    if y == 1: return -(1 - p.detach())**plus*p.clamp(min=1e-8).log()
    return -q.detach()**minus*(1 - q).clamp(min=1e-8).log() if y == -1 or assume else 0*z


def distrust(z, y, epoch, worst, drop, **_):
    "The largest losses of unknown entries are dropped, or taken for positives."
    if y == 0 and worst is not None and z.item() >= worst: return 0*z if drop else softplus(-z)
    return softplus(-z if y == 1 else z)


def paced(z, y, epoch, **_):
    z = z - 1 if y == 1 else z
    yes = y == 1 or (epoch >= 1 and sigmoid(z).item() > .6)
    return (1 - sigmoid(z))**2*softplus(-z) if yes else sigmoid(z)**2*softplus(z)


CLASSIFICATION = {   # (logit, label) -> loss of an entry
    'asl': asymmetric,
    'asl-an': lambda z, y, o, **_: asymmetric(z, y, o, assume=True, gammas=(0, 4), shift=.05),
    'bce-an': lambda z, y, **_: softplus(-z if y == 1 else z),
    'bce': lambda z, y, **_: softplus(-y*z) if y else 0*z,
    'partial-bce': lambda z, y, share, **_: (5.45 - 4.45*share)*(softplus(-z) if y == 1 else softplus(z)) if y else 0*z,
    'lsan': lambda z, y, **_: -.9*(sigmoid(z if y == 1 else -z) + 1e-5).log() - .1*(sigmoid(-z if y == 1 else z) + 1e-5).log(),
    'll-r': lambda z, y, **k: distrust(z, y, drop=True, **k),
    'll-ct': lambda z, y, **k: distrust(z, y, drop=False, **k),
    'hill': lambda z, y, **_: (1 - sigmoid(z - 1))**2*softplus(1 - z) if y == 1 else (1.5 - sigmoid(z))*sigmoid(z)**2,
    'splc': paced,
    'focal': lambda z, y, **_: sigmoid(-y*z)**2*softplus(-y*z) if y else 0*z,
}


# ---- the library, watched

class Watched(TRMML):
    "Keeps what each step of a training did."
    def __init__(self, clip, noise=True, **settings):
        super().__init__(clip, NAMES, **settings)
        self.double()
        self.seen = []
        with torch.no_grad():
            for k, p in self.named_parameters(): p.add_(lively(k, p.shape) if noise else 0)
    def loss(self, x, labels, batch=None):
        terms = super().loss(x, labels, batch)
        self.seen.append(dict(terms={k: v.item() for k, v in terms.items()}, pseudo=self.pseudo.clone(), rows=batch.rows.tolist(), epoch=self.epoch))
        return terms
    def after_step(self):
        self.seen[-1] |= dict(gradients={k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in self.named_parameters()}, **self.state())
    def state(self):
        learned, everything = dict(self.named_parameters()), self.state_dict()
        return dict(parameters={k: v.detach().clone() for k, v in learned.items()}, buffers={k: v.clone() for k, v in everything.items() if k not in learned})


def same(got, want, what):
    if got.shape != want.shape: pytest.fail(f'{what}: {tuple(got.shape)}, not {tuple(want.shape)}')
    if not want.is_floating_point():
        if not torch.equal(got.long(), want.long()): pytest.fail(f'{what}: {got.tolist()}, not {want.tolist()}')
        return
    off, size = (got - want).abs().max().item(), want.abs().max().item()
    if got.dtype != torch.float64 or not off <= TOL*(1 + size): pytest.fail(f'{what}: {got.dtype}, {off:.1e} apart')


def same_step(i, got, want):
    assert got['rows'] == want['rows'] and got['epoch'] == want['epoch'] and set(got['terms']) == set(want['terms']), f'step {i}'
    for k, v in want['terms'].items(): assert math.isclose(got['terms'][k], v, rel_tol=TOL, abs_tol=TOL), f'step {i}: {k} is {got["terms"][k]}, not {v}'
    same(got['pseudo'], want['pseudo'], f'step {i}: pseudo-labels')
    for kind in 'gradients', 'parameters', 'buffers':
        assert set(got[kind]) == set(want[kind]), f'step {i}: {kind}: {set(got[kind]) ^ set(want[kind])}'
        for k, v in want[kind].items(): same(got[kind][k], v, f'step {i}: {kind}: {k}')


def compared(clip, store, y, noise=True, order=0, **settings):
    "Train both, compare everything; the steps of the re-statement, and both models."
    m, plain = Watched(clip, noise, **settings), Plain(clip, noise, **settings)
    for k, v in plain.state()['parameters'].items(): same(dict(m.named_parameters())[k].detach(), v, f'before training: {k}')
    log, steps = fit(m, store, y, seed=order), plain.train(store, y, order)
    assert len(m.seen) == len(steps) and [row['epoch'] for row in log] == list(range(plain.o.epochs))
    for i, (got, want) in enumerate(zip(m.seen, steps)): same_step(i, got, want)
    for row in log:
        mine = [s for s in steps if s['epoch'] == row['epoch']]
        for k in mine[0]['terms']: assert math.isclose(row[k], sum(s['terms'][k]*len(s['rows']) for s in mine)/len(y), rel_tol=1e-6, abs_tol=1e-8), f'log: {k}'
        assert math.isclose(row['lr'], mine[-1]['lr'], rel_tol=1e-9)
    scores, regions = plain.answers(store)
    same(predict(m, store), scores, 'scores')
    with torch.no_grad(): same(m.regions(store.batch(range(len(y)))), regions, 'regions')
    return steps, m, plain


def counts(steps, y, epochs):
    "How many unknown labels were taken for positive, for negative, and neither."
    found = [v for s in steps if s['epoch'] in epochs for p, r in zip(s['pseudo'], s['rows']) for v, k in zip(p.tolist(), y[r].tolist()) if k == 0]
    return {v: found.count(v) for v in (1, -1, 0)}


# ---- 1. a whole training

@pytest.mark.parametrize('unknown', ['skip', 'negative'])
def test_a_whole_training(clip, unknown):
    "Five epochs of four batches, the last one incomplete; from the third on pseudo-labels; queues that overflow, within one batch too."
    store, y = pictures(14, seed=11), known(14, seed=11)
    y[:, 0] = torch.tensor([1, 1, 1, 0, 1, -1, 1, -1, 1, 0, 1, 1, 0, -1])       # so often positive that its queue overflows
    steps, m, plain = compared(clip, store, y, unknown=unknown, epochs=5, batch=4, warmup=.4, lr=.02, n_ctx=2, topk=2, length=5)
    assert len(steps) == 20 and len(steps[3]['rows']) == 2
    assert counts(steps, y, (0, 1)) == {1: 0, -1: 0, 0: 2*int((y == 0).sum())} and min(counts(steps, y, (2, 3, 4)).values()) > 5
    assert [len(v) for v in plain.arrived] == [10*int(n) for n in (y == 1).sum(0)] and len(plain.arrived[0]) > 8*5 and not plain.arrived[3]
    assert max(sum(int(y[r, 0] == 1) for r in s['rows']) for s in steps)*2 > 5                               # more than a queue is long, at once
    assert [int(s['buffers']['stage']) for s in steps] == [1]*8 + [2]*12
    assert any((s['pseudo'][i] != 0).any() and (y[r] == 1).sum() == 0 for s in steps for i, r in enumerate(s['rows']))
    assert m.by_visual.ready.tolist() == [True, True, unknown == 'negative', False]                    # of classes with both kinds
    moved = {k: (v - Plain(clip, unknown=unknown, n_ctx=2, length=5).p[k]).abs().max().item() for k, v in plain.p.items()}
    assert min(moved.values()) > 1e-3, moved


def test_the_first_steps_as_made(clip):
    "Every setting at its default, the silent start included."
    store, y = pictures(6, seed=1), known(6, seed=1)
    steps, m, plain = compared(clip, store, y, noise=False, epochs=4, batch=3, lr=.01, weight_decay=.1)
    assert [int(s['buffers']['stage']) for s in steps] == [1]*2 + [2]*6
    assert m.bank.V.shape == (C, 64, D) and m.prompts.ctx.shape == (2, C, 16, 16) and m.topk == 4 and m.score == 'region'


# ---- 2. every option changes what it says, and nothing else

BASE = dict(epochs=3, batch=5, warmup=1/3, lr=.02, n_ctx=2, topk=2, length=3)
TERMS, JUDGED, MODEL = 'cls_q cls_r kd nce total gradients', 'pseudo cls_q cls_r total gradients', 'parameters scores regions'
BANKED = f'bank by_visual nce {JUDGED}'
OPTIONS = [   # setting, value, what is not as in a training without it, as long as the rate is 0
    ('kd', False, 'kd total gradients'),
    ('contrastive', False, 'parameters nce total gradients'),
    ('prototypes', 'text', JUDGED), ('prototypes', 'visual', JUDGED), ('prototypes', 'none', JUDGED),
    ('text_prototypes', 'pair', f'T by_text {JUDGED}'),
    ('region', False, f'{MODEL} {TERMS} pseudo bank by_visual by_text'),
    ('kind', 'softmax', f'scores regions {TERMS} pseudo by_visual by_text'),
    ('start', 'random', f'{MODEL} {TERMS} pseudo bank by_visual by_text'),
    ('gain', 3., f'{MODEL} {TERMS} pseudo bank by_visual by_text'),
    ('centre', False, f'{MODEL} {TERMS} pseudo by_visual by_text'),
    ('score', 'query', 'scores'), ('score', 'mean', 'scores'),
    ('alpha', .5, 'total gradients'), ('beta', .5, 'total gradients'), ('gamma', .5, 'total gradients'),
    ('topk', 1, BANKED), ('length', 2, BANKED),
    ('eta', .2, f'by_visual by_text {JUDGED}'),
    ('warmup', 2/3, f'T stage {JUDGED}'), ('warmup', 0, 'T stage'), ('warmup', 1, f'T stage {JUDGED}'),
    ('tau_nce', .3, 'nce total gradients'),
    ('gamma_pos', 2., 'cls_q cls_r total gradients'), ('gamma_neg', 4., 'cls_q cls_r total gradients'), ('shift', .2, 'cls_q cls_r total gradients'),
    ('unknown', 'negative', f'by_visual by_text {JUDGED}'),
    *(('loss', name, 'cls_q cls_r total gradients') for name in CLASSIFICATION if name != 'asl'),
    ('n_ctx', 3, f'parameters scores {TERMS} pseudo by_text T'), ('class_specific', False, f'parameters scores {TERMS} pseudo by_text T'), ('seed', 1, f'parameters scores {TERMS} by_text T'),
]


def outcome(clip, store, y, **settings):
    "What a training at rate 0 shows: each step's numbers by name; scores and regions at the end."
    m = Watched(clip, **{**BASE, **settings, 'lr': 0, 'weight_decay': 0})
    fit(m, store, y)
    out = {k: [s['terms'].get(k) for s in m.seen] for k in 'cls_q cls_r kd nce total'.split()}
    out |= {k: [s[k] for s in m.seen] for k in ('gradients', 'parameters', 'pseudo')}
    out |= {k: [{n: v for n, v in s['buffers'].items() if n.split('.')[0] == k} for s in m.seen] for k in ('bank', 'by_visual', 'by_text', 'T', 'stage', 'centred')}
    with torch.no_grad(): return out | {'scores': [predict(m, store)], 'regions': [m.regions(store.batch(range(len(y))))]}


def equal(a, b):
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a.shape == b.shape and torch.allclose(a, b, 1e-12, 1e-12) if torch.is_tensor(a) else a == b


@pytest.fixture(scope='module')
def untouched(clip):
    with pytest.MonkeyPatch.context() as m:
        m.setattr(torch.Tensor, 'float', lambda t: t if t.dtype == torch.float64 else rounded(t))
        return outcome(clip, pictures(9, 28), known(9, 28))


@pytest.mark.parametrize('name, value, changes', OPTIONS, ids=[f'{k}={v}' for k, v, _ in OPTIONS])
def test_an_option(clip, untouched, name, value, changes):
    "Beside the re-statement with the same option; and, at rate 0, beside a training without it."
    store, y = pictures(9, 28), known(9, 28)
    compared(clip, store, y, **{**BASE, name: value})
    found = outcome(clip, store, y, **{name: value})
    assert {k for k in untouched if not all(map(equal, found[k], untouched[k]))} == set(changes.split())


@pytest.mark.parametrize('settings', [
    dict(region=False, contrastive=False, prototypes='text'),
    dict(region=False, unknown='negative', prototypes='visual', loss='bce', score='query'),
    dict(kind='softmax', kd=False, loss='splc', text_prototypes='pair', score='mean', warmup=0),
    dict(start='random', centre=False, unknown='negative', topk=6, length=4, prototypes='text', class_specific=False),
    dict(**BARE, kd=False, seed=3)], ids=lambda s: ' '.join(s))
def test_options_together(clip, settings): compared(clip, pictures(9, 28), known(9, 28), order=4, **{**BASE, **settings})


def test_every_option_has_a_case():
    "Also the recipe's entries that a training here is given."
    from inspect import signature
    said = {k for cls in TRMML.__mro__ if issubclass(cls, nn.Module) and cls.__module__.startswith('trmml') for k, p in signature(cls.__init__).parameters.items() if p.kind is not p.VAR_KEYWORD}
    readings = {'first_stage', 'resume', 'centred_prototypes', 'threshold_from', 'bank_above', 'contrast_reduction', 'projector', 'teacher', 'tau_start',
                'residual', 'dropout', 'norm', 'pseudo_kinds'}                                   # each has its cases in tests/test_readings.py
    assert said > readings
    assert said - {'self', 'clip', 'classes', 'precision'} - readings == {k for k, *_ in OPTIONS} == set(PAPER) - {'lr', 'weight_decay', 'epochs', 'batch'}


WRONG = dict(n_ctx=0, class_specific=2, region='no', kind='tanh', contrastive=None, start='identity', gain=0, centre='yes', length=0,
             prototypes='all', text_prototypes='negative', topk=0, eta=1., warmup=1.5, kd='yes', alpha=-1., beta=-.1, gamma=-.1, gamma_pos=-1.,
             gamma_neg=-1., shift=1., tau_nce=0., score='both', loss='mse', unknown='positive')


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_value_is_refused(clip, name):
    with pytest.raises(ValueError, match=rf"{name}={WRONG[name]!r}|unknown loss '{WRONG[name]}'"): TRMML(clip, NAMES, **{'n_ctx': 2, name: WRONG[name]})


def test_words_and_defaults(clip):
    assert {k: WORDS[k] for k in ('kind', 'start', 'score', 'prototypes', 'text_prototypes')} == dict(kind=('sigmoid', 'softmax'), start=('aligned', 'random'), score=('region', 'query', 'mean'), prototypes=('both', 'text', 'visual', 'none'),
                         text_prototypes=('pair', 'positive')) and TRMML.score_kinds == WORDS['score'] and TRMML.exchangeable
    m = TRMML(clip, NAMES)
    assert {k: getattr(m, k) for k in PAPER if k in vars(m) and k != 'loss'} == {k: PAPER[k] for k in PAPER if k in vars(m) and k != 'loss'}
    assert m.asl == dict(gamma_pos=1., gamma_neg=2., shift=.05) and m.bank.V.shape == (C, 64, D) and m.prompts.ctx.shape == (2, C, 16, 16) and m.prompts.replays
    assert (m.T.shape, m.stage.item(), m.centred.item()) == ((C, D), 1, False) and not m.T.any()
    for given in dict(region=False), dict(centre=False): assert TRMML(clip, NAMES, n_ctx=2, **given).centred.item()
    off = TRMML(clip, NAMES, n_ctx=2, region=False, contrastive=False)
    assert [k for k, _ in off.named_parameters()] == ['log_scale', 'prompts.ctx'] and not off.kd and off.kind == 'softmax'


def test_making_a_model_draws_nothing_from_the_caller(clip):
    before = torch.get_rng_state()
    TRMML(clip, NAMES, n_ctx=2, start='random', seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_temperature_has_a_limit(clip):
    "1/tau is at most 100, and there it has no gradient."
    m, plain = Watched(clip, noise=False, n_ctx=2, epochs=1, batch=4), Plain(clip, noise=False, n_ctx=2, epochs=1, batch=4)
    with torch.no_grad(): m.log_scale.fill_(5.)
    plain.p['log_scale'] = torch.tensor(5., dtype=torch.float64)
    fit(m, pictures(4), known(4))
    same_step(0, m.seen[0], plain.train(pictures(4), known(4))[0])
    assert m.seen[0]['gradients']['log_scale'] == 0 and m.scale.item() == pytest.approx(100.001)


# ---- 3. what changes, when and only when

REMEMBERED = 'bank', 'by_visual', 'by_text', 'T', 'stage', 'centred'


def changed(m, act):
    "Names of what an act changes."
    before = {k: v.clone() for k, v in m.state_dict().items()}
    act()
    return {k.split('.')[0] if k.split('.')[0] in REMEMBERED else k for k, v in m.state_dict().items() if not torch.equal(v, before[k])}


def batch_of(n=6, seed=28): return pictures(n, seed).batch(range(n)), known(n, seed)


@pytest.mark.parametrize('unknown', ['skip', 'negative'])
def test_what_is_remembered_changes_when_it_should(clip, unknown):
    (x, y), m = batch_of(), Watched(clip, n_ctx=2, unknown=unknown, topk=2, length=4)
    def learn(labels=y): return changed(m, lambda: TRMML.loss(m, x, labels))
    def ask():
        for mode in m.eval(), m.train(): assert changed(m, lambda: (m.scores(x), m.regions(x), m.forward(x), predict(m, pictures(3)))) == set()
        m.train()
    def move():
        with torch.no_grad():
            for p in m.prompts.ctx, m.queries: p.add_(lively('moved', p.shape, .3))
    ask()
    assert changed(m, lambda: m.begin_epoch(0, 8)) == set()
    assert learn() == {'centred', 'decoder.k.bias', 'bank', 'by_text'}           # compared with an empty bank: no visual thresholds yet
    assert not m.by_visual.seen_pos.any() and not m.by_visual.seen_neg.any() and m.bank.ready.any()
    ask()
    move()
    assert learn() == {'bank', 'by_visual', 'by_text'}
    assert changed(m, lambda: m.begin_epoch(1, 8)) == set() and not m.in_second_stage
    move()
    with torch.no_grad(): want = torch.stack([unit(g) for g in m.encode_text()[0]])
    assert changed(m, lambda: m.begin_epoch(2, 8)) == {'T', 'stage'} and m.in_second_stage
    same(m.T, want, 'T')
    move()
    ask()
    assert learn() == {'bank', 'by_visual', 'by_text'}
    assert changed(m, lambda: [m.begin_epoch(e, 8) for e in range(3, 8)]) == set()
    assert learn(torch.zeros_like(y)) == (set() if unknown == 'skip' else {'by_visual', 'by_text'})
    assert learn(y.clamp(max=0)) == {'by_visual', 'by_text'}                      # no positive: nothing for the bank
    assert m.by_text.seen_neg[3] and not m.by_visual.seen_neg[3]                  # known to be absent, but there is nothing to compare with
    same(m.T, want, 'T')


def test_an_unknown_image_moves_no_threshold(clip):
    "Whatever an image without known labels shows: bank and thresholds are the same."
    (x, y), left = batch_of(), []
    y[2] = 0
    for other in x.dense[2], 5*torch.randn(D, H, W, dtype=torch.float64):
        dense, m = x.dense.clone(), Watched(clip, n_ctx=2, topk=2, length=4, centre=False)
        dense[2] = other
        for _ in range(3): TRMML.loss(m, Features(dense, x.pooled), y)
        left.append({k: v for k, v in m.state_dict().items() if k.split('.')[0] in REMEMBERED})
    assert all(torch.equal(v, left[1][k]) for k, v in left[0].items()) and left[0]['by_visual.seen_pos'].any()


def test_comparing_comes_before_pushing(clip):
    "The second step's visual thresholds: mean cosines with what the first step brought, and nothing of the second."
    (x, y), m = batch_of(), Watched(clip, n_ctx=2, topk=2, length=50, centre=False)
    TRMML.loss(m, x, y)
    with torch.no_grad(): F_r = m.forward(x)['F_r']
    first = [m.bank.V[c, :int(m.bank.filled[c])].clone() for c in range(C)]
    TRMML.loss(m, x, y)
    for c in range(C):
        for name, value in ('pos', 1), ('neg', -1):
            mine = [cosine(F_r[b, c], v).item() for b in range(len(y)) if y[b, c] == value for v in first[c]]
            assert getattr(m.by_visual, f'seen_{name}')[c] == bool(mine)
            if mine: assert getattr(m.by_visual, f'theta_{name}')[c].item() == pytest.approx(sum(mine)/len(mine), abs=1e-9)
    assert m.bank.filled.tolist() == [2*len(v) for v in first]


def test_pseudo_labels_reach_both_classification_losses(clip):
    "In the second stage what is unknown counts as its pseudo-label does where it is known; the contrast has the known labels alone."
    (x, y), m = batch_of(), Watched(clip, n_ctx=2, topk=2, length=4, prototypes='text', centre=False)
    for _ in range(2): TRMML.loss(m, x, y)
    m.begin_epoch(3, 8)
    with torch.no_grad(): s = torch.stack([torch.stack([cosine(v, t) for v, t in zip(vs, m.T)]) for vs in m.forward(x)['F_r']])
    for name, q in ('pos', .7), ('neg', .3):                                      # about a third of each kind
        getattr(m.by_text, f'theta_{name}').copy_(s.quantile(q, 0))
        getattr(m.by_text, f'seen_{name}').fill_(True)
    state = {k: v.clone() for k, v in m.state_dict().items()}
    def terms(labels, **change):
        m.load_state_dict(state)
        for k, v in change.items(): setattr(m, k, v)
        return {k: v.item() for k, v in TRMML.loss(m, x, labels).items()}
    half = y.where(torch.arange(len(y))[:, None] % 2 == 0, 0)
    found = terms(half)
    full = half.where(half != 0, m.pseudo)
    assert all((m.pseudo[half == 0] == v).any() for v in (1, -1, 0))
    given, without = terms(full, prototypes='none'), terms(half, prototypes='none')
    for k in 'cls_q', 'cls_r':
        assert found[k] == pytest.approx(given[k], rel=1e-9) and abs(found[k] - without[k]) > .05
        assert found[k] == pytest.approx(Plain(clip, n_ctx=2).classified([list(r) for r in torch.stack([torch.stack(list(v)) for v in m.forward(x)['logits_' + k[-1]].detach()])], full.tolist(), 0).item(), rel=1e-9)
    assert found['nce'] == without['nce'] != given['nce'] and found['kd'] == without['kd']


def test_the_contrast_has_no_sample_where_nothing_is_known(clip):
    x, y = batch_of()
    assert TRMML.loss(Watched(clip, n_ctx=2), x, torch.zeros_like(y))['nce'] == 0


def stopped(m, at):
    def begin_epoch(epoch, epochs):
        if epoch == at: raise KeyboardInterrupt
        type(m).begin_epoch(m, epoch, epochs)
    m.begin_epoch = begin_epoch


@pytest.mark.parametrize('at', [1, 3])
def test_a_training_that_goes_on(clip, tmp_path, at):
    "From a checkpoint of the first stage, or of the second: what is remembered is there, and T is not made anew."
    store, y, settings = pictures(9, 28), known(9, 28), dict(BASE, epochs=5, warmup=.4)
    whole, broken, again = (Watched(clip, **settings) for _ in range(3))
    fit(whole, store, y)
    stopped(broken, at)
    with pytest.raises(KeyboardInterrupt): fit(broken, store, y, checkpoint=tmp_path/'x.ckpt', every=1)
    assert not again.in_second_stage
    assert len(fit(again, store, y, checkpoint=tmp_path/'x.ckpt', every=1)) == 5 and again.in_second_stage
    assert [s['epoch'] for s in again.seen] == [e for e in range(at, 5) for _ in range(2)]
    for k, v in whole.state_dict().items(): assert torch.equal(v, again.state_dict()[k]), k


def test_a_buffer_is_fetched_only_when_it_was_written(monkeypatch):
    module, fetched, item = nn.Module(), [], torch.Tensor.item
    module.register_buffer('a', torch.tensor(1))
    module.register_buffer('b', torch.tensor(True))
    monkeypatch.setattr(torch.Tensor, 'item', lambda t: fetched.append(0) or item(t))
    for n, (act, value) in enumerate([(lambda: None, 1), (lambda: module.a.fill_(2), 2), (lambda: setattr(module, 'a', torch.tensor(7)), 7)], 1):
        act()
        assert [remembered(module, 'a') for _ in range(3)] == [value]*3 and len(fetched) == n
    assert remembered(module, 'b') is True and remembered(module, 'a') == 7 and len(fetched) == 4


# ---- 4. when the second stage is reached

BEGINS = [   # epochs, share of the first stage (None: the default, a quarter), first epoch of the second stage (None: never reached)
    (1, None, None), (2, None, 1), (3, None, 1), (4, None, 1), (5, None, 2), (8, None, 2), (9, None, 3), (20, None, 5), (40, None, 10),
    (1, 0, 0), (4, 0, 0), (1, .01, None), (1, 1, None), (4, 1, None), (4, .75, 3), (4, .76, None), (5, .5, 3), (3, 2/3, 2), (10, .9, 9), (10, .91, None)]


@pytest.mark.parametrize('epochs, warmup, begins', BEGINS)
def test_the_second_stage_begins(clip, epochs, warmup, begins):
    "At the first epoch that is not within the share; so it is reached if the share leaves one whole epoch: a single epoch never does, unless the share is 0."
    m = TRMML(clip, NAMES, n_ctx=2, epochs=epochs, **({} if warmup is None else dict(warmup=warmup)))
    reached = []
    for epoch in range(epochs):
        m.begin_epoch(epoch, epochs)
        reached.append(m.in_second_stage)
    assert reached == [begins is not None and epoch >= begins for epoch in range(epochs)]
    assert (begins is not None) == ((.25 if warmup is None else warmup)*epochs <= epochs - 1)


@pytest.mark.parametrize('epochs, alike', [(1, True), (3, False)])
def test_kinds_of_prototypes_are_alike_in_one_epoch(clip, epochs, alike):
    "A training of one epoch is all first stage: what decides on pseudo-labels makes no difference."
    store, y, ends = pictures(9, 28), known(9, 28), []
    for kind in 'none', 'text', 'visual', 'both':
        m = Watched(clip, n_ctx=2, epochs=epochs, batch=5, lr=.02, topk=2, length=3, prototypes=kind)
        fit(m, store, y)
        ends.append(m.seen[-1]['parameters']['prompts.ctx'])
        assert any(s['pseudo'].any() for s in m.seen) == (kind != 'none' and not alike)
    assert all(torch.equal(a, b) == alike for i, a in enumerate(ends) for b in ends[:i])


# ---- regions that are moved (Table 4)

def test_moved_regions(clip):
    "Queries, decoder and the level of the keys come along; prompts, temperature and what else is remembered do not."
    (x, y), store = batch_of(), pictures(9, 28)
    source = Watched(clip, **BARE, n_ctx=2, epochs=2, batch=5, lr=.05)
    fit(source, store, known(9, 28))
    for freeze in False, True:
        m = Moved(clip, NAMES, freeze=freeze, n_ctx=2).double()
        assert m.prototypes == 'none' and not m.contrastive and not hasattr(m, 'projector')
        names = changed(m, lambda: m.start_from(source))
        assert names == {'centred', 'queries', *(k for k in m.state_dict() if k.startswith('decoder.'))} and m.centred
        for k, v in source.state_dict().items():
            if k.startswith(('queries', 'decoder.')): assert torch.equal(m.state_dict()[k], v), k
        assert {k for k, p in m.named_parameters() if p.requires_grad} == {'prompts.ctx', 'log_scale'} | (set() if freeze else {k for k, _ in m.named_parameters()})
        assert changed(m, lambda: m.loss(x, y)) == {'bank', 'by_text'}             # the keys are not centred again
    full = Moved(clip, NAMES, n_ctx=2, contrastive=True, prototypes='text')
    assert full.contrastive and full.prototypes == 'text' and all(p.requires_grad for p in full.parameters())
    assert Moved.starts_from(kd=False) == ('trmml', dict(prototypes='none', contrastive=False, kd=False)) == Moved.starts_from(freeze=True, kd=False)
    assert Moved.starts_from(prototypes='text') == ('trmml', dict(prototypes='text', contrastive=False)) and BARE == dict(prototypes='none', contrastive=False)
    with pytest.raises(ValueError, match='region=False: there is no region module to move'): Moved(clip, NAMES, n_ctx=2, region=False)


# ---- the parts by themselves, where the whole does not use all of them

def test_parts_of_the_prototypes():
    f, e = torch.randn(2, D, H, W, dtype=torch.float64), torch.randn(2, C, H, W)
    y = torch.tensor([[1, 0, -1, 1], [-1, 1, 0, 1]])
    at = (y == 1).nonzero().unbind(1)
    for k in 0, H*W + 1:
        with pytest.raises(ValueError, match=f'k is {k}, but there are {H*W} positions'): topk_pixels(e, f, k, at)
    assert topk_pixels(e, f, 1, at).shape == (4, 1, D) and topk_pixels(e, f, H*W, at).shape == (4, H*W, D)
    for bad in f[:1], f[..., :1], f[:, :, :1]:
        with pytest.raises(ValueError, match='use the same images at one resolution for both'): topk_pixels(e, bad, 1, at)
    bank = MemoryBank(C, 3, D).double()
    for vectors, labels in (torch.randn(3, 2, D), y), (torch.randn(4, 2, D + 1), y), (torch.randn(3, 2, D), y[:, :3]):
        with pytest.raises(ValueError, match=r'expected \(\d, k, 8\) for \d positives of 4 classes'): bank.push(vectors, labels)
    bank.push(torch.randn(4, 2, D, dtype=torch.float64), y)
    assert bank.filled.tolist() == [2, 2, 0, 3] and bank.head.tolist() == [2, 2, 0, 1] and bank.ready.tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match='give one label for each'): class_means(torch.randn(2, 3), y)
    th = Thresholds(C).double()
    s = torch.rand(2, C, dtype=torch.float64)
    th.update(s, y)
    th.update(s + 1, y)
    assert th.theta_pos[0].item() == pytest.approx(.9*s[0, 0].item() + .1*(s[0, 0].item() + 1)) and th.gap[0] == th.theta_pos[0] - th.theta_neg[0]
    assert th.ready.tolist() == [True, False, False, False]


def test_parts_of_the_distillation():
    r, q = torch.randn(3, C, dtype=torch.float64)*3, (torch.randn(3, C, dtype=torch.float64)*3).requires_grad_()
    y = torch.tensor([[1, 0, -1, 1], [0, 0, 0, 0], [-1, 1, 0, 0]])
    each = torch.tensor([[divergence(a, b).item() for a, b in zip(*rows)] for rows in zip(r, q.detach())])
    soft = torch.tensor([[4*divergence(a/2, b/2).item() for a, b in zip(*rows)] for rows in zip(r, q.detach())])
    for got, want in [(kd_loss(r, q), each.sum()/3), (kd_loss(r, q, reduction='sum'), each.sum()), (kd_loss(r, q, reduction='mean'), each.mean()),
                      (kd_loss(r, q, y), each[y != 0].sum()/3), (kd_loss(r, q, y, reduction='mean'), each[y != 0].mean()), (kd_loss(r, q, temperature=2.), soft.sum()/3)]:
        assert got.item() == pytest.approx(want.item(), rel=1e-6)
    r.requires_grad_()
    kd_loss(r, q).backward()
    assert r.grad is None and q.grad.abs().min() > 0
    with pytest.raises(ValueError, match=r'teacher is \(3, 4\), student \(3, 3\)'): kd_loss(r, q[:, :3])
    F_r, F_q, pos, neg = (torch.randn(*s, dtype=torch.float64) for s in ((2, C, D), (2, C, D), (C, D), (C, D)))
    for got, v in zip(match_both(F_r, F_q, pos, neg), (F_r, F_q)):                 # scale 1
        same(got, torch.stack([torch.stack([cosine(v[b, c], pos[c]) - cosine(v[b, c], neg[c]) for c in range(C)]) for b in range(2)]), 'logits')


def test_parts_of_the_contrast():
    g = torch.Generator().manual_seed(0)
    def draw(*s): return torch.randn(*s, generator=g, dtype=torch.float64)
    text, F_r, bank, y = draw(C, D), draw(3, C, D), draw(C, 2, D), torch.tensor([[1, 0, -1, 0], [1, 1, 0, -1], [0, -1, -1, 0]])
    at = (y == 1).nonzero().unbind(1)
    def plainly(samples, tau=.1):
        x = [[(cosine(text[c], v)/tau).exp().item() for v in samples[c]] for c in range(C)], [[[(cosine(text[c], v)/tau).exp().item() for v in samples[k]] for k in range(C)] for c in range(C)]
        terms = [sum(-math.log(v/(v + sum(map(sum, x[1][c][:c] + x[1][c][c + 1:])))) for v in x[0][c])/len(x[0][c]) for c in range(C) if samples[c]]
        return sum(terms)/len(terms) if terms else 0.
    own = [[F_r[b, c] for b in range(3) if y[b, c] == 1] for c in range(C)]
    def also(used): return [own[c] + [bank[c, k] for k in range(2) if used[c][k]] for c in range(C)]
    used = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    for args, want in [((), plainly(own)), ((bank,), plainly(also(torch.ones(C, 2)))), ((bank, used), plainly(also(used))),
                       ((bank, torch.tensor([2, 0, 1, 0])), plainly(also([[1, 1], [0, 0], [1, 0], [0, 0]]))), ((bank, used, .5), plainly(also(used), .5))]:
        assert fast_nce_loss(text, F_r, y, *args).item() == pytest.approx(want, rel=1e-9)
        if args[1:]: assert fast_nce_loss(text, F_r, y, *args, at=at).item() == pytest.approx(want, rel=1e-9)
    assert fast_nce_loss(text, F_r, y, project=lambda v: v*3 + .5).item() == pytest.approx(fast_nce_loss(text*3 + .5, F_r*3 + .5, y).item(), rel=1e-9)
    for args, want in [((), plainly(own)), ((bank,), plainly(also(torch.ones(C, 2)))), ((bank, torch.tensor([2, 0, 1, 0])), plainly(also([[1, 1], [0, 0], [1, 0], [0, 0]]))), ((bank, None, .5), plainly(also(torch.ones(C, 2)), .5))]:
        assert nce_loss(text, F_r, y, *args).item() == pytest.approx(want, rel=1e-9)
    S, c = gather_samples(F_r, y, bank, torch.tensor([1, 0, 2, 0]))
    assert torch.equal(S, torch.cat([F_r[at], bank[0, :1], bank[2]])) and c.tolist() == [0, 0, 1, 0, 2, 2]
    wide = draw(C, D + 1, D)   # more slots than dimensions: all are in use where nothing says otherwise
    assert len(gather_samples(F_r, y, wide)[0]) == 3 + C*(D + 1)
    for loss in nce_loss, fast_nce_loss:   # two of the four anchors have samples
        assert loss(text, F_r, y, reduction='sum').item() == pytest.approx(2*plainly(own), rel=1e-9)
    S, c = gather_slots(F_r, y)
    assert torch.equal(S, F_r[at]) and c.tolist() == [0, 0, 1]
    S, c = gather_slots(F_r, y, bank, used)
    assert torch.equal(S, torch.cat([F_r[at], bank.flatten(0, 1)])) and c.tolist() == [0, 0, 1, 0, -1, -1, -1, 2, 2, -1, 3]
    assert nce_loss(text, F_r, torch.zeros_like(y)) == 0 == nce_loss(text, F_r, (y == 1)*(torch.arange(C) == 0))
    assert fast_nce_loss(text, F_r, torch.zeros_like(y)) == 0 and fast_nce_loss(text, F_r, (y == 1)*(torch.arange(C) == 0)) == 0    # nothing; nothing to stand against
    for bad in (text[:3], F_r, y), (text, F_r[:2], y), (text, F_r[:, :3], y), (text[:, :3], F_r, y), (text, F_r, y[:, :3]):
        with pytest.raises(ValueError, match=r'expected \(C, e\), \(B, C, e\) and \(B, C\)'): fast_nce_loss(*bad)
        with pytest.raises(ValueError, match='expected'): nce_loss(*bad)
    p = FastProjector(D)
    assert [tuple(m.weight.shape) for m in p.mlp if isinstance(m, nn.Linear)] == [(16, 8), (16, 16), (16, 16)]


def test_dropout_draws_by_seed_and_step(clip):
    "The step that the learner passes reaches what dropout draws; without a batch it is the first."
    x, y = batch_of()
    m = Watched(clip, n_ctx=2, dropout=.5).train()
    with torch.no_grad():
        for k, p in m.named_parameters():
            if k.startswith('decoder.mlp'): p += lively(k, p.shape).to(p)
    state = {k: v.clone() for k, v in m.state_dict().items()}
    def total(*batch):
        m.load_state_dict(state)
        return TRMML.loss(m, x, y, *batch)['total'].item()
    assert total(Batch(step=3)) == total(Batch(step=3)) != total(Batch(step=4)) and total(Batch(step=0)) == total() != total(Batch(step=4))
