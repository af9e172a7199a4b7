"""Good files of every reader, changed at random: each is read, or refused in one sentence that names it. What else happens is foul.

    python tests/faults/fuzz.py --files 20000 --seed 0 [--out FILE] [--page] [--reader NAME] [--only K]
"""
import argparse
import csv
import io
import json
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
import page
from trmml.clip import read_weights
from trmml.data import annotation_cache, load, open_image
from trmml.data.coco import decode_rle
from trmml.data.fetch import unpack
from trmml.formats import Options, read
from trmml.formats.naming import as_map
from trmml.photos import saving
from trmml.photos.model_file import check_numbers, check_shapes, checksum, header_of

LIMIT = 10.   # seconds for a file


class TooLong(BaseException): "A reader that did not end in time."


# ---- changes: a good file and a source of chance to another file

WORDS = ['', '-1', '0', '1', '2', 'NaN', 'null', '9'*30, '9'*5000, '1e999', '../../x.jpg', '/etc/passwd', '[', '{', '"', "'", '\x00', '\ud800', 'é', 'x'*2000, 'a.jpg', "['\\ud800']", '=1', ',', ';', '|', 'true', '0 1', 'cat', '&a;', '<a>']
VALUES = [None, True, 0, -1, 2**63, 10**400, 1.5, 1e308, '', 'x', 'x'*3000, 'é', '../../x.jpg', '/etc/passwd', [], {}, [[]], [None], {'a': 1}, [1, 'a'], 'a.jpg', '\ud800', [1e300]*4]


def of_bytes(raw, rng):
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        k, what = rng.randrange(len(raw) + 1), rng.randrange(6)
        if what < 2 and k < len(raw): raw[k] ^= 1 << rng.randrange(8)
        elif what == 2: raw[k:k + rng.randrange(1, 30)] = b''
        elif what == 3: raw[k:k] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
        elif what == 4: raw[k:k] = raw[k:k + rng.randrange(1, 200)]*rng.choice([1, 2, 50])
        else: raw[k:k] = rng.choice(WORDS).encode('utf-8', 'surrogatepass')
    return bytes(raw[:rng.randrange(len(raw) + 1)] if rng.random() < .1 else raw)


def nodes(doc):
    "Every place of a document: container and key."
    todo, out = [doc], []
    while todo:
        d = todo.pop()
        for k in (d if isinstance(d, dict) else range(len(d))):
            out.append((d, k))
            if isinstance(d[k], (dict, list)): todo.append(d[k])
    return out


def of_json(raw, rng):
    doc = json.loads(raw)
    for _ in range(rng.choice([1, 1, 2, 4])):
        places = nodes(doc)
        if not places: break
        d, k = rng.choice(places); what = rng.randrange(4)
        if what == 0 and isinstance(d, dict): del d[k]
        elif what == 0: d.insert(k, d[k])
        elif what == 1 and isinstance(d, dict): d[rng.choice(WORDS)] = d.pop(k)
        else: d[k] = json.loads(json.dumps(rng.choice(VALUES)))
    return json.dumps(doc).encode()


def of_cells(raw, rng):
    rows = list(csv.reader(io.StringIO(raw.decode())))
    for _ in range(rng.choice([1, 1, 2, 5])):
        r = rng.choice(rows)
        if not r: continue
        k = rng.randrange(len(r)); what = rng.randrange(5)
        if what == 0: del r[k]
        elif what == 1: rows.insert(rng.randrange(len(rows)), list(r))
        else: r[k] = rng.choice(WORDS)
    out = io.StringIO(); csv.writer(out).writerows(rows); return out.getvalue().encode('utf-8', 'surrogatepass')


def of_zip(raw, rng):
    "A member of a zip changed, and the sums right."
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, 'w') as new:
        names = old.namelist(); hit = rng.choice(names)
        for n in names: new.writestr(n, of_bytes(old.read(n), rng) if n == hit else old.read(n))
    return out.getvalue()


def of_header(raw, rng):
    "The header of safetensors changed as JSON, its length right."
    n = struct.unpack('<Q', raw[:8])[0]; head = of_json(raw[8:8 + n], rng)
    return struct.pack('<Q', len(head)) + head + raw[8 + n:]


def sealed(raw, rng):
    "model.json changed, its checksum that of a forger."
    doc = json.loads(of_json(raw, rng))
    try: return json.dumps(doc | dict(checksum=checksum(doc))).encode() if isinstance(doc, dict) else b'[]'
    except (ValueError, TypeError): return json.dumps(doc).encode()


# ---- good files, and their readers

