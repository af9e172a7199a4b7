"The drawn world: the same pixels everywhere, valid COCO files, interrupted and concurrent writing."
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from trmml import clip
from trmml.clip import imagenet
from trmml.data import load
from trmml.doodles import (ALL_KINDS, CATEGORIES, DRAWN, OTHER_KINDS, VOC_KINDS, Scene, Thing, caption, compose, draw,
                           ensure, recognisable, seed_of, write)
from trmml.doodles.shapes import KINDS, check_kind, kind
from trmml.labels import partial, single_positive

EVEN = dict(even=True, counts=(.6, .4), most=1, sizes=(.35, .95), small=(.3, .8))   # pre-training at 64 pixels
STORED = {   # of 20 pictures each: pixels, ids and captions as the doodles' CLIP was pre-trained on
    'default': '66f6355891d21ef33567391fe4fec152b6df52e3665ed9608d0c9c022b0441e2',
    'even': '6467e33f900a337937ebf13ac233348f24273671b1fa13f94da4e003caa0576b'}

BEFORE = {   # as of commit 1d761dd, when all modules lay in one folder
    'kinds': '5a4857212f9fe6b2ef89a678fb772ca8f0efb6664cfad927c274157013d3f946',
    'pixels': 'f6fbd75c4f95d4c09ecae9fa3d286ff4fab55528d5aeabb2450d3b08a32f2134',
    'annotations': 'f7310c3e30a7e2fee464dd27df93e34bbaf25867ca16ff90b4deb078a95fde8a',
    'masked labels': '984710f50693e06608bca48b923abacb68233efec0630898ee600f45d7f400f9'}


def sha(*parts): return hashlib.sha256(b''.join(parts)).hexdigest()


def digest(seeds, size, **settings):
    "sha256 of pictures, ids and captions."
    h = hashlib.sha256()
    for i, seed in enumerate(seeds):
        scene = compose(seed, **settings)
        img, ids, visible = draw(scene, size)
        text = caption(np.random.RandomState(20_000_000 + i), scene, visible)
        h.update(img.tobytes() + ids.tobytes() + text.encode())
    return h.hexdigest()


def files(folder):
    "{path: bytes} of what a data set consists of."
    kept = (p for p in sorted(folder.rglob('*')) if p.suffix in ('.png', '.json'))
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def coco(folder, split, what='instances'):
    return COCO(folder/'annotations'/f'{what}_{split}.json')


def child(code, *args):
    "A second Python process."
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


WRITE = 'import sys; from trmml.doodles import write; write(sys.argv[1], "train", int(sys.argv[2]), 0, 64, n_jobs=1)'


def test_pictures_are_the_stored_ones():
    assert digest(range(20), 128) == STORED['default']
    assert digest(range(10_000_000, 10_000_020), 64, **EVEN) == STORED['even']


def test_kinds_and_their_order_are_the_stored_ones():
    assert len(ALL_KINDS) == 64 == len(set(ALL_KINDS)) and set(DRAWN) == set(ALL_KINDS)
    assert sha(' '.join(k.replace(' ', '+') for k in ALL_KINDS).encode()) == BEFORE['kinds']


def test_a_data_set_is_the_one_from_before_the_move(tmp_path):
    "Pixels, annotations with their masks, and labels under three protocols."
    options = dict(train=40, test=20, size=64, progress=False, n_jobs=1)
    folder = [ensure(tmp_path, split, **options) for split in ('train', 'test')][0]
    assert folder.name == 'doodles-490ee7cf'
    pixels = [Image.open(p).tobytes() for split in ('train', 'test') for p in sorted((folder/split).glob('*.png'))]
    assert sha(*pixels) == BEFORE['pixels']
    assert sha(*(p.read_bytes() for p in sorted((folder/'annotations').glob('*.json')))) == BEFORE['annotations']
    labels = load('doodles', root=tmp_path, **options).labels
    masked = [partial(labels, known, seed=0) for known in (.1, .5, .9)] + [single_positive(labels, seed=0, setup='splc')]
    assert sha(labels.tobytes(), *(m.tobytes() for m in masked)) == BEFORE['masked labels']


