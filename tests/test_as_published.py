"""What is published of each method, setting by setting, beside what a table would run: no difference that nothing says."""
import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from trmml import clip as clips
from trmml import runs
from trmml.methods import IMAGENET_METHODS, METHODS, create
from trmml.report import as_published
from trmml.train import TensorStore, fit, optimizer

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent/'shared'/'methods'/'as-published.csv'
ROWS = as_published.published_rows()
TRAINED = [m for m in ROWS.method.unique() if '+' not in m and 'zeroshot' not in m]


@pytest.fixture(scope='module')
def compared(): return as_published.compare(ROWS)


def test_nothing_differs_silently(compared):
    silent = compared[compared.verdict == 'silent']
    assert silent.empty, silent[['method', 'dataset', 'table', 'setting', 'published', 'runs']].to_string()
    assert len(compared) == len(ROWS) == 595 and set(compared.verdict) == {'same', 'shown', 'documented'}


@pytest.mark.skipif(not SHARED.is_file(), reason='needs ../shared/methods/as-published.csv')
def test_the_rows_are_those_that_were_collected():
    with open(SHARED, newline='') as f: rows = list(csv.DictReader(f))
    said = [[r[k] for k in ('method', 'dataset', 'table', 'setting', 'published')] for r in rows]
    assert ROWS[['method', 'dataset', 'table', 'setting', 'published']].values.tolist() == said


@pytest.mark.parametrize('change', [
    ('scpnet', 'coco2014', 'lr', dict(value=4e-5)),                       # another value than printed
    ('dualcoop', 'voc2007', 'lr', dict(value=.002)),
    ('taidpt', 'nuswide', 'kappa_test', dict(value=.4)),
    ('dualcoop', 'any', 'optimizer', dict(value='adamw')),
    ('nothing', 'any', 'lr', None)])
def test_a_wrong_line_is_found(change, monkeypatch):
    m, d, name, new = change
    if new is None: m, d, name, new = 'coop', 'any', 'precision', dict(why='')            # a difference without a reason
    table = runs.read_recipes()['published'][m][d]
    monkeypatch.setitem(table, name, {**table[name], **new})
    runs.lines.cache_clear()
    try: assert (as_published.compare(ROWS[(ROWS.method == m) & (ROWS.setting == name)]).verdict == 'silent').any()
    finally: monkeypatch.undo(); runs.lines.cache_clear()


def test_a_wrong_policy_is_found(monkeypatch):
    from trmml.data import PEERS
    monkeypatch.setitem(PEERS['nuswide'], 'splc', dict(setup='official'))
    rows = ROWS[(ROWS.dataset == 'nuswide') & ROWS.setting.str.startswith('data policy: images (SPLC')]
    assert len(rows) and set(as_published.compare(rows).verdict) == {'silent'}


def test_a_run_that_is_not_the_recipe_is_found(monkeypatch):
    "The grid of a table that passes a setting on is seen, too."
    grid = as_published.grid
    monkeypatch.setattr(as_published, 'grid', lambda *a, **k: [runs.replace(r, settings=dict(lr=.5)) for r in grid(*a, **k)])
    rows = ROWS[(ROWS.method == 'scpnet') & (ROWS.setting == 'lr')]
    assert set(as_published.compare(rows).verdict) == {'silent'}


# ---- what no setting says

@pytest.fixture(scope='module')
def backbones(): return {False: clips.load('doodle-clip', None, 64), True: clips.load('doodle-resnet', None, 64)}


def made(backbones, name, dataset='coco2014', **more):
    "A method with its published recipe, on a small random backbone."
    own = {k: v for k, v in runs.recipe(name, dataset).items() if k != 'interpolation'}
    if name.startswith(('taidpt', 'taiadapter')): own['captions'] = ['a cat and a dog', 'a dog']
    small = dict(hidden=16) if name in ('scpnet', 'hspnet', 'ssgrl', 'sst', 'sarb', 'mlgcn') else {}
    return create(name, backbones[name in IMAGENET_METHODS], ['cat', 'dog', 'person'], **{**own, **small, **more})


