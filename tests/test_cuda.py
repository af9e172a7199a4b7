"""The same numbers on a GPU as on a processor; skipped where there is none. TRMML_TEST_DEVICE=cpu tries the file itself."""
import copy
import math
import os
import warnings

import pandas as pd
import papermill
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize
from torch.testing import assert_close

import trmml.clip
from trmml import TRMML, data, doodles, files, runs
from trmml.clip import PromptLearner
from trmml.train import TensorStore, fit, optimizer, predict, train_epoch
from trmml.methods import create
from trmml.train.method import Batch

from test_peers import FROZEN, NAMES, SETUP

DEVICE = os.environ.get('TRMML_TEST_DEVICE', 'cuda')
pytestmark = [pytest.mark.skipif(DEVICE == 'cuda' and not torch.cuda.is_available(), reason='no CUDA device'), pytest.mark.xdist_group('cuda'),
              pytest.mark.filterwarnings('ignore:SCPNet sees one view')]


@pytest.fixture(scope='module')
def here(): return trmml.clip.load('doodle-clip')


@pytest.fixture(scope='module')
def there(): return trmml.clip.load('doodle-clip', device=DEVICE)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('doodles')
    return [str(doodles.ensure(root, split, 48, 32, progress=False, n_jobs=1)) for split in ('train', 'test')][0]


@pytest.fixture(scope='module')
def pictures(folder, here):
    ds = data.load(folder, 'train')
    return torch.stack([here.preprocess()(data.open_image(p)) for p in ds.paths[:16]])


def world(clip, n=48):
    g = torch.Generator().manual_seed(0)
    store = TensorStore(*(torch.randn(s, generator=g).to(clip.device) for s in ((n, clip.d, 3, 3), (n, clip.d))))
    return store, torch.randint(-1, 2, (n, len(NAMES)), generator=g).to(torch.int8)


def made(name, clip, **settings): return create(name, clip, NAMES, **{**SETUP.get(name, {}), 'batch': 16, 'epochs': 3, **settings})


# ---- encoders

@torch.no_grad()
def test_features_are_those_of_the_processor(here, there, pictures):
    "In float32 throughout; and as PyTorch does it by itself, with convolutions in TF32, whose mantissa has ten bits."
    a, coarse = here.features(pictures), there.features(pictures)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False): exact = there.features(pictures)
    for x, y, z in zip(a, exact, coarse):
        assert_close(y.cpu(), x, rtol=0, atol=1e-5*float(x.abs().max()))
        assert cosine_similarity(z.cpu(), x, dim=1).min() > .9999


@torch.no_grad()
@pytest.mark.parametrize('kind', [torch.bfloat16, torch.float16])
def test_coarse_features_point_the_same_way(there, pictures, kind):
    coarse = trmml.clip.load('doodle-clip', device=DEVICE, compute=kind)
    for x, y in zip(there.features(pictures), coarse.features(pictures)): assert cosine_similarity(x, y, dim=1).min() > .999


@pytest.mark.parametrize('settings', [dict(), dict(class_specific=False), dict(dual=False)])
def test_prompts_and_their_gradients(here, there, settings):
    out = []
    for clip in here, there:
        p = PromptLearner(clip, NAMES, **settings).to(clip.device); G = p(clip); normalize(G, dim=-1)[..., :7].square().sum().backward()
        out.append((G.detach().cpu(), p.ctx.grad.cpu()))
    for x, y in zip(*out): assert_close(y, x, rtol=1e-3, atol=1e-5*float(x.abs().max()) + 1e-6)


def test_cut_prompts_equal_those_of_77_tokens(there):
    from trmml.report.benchmark import Peers
    peers, own = Peers(there, NAMES), create('trmml', there, NAMES)
    own.prompts.load_state_dict(peers.prompts.state_dict()); out = []
    for encode, ctx in (peers.encode_text, peers.prompts.ctx), (own.encode_text, own.prompts.ctx):
        G = encode(); normalize(G, dim=-1)[..., :9].square().sum().backward(); out.append((G.detach(), ctx.grad))
    for x, y in zip(*out): assert_close(y, x, rtol=1e-3, atol=1e-5*float(x.abs().max()) + 1e-6)


# ---- training

@pytest.mark.parametrize('name', [m for m in FROZEN if '+' not in m])
def test_a_training_is_that_of_the_processor(here, there, name):
    "Ten steps or so: rounding has no time to grow."
    logs = []
    for clip in here, there:
        store, labels = world(clip)
        with warnings.catch_warnings(): warnings.simplefilter('ignore'); m = made(name, clip); log = fit(m, store, labels)
        logs.append((log, predict(m, world(clip)[0])))
    (a, p), (b, q) = logs
    assert abs(a[0]['total']/b[0]['total'] - 1) < 1e-3, (a[0], b[0])
    assert torch.isfinite(q).all() and (p - q).abs().mean() < .02


@pytest.mark.parametrize('precision', ['bfloat16', 'float16'])
@pytest.mark.parametrize('name', ['trmml', 'dualcoop', 'coop'])
def test_coarse_training(there, name, precision):
    store, labels = world(there)
    a, b = (fit(made(name, there, **how), store, labels)[-1]['total'] for how in (dict(), dict(precision=precision)))
    assert a != b and math.isfinite(b) and abs(a/b - 1) < (.1 if precision == 'bfloat16' else .5)   # float16's first steps look for a scale and move nothing