COCO = dict(images=[dict(id=k, file_name=f'{c}.jpg', width=8, height=6) for k, c in enumerate('abc')], categories=[dict(id=1, name='cat', supercategory='none'), dict(id=2, name='dog')],
            annotations=[dict(id=k, image_id=k % 3, category_id=1 + k % 2, bbox=[0, 0, 2, 3], area=6, iscrowd=k % 2, segmentation=[dict(size=[6, 8], counts=[10, 20, 18]), [[1, 2, 3, 4]]][k % 2]) for k in range(5)])
STUDIO = [dict(id=k, data=dict(image=f'/up/{c}.jpg'), annotations=[dict(result=[dict(type='choices', from_name='what', value=dict(choices=['cat', 'dog'][:1 + k % 2]))])]) for k, c in enumerate('abc')]
CVAT = '<annotations><meta><task><labels><label><name>cat</name></label></labels></task></meta>' + ''.join(f'<image id="{k}" name="{c}.jpg" width="8" height="6"><box label="cat"/><tag label="dog"><attribute name="x">true</attribute></tag></image>' for k, c in enumerate('abc')) + '</annotations>'
VOC = '<annotation><filename>a.jpg</filename><size><width>8</width><height>6</height></size><object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>'
WIDE, TAGS, LONG = 'image,split,cat,dog\na.jpg,train,1,0\nb.jpg,val,,1\nc.jpg,train,0,\n', 'image,tags\na.jpg,cat|dog\nb.jpg,cat\nc.jpg,"[\'dog\', \'cat\']"\n', 'image,class,value\na.jpg,cat,1\na.jpg,dog,0\nb.jpg,cat,0\nc.jpg,dog,1\n'
MODEL = dict(format=2, weights='weights-0123456789ab.safetensors', sha256='0'*64, classes=['cat', 'dog'], prompts=['cat', 'dog'], calibration=dict(a=[1., 2.], b=[0., 0.], shared=[1., 0.]), backbone=dict(
    name='doodle-clip', weights='doodles', image_size=64, d=8, sha256='0'*64), thresholds=[.5, .5], zero_shot=['dog'], metrics=dict(photos=9, labels=18, positives=5, classes=2, all_classes=2), facts=dict(
    settings=dict(epochs=2), trained_on=10, folds=0, own_thresholds=0, weight=[0., 0.], positives=[1, 2], negatives=[3, 4]), cross=['a.jpg'], settings=dict(epochs=2, folds='auto'), versions=dict(trmml='0', torch='2', python='3'))
TENSORS = {'start.T': (2, 8), 'start.mean': (2, 2), 'start.std': (2, 2), 'weight': (2,), 'mean': (2,), 'std': (2,), 'cross.scores': (1, 2)}


def made(root, write, name):
    "The bytes that a function writes to a path."
    write(root/name); return (root/name).read_bytes()


