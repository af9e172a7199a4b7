"""What a notebook cell cannot show of trmml.features.views: workers, whole runs on cached and live views, kill -9 in a live run."""
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from test_runs import draw_world, names, part, run, strict
from trmml import clip as clips
from trmml.features import views
from trmml.features import FeatureStore, Rows, extract, seeded
from trmml.train import epoch_rows
from trmml import runs
from trmml.runs import Run, forget, perform, stored, trained
from trmml.features.augment import OPS, Augment, alter, cutout, magnitude, read_policies
from trmml.features.views import Live, Views, open_views

MP = multiprocessing.get_context('forkserver')   # forks of a process that has imported everything and nothing else
MP.set_forkserver_preload(['trmml.runs', 'trmml.features.views', 'trmml.model'])
SIZE = 64


@pytest.fixture(scope='module')
def drawn(tmp_path_factory): return draw_world(tmp_path_factory.mktemp('drawn')/'world')


@pytest.fixture
def world(drawn, tmp_path): return Path(shutil.copytree(drawn, tmp_path/'world'))


@pytest.fixture(scope='module')
def ds(drawn): return SimpleNamespace(paths=sorted(str(p) for p in (drawn/'train').glob('*.png')))


@pytest.fixture(scope='module')
def clip(): return clips.load('doodle-clip', weights=None, image_size=SIZE)


@pytest.fixture(autouse=True)
def new_process():
    forget(); yield; forget()


# ---- the augmentation

def test_the_published_table():
    "117 pairs: 25 of ImageNet's, 92 of CIFAR-10's 95; which operations, how often."
    pairs = read_policies()
    assert len(pairs) == 117 and pairs[10] == (('Ro', 8, .8), ('Co', 0, .4)) and pairs[25] == (('In', 7, .1), ('Ct', 6, .2))
    count = Counter(op for pair in pairs for op, _, _ in pair)
    assert set(count) == set(OPS) and sum(count.values()) == 234 and count.most_common(1)[0][0] == 'Eq'


@pytest.mark.parametrize('op, level, side, want', [
    ('Sx', 9, 100, .3), ('Ty', 9, 331, 150), ('Tx', 3, 331, 50), ('Ro', 3, 1, 10), ('Co', 5, 1, .5), ('Po', 0, 1, 8), ('Po', 9, 1, 4),
    ('Po', 5, 1, 6), ('So', 0, 1, 256), ('So', 9, 1, 0)])
def test_magnitudes(op, level, side, want): assert magnitude(op, level, side) == pytest.approx(want)


def gradient(n=90):
    "A picture whose pixels say where they are."
    x, y = np.meshgrid(np.arange(n), np.arange(n))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 255)], -1).astype(np.uint8))


@pytest.mark.parametrize('op, axis', [('Tx', 1), ('Ty', 0)])
def test_shifts_go_both_ways_by_so_many_pixels(op, axis):
    before, by = np.asarray(gradient()).astype(int), round(magnitude(op, 5, 90))
    seen = set()
    for i in range(20):
        with seeded(i): after = np.asarray(alter(gradient(), op, 5)).astype(int)
        for sign in (1, -1):
            moved = np.roll(before, sign*by, axis)
            inside = np.s_[30:-30, 30:-30]
            if abs(after[inside] - moved[inside]).max() <= 1: seen.add(sign)
    assert seen == {1, -1}


def test_rotation_turns_one_way_only():
    results = set()
    for i in range(10):
        with seeded(i): results.add(alter(gradient(), 'Ro', 9).tobytes())
    assert len(results) == 1 and results == {gradient().rotate(30, fillcolor=(128, 128, 128)).tobytes()}


def test_coins_are_fair():
    "Crop or cutout, reflected or not: each in about half of 400 pictures; policies as often as their number says."
    calls = Counter()
    class Counting(Augment):
        def __init__(self, size):
            super().__init__(size)
            inner = self.crop
            self.crop = lambda img: calls.update(crop=1) or inner(img)
            self.pairs = [(('Ro', 0, 1.), ('Ro', 0, 0.))]        # nothing changes but by crop, cutout and reflection
    aug, img = Counting(SIZE), gradient()
    for i in range(400):
        with seeded(i): out = np.asarray(aug(img)).astype(int)
        calls.update(mirror=int(np.median(np.diff(out[:, :, 0], axis=1)) < 0))
    assert 160 < calls['crop'] < 240 and 160 < calls['mirror'] < 240, calls


def test_cutout_leaves_its_argument_alone():
    img = gradient(); before = img.tobytes()
    with seeded(0): out = cutout(img)
    assert img.tobytes() == before != out.tobytes()


# ---- stores

def test_live_is_the_encoder_on_the_augmented_picture(clip, ds):
    live, rows = Live(clip, ds.paths, Augment(SIZE), workers=0, at_once=3), epoch_rows(16, 5, 4, 2)
    live.plan(4, 2, rows)
    for r in rows:
        got, x = live.batch(r, 'cpu'), []
        for i in r.tolist():
            with seeded(4, 'epoch 2', i): x.append(clip.preprocess()(Augment(SIZE)(Image.open(ds.paths[i]).convert('RGB'))))
        want = clip.features(torch.stack(x))
        for a, b in zip(got, want): assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_workers_change_nothing(clip, ds):
    state = torch.get_rng_state(), random.getstate()
    seen = []
    for workers in (0, 2):
        live = Live(clip, ds.paths, Augment(SIZE), workers=workers); live.plan(0, 1, epoch_rows(16, 6, 0, 1))
        seen.append(torch.cat([live.batch(r).dense for r in epoch_rows(16, 6, 0, 1)]))
    assert torch.equal(*seen) and torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]


