"""What is kept and was damaged, or no longer belongs to photos, labels or code: never used in silence, named, and made again."""
import io
import json
import os
import random
import re
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_runs import draw_world, run

from trmml import TRMML, clip as clips
from trmml import runs
from trmml.doodles import compose, draw
from trmml.features import FeatureStore, TensorStore, extract, extraction, images_digest, journal
from trmml.files import Damaged, read_sealed, sealed
from trmml.methods import METHODS, TITLES, create, dualcoop, register
from trmml.runs import forget, perform, perform_all, results, stored, trained
from trmml.train import fit, learner, load_checkpoint, optimizer, save_checkpoint

CASES = Path(__file__).parents[1].parent/'shared'/'cases'/'damaged'
QUICK = dict(image_size=64, batch=4, block=4, workers=0)


def flips(data, n, seed=0):
    "Copies with one bit flipped, at random places."
    rng = random.Random(seed)
    for _ in range(n):
        bad, bit = bytearray(data), rng.randrange(8*len(data))
        bad[bit//8] ^= 1 << bit % 8
        yield f'bit {bit}', bytes(bad)


def damages(data, n=25, seed=0):
    "Name and bytes: flips, and a file that was cut, emptied, zeroed, or is something else."
    yield from flips(data, n, seed)
    for name, bad in dict(cut=data[:len(data)//2], short=data[:-1], longer=data + b'\n0', empty=b'', zeros=bytes(len(data)), garbage=random.Random(seed).randbytes(len(data)),
                          zip=b'PK\3\4' + bytes(100), pickle=b'\x80\4N.', number=b'5\n', rows=b'[]\n', deep=b'['*100_000, none=b'{}\n', utf=b'\xff\xfe{}').items():
        yield name, bad


@contextmanager
def told():
    "The texts of what is warned of inside, as a new process would say it."
    extraction.CHECKED.clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        texts = []
        yield texts
        texts += [str(w.message) for w in said]


def replace_bytes(path):
    "Another picture of the same length under the same name, with the clock turned back."
    s, other = os.stat(path), io.BytesIO()
    with Image.open(path) as img: Image.new('RGB', img.size, 'olive').save(other, img.format)
    Path(path).write_bytes(other.getvalue().ljust(s.st_size, b'\0')); os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns))
    assert os.path.getsize(path) == s.st_size


# ---- features

@pytest.fixture(scope='module')
def clip(): return clips.load('doodle-clip', image_size=64)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for i in range(10): draw(compose(i), 64)[0].save(folder/f'{i:02}.bmp')
    return SimpleNamespace(paths=sorted(map(str, folder.iterdir())))


@pytest.fixture(scope='module')
def kept(clip, photos, tmp_path_factory):
    root = tmp_path_factory.mktemp('features')
    return root, extract(clip, photos, root, **QUICK)


def contents(folder): return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize('name', ['dense.npy', 'pooled.npy', 'meta.json', 'done', 'journal.jsonl'])
def test_damaged_features_are_named_and_made_again(clip, photos, kept, name):
    root, store = kept
    file, whole = store.folder/name, contents(store.folder)
    dense, pooled, meta = store.dense(slice(None)).clone(), store.pooled(slice(None)).clone(), store.meta
    for kind, bad in damages(whole[name]):
        file.write_bytes(bad)
        with told() as texts:
            try: FeatureStore(store.folder); refused = False
            except Damaged as error: refused = str(store.folder) in str(error)
            again = extract(clip, photos, root, **QUICK)
        assert torch.equal(again.dense(slice(None)), dense) and torch.equal(again.pooled(slice(None)), pooled), kind
        assert (again.meta, again.unreadable, again.digest) == (meta, {}, store.digest), kind
        assert refused == (len(texts) == 1), (kind, texts)
        assert not texts or str(store.folder) in texts[0] and 'damaged' in texts[0], kind
        assert refused or kind.startswith('bit') or kind == 'longer' or bad.startswith(whole[name]), kind   # a bit of padding
        for n in ('dense.npy', 'pooled.npy'):
            if n != name or refused: assert (store.folder/n).read_bytes()[128:len(whole[n])] == whole[n][128:], kind
        for n, data in whole.items(): (store.folder/n).write_bytes(data)


