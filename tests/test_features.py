"""What a notebook cell cannot show of trmml.features: kill -9, two processes, full disks, damaged files."""
import errno
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision import transforms as T

from trmml import features
from trmml.features import extraction, journal, reading
from trmml.clip import Features, image_features
from trmml.features import FeatureStore, bytes_needed, describe, extract, key, read_journal

N, SIZE, D, GRID = 26, 64, 16, 2          # 26 = 3 blocks of 8 and one of 2
FAST = dict(batch=4, block=8, workers=0)
MP = multiprocessing.get_context('forkserver')   # forks of a process that has imported everything and nothing else
MP.set_forkserver_preload(['trmml.features', 'open_clip'])


class Normalise:
    "A preprocessing with settings."
    def __init__(self, size, mean=.5): self.size, self.mean = size, mean
    def __repr__(self): return f'Normalise({self.size}, {self.mean})'
    def __call__(self, img): return T.functional.to_tensor(img.resize((self.size, self.size))) - self.mean


class Tower:
    "The part of a CLIP that features need, with a random image tower; counts batches in a file, one byte each."
    name, d, image_size, device, dtype = 'tower', D, SIZE, torch.device('cpu'), torch.float32
    def __init__(self, log=None, pause=0., seed=0, stop=None):
        self.log, self.pause, self.stop, self.weights_hash = log, pause, stop, f'random {seed}'
        torch.manual_seed(seed)
        text = dict(context_length=77, vocab_size=64, width=8, heads=1, layers=1)
        vision = dict(layers=(1, 1, 1, 1), width=8, image_size=SIZE)
        self.visual = open_clip.CLIP(embed_dim=D, vision_cfg=vision, text_cfg=text).visual
        for m in self.visual.modules():
            if isinstance(m, torch.nn.BatchNorm2d): m.momentum = 1.
        with torch.no_grad(): self.visual.train()(torch.rand(8, 3, SIZE, SIZE)*torch.rand(8, 3, 1, 1) - .5)
        self.visual.eval().requires_grad_(False)

    def preprocess(self, image_size=None): return Normalise(image_size or self.image_size)
    def features(self, images):
        assert torch.is_inference_mode_enabled()
        if len(images) > 1:                                         # one: the question for the shape
            time.sleep(self.pause)
            if self.log is not None:
                with open(self.log, 'ab') as f: f.write(b'.')
            if self.stop is not None:
                self.stop -= 1
                if self.stop < 0: raise RuntimeError('stopped')
        return image_features(self.visual, images)


