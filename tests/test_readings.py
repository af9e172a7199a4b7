"""Readings of TRM-ML as settings: each changes what it says and nothing else, and a wrong value gets one clear message."""
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from trmml import clip as clips
from trmml import runs
from trmml.clip import Features
from trmml.distillation import kd_loss
from trmml.methods import create
from trmml.model import FIRST, TRMML, text_directions
from trmml.runs.run import defaults, described
from trmml.photos.matcher import at_rest
from trmml.prototypes import PriorThresholds, Thresholds, class_means, upper_quantile
from trmml.train import TensorStore, fit

NAMES, N = ['cat', 'dining table', 'tv monitor', 'dog'], 12
LABELS = torch.tensor([[1, -1, 0, -1], [-1, 1, 1, 0], [0, -1, 1, -1], [1, 0, -1, 1], [-1, 1, 0, -1], [1, -1, -1, 0]]*2, dtype=torch.int8)
OTHERS = dict(first_stage='own', resume='text', centred_prototypes=True, threshold_from='prior', bank_above=.8, teacher='query', tau_start=49.9,
              contrast_reduction='sum', projector=False, residual=True, dropout=.1, norm='post', pseudo_kinds='positives')
DEFAULTS = dict(first_stage='part', resume='all', centred_prototypes=False, threshold_from='means', bank_above=None, teacher='region',
                tau_start=None, contrast_reduction='mean', projector=True, residual=False, dropout=0., norm='pre', pseudo_kinds='both')


@pytest.fixture(scope='module')
def clip():
    torch.manual_seed(0)
    return clips.load('doodle-clip', weights=None)


@pytest.fixture(scope='module')
def x(clip):
    g = torch.Generator().manual_seed(1)
    return Features(torch.randn(N, clip.d, 3, 3, generator=g), torch.randn(N, clip.d, generator=g))


def make(clip, **how): return TRMML(clip, NAMES, **{'length': 8, 'topk': 2, **how}).train()


def seen(model, x, stage=1, steps=3):
    "All that a model shows after some steps without an optimiser: terms, logits, pseudo-labels, tensors by the part they belong to."
    if stage == 2: model.begin_epoch(1, 1)
    torch.manual_seed(5)
    with torch.no_grad(): model.decoder.mlp[-1].weight.normal_(std=.1)   # as after some training: the MLP is silent at first
    for _ in range(steps): terms = model.loss(x, LABELS)
    torch.manual_seed(5)
    out = {k: v for k, v in model.forward(x).items() if k in ('energies', 'F_r', 'logits_r', 'logits_q', 'G')}
    found = {k: v.detach() for k, v in {**terms, **out, 'pseudo': model.pseudo}.items()}
    for k, v in model.state_dict().items(): found.setdefault(k.split('.')[0], []).append((k, v.clone()))
    return found


def same(a, b):
    if torch.is_tensor(a): return torch.equal(a, b)
    return len(a) == len(b) and all(k == l and torch.equal(v, w) for (k, v), (l, w) in zip(a, b))


def changed(a, b): return {k for k in a.keys() | b.keys() if k not in a or k not in b or not same(a[k], b[k])}


# ---- defaults

def test_every_reading_has_its_default():
    known = defaults(TRMML)
    assert {k: known[k] for k in DEFAULTS} == DEFAULTS and all(type(known[k]) is type(v) for k, v in DEFAULTS.items())


@pytest.mark.parametrize('stage', [1, 2])
def test_defaults_spelled_out_change_nothing(clip, x, stage):
    assert changed(seen(make(clip), x, stage), seen(make(clip, **DEFAULTS), x, stage)) == set()


# ---- each changes what it says, in the first stage