def test_a_damaged_block_alone_is_done_again(clip, photos, kept, tmp_path):
    class Counts:
        n = 0
        def __getattr__(self, k): return getattr(clip, k)
        def features(self, images): Counts.n += len(images) > 1; return clip.features(images)
    root = tmp_path/'f'; store = extract(Counts(), photos, root, **QUICK); whole = contents(store.folder)
    assert Counts.n == 3
    bad = bytearray(whole['dense.npy']); bad[-1] ^= 1; (store.folder/'dense.npy').write_bytes(bad)
    with told() as texts: extract(Counts(), photos, root, **QUICK)
    assert Counts.n == 4 and 'images 8 to 9 are not those that were written' in texts[0]
    lines = whole['journal.jsonl'].splitlines(True); lines[1] = lines[1].replace(b'4', b'6', 1)
    (store.folder/'journal.jsonl').write_bytes(b''.join(lines))
    with told() as texts: extract(Counts(), photos, root, **QUICK)
    assert Counts.n == 5 and 'images 4 to 7 ' in texts[0]
    assert (store.folder/'dense.npy').read_bytes() == whole['dense.npy']


def test_damage_is_looked_for_once_a_process(clip, photos, kept, monkeypatch):
    root, store = kept
    looked = []; monkeypatch.setattr(journal, 'intact', lambda a, e: looked.append(e) or True)
    with told(): [extract(clip, photos, root, **QUICK) for _ in range(3)]
    assert len(looked) == 3   # blocks
    (store.folder/'journal.jsonl').touch()
    extract(clip, photos, root, **QUICK)
    assert len(looked) == 6   # written to since


def test_features_of_an_older_version_stay_of_use(clip, photos, tmp_path):
    "Files without checksums of their own: the blocks are vouched for, nothing is computed again."
    store = extract(clip, photos, tmp_path, **QUICK); whole = contents(store.folder)
    for name in ('meta.json', 'done'):
        said = read_sealed(store.folder/name); said.pop('images', None); (store.folder/name).write_text(json.dumps(said))
    lines = [json.loads(l) for l in whole['journal.jsonl'].splitlines()]
    (store.folder/'journal.jsonl').write_text(''.join(json.dumps({k: v for k, v in l.items() if k != 'checksum'}) + '\n' for l in lines))
    class Never:
        def __getattr__(self, k): return getattr(clip, k)
        def features(self, images): assert len(images) == 1; return clip.features(images)   # asked for the shape
    with told(): extract(Never(), photos, tmp_path, **QUICK)
    assert {k: v for k, v in contents(store.folder).items() if k != 'journal.jsonl'} == {k: v for k, v in whole.items() if k != 'journal.jsonl'}


@pytest.fixture
def mine(photos, tmp_path):
    "Photos that a test may change."
    (tmp_path/'own').mkdir()
    return SimpleNamespace(paths=[shutil.copy(p, tmp_path/'own') for p in photos.paths])


def test_a_photo_replaced_behind_the_clocks_back_is_seen(clip, mine, tmp_path):
    before = extract(clip, mine, tmp_path/'f', **QUICK); old = before.pooled(slice(None)).clone()
    replace_bytes(mine.paths[3])
    with told() as texts: after = extract(clip, mine, tmp_path/'f', **QUICK)
    assert after.key == before.key and after.digest != before.digest and 'photos were replaced' in texts[0] and len(texts) == 1
    assert torch.equal(after.pooled(slice(None)), extract(clip, mine, tmp_path/'g', **QUICK).pooled(slice(None))) and not torch.equal(after.pooled(slice(None)), old)


