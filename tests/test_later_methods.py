"""Methods that the paper does not compare with: sizes, constants, and scores against loops in NumPy."""
import math

import numpy as np
import open_clip
import pytest
import torch
from scipy import ndimage
from torch.nn.functional import interpolate, normalize
from torch.testing import assert_close

import trmml.clip
from trmml import runs
from trmml.clip.backbones import from_config
from trmml.methods import LATER_METHODS, create, find
from trmml.methods.dualcoop import position_shift
from trmml.methods.positivecoop import NegativeCoOp, PositiveCoOp, VisionOnly
from trmml.methods.sparc import SPARC, StandardisedSum, first_direction, in_order, named_classes, scale_of
from trmml.methods.tagclip import TagCLIP, cut_out, found_boxes
from trmml.metrics import mean_ap
from trmml.photos.zero_shot import ZeroShotSum, class_words, start_from
from trmml.train import TensorStore, optimizer, predict
from trmml.train.method import count_parameters

NAMES = ['cat', 'dog', 'bus', 'person', 'sofa', 'chair']
ONE = 'a photo of a {}.'


@pytest.fixture(scope='module')
def clip(): return trmml.clip.load('doodle-clip')


@pytest.fixture(scope='module')
def store(clip):
    "40 pictures of 3 x 3 positions in which some class is planted."
    g = torch.Generator().manual_seed(0)
    G = normalize(clip.text([f'a photo of a {c}.' for c in NAMES]), dim=-1)
    there = (torch.rand(40, 6, generator=g) < .3).float()
    f = .5*torch.randn(40, clip.d, 3, 3, generator=g)/clip.d**.5
    f[:, :, 1, 2] += there @ G
    return TensorStore(f, f.mean((2, 3)) + .2*torch.randn(40, clip.d, generator=g)/clip.d**.5)


def rows(store): return store.batch(torch.arange(len(store)))
def unit(x): return x/np.linalg.norm(x, axis=-1, keepdims=True)
def text(clip, said): return unit(clip.text(said).double().numpy())


# ---- PositiveCoOp, NegativeCoOp, vision-only (their training is in test_orders.py, their recipes in test_as_published.py)

class Shapes(trmml.clip.CLIP):
    logit_scale = 100.


def test_sizes_and_constants():
    "One prompt and two free vectors per class, a layer with bias; 20 and 100 with OpenAI's logit scale."
    with torch.device('meta'): model = trmml.clip.architecture('RN101')
    model.token_embedding = torch.nn.Embedding.from_pretrained(torch.zeros(model.token_embedding.weight.shape))
    model.logit_scale = torch.nn.Parameter(torch.tensor(math.log(100)))
    rn101, many = Shapes(model, 'RN101', 'shapes', 448), [f'class {i}' for i in range(80)]
    size = {k: count_parameters(k(rn101, many))['learnable'] for k in (PositiveCoOp, NegativeCoOp, VisionOnly)}
    assert size == {PositiveCoOp: 80*(16*512 + 2*512), NegativeCoOp: 80*(16*512 + 2*512), VisionOnly: 2*80*513}
    assert round(80*2*16*512/size[VisionOnly]) == 16                                     # as published: a sixteenth of DualCoOp's
    assert PositiveCoOp(rn101, many).temperatures() == (20., 100.) and VisionOnly(rn101, many).temperatures() == (1., 5.)


@pytest.mark.parametrize('kind', [PositiveCoOp, NegativeCoOp])
def test_equal_sides_cannot_decide_and_positive_says_where(clip, store, kind):
    m = kind(clip, NAMES).eval()
    with torch.no_grad():
        other = m.prompts(clip)[0] + m.added; assert_close(m.regions(rows(store)).flatten(2).argmax(2), m.forward(rows(store))[1][..., 1:].argmax(2))
        G = other if kind is PositiveCoOp else m.free
        cos = torch.einsum('bnd,cd->bcn', m.positions(store.dense), normalize(G, dim=-1))
        assert_close(m.forward(rows(store))[1], (.2*clip.logit_scale*cos).softmax(-1))
        m.free.copy_(other)
    assert_close(kind.scores(m.train().eval(), rows(store)), torch.full((40, 6), .5))


@pytest.mark.parametrize('name', ['positivecoop', 'negativecoop', 'vision-only'])
def test_the_loss_is_a_sum(clip, store, name):
    m, y = create(name, clip, NAMES, **({} if name != 'vision-only' else dict(unit=50.))), torch.randint(-1, 2, (40, 6), generator=torch.Generator().manual_seed(1))
    x = rows(store); twice = type(x)(*(torch.cat([v, v]) for v in x))
    assert_close(m.loss(twice, torch.cat([y, y]))['total'], 2*m.loss(x, y)['total'])
    assert_close(m.loss(x, y)['total'], .03*m.loss(x, y)['cls'])