def batches(log): return os.path.getsize(log) if os.path.exists(log) else 0


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('photos'), np.random.RandomState(0)
    for i in range(N):
        pixels = rng.randint(0, 256, (2, 2, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((70, 60), Image.Resampling.BILINEAR).save(folder/f'{i:02}.png')
    return folder


@pytest.fixture(scope='module')
def ds(photos): return SimpleNamespace(paths=[str(photos/f'{i:02}.png') for i in range(N)])


@pytest.fixture(scope='module')
def clip(): return Tower()


@pytest.fixture(scope='module')
def want(clip, ds):
    "Features by the direct way, in batches of four."
    x = torch.stack([clip.preprocess()(Image.open(p).convert('RGB')) for p in ds.paths])
    with torch.inference_mode(): parts = [image_features(clip.visual, b) for b in x.split(4)]
    return Features(*(torch.cat(p) for p in zip(*parts)))


@pytest.fixture(scope='module')
def undisturbed(clip, ds, tmp_path_factory): return extract(clip, ds, tmp_path_factory.mktemp('whole'), **FAST)


@pytest.fixture
def mine(ds, tmp_path):
    "Copies of the photos that a test may spoil."
    folder = shutil.copytree(Path(ds.paths[0]).parent, tmp_path/'mine')
    return SimpleNamespace(paths=sorted(str(p) for p in folder.iterdir()), folder=folder)


def contents(folder): return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def copy_of(store, root):
    "The store under another root, finished."
    shutil.copytree(store.folder, root/store.key)
    return root/store.key


def flip(path, at):
    with open(path, 'r+b') as f:
        f.seek(at); byte = f.read(1); f.seek(at); f.write(bytes([byte[0] ^ 1]))


# ---- the numbers

@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_features_are_those_of_the_direct_way(clip, ds, want, tmp_path, dtype):
    "Bit for bit, up to the rounding of what they are kept as."
    store = extract(clip, ds, tmp_path, dtype=dtype, **FAST)
    got, kept = store.batch(slice(None)), getattr(torch, dtype)
    assert want.dense.std(0).mean() > .05 and want.pooled.std(0).mean() > .05
    for x, y in zip(got, want): assert torch.equal(x, y.to(kept).float())
    assert isinstance(got, Features) and got.dense.dtype == torch.float32
    assert store.nbytes + 2*features.HEADER == bytes_needed(N, (D, GRID, GRID), dtype)
    assert sum(f.stat().st_size for f in store.folder.glob('*.npy')) == bytes_needed(N, (D, GRID, GRID), dtype)


def test_other_batches_are_other_sums_only(clip, ds, want, tmp_path):
    store = extract(clip, ds, tmp_path, dtype='float32', batch=7, block=13, workers=0)
    for x, y in zip(store.batch(slice(None)), want): assert_close(x, y, rtol=0, atol=1e-5*y.abs().max().item())


def test_eight_bits(clip, ds, want, tmp_path):
    store = extract(clip, ds, tmp_path, dtype='int8', **FAST)
    dense, step = store.dense(range(N)), want.dense.abs().amax((-2, -1), keepdim=True)/127
    assert ((dense - want.dense).abs() <= .5001*step).all()
    assert torch.cosine_similarity(dense, want.dense, dim=1).min() > .9995
    assert store.batch([3], dtype=torch.bfloat16).dense.dtype == torch.bfloat16
    assert torch.equal(store.in_memory().dense([3, 1]), store.dense([3, 1]))
    assert bytes_needed(82081, (512, 14, 14), 'int8') < .52*bytes_needed(82081, (512, 14, 14))


def test_extraction_is_deterministic_and_workers_change_nothing(clip, ds, undisturbed, tmp_path):
    again = extract(clip, ds, tmp_path, batch=4, block=8, workers=2)
    assert contents(again.folder) == contents(undisturbed.folder)


def test_rows(undisturbed, want):
    mask = torch.zeros(N, dtype=torch.bool); mask[[2, 25]] = True
    for rows in ([2, -1], np.array([2, 25]), torch.tensor([2, 25]), mask, mask.numpy(), slice(2, 26, 23)):
        assert torch.equal(undisturbed.dense(rows), want.dense[[2, 25]].half().float())
    assert undisturbed.dense([1, 1, 0]).shape == (3, D, GRID, GRID) and undisturbed.pooled([]).shape == (0, D)
    with pytest.raises(IndexError): undisturbed.dense([N])
    assert (len(undisturbed), undisturbed.shape, undisturbed.unreadable) == (N, (N, D, GRID, GRID), {})
    x = undisturbed.dense([0]); x.zero_()                          # what is handed out is the caller's own
    assert torch.equal(undisturbed.dense([0]), want.dense[[0]].half().float())


def test_store_travels_by_name(undisturbed):
    data = pickle.dumps(undisturbed)
    assert len(data) < 1000 + sum(len(p) + 16 for p in undisturbed.paths) and torch.equal(pickle.loads(data).dense([3]), undisturbed.dense([3]))
    held = pickle.loads(pickle.dumps(undisturbed.in_memory()))
    assert isinstance(held.arrays['dense'], torch.Tensor) and torch.equal(held.dense([3]), undisturbed.dense([3]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_to_the_gpu(undisturbed):
    there = undisturbed.batch([1, 2], device='cuda', dtype=torch.bfloat16)
    assert there.dense.is_cuda and torch.equal(there.dense.cpu(), undisturbed.batch([1, 2], dtype=torch.bfloat16).dense)
    held = undisturbed.in_memory(device='cuda')
    assert held.dense([1]).is_cuda and torch.equal(held.dense([1]).cpu(), undisturbed.dense([1]))


# ---- the key

def test_every_input_changes_the_key(ds, mine):
    class Other(Tower):
        def __init__(self, **kw): self.__dict__.update(dict(weights_hash='a'), **kw)
    aug, paths = T.RandomHorizontalFlip(.5), mine.paths
    seen = dict(base=describe(Other(), paths), weights=describe(Other(weights_hash='b'), paths),
                name=describe(Other(name='x'), paths), dtype=describe(Other(dtype=torch.bfloat16), paths),
                default_size=describe(Other(image_size=96), paths), size=describe(Other(), paths, image_size=128),
                kept=describe(Other(), paths, dtype='int8'), order=describe(Other(), paths[::-1]),
                preprocess=describe(Other(preprocess=lambda size: Normalise(size, .4)), paths),
                less=describe(Other(), paths[1:]), twice=describe(Other(), paths + paths[:1]),
                aug0=describe(Other(), paths, view='aug0', augment=aug),
                aug1=describe(Other(), paths, view='aug1', augment=aug),
                augment=describe(Other(), paths, view='aug0', augment=T.RandomHorizontalFlip(.4)),
                seed=describe(Other(), paths, view='aug0', augment=aug, seed=1), elsewhere=describe(Other(), ds.paths))
    assert key(describe(Other(), paths)) == key(seen['base'])
    with open(paths[3], 'ab') as f: f.write(b' ')
    os.utime(paths[3], ns=(0, seen['base']['files'][3][2])); seen['bytes'] = describe(Other(), paths)
    os.utime(paths[4]); seen['time'] = describe(Other(), paths)
    os.remove(paths[5]); seen['gone'] = describe(Other(), paths)
    assert len({key(d) for d in seen.values()}) == len(seen) == 19
    assert json.loads(json.dumps(seen['base'])) == seen['base']


def test_a_changed_photo_is_met_by_new_features(clip, mine, tmp_path):
    old = extract(clip, mine, tmp_path/'f', **FAST)
    Image.new('RGB', (64, 64), 'red').save(mine.paths[2])
    new = extract(clip, mine, tmp_path/'f', **FAST)
    assert old.key != new.key and not torch.equal(old.pooled([2]), new.pooled([2]))
    assert torch.equal(old.pooled([3]), new.pooled([3]))


def test_a_photo_that_changes_meanwhile_is_refused(mine, tmp_path):
    class Meddler(Tower):
        def features(self, images):
            os.utime(mine.paths[9], ns=(0, 7)); return super().features(images)
    with pytest.raises(ValueError, match='1 images changed while they were read, .*09.png'):
        extract(Meddler(), mine, tmp_path/'f', **FAST)
    assert not list(tmp_path.glob('f/*/done'))


def test_root(clip, ds, tmp_path, monkeypatch):
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'env'))
    assert extract(clip, ds, **FAST).folder.parent == tmp_path/'env'
    assert extract(clip, ds, tmp_path/'given', **FAST).folder.parent == tmp_path/'given'
    monkeypatch.delenv('TRMML_FEATURES'); monkeypatch.setenv('HOME', str(tmp_path))
    assert features.features_root() == tmp_path/'.cache'/'trmml'/'features'


# ---- interruptions

def child(paths, root, log, pause, settings):
    torch.set_num_threads(1)
    multiprocessing.set_start_method('fork', force=True)            # workers of the child's own, which notice its death
    extract(Tower(log, pause), SimpleNamespace(paths=paths), root, **settings)


def start(*args):
    p = MP.Process(target=child, args=args); p.start()
    return p


def kill_after(p, log, n, delay=0.):
    "kill -9 when `n` batches have begun, and a little later; whether that was in time."
    while batches(log) < n and p.is_alive(): time.sleep(.001)
    time.sleep(delay)
    os.kill(p.pid, signal.SIGKILL); p.join()
    return p.exitcode == -signal.SIGKILL


def test_kill_nine(clip, ds, tmp_path):
    "Killed five times, each at a random moment; each attempt goes on where the last one got to."
    rng, small = random.Random(0), dict(batch=2, block=2, workers=0)
    whole = extract(clip, ds, tmp_path/'whole', **small)
    folder, kept, kills = tmp_path/'f'/whole.key, [0], 0
    for attempt in range(5):
        log = tmp_path/f'log{attempt}'
        kills += kill_after(start(ds.paths, tmp_path/'f', log, .15, small), log, rng.randint(1, 2), rng.uniform(0, .14))
        kept.append(len(read_journal(folder/'journal.jsonl')))
        assert batches(log) <= kept[-1] - kept[-2] + 1              # at most the last batch was in vain
        assert not (folder/'done').exists()
    assert kills == 5 and kept == sorted(kept) and kept[-1] > 0, kept
    extract(Tower(tmp_path/'last'), ds, tmp_path/'f', **small)
    assert batches(tmp_path/'last') == 13 - kept[-1]                # only what was missing
    assert contents(folder) == contents(whole.folder)


@pytest.mark.parametrize('where', range(5))
def test_killed_at_the_worst_moment(ds, undisturbed, tmp_path, monkeypatch, where):
    "After half a write, before the disk confirms, in the middle of a journal line, before and during `done`."
    def die(): os.kill(os.getpid(), signal.SIGKILL)
    write, line, whole = extraction.write_rows, extraction.append_line, extraction.write_whole
    calls = []
    def half(path, start, rows):
        calls.append(start)
        if len(calls) > 6: write(path, start, rows[:2]); die()
        write(path, start, rows)
    def unconfirmed(path):
        if calls: die()
        calls.append(path)
    def torn(path, entry):
        calls.append(entry)
        if len(calls) == 3:
            with open(path, 'a') as f: f.write(json.dumps(entry)[:25])
            die()
        line(path, entry)
    def marker(path, text):
        if Path(path).name == 'done':
            if where == 4: Path(path).with_name('done.77-ab.tmp').write_text(text[:3])
            die()
        whole(path, text)
    patch = [('write_rows', half), ('to_disk', unconfirmed), ('append_line', torn), *[('write_whole', marker)]*2]
    torch.set_num_threads(1)
    if not (pid := os.fork()):
        setattr(extraction, *patch[where])
        try: extract(Tower(), ds, tmp_path, **FAST)
        finally: os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    folder = tmp_path/undisturbed.key
    assert not (folder/'done').exists()
    with pytest.raises(ValueError, match='no finished features'): FeatureStore(folder)
    extract(Tower(tmp_path/'log'), ds, tmp_path, **FAST)
    assert contents(folder) == contents(undisturbed.folder)
    assert batches(tmp_path/'log') == (5, 7, 3, 0, 0)[where]


def test_two_at_once_share_one_extraction(ds, undisturbed, tmp_path):
    logs = [tmp_path/'a', tmp_path/'b']
    both = [start(ds.paths, tmp_path/'f', log, .05, FAST) for log in logs]
    for p in both: p.join(60)
    assert [p.exitcode for p in both] == [0, 0]
    assert sorted(batches(log) for log in logs) == [0, 7]           # one worked, one waited
    assert contents(tmp_path/'f'/undisturbed.key) == contents(undisturbed.folder)


def test_killed_with_workers(ds, undisturbed, tmp_path):
    "Workers of a killed process hold its lock for some seconds; the next attempt waits for them and goes on."
    assert kill_after(start(ds.paths, tmp_path/'f', tmp_path/'log', .05, dict(FAST, workers=2)), tmp_path/'log', 1)
    extract(Tower(), ds, tmp_path/'f', **FAST)
    assert contents(tmp_path/'f'/undisturbed.key) == contents(undisturbed.folder)


def test_another_block_length_goes_on_with_the_old_one(ds, undisturbed, tmp_path):
    with pytest.raises(RuntimeError, match='stopped'): extract(Tower(stop=5), ds, tmp_path, **FAST)
    store = extract(Tower(tmp_path/'log'), ds, tmp_path, batch=4, block=20, workers=0)
    assert batches(tmp_path/'log') == 3 and contents(store.folder) == contents(undisturbed.folder)


# ---- damage

@pytest.mark.parametrize('name', ['dense', 'pooled'])
def test_a_flipped_byte_is_found_and_its_block_redone(ds, undisturbed, tmp_path, name):
    folder = copy_of(undisturbed, tmp_path)
    flip(folder/f'{name}.npy', features.HEADER + 17*undisturbed.arrays[name][0].nbytes + 3)
    with pytest.warns(UserWarning, match='the features of images 16 to 23 are not those that were written'):
        extract(Tower(tmp_path/'log'), ds, tmp_path, **FAST)
    assert batches(tmp_path/'log') == 2                             # one block of two batches
    for file in ('dense.npy', 'pooled.npy', 'done', 'meta.json'):
        assert (folder/file).read_bytes() == (undisturbed.folder/file).read_bytes()
    extract(Tower(tmp_path/'log'), ds, tmp_path, verify=True, **FAST)
    assert batches(tmp_path/'log') == 2


@pytest.mark.parametrize('spoil', ['cut', 'gone', 'header', 'meta', 'meta lies', 'done', 'journal'])
def test_whatever_is_broken_is_mended(ds, undisturbed, tmp_path, spoil):
    folder = copy_of(undisturbed, tmp_path)
    if spoil == 'cut': os.truncate(folder/'dense.npy', 3000)
    if spoil == 'gone': (folder/'pooled.npy').unlink()
    if spoil == 'header': flip(folder/'dense.npy', 1)
    if spoil == 'meta': os.truncate(folder/'meta.json', 40)
    said = (folder/'meta.json').read_text() if spoil == 'meta lies' else ''
    if said: (folder/'meta.json').write_text(said.replace('"n": 26', '"n": 36'))
    if spoil == 'done': (folder/'done').write_text('')
    if spoil == 'journal': (folder/'journal.jsonl').unlink()
    with pytest.warns(UserWarning, match='damaged, and mended now'): store = extract(Tower(tmp_path/'log'), ds, tmp_path, **FAST)
    for file in ('dense.npy', 'pooled.npy', 'done', 'meta.json'):
        assert (folder/file).read_bytes() == (undisturbed.folder/file).read_bytes(), file
    assert batches(tmp_path/'log') == dict(zip(('meta', 'meta lies', 'done'), (0, 0, 0))).get(spoil, 7)
    assert len(store) == N


# ---- full disks

def test_too_small_a_disk_is_refused_before_anything_is_written(clip, ds, tmp_path, monkeypatch):
    needed = bytes_needed(N, (D, GRID, GRID))
    monkeypatch.setattr(extraction.shutil, 'disk_usage', lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(OSError, match=r'the features need \d+\.\d+ GB, \d+\.\d+ GB are free') as e:
        extract(clip, ds, tmp_path, **FAST)
    assert e.value.errno == errno.ENOSPC and not list(tmp_path.glob('*/*.npy'))
    monkeypatch.setattr(extraction.shutil, 'disk_usage', lambda path: SimpleNamespace(free=needed))
    extract(clip, ds, tmp_path, **FAST)
    monkeypatch.setattr(extraction.shutil, 'disk_usage', lambda path: SimpleNamespace(free=0))
    extract(clip, ds, tmp_path, verify=True, **FAST)                # what is there needs no more room


@pytest.mark.parametrize('step', ['write_rows', 'append_line', 'to_disk'])
def test_a_disk_that_fills_up(ds, undisturbed, tmp_path, monkeypatch, step):
    real, calls = getattr(journal, step), []
    def full(*args):
        calls.append(args)
        if len(calls) > dict(write_rows=6, append_line=2, to_disk=4)[step]: raise OSError(errno.ENOSPC, 'No space left on device')
        return real(*args)
    with monkeypatch.context() as m:
        for module in (extraction, journal): m.setattr(module, step, full)
        with pytest.raises(OSError, match='no space left on the disk; finished blocks are kept') as e:
            extract(Tower(), ds, tmp_path, **FAST)
    assert e.value.errno == errno.ENOSPC and isinstance(e.value.__cause__, OSError)
    folder = tmp_path/undisturbed.key
    kept = len(read_journal(folder/'journal.jsonl'))
    assert kept == dict(write_rows=1, append_line=2, to_disk=1)[step]
    extract(Tower(tmp_path/'log'), ds, tmp_path, **FAST)
    assert batches(tmp_path/'log') == 7 - 2*kept
    assert contents(folder) == contents(undisturbed.folder)


# ---- images that cannot be read

def test_unreadable_images(mine, tmp_path):
    root = tmp_path/'f'
    Path(mine.paths[3]).write_bytes(b'not an image'); os.remove(mine.paths[20]); os.truncate(mine.paths[25], 90)
    for _ in range(2):
        with pytest.raises(ValueError) as e: extract(Tower(), mine, root, **FAST)
        assert str(e.value).startswith('3 of 26 images cannot be read')
        assert all(Path(mine.paths[i]).name in str(e.value) for i in (3, 20, 25)) and 'skip_unreadable' in str(e.value)
    store = extract(Tower(tmp_path/'log'), mine, root, skip_unreadable=True, **FAST)
    assert batches(tmp_path/'log') == 7 and list(store.unreadable) == [3, 20, 25]
    assert store.unreadable[3].startswith(mine.paths[3])
    zero = (store.dense(slice(None)) == 0).all(1).all(1).all(1) & (store.pooled(slice(None)) == 0).all(1)
    assert zero.nonzero()[:, 0].tolist() == [3, 20, 25]
    done = contents(store.folder)
    assert extract(Tower(tmp_path/'log'), mine, root, skip_unreadable=True, **FAST).unreadable == store.unreadable
    with pytest.raises(ValueError, match='3 of 26'): extract(Tower(), mine, root, **FAST)
    assert contents(store.folder) == done and batches(tmp_path/'log') == 7
    shutil.copy(mine.paths[4], mine.paths[3])
    with pytest.raises(ValueError, match='2 of 26'): extract(Tower(), mine, root, **FAST)


def test_an_image_that_was_only_out_of_reach_is_read_later(mine, tmp_path, monkeypatch):
    real = reading.open_image
    def away(path, side=None):
        if path == mine.paths[9]: raise ValueError(f'{path}: the network is down')
        return real(path)
    with monkeypatch.context() as m:
        m.setattr(reading, 'open_image', away)
        assert list(extract(Tower(), mine, tmp_path/'f', skip_unreadable=True, **FAST).unreadable) == [9]
    store = extract(Tower(tmp_path/'log'), mine, tmp_path/'f', **FAST)
    assert store.unreadable == {} and store.pooled([9]).any() and batches(tmp_path/'log') == 2


# ---- views and the bar

def test_views_are_reproducible(clip, ds, tmp_path):
    crop = T.Compose([T.RandomResizedCrop(64), T.RandomHorizontalFlip()])
    state = torch.get_rng_state()
    a = extract(clip, ds, tmp_path/'a', view='aug0', augment=crop, **FAST)
    b = extract(clip, ds, tmp_path/'b', view='aug0', augment=crop, **dict(FAST, workers=2))
    assert contents(a.folder) == contents(b.folder)
    assert torch.equal(torch.get_rng_state(), state)                # the caller's random numbers are left alone
    c = extract(clip, ds, tmp_path/'a', view='aug1', augment=crop, **FAST)
    assert (a.pooled(slice(None)) != c.pooled(slice(None))).any(1).all()


def test_the_bar(clip, ds, tmp_path, capfd):
    extract(clip, ds, tmp_path/'quiet', **FAST)
    out, err = capfd.readouterr()
    assert out == err == ''
    extract(clip, ds, tmp_path/'told', progress=True, **FAST)
    assert '26/26' in (err := capfd.readouterr()[1]) and 'images/s' in err


@pytest.mark.parametrize('kw,says', [
    (dict(batch=0), 'batch 0'), (dict(workers=-1), 'workers -1'), (dict(dtype='float64'), "unknown dtype 'float64'"),
    (dict(view='aug0'), 'every other needs one'), (dict(view='aug0', augment=lambda img: img), 'no stable name')])
def test_what_cannot_work_is_refused_at_once(clip, ds, tmp_path, kw, says):
    with pytest.raises(ValueError, match=says): extract(clip, ds, tmp_path, **dict(FAST, **kw))
    assert not list(tmp_path.iterdir())


def test_numbers_that_do_not_fit_are_refused(ds, tmp_path):
    class Loud(Tower):
        def features(self, images): return Features(*(1e7*t for t in super().features(images)))
    with pytest.raises(ValueError, match='not finite in float16.*use float32 or bfloat16'):
        extract(Loud(), ds, tmp_path, **FAST)
    assert torch.isfinite(extract(Loud(), ds, tmp_path, dtype='bfloat16', **FAST).dense(slice(None))).all()