def test_an_extraction_does_not_go_on_with_other_photos(clip, mine, tmp_path, monkeypatch):
    calls = []
    class Stops:
        def __getattr__(self, k): return getattr(clip, k)
        def features(self, images):
            if len(images) > 1: calls.append(1)
            if len(calls) > 2: raise RuntimeError('stopped')
            return clip.features(images)
    with pytest.raises(RuntimeError, match='stopped'): extract(Stops(), mine, tmp_path/'f', **QUICK)
    replace_bytes(mine.paths[0])
    with told() as texts: after = extract(clip, mine, tmp_path/'f', **QUICK)
    assert torch.equal(after.pooled(slice(None)), extract(clip, mine, tmp_path/'g', **QUICK).pooled(slice(None))) and 'photos were replaced' in texts[0]


def test_touched_photos_are_the_same(clip, mine, tmp_path):
    "What changes is where a file lies on the disk; its bytes decide."
    before = extract(clip, mine, tmp_path/'f', **QUICK); whole = contents(before.folder)
    s = os.stat(mine.paths[2]); shutil.copy(mine.paths[2], tmp_path/'x'); os.replace(tmp_path/'x', mine.paths[2]); os.utime(mine.paths[2], ns=(s.st_atime_ns, s.st_mtime_ns))
    with told() as texts: extract(clip, mine, tmp_path/'f', **QUICK)
    assert not texts and contents(before.folder) == whole


def test_verify_reads_the_photos_whatever_is_remembered(clip, mine, tmp_path):
    before = extract(clip, mine, tmp_path/'f', **QUICK); was = before.meta['images']
    replace_bytes(mine.paths[3])
    images_digest(mine.paths, tmp_path/'other')                                   # the name of what would be remembered
    (tmp_path/'f'/next((tmp_path/'other').iterdir()).name).write_text(sealed(dict(images=was)))
    with told() as texts: assert extract(clip, mine, tmp_path/'f', **QUICK).meta['images'] == was
    assert not texts
    with told() as texts: assert extract(clip, mine, tmp_path/'f', verify=True, **QUICK).meta['images'] != was
    assert 'photos were replaced' in texts[0]


def test_what_is_remembered_of_photos_may_be_damaged(mine, tmp_path):
    digest = images_digest(mine.paths, tmp_path/'m'); [note] = (tmp_path/'m').iterdir(); whole = note.read_bytes()
    for kind, bad in damages(whole):
        note.write_bytes(bad)
        with told() as texts: assert images_digest(mine.paths, tmp_path/'m') == digest, kind
        assert note.read_bytes() == whole or not texts and kind.startswith('bit') or kind == 'longer', kind
        assert not texts or str(note) in texts[0]


def test_features_that_are_not_finite_name_their_image(clip, photos, tmp_path):
    class Broken:
        def __getattr__(self, k): return getattr(clip, k)
        def features(self, images):
            f = clip.features(images)
            if len(images) == 2: f.dense[1, 0, 0, 0] = float('nan')
            return f
    with pytest.raises(ValueError, match=f'{re.escape(photos.paths[9])}: dense features are not finite'): extract(Broken(), photos, tmp_path, **QUICK)


# ---- checkpoints

def toy(seed=0, n=24):
    g = torch.Generator().manual_seed(seed)
    return TensorStore(torch.randn(n, 128, 2, 2, generator=g), torch.randn(n, 128, generator=g), [f'/photos/{i:02}.jpg' for i in range(n)])


LABELS = torch.randint(-1, 2, (24, 3), generator=torch.Generator().manual_seed(1)).numpy()
def method(clip, **how): return create('trmml', clip, ['cat', 'dog', 'bus'], **{**dict(epochs=3, batch=8), **how})
def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_damaged_checkpoints_are_named(clip, tmp_path):
    m, path = method(clip), tmp_path/'a.ckpt'; fit(m, toy(), LABELS, checkpoint=path, every=1)
    for kind, bad in damages(path.read_bytes(), 60):
        (tmp_path/'b.ckpt').write_bytes(bad); other = method(clip, seed=7); before = {k: v.clone() for k, v in other.state_dict().items()}
        with pytest.raises(Damaged, match=r'b\.ckpt: is damaged'): load_checkpoint(tmp_path/'b.ckpt', other, optimizer(other))
        assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items()), kind