QUERY = {'logits_q', 'cls_q', 'kd', 'total'}
EFFECTS = [
    (dict(centred_prototypes=True), {'by_visual'}),
    (dict(threshold_from='prior'), {'by_visual', 'by_text'}),
    (dict(bank_above=.5), {'bank', 'by_visual', 'nce', 'total'}),
    (dict(contrast_reduction='sum'), {'nce', 'total'}),
    (dict(tau_nce=.2), {'nce', 'total'}),
    (dict(projector=False), {'nce', 'total', 'projector'}),
    (dict(teacher='query'), {'kd', 'total'}),
    (dict(teacher='both'), {'kd', 'total'}),
    (dict(tau_start=49.9), {'log_scale', 'logits_r', 'cls_r', *QUERY}),
    (dict(residual=True), QUERY),
    (dict(norm='post'), {'decoder', *QUERY}),
    (dict(dropout=.5), QUERY),
    (dict(pseudo_kinds='positives'), set()),
]
named = pytest.mark.parametrize('how, effect', EFFECTS, ids=[' '.join(f'{k}={v}' for k, v in h.items()) for h, _ in EFFECTS])


@named
def test_a_reading_changes_what_it_says_and_nothing_else(clip, x, how, effect):
    torch.manual_seed(0)
    assert changed(seen(make(clip), x), seen(make(clip, **how), x)) == effect


@named
def test_a_reading_draws_the_same_initial_weights(clip, how, effect):
    "What both have begins alike, so that a difference between two runs is that of the reading."
    a, b = make(clip, seed=3).state_dict(), make(clip, seed=3, **how).state_dict()
    for k in a.keys() & b.keys() - {'log_scale'}: assert torch.equal(a[k], b[k]), k
    assert ('log_scale' in {k for k in a if not torch.equal(a[k], b.get(k, a[k]))}) == ('tau_start' in how)


@pytest.mark.parametrize('how', [dict(centred_prototypes=True, prototypes='visual'), dict(threshold_from='prior'), dict(bank_above=.5, prototypes='visual')])
def test_what_judges_otherwise_gives_other_pseudo_labels(clip, x, how):
    base = {k: v for k, v in how.items() if k == 'prototypes'}
    a, b = (seen(make(clip, **h), x, stage=2) for h in (base, how))
    assert {'pseudo', 'cls_q', 'cls_r'} <= changed(a, b) and not {'logits_r', 'logits_q', 'T', 'kd'} & changed(a, b)


@pytest.mark.parametrize('kinds, sign', [('positives', 1), ('negatives', -1)])
def test_pseudo_labels_of_one_kind_alone(clip, x, kinds, sign):
    "Those of the other kind stay unknown, also for both classification losses; nothing is judged otherwise."
    a, b = (seen(make(clip, pseudo_kinds=k, prototypes='text'), x, stage=2) for k in ('both', kinds))
    assert all(((a['pseudo'] == v) & (LABELS == 0)).any() for v in (1, -1))
    assert torch.equal(b['pseudo'], a['pseudo'].where(a['pseudo'] == sign, 0))
    assert changed(a, b) == {'pseudo', 'cls_q', 'cls_r', 'total'}


def test_no_reading_touches_the_prediction_but_those_of_the_score(clip, x):
    "In evaluation the region score depends on tau alone, the query score on the decoder's settings too, and dropout is over."
    def scores(score, **how): return make(clip, score=score, **how).eval().scores(x)
    for k, v in OTHERS.items():
        if k in ('resume',): continue
        for score in 'region', 'query':
            moves = k == 'tau_start' or score == 'query' and k in ('residual', 'norm')
            assert torch.equal(scores(score), scores(score, **{k: v})) != moves, (k, score)


def test_a_trained_method_at_rest_predicts_the_same_whatever_its_decoder(clip, x):
    for how in {}, dict(norm='post'), dict(residual=True, dropout=.1, norm='post'):
        model = make(clip, **how)
        seen(model, x)
        assert_close(at_rest(model).scores(x), model.eval().scores(x))


# ---- how large the change is