@pytest.mark.parametrize('name', TRAINED)
@pytest.mark.filterwarnings('ignore')
def test_optimiser_and_average(backbones, name):
    "Momentum, betas, decay and average as the lines with `shown` say; every published setting is one that the method takes."
    method = made(backbones, name)
    opt, said = optimizer(method), {l.name: l.published for l in runs.lines(name, 'coco2014')}
    kind = type(opt).__name__.lower()
    assert kind == runs.recipe(name, 'coco2014').get('optimizer', 'adamw' if 'taiadapter' in name else kind)
    if said.get('momentum') == '.9': assert {g['momentum'] for g in opt.param_groups} == {.9}
    if said.get('momentum') in ('Adam defaults', 'option unused (Adam)') and kind == 'adam':
        assert {tuple(g['betas']) for g in opt.param_groups} == {(.9, .999)}
    if said.get('momentum', '').startswith('beta 1 .95-.85-.95'):
        seen = []
        for step in range(100):
            method.before_step(opt, step, 100, None)
            seen.append(opt.param_groups[0]['betas'][0])
        stretch = runs.resolved(runs.Run('coco2014', name, backbone='RN50'))['stretch']
        low = seen.index(min(seen))
        assert seen[0] == pytest.approx(.95) and min(seen) == pytest.approx(.85, abs=1e-3)
        assert low == pytest.approx(.2*100*stretch - 1, abs=1.01)                # a fifth of the schedule
    keeps = getattr(method, 'ema', 0) or hasattr(method, 'average') or name in ('scpnet', 'hspnet')
    if said.get('ema') == 'none': assert not keeps
    if said.get('precision') == 'float32' and name in IMAGENET_METHODS: assert method.precision is None
    assert set(runs.recipe(name, 'coco2014')) - {'interpolation'} <= set(runs.resolved(runs.Run('coco2014', name, backbone='RN50')))


def test_no_early_stop_and_the_last_epoch(backbones, tmp_path):
    "As many epochs as the recipe says, and the weights of the last one, whatever validation says."
    torch.manual_seed(0)
    store = TensorStore(torch.randn(12, 128, 4, 4), torch.randn(12, 128))
    labels = np.where(np.random.RandomState(0).rand(12, 3) < .5, 1, -1).astype(np.int8)
    a, b = (made(backbones, 'dualcoop', epochs=4, batch=4) for _ in range(2))
    log = fit(a, store, torch.as_tensor(labels), valid=(store, labels))
    fit(b, store, torch.as_tensor(labels))
    assert len(log) == 4
    for p, q in zip(a.parameters(), b.parameters()): assert torch.equal(p, q)


@pytest.mark.parametrize('name, mean', [('RN50', .48145466), ('RN101', .48145466), ('resnet50', .485), ('resnet101', .485)])
def test_resolution_and_normalisation(name, mean):
    clip = clips.load(name, None)
    assert clip.image_size == 448 and str(mean)[:6] in repr(clip.preprocess(clip.image_size))


@pytest.mark.parametrize('table, own, imagenet', [('1', 'RN101', 'resnet101'), ('2', 'RN50', 'resnet50')])
def test_backbones(table, own, imagenet):
    for m in ROWS.method.unique():
        [run] = runs.grid('coco2014', [m], [.1], [0], backbone=as_published.BACKBONE[table])
        assert run.backbone == (imagenet if m in IMAGENET_METHODS else own)


# ---- an unknown data set, and names

def test_data_of_ones_own():
    own = runs.Run('my/photos', 'scpnet', .1, backbone='RN50')
    assert runs.resolved(own)['keep'] == runs.recipe('scpnet', 'voc2012')['keep'] and 'settings of voc2012' in runs.told('scpnet', 'other')
    assert 'k' not in runs.recipe('role', 'my/photos')                   # nobody published it: from the labels


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('dataset', ['voc2007', 'voc2012', 'coco2014', 'vg200', 'nuswide', 'cub200', 'doodles', 'other'])
def test_every_recipe_can_be_told(name, dataset):
    head, *said = runs.told(name, dataset).splitlines()
    assert head.startswith('# ') and all(' = ' in s and 'source: ' in s for s in said)


def test_names_that_there_are_not():
    with pytest.raises(ValueError, match="unknown data set 'cocoo': use one of voc2007"): runs.told('scpnet', 'cocoo')
    with pytest.raises(ValueError, match="unknown method 'scpne'"): runs.told('scpne', 'coco')