@pytest.mark.parametrize('kind', ['bit', 'cut', 'empty', 'zeros', 'zip'])
def test_a_training_with_a_damaged_checkpoint_begins_anew(clip, tmp_path, kind):
    whole, path = method(clip), tmp_path/'a.ckpt'; log = fit(whole, toy(), LABELS, checkpoint=path)
    bad = next(b for k, b in damages(path.read_bytes()) if k.startswith(kind)); path.write_bytes(bad)
    with told() as texts: again = method(clip); assert fit(again, toy(), LABELS, checkpoint=path) == log
    assert same(whole, again) and len([t for t in texts if str(path) in t]) == 1 and 'a.ckpt.damaged, and made again' in texts[0]
    assert (tmp_path/'a.ckpt.damaged').read_bytes() == bad
    with told() as texts: assert fit(method(clip), toy(), LABELS, checkpoint=path) == log                 # a good one again
    assert not texts


@pytest.mark.parametrize('what', ['photos', 'code'])
def test_a_training_of_other_photos_or_code_begins_anew_and_says_so(clip, tmp_path, what):
    class Own(dualcoop.DualCoOp):
        def after_step(self): self.told = 1
    class Edited(dualcoop.DualCoOp):
        def after_step(self): self.told = 2
    Edited.__name__ = 'Own'
    make = lambda cls=Own: cls(clip, ['cat', 'dog', 'bus'], epochs=2, batch=8)
    path = tmp_path/'a.ckpt'; fit(make(), toy(), LABELS, checkpoint=path)
    changed = (make(), toy(9)) if what == 'photos' else (make(Edited), toy())
    with told() as texts: fit(*changed, LABELS, checkpoint=path)
    assert len(texts) == 1 and f"a.ckpt: the {dict(photos='photos', code='method')[what]}" in texts[0] and 'changed since' in texts[0] and (tmp_path/'a.ckpt.old').exists()
    clean = make(type(changed[0])); fit(clean, changed[1], LABELS)
    assert same(changed[0], clean)


# ---- losses that are not finite

def test_a_loss_that_is_not_finite_stops_with_the_images_named(clip, tmp_path):
    path, store = tmp_path/'a.ckpt', toy()
    class Spoils(TensorStore):
        def plan(self, seed, epoch, batches=()):
            if epoch == 1: self.dense[7, 3, 0, 0] = float('inf')
    with pytest.raises(ValueError, match=r'step \d of 9: the loss is not finite for /photos/07\.jpg; their features are not finite'):
        fit(method(clip), Spoils(store.dense.clone(), store.pooled, store.paths), LABELS, checkpoint=path, every=1)
    m = method(clip); assert len(load_checkpoint(path, m, optimizer(m))) == 1      # the epoch before
    again, whole = method(clip), method(clip); fit(again, store, LABELS, checkpoint=path, every=1); fit(whole, store, LABELS)
    assert same(again, whole)


@pytest.mark.parametrize('epochs', [1, 3])
def test_weights_that_are_not_finite_stop_as_well(clip, tmp_path, epochs):
    n = 8 if epochs == 1 else 24                                                    # one step: its loss is that before it
    store = toy().subset(range(n)); run_away = method(clip, lr=float('inf') if epochs == 1 else 1e30, epochs=epochs, schedule='constant')
    with pytest.raises(ValueError, match=r'the loss is not finite for /photos/\d\d\.jpg, .* and |lower the learning rate'): fit(run_away, store, LABELS[:n], checkpoint=tmp_path/'a.ckpt')
    assert not (tmp_path/'a.ckpt').exists()


# ---- runs

@pytest.fixture(scope='module')
def drawn(tmp_path_factory): return draw_world(tmp_path_factory.mktemp('drawn')/'world')