def test_teachers(clip, x):
    out = make(clip).forward(x)
    r, q = out['logits_r'], out['logits_q']
    def kd(teacher):
        model = make(clip, teacher=teacher, centre=False)
        return model.loss(x, LABELS)['kd'].item()
    want = dict(region=kd_loss(r, q).item(), query=kd_loss(q, r).item())
    want['both'] = sum(want.values())
    for k, v in want.items(): assert math.isclose(kd(k), v, rel_tol=1e-5), k
    assert abs(want['region'] - want['query']) > 1e-4


@pytest.mark.parametrize('teacher, taught', [('region', 'q'), ('query', 'r'), ('both', 'rq')])
def test_a_teacher_hears_nothing(clip, x, teacher, taught):
    "The gradient of distillation reaches the score that is taught, and no other."
    model = make(clip, teacher=teacher, centre=False)
    out = model.forward(x)
    for k in 'rq': out[f'logits_{k}'].retain_grad()
    model.forward = lambda _: out
    model.loss(x, LABELS)['kd'].backward()
    assert {k for k in 'rq' if out[f'logits_{k}'].grad is not None and out[f'logits_{k}'].grad.abs().sum() > 0} == set(taught)


def test_distillation_of_a_baseline_without_regions_stays_off(clip, x):
    assert 'kd' not in make(clip, region=False, teacher='both').loss(x, LABELS)


def test_tau_start(clip):
    assert math.isclose(make(clip, tau_start=49.9).scale.item(), 49.9, rel_tol=1e-5)
    assert math.isclose(make(clip).scale.item(), clip.logit_scale, rel_tol=1e-5) and make(clip, tau_start=49.9).log_scale.requires_grad


def test_the_sum_over_anchors_is_as_many_means_as_there_are_anchors(clip, x):
    a, b = (make(clip, contrast_reduction=k).loss(x, LABELS)['nce'].item() for k in ('mean', 'sum'))
    assert math.isclose(b, 4*a, rel_tol=1e-5)
    few = LABELS.clone()
    few[:, 2] = few[:, 2].clamp(max=0)   # no anchor without a sample counts
    a, b = (make(clip, contrast_reduction=k).loss(x, few)['nce'].item() for k in ('mean', 'sum'))
    assert math.isclose(b, 3*a, rel_tol=1e-5)


def test_without_a_projector_the_contrast_reaches_text_and_regions_directly(clip, x):
    model = make(clip, projector=False)
    assert not [k for k in model.state_dict() if k.startswith('projector')]
    model.loss(x, LABELS)['nce'].backward()
    assert model.prompts.ctx.grad.abs().sum() > 0 and model.queries.grad.abs().sum() > 0
    assert model.decoder.mlp[0].weight.grad is None   # the query score plays no part


def test_only_what_is_scored_above_enters_the_bank(clip, x):
    model = make(clip, bank_above=.5, length=64)
    model.loss(x, LABELS)
    p = model.forward(x)['logits_r'].sigmoid()
    sure = (LABELS == 1) & (p > .5)
    assert 0 < sure.sum() < (LABELS == 1).sum()
    assert model.bank.filled.tolist() == (2*sure.sum(0)).tolist()


def test_probability_that_nothing_reaches_keeps_visual_prototypes_silent(clip, x):
    model = make(clip, bank_above=.999, prototypes='visual')
    model.log_scale.data.fill_(0.)   # no score is near 1
    assert seen(model, x, stage=2)['pseudo'].abs().sum() == 0 and not model.bank.ready.any()


