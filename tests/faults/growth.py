"""Seconds of each reader for n entries and for eight times as many: python tests/faults/growth.py [--entries 1000]

Writes the section Growth of results/tables/faults.md. The exponent is log(t(8n)/t(n))/log 8: 1 is linear, 2 quadratic.
"""
import argparse
import gc
import io
import json
import math
import os
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fuzz
import page

TIMES, LINEAR, QUICK = 8, 1.3, .05   # sizes; exponent that is still called linear; seconds below which no exponent is told
WHERE = ('.', 'coco/train', 'voc/JPEGImages', 'yolo/images')
HEAD = """Each reader on a good file with {n:,} entries (images, rows, objects, names, members or pixels) and with {many:,}; the least of three times, seconds. \
exponent: log(ratio)/log({times}), 1 where time is linear in the size; `python tests/faults/growth.py` makes it.

| reader | {n:,} | {many:,} | exponent |
|---|---:|---:|---:|
"""


def names(n): return [f'p{k}.jpg' for k in range(n)]
def text(lines): return '\n'.join(lines).encode()
def js(doc): return json.dumps(doc).encode()


def written(write):
    held = io.BytesIO()
    write(held)
    return held.getvalue()


def coco(n):
    return js(fuzz.COCO | dict(images=[dict(id=k, file_name=p, width=8, height=6) for k, p in enumerate(names(n))],
              annotations=[dict(id=k, image_id=k, category_id=1 + k % 2, bbox=[0, 0, 2, 3], area=6, iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]) for k in range(n)]))


def cvat(n):
    head, tail = fuzz.CVAT.split('<image', 1)[0], '</annotations>'
    return text([head, *(f'<image id="{k}" name="{p}" width="8" height="6"><tag label="cat"/></image>' for k, p in enumerate(names(n))), tail])


def voc(n):
    a, b = fuzz.VOC.split('<object>')
    return text([a, *['<object>' + b.removesuffix('</annotation>')]*n, '</annotation>'])


def model(n):
    two = [0.]*n
    doc = fuzz.MODEL | dict(classes=names(n), prompts=names(n), calibration=dict(a=two, b=two, shared=[1., 0.]), thresholds=two, zero_shot=[], facts=fuzz.MODEL['facts'] | dict(weight=two, positives=[1]*n, negatives=[1]*n))
    return js(doc | dict(checksum=fuzz.checksum(doc)))


def model_tensors(n):
    "Those of a model of n classes."
    shapes = {'start.T': (n, 8), 'start.mean': (2, n), 'start.std': (2, n), 'cross.scores': (1, n), **{k: (n,) for k in ('weight', 'mean', 'std')}}
    return save({k: torch.zeros(s) for k, s in shapes.items()} | {'cross.labels': torch.zeros(1, n, dtype=torch.int8)})


def pack(n):
    held = io.BytesIO()
    with zipfile.ZipFile(held, 'w') as z:
        for p in names(n): z.writestr(f'a/{p}', b'x')
    return held.getvalue()


def tarred(n, mode):
    import tarfile
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as t:
        for p in names(n): t.addfile(tarfile.TarInfo(f'a/{p}'), io.BytesIO())
    return held.getvalue()


