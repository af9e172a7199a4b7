"""Runs end to end on two dozen drawn pictures: result files, staleness, kill -9 in the middle, and what can be wrong."""
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import open_clip
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from trmml import clip as clips
from trmml import data, runs
from trmml.methods import METHODS, TITLES, dualcoop, register
from trmml.train import learner
from trmml.train import predict
from trmml.metrics import mean_ap
from trmml.runs import Run, forget, perform, perform_all, replace, stored, trained

CLASSES = ['red square', 'green disc', 'blue bar', 'white ring']
EPOCHS = 30                                      # of a run that is killed; a checkpoint every 5
MP = multiprocessing.get_context('forkserver')   # forks of a process that has imported everything and nothing else
MP.set_forkserver_preload(['trmml.runs', 'trmml.features', 'trmml.model'])


def put(draw, c, x, y):
    "Draw a thing of class `c` in the box with a corner at (x, y); its width and height."
    w, h = (16, 16) if c != 2 else (24, 8)
    box = (x, y, x + w - 1, y + h - 1)
    if c == 0: draw.rectangle(box, 'red')
    elif c == 1: draw.ellipse(box, 'lime')
    elif c == 2: draw.rectangle(box, 'blue')
    else: draw.ellipse(box, outline='white', width=3)
    return w, h


def draw_world(folder, sizes=dict(train=16, test=8), seed=0):
    "A folder in COCO format: pictures of 64 x 64 with one to three things on grey."
    rng = np.random.RandomState(seed)
    (folder/'annotations').mkdir(parents=True)
    for split, n in sizes.items():
        (folder/split).mkdir()
        images, things = [], []
        for i in range(n):
            img = Image.fromarray(rng.randint(90, 130, (64, 64, 3)).astype(np.uint8))
            for c in {i % 4, *rng.randint(0, 4, 2).tolist()}:
                x, y = rng.randint(0, 40, 2).tolist()
                w, h = put(ImageDraw.Draw(img), c, x, y)
                things.append(dict(id=len(things), image_id=i, category_id=c, bbox=[x, y, w, h], area=w*h, iscrowd=0))
            img.save(folder/split/f'{i:02}.png')
            images.append(dict(id=i, file_name=f'{i:02}.png', width=64, height=64))
        doc = dict(images=images, annotations=things, categories=[dict(id=c, name=n) for c, n in enumerate(CLASSES)])
        (folder/'annotations'/f'instances_{split}.json').write_text(json.dumps(doc))
    return folder


@pytest.fixture(scope='module')
def drawn(tmp_path_factory): return draw_world(tmp_path_factory.mktemp('drawn')/'world')


@pytest.fixture
def world(drawn, tmp_path):
    "A copy that a test may change."
    return Path(shutil.copytree(drawn, tmp_path/'world'))


@pytest.fixture(autouse=True)
def new_process():
    threads = torch.get_num_threads()
    forget()
    yield
    forget(); torch.set_num_threads(threads)


def run(folder, method='trmml', known=.5, seed=0, weights='', backbone='doodle-clip', held_out=0., **settings):
    given = dict(epochs=2, batch=8, **settings) if method in ('trmml', 'dualcoop') and 'epochs' not in settings else settings
    return Run(str(folder), method, known, seed, settings=given, backbone=backbone, weights=weights, image_size=64, held_out=held_out)


def change(folder, split, edit):
    "Edit an annotation file in place."
    path = folder/'annotations'/f'instances_{split}.json'
    doc = json.loads(path.read_text())
    edit(doc)
    path.write_text(json.dumps(doc))


def part(name): return importlib.import_module(f'trmml.runs.{name}')   # `trmml.runs.perform` is the function
def names(out):
    "Files, results without the second half of their names."
    return sorted(re.sub(r'^([0-9a-f]{16})-[0-9a-f]{8}', r'\1', p.name) for p in Path(out).rglob('*') if p.is_file())
def file(out, r, suffix='.json'): return next((Path(out)/'runs').glob(f'{r.key}-????????{suffix}'))
def strict(path):
    def refuse(constant): raise AssertionError(f'{path} is not JSON: it holds {constant}')
    said = json.loads(path.read_text(), parse_constant=refuse)
    assert len(said.pop('checksum')) == 64
    return said


# ---- one run

@pytest.mark.parametrize('method', ['trmml', 'dualcoop', 'zeroshot', 'zeroshot-dense'])
def test_a_run_leaves_its_result_and_its_weights(world, tmp_path, method):
    r, out = run(world, method), tmp_path/'out'
    assert stored(r, out, tmp_path) is None
    result = perform(r, tmp_path, out)
    assert names(out) == [f'{r.key}.json', f'{r.key}.safetensors'] and not list(tmp_path.rglob('*.tmp'))
    assert strict(file(out, r)) == stored(r, out, tmp_path) == stored(r, out, check=False) == json.loads(json.dumps(result))
    assert 0 < result['mAP'] <= 1 and set(result['metrics']['AP']) == set(CLASSES)
    assert (result['train_images'], result['test_images'], len(result['log'])) == (16, 8, 2 if method in ('trmml', 'dualcoop') else 0)
    again = trained(r, out, tmp_path)
    test = runs.inputs(r, tmp_path).test
    assert mean_ap(predict(again, test.store), test.labels) == result['mAP']


def test_trained_trains_what_is_not_there(world, tmp_path):
    r, out = run(world), tmp_path/'out'
    method = trained(r, out, tmp_path)
    assert not method.training and names(out) == [f'{r.key}.json', f'{r.key}.safetensors']
    first = method.state_dict()
    (file(out, r, '.safetensors')).unlink()                     # a result without its weights
    second = trained(r, out, tmp_path).state_dict()
    for k in first: assert torch.equal(first[k], second[k])