@pytest.mark.skipif(DEVICE == 'cpu', reason='a processor waits for nobody')
@pytest.mark.parametrize('name', ['trmml', 'dualcoop', 'coop', 'hspnet-frozen'])
def test_no_step_waits_for_the_device(there, name):
    "CUDA's own guard: it raises where the processor would have to wait."
    m = made(name, there); store, labels = m.training_set(*world(there)); opt = optimizer(m)
    m.see_truth(labels)
    for epoch in 0, 1: train_epoch(m, opt, store, labels, epoch, 3)
    m.begin_epoch(2, 3); x, known = store.batch(torch.arange(16), DEVICE), labels[:16].to(DEVICE)
    batch = Batch(torch.arange(16), int((labels[:16] == 1).sum()), 9, 9)
    m.before_step(opt, 9, 9, batch)
    torch.cuda.set_sync_debug_mode('error')
    try: m.loss(x, known, batch)['total'].backward(); opt.step(); m.after_step()
    finally: torch.cuda.set_sync_debug_mode('default')


# ---- from pictures to a number

def test_a_run_from_pictures_to_a_number(folder, tmp_path):
    got = {}
    for device in 'cpu', DEVICE:
        run = runs.Run(folder, 'trmml', .5, 0, settings=dict(epochs=2, batch=16))
        got[device] = runs.perform(run, tmp_path/device, tmp_path/f'out-{device}', device)
        assert got[device]['device'] == device and got[device]['machine']
    assert abs(got['cpu']['mAP'] - got[DEVICE]['mAP']) < .05
    again = runs.stored(run, tmp_path/f'out-{DEVICE}', tmp_path/DEVICE, DEVICE)
    assert again == got[DEVICE]


def test_runs_side_by_side_agree_with_runs_in_turn(folder, tmp_path):
    "Two processes on one device, and one run after the other, in float32 whose sums may come in another order."
    grid = [runs.Run(folder, 'trmml', .5, seed, settings=dict(epochs=2, batch=16)) for seed in (0, 1)]
    alone, together = (runs.perform_all(grid, tmp_path, tmp_path/str(n), DEVICE, n_jobs=n, progress=False) for n in (1, 2))
    assert [r['run']['seed'] for r in together] == [0, 1] and alone[0]['mAP'] != alone[1]['mAP']
    for a, b in zip(alone, together): assert abs(a['mAP'] - b['mAP']) < .02


def test_table1_on_a_device(tmp_path):
    path = files.project_root()/'nbs'/'table1.ipynb'
    papermill.execute_notebook(path, tmp_path/'t.ipynb', dict(out=str(tmp_path), smoke=True, device=DEVICE, n_jobs=1), progress_bar=False)
    t, = (pd.read_csv(p, index_col='method') for p in tmp_path.rglob('table1*.csv') if 'runs' not in p.name)
    assert 0 < t.avg_mean['trmml'] < 100 and 0 < t.avg_mean['dualcoop'] < 100


def test_own_photos(folder, tmp_path):
    ds = data.load(folder, 'train')
    photos = {os.path.basename(p): p for p in ds.paths}
    table = pd.DataFrame(ds.labels, index=list(photos), columns=ds.classes).replace({-1: 0})
    m = TRMML(backbone='doodle-clip', device=DEVICE, epochs=2, workers=0, progress=False)
    m.fit(os.path.dirname(ds.paths[0]), table)
    p = m.predict(os.path.dirname(ds.paths[0])); m.save(tmp_path/'model')
    assert p.shape == table.shape and p.notna().all().all()
    assert_close(torch.tensor(TRMML.load(tmp_path/'model', device='cpu').predict(os.path.dirname(ds.paths[0])).values), torch.tensor(p.values), rtol=1e-3, atol=1e-3)


# ---- a text pass recorded as a graph

@pytest.mark.skipif(DEVICE == 'cpu', reason='nothing is recorded on a processor')
@pytest.mark.parametrize('precision', [None, 'bfloat16'])
@pytest.mark.parametrize('name', ['trmml', 'dualcoop'])
def test_a_recorded_text_pass_trains_alike(there, name, precision):
    got = []
    for replays in False, True:
        m = made(name, there, precision=precision); m.prompts.replays = replays; store, labels = world(there)
        log = fit(m, store, labels); got.append((log, m.prompts.ctx.detach().clone())); assert m.prompts.replays == replays
        assert bool(m.prompts.recorded) == replays and copy.deepcopy(m.prompts).recorded is None
    (a, x), (b, y) = got
    for r, s in zip(a, b): assert abs(r['total']/s['total'] - 1) < (1e-3 if precision is None else .02)
    if precision is None: assert_close(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(DEVICE == 'cpu', reason='nothing is recorded on a processor')
def test_recording_fails_safely(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'make_graphed_callables', lambda *_: (_ for _ in ()).throw(RuntimeError('no memory')))
    m = made('trmml', there)
    with pytest.warns(UserWarning, match='could not be recorded'): G = m.prompts(there)
    assert G.requires_grad and not m.prompts.replays; assert_close(G, m.prompts.encode(there.model, m.prompts.ctx))


@pytest.mark.skipif(DEVICE == 'cpu', reason='nothing is recorded on a processor')
def test_what_moved_is_recorded_anew():
    own = trmml.clip.load('doodle-clip', device=DEVICE); m = made('trmml', own); first = m.prompts(own).detach().clone(); before = m.prompts.recorded
    assert torch.equal(m.prompts(own), first) and m.prompts.recorded is before
    m.to('cpu'); own.to('cpu'); filler = torch.randn(2**24, device=DEVICE); m.to(DEVICE); own.to(DEVICE)
    assert_close(m.prompts(own), first, rtol=1e-4, atol=1e-4)
    assert m.prompts.recorded is not before and len(filler)
    own.model.transformer.requires_grad_()
    with pytest.warns(UserWarning, match='being trained'): assert m.prompts(own).requires_grad