def test_a_batch_that_was_not_announced(clip, ds):
    live, rows = Live(clip, ds.paths, Augment(SIZE), workers=0), epoch_rows(16, 4, 0, 0)
    live.plan(0, 0, rows)
    late = live.batch(rows[1])                                   # out of turn
    first, second = live.batch(rows[0]), live.batch(rows[1])
    assert torch.equal(late.dense, second.dense) and not torch.equal(first.dense, second.dense)


def test_an_unreadable_image_is_named(clip, ds):
    live = Live(clip, [*ds.paths[:3], '/nowhere/gone.png'], Augment(SIZE), workers=0)
    with pytest.raises(ValueError, match='(?s)1 of 4 images cannot be read.*gone.png.*Repair them or drop them'): live.batch([0, 3])
    assert live.batch([0, 2]).pooled.shape == (2, clip.d)


def test_rows_of_a_store_are_planned_as_rows_of_the_whole(clip, ds):
    live = Live(clip, ds.paths, Augment(SIZE), workers=0)
    part = Rows(live, [3, 8, 9])
    part.plan(0, 5, torch.arange(3).split(2))
    assert list(live.coming) == [[3, 8], [9]]
    got = part.batch(torch.tensor([0, 1]))
    assert list(live.coming) == [[9]] and got.dense.shape[0] == 2
    Rows(extract(clip, ds, Path(ds.paths[0]).parents[1]/'f', workers=0), [1, 2]).plan(0, 0, [])   # a store that has no plan


def test_cached_views_are_extractions_like_any_other(clip, ds, tmp_path):
    "Made once; each differs from the plain one and from the others; a second call reads files."
    v = open_views(clip, ds, 3, tmp_path, workers=0)
    assert isinstance(v, Views) and len(list(tmp_path.glob('*/done'))) == 3
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*.npy')}
    more = open_views(clip, ds, 4, tmp_path, workers=0)          # a fourth costs one extraction
    assert [s.key for s in more.stores[:3]] == [s.key for s in v.stores] and len(list(tmp_path.glob('*/done'))) == 4
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    plain = open_views(clip, ds, 0, tmp_path, workers=0)
    assert isinstance(plain, FeatureStore)
    pooled = [s.pooled(slice(None)) for s in (plain, *more.stores)]
    assert all((a - b).abs().amax(1).gt(1e-4).float().mean() > .8 for i, a in enumerate(pooled) for b in pooled[:i])
    held = v.in_memory()
    held.plan(0, 0); v.plan(0, 0)
    assert torch.equal(held.batch([2, 5]).dense, v.batch([2, 5]).dense) and isinstance(held.now.arrays['dense'], torch.Tensor)


@pytest.mark.parametrize('v', [-2, 1.5, True, 'live', None])
def test_other_values(clip, ds, tmp_path, v):
    with pytest.raises(ValueError, match='views=.*0 for the plain view, a number of cached views, or -1'):
        open_views(clip, ds, v, tmp_path)


# ---- runs

@pytest.mark.parametrize('v', [-2, .5])
def test_run_refuses(world, v):
    with pytest.raises(ValueError, match='views='): replace(run(world), views=v)


@pytest.mark.parametrize('held_out', [0., .25])
def test_runs_train_on_views_and_score_plain_features(world, tmp_path, monkeypatch, held_out):
    "Three results, three trained methods; whatever is scored is read from the plain store."
    scored, predict = [], part('results').predict
    monkeypatch.setattr(part('results'), 'predict', lambda method, store, *a: scored.append(store) or predict(method, store, *a))
    weights = {}
    for v in (0, 2, -1):
        r, out = replace(run(world, lr=1e-2, held_out=held_out), views=v), tmp_path/'out'
        perform(r, tmp_path, out)
        weights[v] = trained(r, out, tmp_path).prompts.ctx.detach()
        assert strict(runs.find_result(r, out))['run']['views'] == v and stored(r, out, tmp_path)['run'] == strict(runs.find_result(r, out))['run']
    assert len(names(tmp_path/'out')) == 6
    assert not any(torch.equal(weights[a], weights[b]) for a, b in ((0, 2), (0, -1), (2, -1)))
    plain = [s.store if isinstance(s, Rows) else s for s in scored]
    assert plain and all(isinstance(s, FeatureStore) and s.meta['view'] == 'plain' for s in plain)


def child(r, root, out):
    torch.set_num_threads(1)
    perform(r, root, out)


@pytest.mark.parametrize('v', [3, -1])
def test_a_killed_run_goes_on_with_the_views_it_would_have_seen(world, tmp_path, v):
    r = replace(run(world, 'dualcoop', epochs=12, lr=1e-2), views=v)
    torch.set_num_threads(1)
    whole = perform(r, tmp_path, tmp_path/'whole')
    p = MP.Process(target=child, args=(r, tmp_path, tmp_path/'cut')); p.start()
    while p.is_alive() and not list((tmp_path/'cut').glob('runs/*.ckpt')): time.sleep(.005)
    os.kill(p.pid, signal.SIGKILL); p.join()
    assert p.exitcode == -signal.SIGKILL and names(tmp_path/'cut') and not stored(r, tmp_path/'cut', tmp_path)
    forget()
    again = perform(r, tmp_path, tmp_path/'cut')
    assert again['mAP'] == whole['mAP'] and [l['total'] for l in again['log']] == [l['total'] for l in whole['log']]