@pytest.mark.parametrize('name', ['doodle-clip', 'doodle-resnet'])
def test_shipped_models_say_what_they_said(name):
    "Features of twelve drawings; bytes differ between processors and versions of torch, directions do not."
    stored = np.load(Path(__file__).parent/'data'/'features.npz')
    model = (clip if name == 'doodle-clip' else imagenet).load(name)
    images = torch.stack([model.preprocess()(draw(compose(2_000_000 + i), 256)[0]) for i in range(12)])
    with torch.inference_mode():
        found = dict(pooled=model.pooled(images), dense=model.dense(images[:2])[:, :, ::3, ::3])
        if name == 'doodle-clip': found['text'] = model.text(['a photo of a dog.', 'a photo of a potted plant.'])
    for what, value in found.items():
        cosine = torch.cosine_similarity(value, torch.from_numpy(stored[f'{name}/{what}']).float(), dim=1)
        assert cosine.min() >= .9999, what


def test_all_kinds_are_well_formed():
    assert len(VOC_KINDS) == 20 and len(OTHER_KINDS) == 44
    for k in ALL_KINDS: check_kind(k, 6)


def test_registering_a_kind_changes_no_scene():
    before = [compose(s, even=True) for s in range(30)]
    kind('zebra', 'black')(KINDS['horse'][0])
    try: assert [compose(s, even=True) for s in range(30)] == before
    finally: KINDS.pop('zebra')


def test_replacing_a_kind_changes_no_picture():
    scene, old = compose(4, even=True), KINDS['horse']
    things = scene.things + (Thing('horse', 'brown', .5, .5, .4, 0., False, 1),)
    scene = Scene(scene.place, scene.horizon, things, scene.light, scene.seed)
    before = draw(scene, 64)[0].tobytes()
    kind('horse', 'black')(KINDS['cow'][0])
    try: assert draw(scene, 64)[0].tobytes() == before
    finally: KINDS['horse'] = old


def test_order_of_imports_does_not_matter():
    code = ('import trmml.doodles.things, trmml.doodles.living; from trmml.doodles import compose; '
            'print(repr([compose(s, even=True) for s in range(30)]))')
    out, err = child(code).communicate()
    assert out.strip() == repr([compose(s, even=True) for s in range(30)]), err


def test_import_is_light():
    code = 'import sys, trmml.doodles; print([m for m in ("torch", "pandas", "matplotlib") if m in sys.modules])'
    out, err = child(code).communicate()
    assert out.strip() == '[]', err


def test_coco_files_are_valid(tmp_path, capsys):
    folder = write(tmp_path, 'train', 30, first_seed=0, size=128, n_jobs=1)
    data, said = coco(folder, 'train'), coco(folder, 'train', 'captions')
    assert sorted(data.imgs) == list(range(30)) and [c['name'] for c in data.loadCats(sorted(data.cats))] == VOC_KINDS
    assert sorted(data.anns) == list(range(1, len(data.anns) + 1)) and len(said.anns) == 60
    for i, info in data.imgs.items():
        img = Image.open(folder/'train'/info['file_name'])
        picture, ids, visible = draw(compose(i), 128)
        assert img.size == (info['width'], info['height']) and img.tobytes() == picture.tobytes()
        anns, found = data.imgToAnns[i], recognisable(compose(i), ids, visible)
        assert [CATEGORIES[a['category_id'] - 1]['name'] for a in anns] == [VOC_KINDS[c] for c, _ in found]
        for a, (_, mask) in zip(anns, found):
            y, x = np.nonzero(mask)
            assert (data.annToMask(a) == mask).all() and a['area'] == mask.sum() and a['iscrowd'] == 0
            assert a['bbox'] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert len(said.imgToAnns[i]) == 2 and all(a['caption'] for a in said.imgToAnns[i])


def test_what_is_annotated():
    cow, tiny = Thing('cow', 'brown', .5, .5, .5, 0., False, 1), Thing('cow', 'brown', .5, .5, .012, 0., False, 1)
    tree = Thing('tree', 'green', .5, .5, .5, 0., False, 2)

    def found(size, *things):
        scene = Scene('field', .4, things, 1., 0)
        return recognisable(scene, *draw(scene, size)[1:])

    assert [VOC_KINDS[c] for c, _ in found(256, cow)] == ['cow']
    assert found(256, tree) == []                                       # a distractor
    assert found(256, tiny) == [] and found(64, tiny) == []             # too small, at any resolution
    assert len(found(256, cow, cow)) == 1                               # hidden by its double
    for size in (64, 128, 256):
        for s in range(10):
            scene = compose(s); _, ids, visible = draw(scene, size)
            for _, m in recognisable(scene, ids, visible):
                i = ids[m][0]
                assert visible[i - 1] >= .3 and m.sum() >= 40*(size/256)**2 and scene.things[i - 1].kind in VOC_KINDS