def test_all_labels_known(world, tmp_path):
    r = run(world, known=1.)
    perform(r, tmp_path, tmp_path/'out')
    strict(file(tmp_path/'out', r))


def test_held_out_runs_never_see_the_test_split(world, tmp_path):
    (world/'annotations'/'instances_test.json').write_text('not for choosing')
    r = run(world, held_out=.25)
    result = perform(r, tmp_path, tmp_path/'out')
    assert (result['train_images'], result['test_images']) == (16, 4)
    assert stored(r, tmp_path/'out', tmp_path) is not None


# ---- many runs

def many(folder): return [run(folder, 'zeroshot', known=1.), run(folder), run(folder, seed=1), run(folder, 'dualcoop'), run(folder)]


@pytest.fixture(scope='module')
def one_by_one(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp('one')
    return perform_all(many(drawn), out, out, n_jobs=1, progress=False), out


def test_each_score_is_predicted_once(monkeypatch):
    method, asked = SimpleNamespace(score='query', score_kinds=('region', 'query', 'mean')), []
    monkeypatch.setattr(part('results'), 'predict', lambda m, store: asked.append(m.score) or torch.tensor([[.9, .2], [.1, .8], [.7, .3]]) + .01*len(asked))
    out, others = runs.score_all(method, None, torch.tensor([[1, -1], [-1, 1], [-1, -1]]), ['a', 'b'])
    assert asked == ['query', 'region', 'mean'] and method.score == 'query'
    assert others['query'] == out['mAP'] and list(others) == ['region', 'query', 'mean']


@pytest.mark.parametrize('n_jobs', [1, 2])
def test_perform_all_and_nothing_the_second_time(drawn, one_by_one, tmp_path, monkeypatch, n_jobs, capfd):
    out = one_by_one[1] if n_jobs == 1 else tmp_path
    results = one_by_one[0] if n_jobs == 1 else perform_all(many(drawn), out, out, n_jobs=n_jobs, progress=False)
    assert [r['key'] for r in results] == [r.key for r in many(drawn)] and results[1] == results[4]
    assert len(names(out/'runs')) == 2*4 and not [n for n in names(out) if n.endswith(('.tmp', '.ckpt'))]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (out/'runs').iterdir()}

    def refuse(*args, **kwargs): raise AssertionError('trained again')
    monkeypatch.setattr(part('perform'), 'fit', refuse)
    monkeypatch.setattr(part('schedule'), 'perform', refuse)
    assert perform_all(many(drawn), out, out, n_jobs=n_jobs, progress=False) == results
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (out/'runs').iterdir()} == before
    monkeypatch.undo()
    monkeypatch.setattr(part('perform'), 'fit', refuse)                          # the trap is a real one
    with pytest.raises(AssertionError, match='trained again'): perform_all([run(drawn, seed=7)], out, out, n_jobs=1, progress=False)


def test_two_jobs_give_what_one_gives(drawn, one_by_one, tmp_path):
    results = perform_all(many(drawn), tmp_path, tmp_path, n_jobs=2, progress=False)
    for a, b in zip(one_by_one[0], results):
        assert a['mAP'] == b['mAP'] and a['weights_hash'] == b['weights_hash']
        files = [load_file(next((out/'runs').glob(f'{a["key"]}-*.safetensors'))) for out in (one_by_one[1], tmp_path)]
        for k in files[0]: assert_close(files[0][k], files[1][k], atol=1e-5, rtol=1e-4)


def test_two_workers_of_a_cluster_give_what_one_process_gives(drawn, one_by_one, tmp_path, monkeypatch):
    distributed = pytest.importorskip('distributed', reason='dask is not installed')
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        monkeypatch.setenv('TRMML_CLUSTER', cluster.scheduler_address)
        results = perform_all(many(drawn), tmp_path, tmp_path, progress=False)
        did = cluster.scheduler.task_prefixes
    assert did and [r['key'] for r in results] == [r.key for r in many(drawn)]        # the work was done there
    for a, b in zip(one_by_one[0], results): assert a['mAP'] == pytest.approx(b['mAP'], abs=1e-6)
    assert not [n for n in names(tmp_path) if n.endswith(('.tmp', '.ckpt'))]


def kill_one_at_work(cluster, out, killed):
    "Kill a worker once a run has a checkpoint; all workers have a run then."
    until = time.time() + 120
    while not list(out.rglob('*.ckpt')) and time.time() < until: time.sleep(.02)
    pid = next(iter(cluster.workers.values())).pid
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


def test_a_killed_worker_of_a_cluster_needs_no_second_call(drawn, tmp_path, monkeypatch):
    distributed = pytest.importorskip('distributed', reason='dask is not installed')
    several, out, killed = [run(drawn, seed=s, epochs=3*EPOCHS, batch=8) for s in range(4)], tmp_path/'many', []
    alone = perform_all(several, tmp_path, tmp_path/'alone', n_jobs=2, progress=False)   # one thread each, as there
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        monkeypatch.setenv('TRMML_CLUSTER', cluster.scheduler_address)
        at = threading.Thread(target=kill_one_at_work, args=(cluster, out, killed))
        at.start()
        results = perform_all(several, tmp_path, out, progress=False)
        at.join()
    assert killed and [r['mAP'] for r in results] == [r['mAP'] for r in alone]
    assert names(out) == names(tmp_path/'alone') and not [n for n in names(out) if n.endswith(('.tmp', '.ckpt'))]