@pytest.fixture
def world(drawn, tmp_path): forget(); yield Path(shutil.copytree(drawn, tmp_path/'world')); forget()


def again(r, tmp_path, out='out'): return perform_all([r], tmp_path, tmp_path/out, n_jobs=1, progress=False)[0]


def test_damaged_results_count_as_not_there(world, tmp_path):
    r, out = run(world, 'dualcoop'), tmp_path/'out'; other = run(world, 'zeroshot')
    first, second = perform_all([r, other], tmp_path, out, n_jobs=1, progress=False)
    path = runs.fresh_file(r, out, tmp_path); whole = path.read_bytes(); found = 0
    for kind, bad in damages(whole, 60):
        path.write_bytes(bad)
        for check in (True, False):
            with told() as texts: result = stored(r, out, tmp_path, check=check)
            assert result in (None, first) and bool(texts) == (result is None and path.with_name(f'{path.name}.damaged').exists() and not path.exists() and check) or not check, kind
            if check: found += result is None; assert not texts or str(path) in texts[0]
        assert result is not None or not path.exists(), kind
        path.write_bytes(whole)
    assert found >= 70
    assert stored(other, out, tmp_path) == second


def test_a_table_goes_on_with_a_damaged_result(world, tmp_path):
    grid, out = [run(world, 'dualcoop', seed=s) for s in range(2)], tmp_path/'out'
    first = perform_all(grid, tmp_path, out, n_jobs=1, progress=False)
    path = runs.fresh_file(grid[1], out, tmp_path); path.write_bytes(path.read_bytes()[:50])
    with told() as texts: after = perform_all(grid, tmp_path, out, n_jobs=1, progress=False)
    assert [r['mAP'] for r in after] == [r['mAP'] for r in first] and after[0] == first[0] and len(texts) == 1 and str(path) in texts[0]
    with told() as texts: assert perform_all(grid, tmp_path, out, n_jobs=1, progress=False) == after
    assert not texts


def test_damaged_weights_are_made_again(world, tmp_path):
    r, out = run(world, 'dualcoop'), tmp_path/'out'; first = perform(r, tmp_path, out)
    path = runs.fresh_file(r, out, tmp_path); file = runs.weights_file(path); whole = file.read_bytes()
    for kind, bad in damages(whole, 40):
        file.write_bytes(bad)
        with told() as texts: assert results.read_weights(path, first) is None and not file.exists(), kind
        assert len(texts) == 1 and str(file) in texts[0]
    file.write_bytes(next(flips(whole, 1))[1])
    with told() as texts: state = trained(r, out, tmp_path).state_dict()
    assert str(file) in texts[0] and file.read_bytes() == whole
    good = load_file(file); assert all(torch.equal(v, state[k]) for k, v in good.items())


def test_what_a_run_left_before_there_were_checksums(world, tmp_path):
    r, out = run(world, 'zeroshot'), tmp_path/'out'; first = again(r, tmp_path)
    path = runs.fresh_file(r, out, tmp_path); said = json.loads(path.read_text()); del said['checksum']; path.write_text(json.dumps(said))
    with told() as texts: assert again(r, tmp_path)['mAP'] == first['mAP']
    assert 'not of this version' in texts[0]


class Stopped(Exception): pass


def stopped(r, tmp_path, monkeypatch):
    "A run that ends in its last epoch, after the checkpoint of the fifth."
    real = learner.train_epoch
    def train_epoch(method, opt, store, labels, epoch, *rest):
        if epoch == 6: raise Stopped
        return real(method, opt, store, labels, epoch, *rest)
    with monkeypatch.context() as m, pytest.raises(Stopped):
        m.setattr(learner, 'train_epoch', train_epoch); perform(r, tmp_path, tmp_path/'out')
    [path] = (tmp_path/'out').rglob('*.ckpt')
    return path