def zipped(root, name):
    with zipfile.ZipFile(root/name, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a/b.txt', 'hello '*50); z.writestr('c.txt', 'x')


def cache(path): annotation_cache.save_cache(path, 'k', dict(classes=['cat'], labels=np.ones((2, 1), np.int8), boxes=pd.DataFrame(dict(image=[0], x=[1.], rle=[dict(size=[2, 2], counts=[4])]))))


def tensors(path): save_file({k: torch.zeros(s) for k, s in TENSORS.items()} | {'cross.labels': torch.zeros(1, 2, dtype=torch.int8)}, path)


def shapes(path):
    check_shapes(header_of(path), MODEL, path); from safetensors.torch import load_file; check_numbers(load_file(path), path)


def read_model(path):
    shutil.copy(path, path.parent/'model'/'model.json'); return saving.read_json(path.parent/'model')


def coco_folder(path): shutil.copy(path, path.parent/'coco'/'annotations'/'instances_train.json'); return load(path.parent/'coco').card


def voc_folder(path, where):
    root = path.parent/'voc'; good = dict(xml=VOC, list='a\n')
    for k, at in (('xml', 'Annotations/a.xml'), ('list', 'ImageSets/Main/train.txt')): (root/at).write_bytes(path.read_bytes() if k == where else good[k].encode())
    return load(root)


def yolo(path): shutil.copy(path, path.parent/'yolo'/'data.yaml'); return read(path.parent/'yolo'/'data.yaml')


def yolo_text(path): shutil.copy(path, path.parent/'yolo'/'labels'/'a.txt'); return read(path.parent/'yolo'/'data.yaml')


def rle(path):
    try: doc = json.loads(path.read_bytes())
    except ValueError: return None
    return decode_rle(doc) if isinstance(doc, dict) else None


def archive(path):
    out = path.parent/'out'; shutil.rmtree(out, ignore_errors=True); return unpack(path, out)


def folders(root):
    for n in ('coco/train', 'voc/JPEGImages', 'yolo/images', 'yolo/labels', 'coco/annotations', 'voc/Annotations', 'voc/ImageSets/Main', 'model', '.'): (root/n).mkdir(parents=True, exist_ok=True)
    for n in ('coco/train', 'voc/JPEGImages', 'yolo/images', '.'):
        for c in 'abc': Image.new('RGB', (8, 6)).save(root/n/f'{c}.jpg')
    (root/'voc/ImageSets/Main/val.txt').write_text(''); (root/'yolo/labels/a.txt').write_text('0 .5 .5 .1 .1\n'); (root/'yolo/data.yaml').write_text('names: [cat, dog]\ntrain: images\n')


def readers(root):
    "Name -> (end of the file's name, good bytes, changes, reader, names that messages may use)."
    folders(root); j = lambda d: json.dumps(d).encode(); table = lambda p: load(p)
    noisy = Image.fromarray(np.random.RandomState(0).randint(0, 255, (20, 30, 3), np.uint8)); labelme = dict(imagePath='a.jpg', flags=dict(cat=True), shapes=[dict(label='dog', points=[[1, 2]])]); records = [dict(file_name=f'{c}.jpg', labels=['cat', 'dog']) for c in 'abc']
    out = {'CSV, wide': ('.csv', WIDE.encode(), (of_bytes, of_cells), table), 'CSV, tags': ('.csv', TAGS.encode(), (of_bytes, of_cells), table), 'CSV, long': ('.csv', LONG.encode(), (of_bytes, of_cells), table),
           'CSV, UTF-16': ('.csv', WIDE.encode('utf-16'), (of_bytes,), table), 'JSON lines': ('.jsonl', b'\n'.join(map(j, records)), (of_bytes,), table), 'JSON, records': ('.json', j(records), (of_bytes, of_json), table),
           'Label Studio': ('.json', j(STUDIO), (of_bytes, of_json), read), 'labelme': ('.json', j(labelme), (of_bytes, of_json), read), 'COCO export': ('.json', j(COCO), (of_bytes, of_json), read), 'COCO folder': ('.json', j(COCO), (of_bytes, of_json, of_json), coco_folder),
           'CVAT XML': ('.xml', CVAT.encode(), (of_bytes,), read), 'VOC XML, export': ('.xml', VOC.encode(), (of_bytes,), read), 'VOC XML, folder': ('.xml', VOC.encode(), (of_bytes,), lambda p: voc_folder(p, 'xml')), 'VOC list': ('.txt', b'a\n', (of_bytes,), lambda p: voc_folder(p, 'list')),
           'YOLO data.yaml': ('.yaml', b'path: .\nnames: {0: cat, 1: dog}\ntrain: images\nval: [images]\n', (of_bytes,), yolo), 'YOLO text': ('.txt', b'0 .5 .5 .1 .1\n1 .2 .2 .1 .1\n', (of_bytes,), yolo_text), 'names, JSON': ('.json', j({'0': 'cat', '1': 'dog'}), (of_bytes, of_json), as_map),
           'names, YAML': ('.yaml', b'names:\n  0: cat\n  1: dog\n', (of_bytes,), as_map), 'names, text': ('.txt', b'0,cat\n1,dog\n', (of_bytes, of_cells), as_map), 'run-length code': ('.json', j(dict(size=[6, 8], counts=[10, 20, 18])), (of_json,), rle),
           'npy': ('.npy', made(root, lambda p: np.save(p, np.array([[1, 0], [0, np.nan], [1, 1]])), 'g.npy'), (of_bytes,), lambda p: read(p, Options(names=['cat', 'dog']))),
           'annotation cache': ('.npz', made(root, cache, 'g.npz'), (of_bytes,), lambda p: annotation_cache.load_cache(p, 'k')), 'model.json': ('.json', j(MODEL | dict(checksum=checksum(MODEL))), (of_bytes, of_json), read_model), 'model.json, forged': ('.json', j(MODEL), (sealed,), read_model),
           'tensors of a model': ('.safetensors', made(root, tensors, 'g.safetensors'), (of_bytes, of_header), shapes), 'weights, safetensors': ('.safetensors', made(root, tensors, 'h.safetensors'), (of_bytes, of_header), read_weights),
           'weights, state dict': ('.pt', made(root, lambda p: torch.save(torch.nn.Linear(2, 2).state_dict(), p), 'g.pt'), (of_bytes, of_zip), read_weights), 'weights, TorchScript': ('.pt', made(root, lambda p: torch.jit.script(torch.nn.Linear(2, 2)).save(str(p)), 't.pt'), (of_bytes, of_zip), read_weights),
           'zip archive': ('.zip', made(root, lambda p: zipped(p.parent, p.name), 'g.zip'), (of_bytes,), archive), 'tar archive': ('.tar', made(root, lambda p: shutil.make_archive(str(p.with_suffix('')), 'tar', root/'yolo'), 'g.tar'), (of_bytes,), archive),
           'tgz archive': ('.tgz', made(root, lambda p: shutil.move(shutil.make_archive(str(p.with_suffix('')), 'gztar', root/'yolo'), p), 'g.tgz'), (of_bytes,), archive), 'PNG': ('.png', made(root, noisy.save, 'g.png'), (of_bytes,), open_image), 'JPEG': ('.jpg', made(root, noisy.save, 'g.jpg'), (of_bytes,), open_image)}
    try: out['xlsx'] = '.xlsx', made(root, lambda p: pd.read_csv(io.StringIO(WIDE)).to_excel(p, index=False), 'g.xlsx'), (of_bytes, of_zip, of_zip), table
    except ImportError: pass
    try: out['parquet'] = '.parquet', made(root, lambda p: pd.read_csv(io.StringIO(WIDE)).to_parquet(p), 'g.parquet'), (of_bytes,), table
    except ImportError: pass
    return out


NAMED = ('model.json', 'instances_train.json', 'a.xml', 'train.txt', 'data.yaml', 'a.txt', 'run-length code')   # under which readers of folders find the file


def outcome(reader, path):
    "read, refused, foul or hang; and what was said."
    def late(*_): raise TooLong
    signal.signal(signal.SIGALRM, late); signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try: reader(path); return 'read', ''
    except TooLong: return 'hang', ''
    except (ValueError, FileNotFoundError) as error:
        text = str(error); good = type(error) in (ValueError, FileNotFoundError, saving.ModelError) and '\n' not in text and len(text) < 2500 and any(n in text for n in (path.name, *NAMED))
        return ('refused', '') if good else ('foul', where(error))
    except Exception as error: return 'foul', where(error)
    finally: signal.setitimer(signal.ITIMER_REAL, 0)


def where(error):
    own = [x for x in traceback.extract_tb(error.__traceback__) if '/trmml/' in x.filename]
    return f'{type(error).__name__}: {str(error)[:160]!r}' + (f' at {Path(own[-1].filename).name}:{own[-1].lineno}' if own else '')


def fuzz(files, seed, reader=None, only=None, root=None, say=lambda line: None):
    "Counts by reader, and what was foul: (reader, number, what)."
    with tempfile.TemporaryDirectory(dir=root) as tmp, warnings.catch_warnings():
        warnings.simplefilter('ignore'); tmp = Path(tmp); all_ = readers(tmp); names = [n for n in all_ if reader in (None, n)]
        counts, foul = {n: Counter() for n in names}, []
        for n in names:   # what is not changed is read
            (tmp/f'good{all_[n][0]}').write_bytes(all_[n][1]); result, said = outcome(all_[n][3], tmp/f'good{all_[n][0]}')
            if result != 'read': foul.append((n, -1, f'the good file is {result} {said}'))
        for k in range(files) if only is None else [only]:
            name = names[k % len(names)]; end, good, changes, call = all_[name]; rng = random.Random(f'{seed} {name} {k}')
            path = tmp/f'changed{end}'; path.write_bytes(rng.choice(changes)(good, rng))
            if only is not None: shutil.copy(path, f'fuzzed{end}')
            result, said = outcome(call, path); counts[name][result] += 1
            if result in ('foul', 'hang'): foul.append((name, k, said or result)); say(f'{result}: {name}, --reader {name!r} --only {k}: {said}')
    return counts, foul


def table(counts, foul, files, seed, seconds):
    "Markdown."
    rows = [f'| {n} | {sum(c.values())} | {c["read"]} | {c["refused"]} | {c["foul"]} | {c["hang"]} |' for n, c in counts.items()]
    total = sum(counts.values(), Counter())
    rows.append(f'| all | {sum(total.values())} | {total["read"]} | {total["refused"]} | {total["foul"]} | {total["hang"]} |')
    said = [f'- {n}, number {k}: {what}' for n, k, what in foul]
    return '\n'.join([f'{files:,} changed files, seed {seed}, {seconds:.0f} s; refused: one sentence that names the file. `python tests/faults/fuzz.py --page` makes it.', '', '| reader | files | read | refused | foul | hang |', '|---|---|---|---|---|---|', *rows, *([''] + said if said else []), ''])


if __name__ == '__main__':
    ask = argparse.ArgumentParser(); ask.add_argument('--files', type=int, default=20_000); ask.add_argument('--seed', type=int, default=0); ask.add_argument('--out'); ask.add_argument('--page', action='store_true', help='into results/tables/faults.md'); ask.add_argument('--reader'); ask.add_argument('--only', type=int)
    a = ask.parse_args(); start = time.time(); counts, foul = fuzz(a.files, a.seed, a.reader, a.only, say=lambda line: print(line, file=sys.stderr, flush=True)); text = table(counts, foul, a.files, a.seed, time.time() - start)
    if a.out: Path(a.out).write_text(text)
    if a.page: page.put('Readers', text)
    print(text); sys.exit(bool(foul))