def test_centred_similarity_forgets_what_all_classes_share(clip, x):
    model = make(clip, centred_prototypes=True)
    model.loss(x, LABELS)
    F, V = model.forward(x)['F_r'].detach(), model.bank.V.clone()
    s = model.bank.mean_similarity(F, centred=True)
    mean = V.sum(1)/model.bank.filled[:, None]
    shared = mean.mean(0)
    for c in range(4):
        for b in range(N):
            f = F[b, c]/F[b, c].norm() - shared
            assert_close(s[b, c], torch.dot(f, mean[c] - shared)/f.norm()/(mean[c] - shared).norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('norm', ['pre', 'post'])
def test_decoder_in_plain_steps(clip, x, norm, residual):
    "Attention and MLP one after the other, with norms where the reading puts them."
    model = make(clip, norm=norm, residual=residual)
    with torch.no_grad():
        for p in model.decoder.parameters(): p.add_(.1*torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    d, Q, f = model.decoder, model.queries, torch.randn(2, clip.d, 3, 3, generator=torch.Generator().manual_seed(2))
    for b in range(2):
        z = d.norm_f(f[b].flatten(1).T)
        A = d.out((d.q(d.norm_q(Q)) @ d.k(z).T/clip.d**.5).softmax(-1) @ d.v(z))
        if residual: A = A + Q
        if norm == 'pre': want = A + d.mlp(d.norm_a(A))
        else: want = d.norm_o(d.norm_a(A) + d.mlp(d.norm_a(A)))
        assert_close(d(Q, f)[1][b], want, rtol=1e-3, atol=1e-4)


# ---- thresholds by the known prior

def test_quantile_of_each_column():
    s = torch.rand(17, 5, generator=torch.Generator().manual_seed(0))
    share = torch.tensor([0., .1, .5, .77, 1.])
    assert_close(upper_quantile(s, share), torch.tensor(np.array([np.quantile(s[:, c].numpy(), 1 - share[c].item()) for c in range(5)])).float())


def test_prior_is_that_of_all_known_labels_so_far():
    th = PriorThresholds(2)
    s = torch.rand(8, 2)
    y = torch.tensor([[1, 0], [-1, -1], [-1, -1], [0, -1], [0, 0], [0, 0], [0, 0], [0, 0]])
    th.update(s, y)
    assert_close(th.prior, torch.tensor([1/3, 0.]))
    assert th.ready.tolist() == [True, False]   # without a positive there is no threshold
    th.update(s, -y.abs())
    assert_close(th.prior, torch.tensor([1/6, 0.]))
    want = .9*s[:, 0].quantile(2/3) + .1*s[:, 0].quantile(5/6)
    assert_close(th.theta_pos[0], want)
    assert torch.equal(th.theta_neg, th.theta_pos)


def test_unknown_entries_move_thresholds_of_the_prior_and_not_those_of_means():
    y = torch.tensor([[1], [-1], [0], [0]])
    s = torch.tensor([[.8], [.2], [.5], [.6]])
    for kind, moves in (Thresholds, False), (PriorThresholds, True):
        a, b = kind(1), kind(1)
        a.update(s, y)
        b.update(s.where(y != 0, .95), y)
        assert torch.equal(a.theta_pos, b.theta_pos) != moves
    assert class_means(s, y)[0] == s[0]


def test_a_shift_of_all_similarities_leaves_the_share_of_pseudo_positives():
    "What the rule is for: when all similarities move, a quantile moves with them; means of few known labels need not be near it."
    g = torch.Generator().manual_seed(0)
    y = torch.where(torch.rand(400, 1, generator=g) < .2, 1, -1)
    known = y.where(torch.rand(400, 1, generator=g) < .3, 0)
    s = torch.rand(400, 1, generator=g) + (y == 1)*.2
    shares = {}
    for kind in PriorThresholds, Thresholds:
        th = kind(1)
        for shift in 0., .3:
            for _ in range(60): th.update(s + shift, known, .5)              # long enough to follow
            shares[kind, shift] = (s + shift >= th.theta_pos).float().mean().item()
    assert shares[PriorThresholds, 0.] == pytest.approx(shares[PriorThresholds, .3], abs=.01)
    assert shares[PriorThresholds, .3] == pytest.approx((known == 1).sum().item()/(known != 0).sum().item(), abs=.02)
    assert shares[Thresholds, .3] > shares[PriorThresholds, .3] + .1         # the mean of the positives lies far below that quantile


def test_what_dropout_draws_belongs_to_the_seed(tmp_path):
    "Neither what was drawn before nor a kill in the middle changes a training with dropout."
    import trmml.clip
    from trmml.train import TensorStore, fit
    own = trmml.clip.load('doodle-clip', None, 128)
    g = torch.Generator().manual_seed(0)
    store = TensorStore(torch.randn(12, own.d, 2, 2, generator=g), torch.randn(12, own.d, generator=g))
    y = torch.randint(-1, 2, (12, 3), generator=g).to(torch.int8)
    def train(noise, epochs=4, **how):
        torch.manual_seed(noise)
        m = TRMML(own, ['cat', 'dog', 'bus'], n_ctx=2, epochs=4, batch=4, dropout=.5)
        class Killed(Exception): pass
        class Fragile(TensorStore):
            def batch(self, rows, device=None, dtype=None):
                self.n = getattr(self, 'n', 0) + 1
                if self.n > 3*epochs: raise Killed
                return super().batch(rows, device, dtype)
        try: fit(m, Fragile(store.dense, store.pooled), y, every=1, **how)
        except Killed: pass
        return m
    whole, other = train(1), train(2)
    train(3, 2, checkpoint=tmp_path/'a.ckpt')
    rest = train(4, checkpoint=tmp_path/'a.ckpt')
    plain = TRMML(own, ['cat', 'dog', 'bus'], n_ctx=2, epochs=4, batch=4)
    fit(plain, store, y)
    for a, b, c in zip(whole.parameters(), other.parameters(), rest.parameters()): assert torch.equal(a, b) and torch.equal(a, c)
    assert not torch.equal(plain.decoder.mlp[0].weight, whole.decoder.mlp[0].weight)


# ---- a first stage of its own

def two(clip, x, resume='all', **how):
    "A first training of two steps' worth, and the second, started from it."
    first = make(clip, **FIRST, **how)
    first.begin_epoch(0, 1)
    for _ in range(2): first.loss(x, LABELS)   # the first fills the bank, the second the thresholds
    with torch.no_grad():
        for p in first.parameters(): p.add_(.05)
    second = make(clip, seed=9, first_stage='own', resume=resume, **how)
    fresh = {k: v.clone() for k, v in second.state_dict().items()}
    second.start_from(first.eval())
    return first, second, fresh


def test_the_second_training_begins_in_the_second_stage(clip, x):
    first, second, _ = two(clip, x)
    second.begin_epoch(0, 40)
    assert not first.in_second_stage and second.in_second_stage
    T = second.T.clone()
    assert_close(T, text_directions(first.encode_text()))
    second.loss(x, LABELS)
    assert second.pseudo.abs().sum() > 0   # with its first batch: warmup counts as 0
    with torch.no_grad(): second.prompts.ctx.add_(1.)
    second.begin_epoch(39, 40)
    assert torch.equal(second.T, T)


def test_pairs_as_text_prototypes_of_the_first_training(clip, x):
    first, second, _ = two(clip, x, text_prototypes='pair')
    assert_close(second.T, text_directions(first.encode_text(), 'pair'))


@pytest.mark.parametrize('resume, taken', [('all', ('prompts', 'log_scale', 'queries', 'decoder', 'bank', 'by_visual', 'by_text', 'centred')), ('text', ('by_text',))])
def test_what_is_taken_over(clip, x, resume, taken):
    first, second, fresh = two(clip, x, resume)
    theirs = first.state_dict()
    for k, v in second.state_dict().items():
        part = k.split('.')[0]
        if part in ('T', 'stage'): continue
        assert torch.equal(v, theirs[k] if part in taken else fresh[k]), k
    assert second.stage == 2 and any(not torch.equal(theirs[k], fresh[k]) for k in fresh if k.split('.')[0] in taken)
    assert [k for k in fresh if k.startswith('projector')] and not hasattr(first, 'projector')


def test_a_first_stage_of_its_own_cannot_be_left_out(clip, x):
    with pytest.raises(ValueError, match="first_stage='own': train the first stage and give it to `start_from`"):
        fit(make(clip, first_stage='own', epochs=2, batch=4), TensorStore(x.dense, x.pooled), LABELS, 0)


def test_whoever_has_one_training_starts_from_nothing(clip, x):
    with pytest.raises(NotImplementedError, match='TRMML starts from no other method'): make(clip).start_from(make(clip))
    assert TRMML.starts_from(warmup=.5) is None


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A folder in COCO format: a dozen pictures of 64 x 64, one or two coloured squares on grey."
    folder, rng = tmp_path_factory.mktemp('drawn')/'world', np.random.RandomState(0)
    (folder/'annotations').mkdir(parents=True)
    for split, n in dict(train=12, test=6).items():
        (folder/split).mkdir()
        images, things = [], []
        for i in range(n):
            img = Image.fromarray(rng.randint(90, 130, (64, 64, 3)).astype(np.uint8))
            for c in {i % 3, rng.randint(3)}:
                x, y = rng.randint(0, 44, 2).tolist()
                img.paste(('red', 'lime', 'blue')[c], (x, y, x + 16, y + 16))
                things.append(dict(id=len(things), image_id=i, category_id=c, bbox=[x, y, 16, 16], area=256, iscrowd=0))
            img.save(folder/split/f'{i:02}.png')
            images.append(dict(id=i, file_name=f'{i:02}.png', width=64, height=64))
        names = [dict(id=c, name=f'{k} square') for c, k in enumerate(('red', 'green', 'blue'))]
        (folder/'annotations'/f'instances_{split}.json').write_text(json.dumps(dict(images=images, annotations=things, categories=names)))
    return folder


SMALL = dict(epochs=2, batch=6, length=8, topk=2, n_ctx=2)
def own(world, known=.5, **how): return runs.Run(str(world), 'trmml', known, 3, settings={**SMALL, 'first_stage': 'own', **how}, image_size=64, backbone='doodle-clip')
def files(out): return sorted(p.name for p in (out/'runs').glob('*.json'))


def test_the_first_training_is_a_run_of_its_own(world):
    run = own(world, warmup=.5, prototypes='text', eta=.8)
    first = runs.origin(run)
    assert (first.method, first.known, first.seed, first.protocol, first.dataset) == ('trmml', .5, 3, 'partial', run.dataset)
    full = runs.resolved(first)
    assert (full['prototypes'], full['contrastive'], full['warmup'], full['first_stage'], full['eta'], full['epochs']) == ('none', False, 1., 'part', .8, 2)
    assert runs.origin(first) is None and runs.origin(runs.replace(run, settings=SMALL)) is None
    assert described(run)['made_from'] == [described(first)]


@pytest.mark.parametrize('how, shared', [
    (dict(prototypes='text'), True), (dict(contrastive=False), True), (dict(gamma=1.), True), (dict(tau_nce=.2), True), (dict(projector=False), True),
    (dict(contrast_reduction='sum'), True), (dict(score='query'), True), (dict(resume='text'), True), (dict(warmup=.5), True), (dict(pseudo_kinds='negatives'), True),
    (dict(text_prototypes='pair'), False), (dict(eta=.8), False), (dict(bank_above=.8), False), (dict(centred_prototypes=True), False),
    (dict(threshold_from='prior'), False), (dict(teacher='query'), False), (dict(tau_start=49.9), False), (dict(norm='post'), False),
    (dict(residual=True), False), (dict(dropout=.1), False), (dict(lr=1e-3), False), (dict(epochs=3), False)], ids=lambda v: str(v))
def test_runs_share_a_first_training_where_it_is_the_same(world, how, shared):
    assert (runs.origin(own(world)).key == runs.origin(own(world, **how)).key) == shared and own(world).key != own(world, **how).key


def test_a_run_finds_its_first_training_trains_it_once_and_goes_on_from_it(world, tmp_path, monkeypatch):
    begun = []
    def watched(method, *args, **kwargs):
        begun.append({k: v.clone() for k, v in method.state_dict().items()})
        return fit(method, *args, **kwargs)
    monkeypatch.setitem(runs.perform.__globals__, 'fit', watched)   # `runs.perform` is the function, not its module
    run = own(world)
    result = runs.perform(run, None, tmp_path)
    assert len(files(tmp_path)) == 2 and len(begun) == 2 and [row['epoch'] for row in result['log']] == [0, 1]
    first = runs.trained(runs.origin(run), tmp_path)
    assert len(begun) == 2                                     # it was there
    for k, v in first.state_dict().items():
        if k not in ('T', 'stage'): assert torch.equal(begun[1][k], v), k
    assert_close(begun[1]['T'], text_directions(first.encode_text()))
    assert (begun[0]['stage'], begun[1]['stage'], first.stage) == (1, 2, 1)
    assert {row['lr'] for row in result['log']} == {row['lr'] for row in runs.stored(runs.origin(run), tmp_path)['log']}   # a fresh schedule
    assert torch.equal(runs.trained(run, tmp_path).T, begun[1]['T'])
    old = {p: p.stat().st_mtime_ns for p in (tmp_path/'runs').glob('*.json')}
    runs.perform(own(world, prototypes='text', resume='text'), None, tmp_path)
    assert len(begun) == 3 and len(files(tmp_path)) == 3 and all(p.stat().st_mtime_ns == t for p, t in old.items())


# ---- wrong uses

WRONG = [
    (dict(first_stage='two'), "first_stage='two': use one of 'part', 'own'"), (dict(resume='some'), "resume='some': use one of 'all', 'text'"),
    (dict(resume='text'), "resume='text': there is nothing to resume, use first_stage='own'"),
    (dict(centred_prototypes=1), 'centred_prototypes=1: use one of True, False'), (dict(threshold_from='labels'), "threshold_from='labels': use one of 'means', 'prior'"),
    (dict(contrast_reduction='batch'), "contrast_reduction='batch': use one of 'mean', 'sum'"), (dict(projector='no'), "projector='no': use one of True, False"),
    (dict(teacher='mean'), "teacher='mean': use one of 'region', 'query', 'both'"), (dict(residual=0), 'residual=0: use one of True, False'),
    (dict(pseudo_kinds='none'), "pseudo_kinds='none': use one of 'both', 'positives', 'negatives'"),
    (dict(norm='layer'), "norm='layer': use one of 'pre', 'post'"), (dict(dropout=1.), 'dropout=1.0: use a number from 0 that is below 1'),
    (dict(dropout=None), 'dropout=None: use a number from 0 that is below 1'), (dict(bank_above=1), 'bank_above=1: use a probability below 1, or None'),
    (dict(bank_above=-.1), 'bank_above=-0.1: use a probability below 1, or None'), (dict(bank_above='.8'), "bank_above='.8': use a probability below 1, or None"),
    (dict(bank_above=True), 'bank_above=True: use a probability below 1, or None'), (dict(tau_start=0), 'tau_start=0: use a number in (0, 100], or None'),
    (dict(tau_start=100.5), 'tau_start=100.5: use a number in (0, 100], or None'),
    (dict(tau_start=float('nan')), 'tau_start=nan: use a number in (0, 100], or None'),
]


@pytest.mark.parametrize('how, words', WRONG, ids=lambda v: v if isinstance(v, str) else '')
def test_a_wrong_value_gets_one_clear_message(clip, how, words):
    with pytest.raises(ValueError) as e: create('trmml', clip, NAMES, **how)
    assert str(e.value) == words


def test_moved_regions_have_no_first_stage(clip):
    with pytest.raises(ValueError, match="first_stage='own': it has moved regions"): create('trmml-moved', clip, NAMES, first_stage='own')