@pytest.mark.parametrize('kind', ['bit', 'empty', 'garbage'])
def test_a_run_with_a_damaged_checkpoint(world, tmp_path, monkeypatch, kind):
    r = run(world, 'dualcoop', epochs=7, batch=8); path = stopped(r, tmp_path, monkeypatch)
    path.write_bytes(next(b for k, b in damages(path.read_bytes()) if k.startswith(kind)))
    with told() as texts: result = again(r, tmp_path)
    assert len(texts) == 1 and str(path) in texts[0] and 'damaged' in texts[0]
    assert result['log'] == again(r, tmp_path, 'fresh')['log'] and not list((tmp_path/'out').rglob('*.ckpt*'))


@pytest.mark.parametrize('what', ['photo', 'label', 'code'])
def test_a_run_stopped_before_a_change_begins_anew_and_says_so(world, tmp_path, monkeypatch, what):
    class Own(dualcoop.DualCoOp): pass
    if what == 'code': register('own', Own)
    try:
        r = run(world, 'own' if what == 'code' else 'dualcoop', epochs=7, batch=8); path = stopped(r, tmp_path, monkeypatch)
        if what == 'photo': replace_bytes(world/'train'/'03.png')
        if what == 'label':
            file = world/'annotations'/'instances_train.json'; d = json.loads(file.read_text()); d['annotations'] = d['annotations'][:-4]; file.write_text(json.dumps(d))
        if what == 'code': register('own', type('Own', (dualcoop.DualCoOp,), dict(after_step=lambda self: None)))
        forget()
        with told() as texts: result = again(r, tmp_path)
        assert any(str(path) in t and 'begins anew' in t for t in texts), texts
        assert len(result['log']) == 7 and result['log'] == again(r, tmp_path, 'fresh')['log'] and not list((tmp_path/'out').rglob('*.ckpt*'))
    finally: METHODS.pop('own', None); TITLES.pop('own', None)


def test_results_of_other_photos_are_not_shown(world, tmp_path):
    r = run(world, 'dualcoop', held_out=.25); first = again(r, tmp_path)
    for p in sorted((world/'train').glob('*.png')): replace_bytes(p)
    forget()
    with told(): second = again(r, tmp_path)
    assert second['images'] != first['images'] and second['log'] == again(r, tmp_path, 'fresh')['log'] != first['log']


def test_verify_reaches_runs(world, tmp_path):
    r, out = run(world, 'zeroshot'), tmp_path/'out'; first = again(r, tmp_path); train = sorted(map(str, (world/'train').glob('*.png')))
    was = first['images']['train']; replace_bytes(train[0])
    images_digest(train, tmp_path/'other'); (tmp_path/'features'/next((tmp_path/'other').iterdir()).name).write_text(sealed(dict(images=was)))
    forget(); assert again(r, tmp_path) == first
    with told(): assert perform_all([r], tmp_path, out, n_jobs=1, progress=False, verify=True)[0]['images']['train'] != was


# ---- what others found

@pytest.mark.skipif(not CASES.exists(), reason='needs shared/cases/damaged')
def test_the_damaged_files_that_were_found(clip, photos, world, tmp_path):
    root = tmp_path/'f'; store = extract(clip, photos, root, **QUICK); dense = store.dense(slice(None)).clone()
    for f in sorted((CASES/'features').iterdir()):
        name = f.name.split('-')[0]; shutil.copy(f, store.folder/dict(journal='journal.jsonl').get(name, name))
        with told() as texts: assert torch.equal(extract(clip, photos, root, **QUICK).dense(slice(None)), dense), f.name
        assert str(store.folder) in texts[0]
    for f in sorted((CASES/'checkpoint').iterdir()):
        m = method(clip)
        with pytest.raises(Damaged, match=re.escape(str(f))): load_checkpoint(f, m, optimizer(m))
    r, out = run(world, 'zeroshot'), tmp_path/'out'; first = again(r, tmp_path); path = runs.fresh_file(r, out, tmp_path)
    for f in sorted((CASES/'run').iterdir()):
        shutil.copy(f, path)
        with told() as texts: assert again(r, tmp_path)['mAP'] == first['mAP'], f.name
        assert str(path) in texts[0]