def picture(n, form): return written(lambda f: Image.fromarray(np.random.RandomState(0).randint(0, 255, (n//4, 400, 3), np.uint8)).save(f, form))
def frame(n): return pd.DataFrame(dict(image=names(n), cat=[1, 0]*(n//2), dog=[0, 1]*(n//2)))


MAKERS = {   # reader -> n -> bytes
    'CSV, wide': lambda n: frame(n).to_csv(index=False).encode(), 'CSV, UTF-16': lambda n: frame(n).to_csv(index=False).encode('utf-16'),
    'CSV, tags': lambda n: text(['image,tags', *(f'{p},cat|dog' for p in names(n))]), 'CSV, long': lambda n: text(['image,class,value', *(f'{p},{c},1' for p in names(n) for c in ('cat', 'dog'))]),
    'JSON lines': lambda n: text([json.dumps(dict(file_name=p, labels=['cat'])) for p in names(n)]), 'JSON, records': lambda n: js([dict(file_name=p, labels=['cat']) for p in names(n)]),
    'Label Studio': lambda n: js([dict(fuzz.STUDIO[0], id=k, data=dict(image=f'/up/{p}')) for k, p in enumerate(names(n))]),
    'labelme': lambda n: js(dict(imagePath='a.jpg', flags={}, shapes=[dict(label='dog', points=[[1, 2]])]*n)), 'COCO export': coco, 'COCO folder': coco, 'CVAT XML': cvat,
    'VOC XML, export': voc, 'VOC XML, folder': voc, 'VOC list': lambda n: text([Path(p).stem for p in names(n)]), 'YOLO data.yaml': lambda n: text(['path: .', 'names:', *(f'  {k}: class {k}' for k in range(n)), 'train: images']),
    'YOLO text': lambda n: b'0 .5 .5 .1 .1\n'*n, 'names, JSON': lambda n: js({k: p for k, p in enumerate(names(n))}), 'names, YAML': lambda n: text(['names:', *(f'  {k}: class {k}' for k in range(n))]),
    'names, text': lambda n: text([f'{k},class {k}' for k in range(n)]), 'run-length code': lambda n: js(dict(size=[2, n], counts=[1]*2*n)), 'npy': lambda n: written(lambda f: np.save(f, np.tile([[1., 0], [0, np.nan]], (n//2, 1)))),
    'model.json': model, 'tensors of a model': model_tensors,
    'weights, safetensors': lambda n: save({f't{k}': torch.zeros(2) for k in range(n)}), 'weights, state dict': lambda n: written(lambda f: torch.save({f't{k}': torch.zeros(2) for k in range(n)}, f)),
    'zip archive': pack, 'tar archive': lambda n: tarred(n, 'w'), 'tgz archive': lambda n: tarred(n, 'w:gz'), 'PNG': lambda n: picture(n, 'PNG'), 'JPEG': lambda n: picture(n, 'JPEG'),
    'xlsx': lambda n: written(lambda f: frame(n).to_excel(f, index=False)), 'parquet': lambda n: written(lambda f: frame(n).to_parquet(f))}
OTHERS = {'annotation cache': 'its bytes are compared with a hash', 'model.json, forged': 'as model.json', 'weights, TorchScript': 'its entries are those of a zip, as of a state dict'}


def pictures(root, n):
    "Files for all names: links to one picture."
    for where in WHERE:
        for p in names(n): os.link(root/where/'a.jpg', root/where/p)
    for p in names(n): (root/'voc'/'Annotations'/p).with_suffix('.xml').write_text(fuzz.VOC)


def seconds(call, path):
    "The least of three times. What is refused fails: a refusal may come early."
    best = math.inf
    for _ in range(3):
        start = time.process_time()
        call(path)
        best = min(best, time.process_time() - start)
    return best


def of_size(n):
    "Reader -> seconds of a file with n entries, in a folder of n pictures."
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        root, found = Path(tmp), {}
        every = {k: v for k, v in fuzz.readers(root).items() if k not in OTHERS}
        pictures(root, n)
        for name, (end, _, _, call) in every.items():
            path = root/f'large{end}'
            path.write_bytes(MAKERS[name](n))
            found[name] = seconds(READERS.get(name, call), path)
            print(f'{n:,}: {name}', flush=True)
    return found


def tensors(path):
    "Those of a model with as many classes as the file has."
    head = fuzz.header_of(path)
    fuzz.check_shapes(head, fuzz.MODEL | dict(classes=names(head['weight'][0][0])), path)
    fuzz.check_numbers(load_file(path), path)


READERS = {'tensors of a model': tensors}


def exponent(few, many): return math.log(many/max(few, 1e-9))/math.log(TIMES)


def main():
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument('--entries', type=int, default=1000)
    n = ask.parse_args().entries
    gc.collect()
    gc.freeze()   # a collection looks through PyTorch, whatever is read
    lines, slow, (few_of, many_of) = [], [], (of_size(n), of_size(TIMES*n))
    for name, few in few_of.items():
        many = many_of[name]
        power = exponent(few, many)
        quick = many < QUICK
        lines.append(f'| {name} | {few:.4f} | {many:.4f} | {"" if quick else f"{power:.2f}"} |')
        if not quick and power > LINEAR: slow.append(name)
        print(lines[-1], flush=True)
    said = f'\nNo exponent is told below {QUICK} s. Not measured: ' + '; '.join(f'{k} ({v})' for k, v in OTHERS.items()) + '.\n'
    said += f'\nMore than linear (exponent above {LINEAR}): {", ".join(slow) or "none"}.'
    page.put('Growth', HEAD.format(n=n, many=TIMES*n, times=TIMES) + '\n'.join(lines) + '\n' + said)
    sys.exit(bool(slow))


if __name__ == '__main__': main()