def test_no_cluster_at_the_address(drawn, tmp_path, monkeypatch):
    pytest.importorskip('distributed', reason='dask is not installed')
    monkeypatch.setenv('TRMML_CLUSTER', 'tcp://127.0.0.1:9')
    with pytest.raises(ConnectionError, match='TRMML_CLUSTER=tcp://127.0.0.1:9: no dask scheduler answers there'):
        perform_all([run(drawn)], tmp_path, tmp_path, progress=False)


def test_silent(world, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        perform_all([run(world, known=1.)], tmp_path, tmp_path/'out', n_jobs=1, progress=False)
    assert capfd.readouterr() == ('', '')


def test_every_field_is_in_the_key(world):
    base = run(world)
    others = [run(world, 'dualcoop'), run(world, known=.6), run(world, seed=1), run(world, weights='x'), run(world, held_out=.2),
              run(world, backbone='RN50'), run(world, epochs=3), run(world, topk=2), run(str(world) + '2')]
    assert len({r.key for r in [base, *others]}) == 10 and base.key == run(world).key


# ---- stale results

def save_weights(model, path): save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
def drop_first(doc): doc['annotations'].pop(0)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_changed_labels_make_a_result_stale(world, tmp_path, split):
    r, out = run(world), tmp_path/'out'
    old = perform(r, tmp_path, out)
    forget()
    assert stored(r, out, tmp_path) is not None
    change(world, split, drop_first)
    forget()
    assert stored(r, out, tmp_path) is None
    [new] = perform_all([r], tmp_path, out, n_jobs=1, progress=False)
    assert new['key'] == old['key'] and new != old
    fresh = perform(r, tmp_path, tmp_path/'elsewhere')
    assert new['mAP'] == fresh['mAP'] and stored(r, out, tmp_path) == new


def test_other_weights_make_a_result_stale(world, tmp_path):
    path, out = tmp_path/'clip.safetensors', tmp_path/'out'
    r = run(world, weights=str(path))
    save_weights(clips.load('doodle-clip', None).model, path)
    old = perform(r, tmp_path, out)
    save_weights(clips.load('doodle-clip', None, seed=1).model, path)
    forget()
    assert stored(r, out, tmp_path) is None and stored(r, out, check=False) is not None
    [new] = perform_all([r], tmp_path, out, n_jobs=1, progress=False)
    assert new['weights_hash'] != old['weights_hash'] and stored(r, out, tmp_path) == new
    assert new['mAP'] == perform(r, tmp_path, tmp_path/'elsewhere')['mAP']


# ---- killed

def at_work(r, root, out, pause, seen):
    "Perform a run in a process of its own, `pause` seconds an epoch; writes down the epochs that it trains."
    torch.set_num_threads(1)
    train = learner.train_epoch
    def slowly(method, opt, store, labels, epoch, *args, **kwargs):
        with open(seen, 'a') as f: f.write(f'{epoch}\n')
        time.sleep(pause)
        return train(method, opt, store, labels, epoch, *args, **kwargs)
    learner.train_epoch = slowly
    perform(r, root, out)


def start(*args):
    p = MP.Process(target=at_work, args=args)
    p.start()
    return p


def epochs(path): return [int(line) for line in Path(path).read_text().split()]


def test_killed_run_goes_on_to_the_same_numbers(world, tmp_path):
    r = run(world, epochs=EPOCHS, batch=8)
    whole, broken, log = tmp_path/'whole', tmp_path/'broken', tmp_path/'epochs'
    perform(run(world, 'zeroshot'), tmp_path, tmp_path/'features first')
    undisturbed = start(r, tmp_path, whole, 0, tmp_path/'all epochs')

    p, until = start(r, tmp_path, broken, .1, log), time.time() + 90
    while not list(broken.rglob('*.ckpt')) and p.is_alive() and time.time() < until: time.sleep(.005)
    os.kill(p.pid, signal.SIGKILL)
    p.join()
    assert p.exitcode == -signal.SIGKILL and 5 <= len(epochs(log)) < EPOCHS
    assert [Path(n).suffix for n in names(broken) if not n.endswith('.lock')] == ['.ckpt']       # no result, no half of one
    assert stored(r, broken, tmp_path) is None

    log.unlink()
    q = start(r, tmp_path, broken, 0, log)
    q.join(120); undisturbed.join(120)
    assert q.exitcode == undisturbed.exitcode == 0
    assert 5 <= min(epochs(log)) and max(epochs(log)) == EPOCHS - 1    # it went on, not from the start
    assert epochs(tmp_path/'all epochs') == list(range(EPOCHS))
    assert names(broken) == names(whole) == [f'{r.key}.json', f'{r.key}.safetensors']
    a, b = (stored(r, out, tmp_path) for out in (whole, broken))
    assert a['mAP'] == b['mAP'] and a['metrics'] == b['metrics'] and a['log'] == b['log'] and len(a['log']) == EPOCHS
    assert (file(whole, r, '.safetensors')).read_bytes() == (file(broken, r, '.safetensors')).read_bytes()


AT_WORK = """
import os, sys, time
from pathlib import Path
from trmml.methods import register
from trmml.methods.coop import CoOp
from trmml.runs import Run, perform_all
OUT = Path(sys.argv[2])

class Endless(CoOp):
    def loss(self, x, labels, batch=None):
        (OUT/f'{os.getpid()}.pid').touch()
        time.sleep(600)

if __name__ == '__main__':
    from endless import Endless
    register('endless', Endless)
    perform_all([Run(sys.argv[1], 'endless', .5, seed, settings=dict(epochs=2, batch=8), image_size=64) for seed in (0, 1)], OUT, OUT, n_jobs=2, progress=False)
"""


def alive(pid):
    "Whether a process is there and no zombie."
    try: return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError: return False


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs /proc')
def test_workers_end_with_the_process_that_started_them(drawn, tmp_path):
    (tmp_path/'endless.py').write_text(AT_WORK)
    places = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    p = subprocess.Popen([sys.executable, tmp_path/'endless.py', drawn, tmp_path], env=dict(os.environ, PYTHONPATH=places), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.time() + 120
    while len(pids := [int(f.stem) for f in tmp_path.glob('*.pid')]) < 2 and p.poll() is None and time.time() < until: time.sleep(.1)
    assert len(pids) == 2 and all(map(alive, pids))
    p.kill()
    p.wait()
    until = time.time() + 60
    while any(map(alive, pids)) and time.time() < until: time.sleep(.1)
    left = [pid for pid in pids if alive(pid)]
    for pid in left: os.kill(pid, signal.SIGKILL)
    assert not left


class Killed(BaseException): "As if by a signal: nobody catches it."


def die_in_epoch(monkeypatch, n):
    train = learner.train_epoch
    def dying(method, opt, store, labels, epoch, *args, **kwargs):
        if epoch == n: raise Killed
        return train(method, opt, store, labels, epoch, *args, **kwargs)
    monkeypatch.setattr(learner, 'train_epoch', dying)


def test_checkpoint_of_other_labels_is_not_gone_on_from(world, tmp_path, monkeypatch):
    r, out = run(world, epochs=8, batch=8), tmp_path/'out'
    with monkeypatch.context() as m:
        die_in_epoch(m, 6)
        with pytest.raises(Killed): perform(r, tmp_path, out)
    assert [Path(n).suffix for n in names(out)] == ['.ckpt']
    change(world, 'train', lambda doc: [drop_first(doc) for _ in range(8)])
    forget()
    result, fresh = perform(r, tmp_path, out), perform(r, tmp_path, tmp_path/'fresh')
    assert result['log'] == fresh['log'] and result['mAP'] == fresh['mAP']
    assert names(out) == names(tmp_path/'fresh')


@pytest.mark.parametrize('what', ['save_file', 'json'])
def test_killed_while_writing(world, tmp_path, monkeypatch, what):
    r, out = run(world), tmp_path/'out'
    def half(data, path):
        with open(path, 'wb') as f: f.write(data[:len(data)//2])
        raise Killed
    x = runs.inputs(r, tmp_path); x.train, x.test                     # features are there
    with monkeypatch.context() as m:
        if what == 'save_file': m.setattr(part('results'), 'save_file', lambda tensors, path: half(b'0'*1000, path))
        else: m.setattr(Path, 'write_bytes', lambda path, data: half(data, path))
        with pytest.raises(Killed): perform(r, tmp_path, out)
    final = [n for n in names(out) if not n.endswith('.tmp')]
    assert f'{r.key}.json' not in final and (what == 'json' or f'{r.key}.safetensors' not in final)
    assert stored(r, out, tmp_path) is None
    result = perform(r, tmp_path, out)
    assert stored(r, out, tmp_path)['mAP'] == result['mAP'] == perform(r, tmp_path, tmp_path/'fresh')['mAP']
    assert trained(r, out, tmp_path)


# ---- one clear error each, and nothing half-written

@pytest.mark.parametrize('known', [0, -.1, 1.01, 10, float('nan')])
def test_ratio(world, known):
    with pytest.raises(ValueError, match=rf'known={known}: a ratio in \(0, 1\]' + ('; did you mean 0.1' if known == 10 else '')):
        run(world, known=known)


def test_unknown_method(world):
    with pytest.raises(ValueError, match="unknown method 'trml': use one of trmml, .*dualcoop, .*zeroshot"): run(world, 'trml')


@pytest.mark.parametrize('settings, message', [(dict(held_out=1.), 'held_out=1.0: a share'), (dict(protocol='all'), "protocol='all': use")])
def test_other_fields(world, settings, message):
    with pytest.raises(ValueError, match=message): Run(str(world), 'trmml', **settings)


def no_images(folder): change(folder, 'train', lambda doc: doc.update(images=[], annotations=[]))
def no_categories(folder): change(folder, 'train', lambda doc: doc.update(categories=[], annotations=[]))
def no_folder(folder): shutil.rmtree(folder)
def no_annotations(folder): shutil.rmtree(folder/'annotations')
def no_picture(folder): (folder/'train'/'03.png').unlink()
def half_a_picture(folder): os.truncate(folder/'train'/'03.png', 200)
def no_test_picture(folder): (folder/'test'/'02.png').write_text('not a picture')
def unknown_image(folder): change(folder, 'train', lambda doc: doc['annotations'][5].update(image_id=99))
def unknown_class(folder): change(folder, 'train', lambda doc: doc['annotations'][5].update(category_id=42))
def unknown_test_class(folder): change(folder, 'test', lambda doc: doc['annotations'][5].update(category_id=42))
def half_a_json(folder): os.truncate(folder/'annotations'/'instances_train.json', 500)


@pytest.mark.parametrize('harm, error, message', [
    (no_images, ValueError, r'instances_train\.json: no images to load'),
    (no_categories, ValueError, r'instances_train\.json: no categories'),
    (no_folder, FileNotFoundError, 'world: no such folder; it should hold annotations'),
    (no_annotations, FileNotFoundError, r'world: no annotations/instances_<split>\.json; put it there'),
    (no_picture, FileNotFoundError, r'03\.png'),
    (half_a_picture, ValueError, r'1 of 16 images cannot be read:\n.*train/03\.png: cannot be read as an image'),
    (no_test_picture, ValueError, r'1 of 8 images cannot be read:\n.*test/02\.png: cannot be read as an image'),
    (unknown_image, ValueError, r'instances_train\.json: .*image_id 99'),
    (unknown_class, ValueError, r'instances_train\.json: .*category_id 42'),
    (unknown_test_class, ValueError, r'instances_test\.json: .*category_id 42'),
    (half_a_json, ValueError, r'instances_train\.json: not valid JSON'),
], ids=lambda v: getattr(v, '__name__', '') if callable(v) and not isinstance(v, type) else '')
def test_broken_data(world, tmp_path, harm, error, message):
    harm(world)
    for attempt in range(2):                                          # the first leaves nothing that changes the second
        with pytest.raises(error, match=message): perform(run(world), tmp_path, tmp_path/'out')
        assert names(tmp_path/'out') == []
        forget()
    with pytest.raises(error, match=message): perform_all([run(world)], tmp_path, tmp_path/'out', n_jobs=1, progress=False)


def test_unknown_data_set(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'vocc': known are voc2007"): perform(run('vocc'), tmp_path, tmp_path/'out')


def wrong_weights(path):
    other = open_clip.CLIP(**{**clips.DOODLE_CLIP, 'embed_dim': 64})
    save_weights(other, path)


@pytest.mark.parametrize('given, error, message', [
    (dict(backbone='RN51'), ValueError, "unknown backbone 'RN51'"),
    (dict(backbone='RN51', weights='openai'), ValueError, "unknown backbone 'RN51'"),
    (dict(backbone='ViT-B-32', weights='openai'), ValueError, 'ViT-B-32 is not a CLIP ResNet'),
    (dict(weights='wrong.safetensors'), ValueError, r'wrong\.safetensors is not a doodle-clip: its .* doodle-clip needs'),
    (dict(weights='gone.safetensors'), ValueError, r"weights '.*gone\.safetensors' of doodle-clip: neither a file nor a tag"),
    (dict(epoch=3), TypeError, "TRMML has no setting 'epoch'"),
    (dict(epochs=2, optimizer='lion'), ValueError, "optimizer 'lion': use 'adamw', 'adam' or 'sgd'"),
    (dict(prototypes='all'), ValueError, "prototypes='all': use"),
], ids=str)
def test_broken_settings(world, tmp_path, given, error, message):
    wrong_weights(tmp_path/'wrong.safetensors')
    if 'weights' in given and 'safetensors' in given['weights']: given = dict(given, weights=str(tmp_path/given['weights']))
    with pytest.raises(error, match=message): perform(run(world, **given), tmp_path, tmp_path/'out')
    assert names(tmp_path/'out') == []


def never(folder, split, c): change(folder, split, lambda doc: doc.update(annotations=[a for a in doc['annotations'] if a['category_id'] != c]))


@pytest.mark.parametrize('method', ['trmml', 'dualcoop'])
def test_class_that_is_never_positive_is_named_and_the_rest_is_trained(world, tmp_path, method):
    never(world, 'train', 2)
    with pytest.warns(UserWarning, match='1 of 4 classes are never positive among the known labels and cannot be learned: blue bar'):
        result = perform(run(world, method, known=1.), tmp_path, tmp_path/'out')
    assert np.isfinite([v for row in result['log'] for k, v in row.items() if not k.startswith('pseudo_')]).all()
    assert set(result['metrics']['AP']) == set(CLASSES) and 0 < result['mAP'] <= 1
    assert all(t.isfinite().all() for t in load_file(file(tmp_path/'out', SimpleNamespace(key=result['key']), '.safetensors')).values())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        trained(run(world, method, known=1.), tmp_path/'out', tmp_path)


def test_class_without_a_positive_in_test_is_skipped_and_named(world, tmp_path):
    never(world, 'test', 3)
    r = run(world, known=1.)
    metrics = perform(r, tmp_path, tmp_path/'out')['metrics']
    assert metrics['skipped'] == ['white ring'] and set(metrics['AP']) == set(CLASSES[:3])
    assert metrics['mAP'] == pytest.approx(np.mean(list(metrics['AP'].values())))
    strict(file(tmp_path/'out', r))


# ---- nothing of a description is lost on the way to what it names

FLIPPED = dict(dataset='elsewhere', method='dualcoop', known=.25, seed=1, protocol='single', settings=(('lr', 1e-3),), backbone='RN50',
               weights='other', image_size=32, difficult='skip', held_out=.25, views=2, data=(('prompts', 'raw'),), features='int8',
               interpolation='bilinear', noise=(('share', .4),))
ELSEWHERE = {'method', 'settings'}   # of the method, or of the key alone: nothing that is read depends on them


@pytest.fixture
def readers(monkeypatch):
    "What the encoder, the data set and the features are asked for, in place of reading them."
    module, seen = part('inputs'), []
    labels = np.where(np.random.RandomState(0).rand(20, 4) < .5, 1, -1).astype(np.int8)
    class Dataset:
        name, prompts, classes = 'drawn', CLASSES, CLASSES
        def __len__(self): return 20
    class Store:
        def __init__(self, *asked): self.asked = asked
        def __len__(self): return 20
        def in_memory(self, **where): return self
    def load(name, split, root, **how):
        ds = Dataset(); ds.paths, ds.labels, ds.variant = [f'{split}/{i}' for i in range(20)], labels, split
        seen.append(('data', name, split, root, how)); return ds
    monkeypatch.setattr(module.clips, 'load', lambda *how, **more: seen.append(('clip', *how, more)) or SimpleNamespace(weights_hash='h', how=how))
    monkeypatch.setattr(module, 'load', load)
    monkeypatch.setattr(module, 'open_views', lambda clip, ds, views, root, **how: seen.append(('features', clip.how, views, root, how)) or Store(views))
    return seen


def read_all(r, seen):
    "Everything that is asked for, and what training and scoring get."
    forget(); seen.clear()
    x = runs.inputs(r, Path('root'), 'cpu')
    train, test = x.train, x.test
    return repr((seen, train.known.tolist(), train.truth.tolist(), len(train.store), len(test.store)))


def test_a_run_without_noise_has_the_key_of_before():
    "Keys of stored results, as they were before a run had noise."
    assert [Run('doodles', 'trmml', .1).key, Run('voc2007', 'dualcoop', .5, 2, backbone='RN101').key] == ['ff4fb072d90bd63d', '489b07831f316293']
    assert Run('doodles', 'zeroshot', .5, noise=dict(share=.1)).noise != () == runs.stands_for(Run('doodles', 'zeroshot', .5, noise=dict(share=.1))).noise
    assert runs.origin(Run('doodles', 'trmml-moved', .5, noise=dict(share=.1))).noise == ()


def test_every_field_is_flipped(): assert set(FLIPPED) == {f.name for f in fields(Run)}


@pytest.mark.parametrize('field', FLIPPED)
def test_every_field_arrives_where_it_is_read(readers, field):
    base = Run('somewhere', 'trmml', known=.5, backbone='doodle-clip', weights='', image_size=64)
    assert (read_all(base, readers) != read_all(replace(base, **{field: FLIPPED[field]}), readers)) == (field not in ELSEWHERE)
    assert base.key != replace(base, **{field: FLIPPED[field]}).key


@pytest.mark.parametrize('field', ['dataset', 'backbone', 'weights', 'image_size', 'difficult', 'data', 'features'])
def test_every_field_arrives_where_regions_are_measured(readers, monkeypatch, field):
    from trmml.report import region_quality
    class Done(Exception): "Far enough."
    def stop(method, ds, store, rows): raise Done
    monkeypatch.setattr(region_quality, 'class_maps', stop); monkeypatch.setattr(region_quality, 'trained', lambda *a: None)
    asked = []
    for r in (base := Run('somewhere', 'trmml', known=.5, backbone='doodle-clip', weights='', image_size=64), replace(base, **{field: FLIPPED[field]})):
        forget(); readers.clear()
        with pytest.raises(Done): region_quality.pairs_of(r, 'test', 5, Path('root'))
        asked.append(repr(readers))
    assert asked[0] != asked[1]


def test_runs_that_read_the_same_read_it_once(readers):
    forget()
    a, b = Run('somewhere', 'trmml', weights='', image_size=64), Run('somewhere', 'dualcoop', .1, 3, 'splc', weights='', image_size=64)
    for r in (a, b, replace(a, held_out=.2)): x = runs.inputs(r, Path('root')); x.train, x.test
    assert sorted(s[0] for s in readers) == ['clip', 'data', 'data', 'features', 'features']


# ---- results without data

def test_a_result_is_shown_without_its_data(world, tmp_path):
    r, out = run(world), tmp_path/'out'
    result = perform(r, tmp_path, out)
    shutil.rmtree(world); forget()
    assert stored(r, out, tmp_path, check=False)['mAP'] == result['mAP']
    assert stored(r, out, tmp_path)['mAP'] == result['mAP']                  # nothing is there to compare it with


# ---- methods of one's own, in other processes

OWN = """
import sys
from pathlib import Path
from trmml import runs
from trmml.methods import register
from trmml.methods.coop import CoOp

class Top(CoOp):
    "CoOp with scores turned round."
    turned = 0
    def scores(self, x): return (self.turned - super().scores(x)).abs()

if __name__ == '__main__':
    world, out = sys.argv[1:]
    register('top', Top)
    some = [runs.Run(world, 'top', .5, s, settings=dict(epochs=1, batch=8), weights='', image_size=64) for s in (0, 1)]
    print([r['mAP'] for r in runs.perform_all(some, out, out + '/together', n_jobs=2, progress=False)])
    print([r['mAP'] for r in runs.perform_all(some, out, out + '/alone', n_jobs=1, progress=False)])
"""


def test_a_registered_method_works_with_any_number_of_workers(world, tmp_path):
    (tmp_path/'own.py').write_text(OWN)
    done = subprocess.run([sys.executable, '-W', 'ignore', tmp_path/'own.py', world, tmp_path/'out'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    together, alone = done.stdout.splitlines()[-2:]
    assert together == alone


# ---- recipes

TABLES = Path(__file__).resolve().parents[1]/'results'/'tables'


def test_recipes_are_what_the_choices_found():
    "The best trial of each method, in the tables that the notebooks of the choices wrote."
    import pandas as pd
    from trmml.methods import LATER_METHODS, TITLES   # later ones: tests/test_since.py
    t = pd.read_csv(TABLES/'choices-doodles.csv')
    best = t.loc[t.groupby('method')['mean'].idxmax()].set_index('method')
    found = {m for m in runs.read_recipes() if m not in ('base', 'published', *LATER_METHODS) and runs.entry(m)['backbone'] == 'doodle-clip'}
    assert {TITLES[m] for m in found} == set(best.index)
    for m in found:
        values = dict(zip(runs.entry(m)['trials'], best.loc[TITLES[m], ['lr', 'sharpness']]))
        assert runs.chosen(m, 'doodle-clip') == runs.trial(m, values), m
        assert len(t[t.method == TITLES[m]]) == 12


def test_recipes_are_what_the_choices_for_imagenet_found():
    import pandas as pd
    t = pd.read_csv(TABLES/'choices-vanilla.csv')
    assert len(set(t.method)) == 11
    for m, tried in t.groupby('method'):
        assert tried.settings.tolist() == [str(o) for o in runs.trials(f'{m}-frozen')]
        assert str(runs.chosen(f'{m}-frozen', 'doodle-resnet')) and runs.chosen(f'{m}-frozen', 'doodle-resnet') == runs.trials(f'{m}-frozen')[tried.mAP.argmax()]


CHOSEN = {   # as they were when they stood in the code
    ('trmml', 'doodle-clip', 'partial'): dict(optimizer='adamw', schedule='onecycle', weight_decay=1e-2, epochs=20, batch=128, lr=5e-4, gain=1.),
    ('scpnet-frozen', 'doodle-clip', 'single'): dict(epochs=20, batch=128, stretch=1., lr=4e-5, sharpness=.3, gcn_lr=5*4e-5),
    ('taidpt', 'doodle-clip', 'splc'): dict(optimizer='adamw', schedule='onecycle', weight_decay=1e-2, epochs=20, batch=128, lr=1e-2, kappa=.5, kappa_test=.8*.5),
    ('dualcoop', 'RN50', 'splc'): dict(unknown='negative'), ('hspnet', 'doodle-clip', 'partial'): {}, ('zeroshot', 'doodle-clip', 'partial'): {},
    ('role-frozen', 'doodle-resnet', 'single'): dict(optimizer='adamw', schedule='onecycle', weight_decay=1e-2, epochs=20, batch=32, drop=0, head_lr=1., k=1.9,
                                                     lr=.03, theta_lr=3.)}


@pytest.mark.parametrize('name, backbone, protocol', CHOSEN)
def test_recipes_keep_their_values(name, backbone, protocol):
    got, want = runs.chosen(name, backbone, protocol), CHOSEN[name, backbone, protocol]
    assert got == want and {k: type(v) for k, v in got.items()} == {k: type(v) for k, v in want.items()}   # 20 and 20. would be two runs


# ---- names of results: KEY of the full description, CONTENT of what was there

class Edited(dualcoop.DualCoOp):
    def scores(self, x): return super().scores(x)


def test_a_changed_default_is_another_run(monkeypatch):
    "Of the class, of the recipe of the data set, of the policy: what a description leaves open is part of its key."
    r, own = Run('voc2007', 'dualcoop', .1, backbone='RN101'), Run('doodles', 'dualcoop', .1)
    keys = r.key, own.key
    monkeypatch.setattr(dualcoop.DualCoOp, 'recipe', {**dualcoop.DualCoOp.recipe, 'lr': 1.})
    part('run').defaults.cache_clear()
    assert own.key != keys[1] and r.key == keys[0]      # VOC 2007 has a published rate
    monkeypatch.undo(); part('run').defaults.cache_clear()
    monkeypatch.setitem(runs.read_recipes()['published']['dualcoop']['voc2007'], 'lr', dict(value=.5, published='', source=''))
    part('recipes').lines.cache_clear()
    assert r.key != keys[0] and own.key == keys[1]
    monkeypatch.undo(); part('recipes').lines.cache_clear()
    assert (r.key, own.key) == keys
    single = Run('voc2012', 'dualcoop', protocol='splc', backbone='RN50')
    before = single.key
    monkeypatch.setitem(data.PEERS['voc2012'], 'scpnet', dict(difficult='ignore'))
    assert single.key != before


def test_the_same_in_other_words_is_the_same_run():
    r = Run('voc2007', 'dualcoop', .1, backbone='RN101')
    assert Run('voc', 'dualcoop', .1, settings=dict(lr=.001, epochs=50), backbone='RN101').key == r.key
    assert replace(r, settings=dict(lr=.002)).key != r.key


@pytest.mark.parametrize('n_jobs', [1, 2])
def test_an_edited_method_is_trained_anew(world, tmp_path, n_jobs):
    register('edited', Edited)
    try:
        grid, out = [run(world, 'edited', epochs=1, batch=8, seed=s) for s in range(n_jobs)], tmp_path/'out'
        old = perform_all(grid, tmp_path, out, n_jobs=n_jobs, progress=False)
        assert [stored(r, out, tmp_path) for r in grid] == old
        register('edited', type('Edited', (dualcoop.DualCoOp,), dict(scores=lambda self, x: 1 - dualcoop.DualCoOp.scores(self, x))))
        assert stored(grid[0], out, tmp_path) is None and stored(grid[0], out, check=False) == old[0]
        new = perform_all(grid, tmp_path, out, n_jobs=n_jobs, progress=False)
        assert [r['mAP'] for r in new] != [r['mAP'] for r in old] and len(list((out/'runs').glob(f'{grid[0].key}-*.json'))) == 2   # the old one stays
    finally: del METHODS['edited'], TITLES['edited']


MINE = """
from trmml.methods.dualcoop import DualCoOp
def turned(s): return {helper}
class Mine(DualCoOp):
    power = {power}
    def scores(self, x): return turned(super().scores(x))**self.power
"""


@pytest.mark.parametrize('change', [dict(helper='1 - s'), dict(power=2)])
def test_what_a_class_of_ones_own_uses_counts(tmp_path, monkeypatch, change):
    "A function of its file, an attribute: code of the same class."
    monkeypatch.syspath_prepend(tmp_path)
    def digest(n, **how):
        (tmp_path/f'mine{n}.py').write_text(MINE.format(**{'helper': 's', 'power': 1, **how}))
        cls = importlib.import_module(f'mine{n}').Mine
        return part('content').class_digest(cls)
    assert digest(f'a{change}'.__hash__() % 10**6) == digest((f'b{change}'.__hash__()) % 10**6) != digest(f'c{change}'.__hash__() % 10**6, **change)


def test_captions_and_label_lists_count_by_content(world, tmp_path, monkeypatch):
    named = part('content').named_files
    monkeypatch.chdir(tmp_path)
    Path('said.txt').write_text('a red square')
    r = Run(str(world), 'taidpt', .5, weights='', image_size=64, settings=dict(captions='said.txt'))
    before = named(r, tmp_path)
    Path('said.txt').write_text('a green disc')
    assert set(before) == {'taidpt.captions'} and named(r, tmp_path) != before
    single = Run('coco2014', 'dualcoop', protocol='splc', backbone='RN50')
    assert named(single, tmp_path) == {}
    place = part('inputs').label_list(single, tmp_path)
    place.parent.mkdir(parents=True); place.write_text('a.jpg,1')
    before = named(single, tmp_path)
    place.write_text('a.jpg,2')
    assert set(before) == {'labels'} and named(single, tmp_path) != before and named(replace(single, seed=1), tmp_path) == {}


def test_members_of_an_ensemble_are_trained_on_its_features():
    ensemble = Run('coco2014', 'taiadapter+dualcoop', .1, backbone='RN101')
    assert {runs.interpolation(r) for r in (ensemble, *runs.members(ensemble))} == {'bicubic'}
    said = part('run').described(ensemble)
    assert [m['method'] for m in said['made_from']] == ['taiadapter', 'dualcoop'] and said['made_from'][1]['settings']['lr'] == .002
    assert 'lr' not in said['settings']


def test_comments_are_no_edit():
    digest = part('content').source_digest
    assert digest('def f(x):\n    "Doc."\n    return x  # why') == digest('def f(x): return x') != digest('def f(x): return -x')


def test_changed_photos_make_a_result_stale(world, tmp_path):
    "The same names, sizes and labels, other pixels."
    r, out = run(world), tmp_path/'out'
    old = perform(r, tmp_path, out)
    Image.open(world/'train'/'00.png').transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(world/'train'/'00.png')
    forget()
    assert stored(r, out, tmp_path) is None
    assert perform(r, tmp_path, out)['images'] != old['images']


def test_a_moved_folder_keeps_its_results(world, tmp_path):
    r, out = run(world), tmp_path/'out'
    old = perform(r, tmp_path, out)
    elsewhere = tmp_path/'another place'
    elsewhere.mkdir()
    shutil.move(world, elsewhere/world.name)
    forget()
    moved = replace(r, dataset=str(elsewhere/world.name))
    assert moved.key == r.key and stored(moved, out, tmp_path) == old
    # copied, with new times of change, on another machine
    shutil.copytree(elsewhere/world.name, tmp_path/'copied'/world.name, copy_function=shutil.copyfile)
    forget()
    assert stored(replace(r, dataset=str(tmp_path/'copied'/world.name)), out, tmp_path/'copied') == old


def test_results_are_shown_without_weights(world, tmp_path):
    path, out = tmp_path/'clip.safetensors', tmp_path/'out'
    save_weights(clips.load('doodle-clip', None).model, path)
    r = run(world, weights=str(path))
    old = perform(r, tmp_path, out)
    path.unlink(); forget()
    with pytest.raises(ValueError, match='neither a file nor a tag'): runs.load_clip(r)
    assert stored(r, out, check=False) == stored(r, out, tmp_path) == old


def test_a_registered_method_with_two_workers(drawn, tmp_path):
    "A class that only this process knows, as a notebook's: workers get it, and its results are found again."
    Local = type('Local', (dualcoop.DualCoOp,), dict(__module__='__main__', scores=lambda self, x: dualcoop.DualCoOp.scores(self, x)))
    register('local', Local)
    try:
        grid = [run(drawn, 'local', seed=s, epochs=1, batch=8) for s in range(2)]
        results = perform_all(grid, tmp_path, tmp_path/'two', n_jobs=2, progress=False)
        assert all(results) and results == [stored(r, tmp_path/'two', tmp_path) for r in grid]
        alone = perform_all(grid, tmp_path, tmp_path/'one', n_jobs=1, progress=False)
        assert [r['mAP'] for r in alone] == pytest.approx([r['mAP'] for r in results], abs=1e-6)
        assert names(tmp_path/'one') == names(tmp_path/'two')
    finally: del METHODS['local'], TITLES['local']


def test_a_result_says_how_it_was_made(world, tmp_path):
    r = run(world)
    result = perform(r, tmp_path, tmp_path/'out')
    assert result['recipe'] == json.loads(json.dumps(runs.resolved(r))) and result['recipe']['lr'] == 5e-4
    assert {'load', 'train', 'known', 'test'} == set(result['policy'])
    assert result['policy']['train']['images'] == 16 and result['policy']['train']['positives'] > result['policy']['known']['positives'] > 0
    assert {'torch', 'python', 'trmml'} <= set(result['versions']) and result['seconds'] > 0 and result['device'] == 'cpu'


def test_captions_are_asked_for_before_any_feature(drawn, tmp_path, monkeypatch):
    "A grid whose last run lacks its file stops before the first image is read."
    def refuse(*args, **kwargs): raise AssertionError('features were read')
    monkeypatch.setattr(part('schedule'), 'inputs', refuse)
    grid = [run(drawn), Run(str(drawn), 'taidpt', .5, weights='', image_size=64, settings=dict(captions='no/such.json'))]
    with pytest.raises(FileNotFoundError, match='no/such.json'): perform_all(grid, tmp_path, tmp_path/'out', n_jobs=1, progress=False)