def test_vision_only_looks_where_presence_is(clip, store):
    "Maps are weights of the positive outputs; `encode_text` gives their rows first. A layer of a seed is the same one."
    m = VisionOnly(clip, NAMES, unit=50.).eval()
    w = m.layer.weight.detach(); assert torch.equal(m.encode_text(), torch.stack([w[6:], w[:6]]))
    u = store.dense.flatten(2).mT; u = (torch.cat([u.mean(1, keepdim=True), u], 1) + position_shift(clip, 3, 3))/50
    o = (u @ w.T + m.layer.bias).mT; assert_close(m.regions(rows(store)).flatten(2), o[:, 6:].softmax(-1)[..., 1:], atol=1e-5, rtol=1e-3)
    torch.manual_seed(7); assert torch.equal(VisionOnly(clip, NAMES).layer.weight, w) and not torch.equal(VisionOnly(clip, NAMES, seed=1).layer.weight, w)


def test_free_vectors_are_their_own(clip):
    "Of a seed, apart from the contexts, as long as the dimension says; the two of a class differ."
    a, b, other = PositiveCoOp(clip, NAMES), PositiveCoOp(clip, NAMES), PositiveCoOp(clip, NAMES, seed=1)
    assert torch.equal(a.free, b.free) and not torch.equal(a.free, other.free) and not torch.equal(a.free, a.added)
    n = min(a.free.numel(), a.prompts.ctx.numel())
    both = [v.detach().flatten()[:n] for v in (a.prompts.ctx, a.added, a.free)]
    assert max(abs(np.corrcoef(torch.stack(both))[i, j]) for i, j in ((0, 1), (0, 2), (1, 2))) < .15
    assert_close(PositiveCoOp(clip, NAMES, spread=.5).free, a.free/2)


def test_rates_of_the_groups(clip):
    "Only a cosine schedule warms up, and all groups alike; other schedules leave the rates as they are set."
    for schedule, first, second in ('cosine', [.005, .005], [.005, .5]), ('constant', [.005, .5], [.005, .5]):
        m = PositiveCoOp(clip, NAMES, schedule=schedule); opt = optimizer(m)
        for epoch, want in enumerate((first, second)):
            for g, lr in zip(opt.param_groups, (.005, .5)): g['lr'] = lr
            m.begin_epoch(epoch, 2); m.before_step(opt, epoch, 2, None)
            assert [g['lr'] for g in opt.param_groups] == want
    assert [p.shape[-1] for p in opt.param_groups[0]['params']] == [128] and len(opt.param_groups[1]['params']) == 2


@pytest.mark.parametrize('name, wrong', [('positivecoop', dict(prompt_rate=0)), ('negativecoop', dict(spread=-1.)), ('positivecoop', dict(warmup_lr=0.)), ('vision-only', dict(unit=0.)),
                                         ('vision-only', dict(unit=True)), ('vision-only', dict(warmup_lr='fast')), ('positivecoop', dict(prompt_rate=float('nan')))])
def test_a_setting_out_of_range_is_named(clip, name, wrong):
    (key, value), = wrong.items()
    with pytest.raises(ValueError, match=f'{key}={value!r}: use a number above 0'): create(name, clip, NAMES, **wrong)


# ---- standardised sum