def test_interrupted_writing_goes_on(tmp_path):
    want = files(write(tmp_path/'whole', 'train', 120, first_seed=0, size=64, n_jobs=1))
    half = tmp_path/'half'
    p = child(WRITE, half, 120)
    while p.poll() is None and not list(half.glob('.train-*/000000.json')): time.sleep(.01)
    p.send_signal(signal.SIGKILL); p.communicate()
    assert not (half/'annotations'/'instances_train.json').exists()
    times = {q: q.stat().st_mtime_ns for q in sorted((half/'train').glob('*.png'))[:50]}
    assert len(times) == 50
    write(half, 'train', 120, first_seed=0, size=64, n_jobs=1)
    assert files(half) == want
    assert all(q.stat().st_mtime_ns == t for q, t in times.items())      # the finished part was kept
    assert not list(half.glob('.train-*'))


def test_lost_files_are_drawn_again(tmp_path):
    folder = write(tmp_path, 'train', 8, first_seed=0, size=64, n_jobs=1)
    want = files(folder)
    (folder/'train'/'000003.png').unlink()
    assert files(write(folder, 'train', 8, first_seed=0, size=64, n_jobs=1)) == want
    (folder/'annotations'/'instances_train.json').unlink()
    (folder/'train'/'000005.png').write_bytes(b'half a picture')
    assert files(write(folder, 'train', 8, first_seed=0, size=64, n_jobs=1)) == want


def test_two_processes_share_one_drawing(tmp_path):
    both = [child(WRITE, tmp_path/'both', 60) for _ in range(2)]
    errors = [p.communicate()[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], errors
    assert files(tmp_path/'both') == files(write(tmp_path/'one', 'train', 60, first_seed=0, size=64, n_jobs=1))


def test_processes_do_not_change_the_bytes(tmp_path):
    a = write(tmp_path/'a', 'train', 60, first_seed=7, size=64, n_jobs=1)
    b = write(tmp_path/'b', 'train', 60, first_seed=7, size=64, n_jobs=2)
    assert files(a) == files(b)


def test_ensure(tmp_path, monkeypatch, capsys):
    settings = dict(train=4, test=3, size=64, n_jobs=1)
    monkeypatch.setenv('TRMML_DATA', str(tmp_path/'env'))
    folder = ensure(**settings, progress=False)
    assert folder.parent == tmp_path/'env' and folder.name.startswith('doodles-')
    assert not (folder/'test').exists()                                  # each split when it is asked for
    assert ensure(split='test', **settings, progress=False) == folder and capsys.readouterr().err == ''
    here = ensure(tmp_path/'here', **settings)
    assert here.name == folder.name and 'drawing train' in capsys.readouterr().err
    before = os.stat(here/'annotations'/'instances_train.json').st_mtime_ns
    ensure(tmp_path/'here', **settings)
    assert os.stat(here/'annotations'/'instances_train.json').st_mtime_ns == before and capsys.readouterr().err == ''
    infos = [json.loads((folder/'annotations'/f'instances_{s}.json').read_text())['info'] for s in ('train', 'test')]
    seeds = [i['first_seed'] for i in infos]
    assert seeds == [1_000_000, 2_000_000] == [seed_of('train', 4), seed_of('test', 3)]
    assert len({ensure(tmp_path/'here', **settings | change, progress=False) for change in
                ({}, dict(seed=1), dict(size=32), dict(train=5))}) == 4


@pytest.mark.parametrize('change, message', [
    (dict(split='val'), "have 'train' and 'test'"), (dict(seed=-1), 'choose 0 to 42'),
    (dict(seed=43), 'choose 0 to 42'), (dict(train=0), 'choose 1 to 1,000,000')])
def test_wrong_settings(tmp_path, change, message):
    with pytest.raises(ValueError, match=message): ensure(tmp_path, **change)


def test_other_settings_need_another_folder(tmp_path):
    write(tmp_path, 'train', 2, first_seed=0, size=64, n_jobs=1)
    with pytest.raises(ValueError, match='holds another train'):
        write(tmp_path, 'train', 2, first_seed=1, size=64, n_jobs=1)


def test_load_reads_them(tmp_path):
    from trmml.data import load
    ds = load('doodles', root=tmp_path, train=12, test=2, size=64, progress=False, n_jobs=1)
    assert len(ds) == 12 and ds.classes == VOC_KINDS and 'potted plant' in ds.prompts
    for i in range(12):
        scene = compose(1_000_000 + i); _, ids, visible = draw(scene, 64)
        assert set(np.flatnonzero(ds.labels[i] == 1)) == {c for c, _ in recognisable(scene, ids, visible)}