# ---- on the disk before it has its name

def test_all_that_is_renamed_was_flushed(world, tmp_path, monkeypatch):
    flushed, named, fsync, replace = set(), [], os.fsync, os.replace
    def sync(fd): flushed.add(os.fstat(fd).st_ino); fsync(fd)
    def rename(a, b): named.append((Path(b).name, os.stat(a).st_ino)); replace(a, b)
    monkeypatch.setattr(os, 'fsync', sync); monkeypatch.setattr(os, 'replace', rename)
    perform(run(world, 'dualcoop'), tmp_path, tmp_path/'out')
    fit(method(clips.load('doodle-clip', image_size=64)), toy(), LABELS, checkpoint=tmp_path/'a.ckpt')
    assert {Path(n).suffix for n, _ in named} >= {'.json', '.safetensors', '.ckpt', '.images'} and 'done' in [n for n, _ in named]
    assert all(number in flushed for _, number in named)


# ---- the estimator

@pytest.fixture
def few(mine, tmp_path, monkeypatch):
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'f'))
    table = pd.DataFrame({'cat': [1, 0]*5, 'dog': [0, 1, None, 1, 0]*2}, index=[Path(p).name for p in mine.paths])
    return lambda **how: TRMML(backbone='doodle-clip', image_size=64, epochs=2, held_out=0, workers=0, progress=False).fit(Path(mine.paths[0]).parent, table, **how)


def test_a_fit_sees_replaced_photos(few, mine, tmp_path, monkeypatch):
    first = few(); [ckpt] = first.checkpoints_
    for p in mine.paths: replace_bytes(p)
    with told() as texts: second = few()
    assert [w for w in ('photos were replaced', f'{ckpt}: the photos changed') if not any(w in t for t in texts)] == []
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'g'))
    assert same(second.method_, few().method_) and not same(second.method_, first.method_)


def test_a_fit_with_a_damaged_checkpoint(few):
    first = few(); [ckpt] = first.checkpoints_; ckpt.write_bytes(ckpt.read_bytes()[:4000])
    with told() as texts: assert same(few().method_, first.method_)
    [text] = [t for t in texts if str(ckpt) in t]; assert 'made again' in text


def test_verify_reaches_the_estimator(few, mine, tmp_path):
    few(); [store] = [p for p in (tmp_path/'f').iterdir() if (p/'done').exists()]; was = read_sealed(store/'meta.json')['images']
    for p in mine.paths: replace_bytes(p)
    images_digest(mine.paths, tmp_path/'other'); (tmp_path/'f'/next((tmp_path/'other').iterdir()).name).write_text(sealed(dict(images=was)))
    with told() as texts: few()
    assert not any('replaced' in t for t in texts)
    with told() as texts: few(verify=True)
    assert any('photos were replaced' in t for t in texts)


# ---- drawings

@pytest.mark.filterwarnings('ignore:.*is damaged')
@pytest.mark.parametrize('spoil', ['one bit', 'cut', 'empty', 'garbage'])
def test_annotations_of_drawings(tmp_path, spoil):
    "Named, set aside, and made again: the same bytes."
    from trmml.doodles import ensure
    folder = ensure(tmp_path, 'train', 6, 4, progress=False, n_jobs=1)
    path = folder/'annotations'/'instances_train.json'
    good = path.read_bytes()
    at = good.index(b'category_id":') + len(b'category_id":')
    bad = {'one bit': good[:at] + bytes([good[at] ^ 1]) + good[at + 1:], 'cut': good[:len(good)//2], 'empty': b'', 'garbage': bytes(range(256))}[spoil]
    path.write_bytes(bad)
    with pytest.warns(UserWarning, match='instances_train.json: is damaged'): ensure(tmp_path, 'train', 6, 4, progress=False, n_jobs=1)
    assert path.read_bytes() == good and path.with_name('instances_train.json.damaged').read_bytes() == bad