def test_standardised_sum_in_loops(clip, store):
    "Mean and deviation of each class over the images that are scored; ten images' worth of the mean variance."
    T, f, v = text(clip, [f'a photo of a {c}.' for c in NAMES]), store.dense.double().numpy(), store.pooled.double().numpy()
    s = np.array([[[unit(v[b]) @ T[c] for c in range(6)], [max(unit(f[b, :, i, j]) @ T[c] for i in range(3) for j in range(3)) for c in range(6)]] for b in range(40)])
    var = s.var(0); var = (40*var + 10*var.mean(1, keepdims=True))/50
    want = ((s - s.mean(0))/var**.5).sum(1)
    m = StandardisedSum(clip, NAMES); p = predict(m, store)
    np.testing.assert_allclose(p.logit(), want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(m.logits(rows(store)), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('make', [lambda c: StandardisedSum(c, NAMES), lambda c: SPARC(c, NAMES, ONE)], ids=['sum', 'sparc'])
def test_statistics_are_those_of_the_set(clip, store, make):
    "Not of the batch; kept for a single image, saved with the method, new for another set."
    m = make(clip); whole = predict(m, store)
    assert torch.equal(predict(m, store, batch=40), whole) and torch.allclose(predict(m, store, batch=3), whole, atol=1e-6)
    assert_close(predict(m, store.subset([5])), whole[5:6])
    again = make(clip); assert not torch.allclose(again.scores(rows(store)), whole, atol=1e-3)
    again.load_state_dict(m.state_dict()); assert_close(again.eval().scores(rows(store)), whole)
    part = predict(m, store.subset(range(20))); assert not torch.allclose(part, whole[:20], atol=1e-3)
    alone = make(clip); one = alone.scores(store.batch(torch.tensor([3]))); assert_close(alone.scores(rows(store))[3:4], one)     # before any set: batch or not


def test_photos_start_from_the_same_sum(clip, store):
    start = start_from(clip, class_words(NAMES), store); m = StandardisedSum(clip, NAMES); predict(m, store)
    assert isinstance(start, ZeroShotSum)
    assert_close(start(rows(store)), m.logits(rows(store))); assert_close(start.maps(rows(store)), m.regions(rows(store)))


# ---- SPARC

def principal(x):
    w = np.linalg.svd(x - x.mean(0))[2][0]; w = -w if w.mean() < 0 else w; return w/np.abs(w).sum()


@pytest.mark.parametrize('compounds', [None, ['a cat and two dogs', 'a bus', 'cats on a sofa with a dog', 'dogs near people', 'a dog, a cat and a bus']])
def test_sparc_in_loops(clip, store, compounds):
    m = SPARC(clip, NAMES, ONE, compounds); p = predict(m, store).logit()
    said = compounds or [f'{a} and {b}' for i, a in enumerate(NAMES) for b in NAMES[i + 1:]]
    names = {'cat': 'cat', 'cats': 'cat', 'dog': 'dog', 'dogs': 'dog', 'people': 'person'} | {n: n for n in NAMES}
    whose = {c: [s for s in said if c in {names.get(w.strip(',')) for w in s.split()}] for c in NAMES}
    v = unit(store.pooled.double().numpy()); T = text(clip, [f'a photo of a {c}.' for c in NAMES]); bare = v @ text(clip, NAMES).T
    own = v @ T.T; own = (own - own.mean(1, keepdims=True))/own.std(1, ddof=1, keepdims=True)
    column = lambda x: (x - x.mean(0))/x.std(0, ddof=1)
    for c, name in enumerate(NAMES):
        s = column(own)[:, c]; want = s
        if whose[name]:
            k = (v @ text(clip, whose[name]).T - bare.mean(1, keepdims=True))/bare.std(1, ddof=1, keepdims=True)
            x = np.concatenate([np.sort(column(k), 1), s[:, None]], 1)
            want = (x @ principal(x) + s)/2
        np.testing.assert_allclose(p[:, c], want, rtol=2e-3, atol=2e-3, err_msg=name)
    if compounds: assert [len(whose[n]) for n in NAMES] == [3, 4, 2, 1, 1, 0]


@pytest.mark.filterwarnings('ignore:doodle-clip never saw')
def test_sparc_averages_its_templates(clip):
    said = [t for t in open_clip.OPENAI_IMAGENET_TEMPLATES]; m = SPARC(clip, NAMES); m.templates = m.templates[:3]; two = m.text()
    for c, name in enumerate(NAMES): np.testing.assert_allclose(two[c], unit(text(clip, [t(name) for t in said[:3]]).mean(0)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(two[6:12], text(clip, NAMES), rtol=1e-4, atol=1e-5)
    assert SPARC(clip, NAMES).templates == [t('{}') for t in open_clip.OPENAI_IMAGENET_TEMPLATES] and len(SPARC(clip, NAMES).templates) == 80
    assert runs.recipe('sparc') == dict(template=ONE)


def test_direction_has_a_sign_and_a_length():
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1., 2., -1.]]) + .01*torch.randn(50, 3)
    w = first_direction(x); assert_close(w, torch.tensor([.25, .5, -.25]), atol=.02, rtol=0)
    assert_close(first_direction(-x), w, atol=1e-4, rtol=0) and first_direction(x + 100)[2] < 0
    assert_close(first_direction(x + 100), w, atol=1e-3, rtol=0)                                     # the mean does not matter


def test_absent_compounds_come_first_and_count_nothing():
    k = torch.tensor([[-5., 4., 1.]])
    assert in_order(torch.tensor([[9., 8.]]), k, torch.tensor([[0, 1, 2], [-1, -1, 0]]))[0].tolist() == [[-5, 1, 4, 9], [0, 0, -5, 8]]
    assert named_classes(['a tree'], NAMES)[1] == [[]]*6


def test_compound_prompts_from_a_file(clip, store, tmp_path):
    path = tmp_path/'said.txt'; path.write_text('a cat and a dog\n\ndogs on a sofa\n')
    a, b = (SPARC(clip, NAMES, ONE, c) for c in (path, ['a cat and a dog', 'dogs on a sofa']))
    assert a.said == b.said and torch.equal(predict(a, store), predict(b, store))
    for wrong, error, words in ((dict(compounds=tmp_path/'none.txt'), FileNotFoundError, 'none.txt'), (dict(compounds=[]), ValueError, 'needs sentences'),
                                (dict(template='a photo'), ValueError, "template='a photo': write one {} in the place"), (dict(template='{} {}'), ValueError, 'write one')):
        with pytest.raises(error, match=words): find('sparc')[0].check_inputs(**wrong)
        with pytest.raises(error, match=words): create('sparc', clip, NAMES, **wrong)
    with pytest.raises(ValueError, match='1 class: .* at least two'): create('sparc', clip, ['cat'], template=ONE)


def test_zero_shot_methods_are_not_trained(clip, store):
    for name in 'sparc', 'zeroshot-sum':
        m = create(name, clip, NAMES, **(dict(template=ONE) if name == 'sparc' else {}))
        assert not m.trainable and not m.reads_labels and not list(m.parameters())
        with pytest.raises(NotImplementedError, match='not trained'): m.loss(rows(store), None)


def test_scale_needs_two_images():
    with pytest.raises(ValueError, match='1 image: scores are standardised over a set of images; give at least 2'): scale_of(torch.zeros(1, 2, 3))


@pytest.mark.parametrize('name, low, high', [('zeroshot-sum', .63, .67), ('sparc', .5, .66)])
def test_scores_of_the_doodles(clip, name, low, high):
    from trmml import data
    from trmml.features import extract
    ds = data.load('doodles', 'test'); m = create(name, clip, ds.prompts, **runs.recipe(name))
    assert low < mean_ap(predict(m, extract(clip, ds).in_memory()), ds.labels) < high


def test_later_methods_have_recipes():
    assert set(LATER_METHODS) == {'dualcoop-plus', 'positivecoop', 'negativecoop', 'vision-only', 'sparc', 'zeroshot-sum'}
    assert {m for m in LATER_METHODS if runs.entry(m)} == set(LATER_METHODS) - {'zeroshot-sum'}


# ---- TagCLIP

@pytest.fixture(scope='module')
def vit():
    cfg = dict(embed_dim=32, vision_cfg=dict(layers=6, width=64, head_width=16, patch_size=16, image_size=64), text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=2))
    clip = from_config(cfg, seed=3); g = torch.Generator().manual_seed(5)
    for k, p in clip.model.visual.named_parameters():
        if p.ndim > 1: p.data.copy_(torch.randn(p.shape, generator=g)*({'positional_embedding': .6, 'conv1.weight': .06}.get(k) or 1.6*p.shape[-1]**-.5))
    return clip


def attention(block, t, mask):
    "Heads one by one: tokens (n, d) after a layer, mean weights (n, n) without the mask."
    y = block.ln_1(t); n, d = y.shape; q, k, v = (y @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(d, -1); h = block.attn.num_heads; e = d//h; out, seen = [], 0
    for i in range(h):
        a = q[:, i*e:(i + 1)*e] @ k[:, i*e:(i + 1)*e].T/e**.5; seen = seen + a.softmax(-1)/h; out.append((a + mask).softmax(-1) @ v[:, i*e:(i + 1)*e])
    t = t + block.attn.out_proj(torch.cat(out, -1)); return t + block.mlp(block.ln_2(t)), seen


def through(vit, x, last=None, every=0.):
    "Tokens (1 + n, d) of unit length, attention of all layers (L, n, n); `last`: mask of the last layer, `every` of each."
    visual = vit.model.visual; f = visual.conv1(x)[0]; h, w = f.shape[1:]; p = visual.positional_embedding
    grid = interpolate(p[1:].T.reshape(1, -1, 4, 4), (h, w), mode='bilinear', align_corners=False)[0].flatten(1).T
    t = visual.ln_pre(torch.cat([visual.class_embedding[None] + p[:1], f.flatten(1).T + grid])); seen = []
    for i, block in enumerate(visual.transformer.resblocks):
        t, a = attention(block, t, last if last is not None and i == 5 else every); seen.append(a)
    return normalize(visual.ln_post(t) @ visual.proj, dim=-1), torch.stack(seen)[:, 1:, 1:]


def slow_tags(vit, m, x):
    n = x.shape[-2]//16*(x.shape[-1]//16); grid = x.shape[-2]//16, x.shape[-1]//16; T = m.text()
    f, seen = through(vit, x, -100*(1 - torch.eye(n + 1)))
    p = (vit.logit_scale*f[1:] @ T.T).softmax(-1)
    A = seen[4].clone()
    for i in range(n):
        for j in range(n):
            if sum(float(a[i, j]) > float(a.mean()) for a in seen) < 2: A[i, j] = 0
    s = A @ p; z = s.clone()
    for c in range(len(T)):
        u = (s[:, c] - s[:, c].min())/(s[:, c].max() - s[:, c].min()); levels = np.floor((u*255).numpy()).reshape(grid)
        parts, k = ndimage.label(levels > int(float(u.mean())*255), np.ones((3, 3))); inside = np.zeros(grid)
        for i in range(1, k + 1):
            r, q = np.nonzero(parts == i); inside[r.min():min(r.max() + 1, grid[0] - 1), q.min():min(q.max() + 1, grid[1] - 1)] = 1
        z[:, c] = (A*torch.tensor(inside.flatten(), dtype=A.dtype)) @ p[:, c]
    best, again = z.amax(0)[:len(m.classes)], []
    for c in [c for c in range(len(m.classes)) if best[c] > z.min() + .5*(z.max() - z.min())]:
        u = (z[:, c] - z[:, c].min())/(z[:, c].max() - z[:, c].min()); mask = (u > .5).view(grid); r, q = mask.nonzero().T
        a, b, l, e = int(r.min()), min(int(r.max()) + 1, grid[0] - 1), int(q.min()), min(int(q.max()) + 1, grid[1] - 1)
        if a == b or l == e: break
        part = interpolate(x[..., 16*a:16*b, 16*l:16*e], (64, 64), mode='bilinear'); own = interpolate(mask[None, None, a:b, l:e].float(), (4, 4), mode='nearest').flatten().bool()
        hidden = torch.zeros(17, 17); hidden[0, 1:] = torch.where(own, 0., -1000.)
        g = through(vit, part, every=hidden)[0][0]; best[c] = .5*best[c] + .5*(vit.logit_scale*g @ T.T).softmax(-1)[c]; again.append(c)
    return best, z[:, :len(m.classes)].T.reshape(-1, *grid), again


@torch.no_grad()
def test_tagclip_in_loops(vit):
    "Coarse, refined, looked at again: images of three shapes, of which some have candidates."
    m = TagCLIP(vit, NAMES, templates=[ONE], background=['sky', 'wall']).eval(); found = []
    for i, size in enumerate([(64, 64), (80, 112), (96, 64), (80, 80), (64, 96)]):
        x = 2*torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(i))
        s, z, again = slow_tags(vit, m, x); found += again
        assert_close(m.scores(x)[0], s, rtol=1e-3, atol=1e-5); assert_close(m.regions(x)[0], z, rtol=1e-3, atol=1e-5)
    assert found


def test_boxes_and_cut_outs():
    "A part at the right or lower edge loses its last patch; a class found there alone has no cut-out."
    m = torch.zeros(4, 4); m[0, 0] = 1; m[3, 1] = .9
    assert found_boxes(m).nonzero().tolist() == [[0, 0]] and cut_out(m)[1] == (0, 3, 0, 2)
    last = torch.zeros(4, 4); last[:, 3] = 1; assert cut_out(last) is None and found_boxes(last).sum() == 0
    ring = torch.ones(5, 5); ring[2, 2] = 0; ring = ring*torch.tensor([1, 1, 1, 1, 0.]); assert found_boxes(ring)[:4, :4].all()


def test_tagclip_asks_for_what_it_needs(vit, clip):
    with pytest.raises(ValueError, match="attention of a ViT, and doodle-clip is none: give .*ViT-B-16"): TagCLIP(clip, NAMES)
    m = TagCLIP(vit, NAMES)
    with pytest.raises(ValueError, match='needs normalised images'): m.scores(torch.zeros(2, 3, 64))
    assert len(m.templates) == 85 and len(m.background) == 25 and (m.first, m.votes) == (4, 2)
