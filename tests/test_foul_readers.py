"""Files that no tool wrote: a ValueError that names file and entry, in time linear in the size of the file; paths that lead elsewhere are refused."""
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trmml.data import load, open_image
from trmml.data import annotation_cache as caches
from trmml.data.coco import decode_rle, rle_fault
from trmml.data.table import write_csv
from trmml.formats import Options, read
from trmml.formats.cells import of_csv

DEEP, BIG = b'['*200_000, b'1' + b'0'*400


@pytest.fixture
def folder(tmp_path):
    "Three photos, and one beside their folder."
    for n in ('in/a.jpg', 'in/b.jpg', 'in/c.jpg', 'far/x.jpg', 'in/train/a.jpg', 'VOC/JPEGImages/a.jpg', 'VOC/x.jpg'):
        (tmp_path/n).parent.mkdir(parents=True, exist_ok=True); Image.new('RGB', (8, 6)).save(tmp_path/n)
    return tmp_path/'in'


def put(folder, name, raw):
    (folder/name).parent.mkdir(parents=True, exist_ok=True)
    (folder/name).write_bytes(raw if isinstance(raw, bytes) else raw.encode()); return folder/name


def one_sentence(call, *names):
    with pytest.raises(ValueError) as caught: call()
    text = str(caught.value)
    assert all(n in text for n in names) and '\n' not in text and len(text) < 2000, text
    return text


COCO = dict(images=[dict(id=1, file_name='a.jpg', width=8, height=6)], categories=[dict(id=1, name='cat')], annotations=[dict(id=7, image_id=1, category_id=1, bbox=[0, 0, 2, 2])])


def coco(**change): return json.dumps({k: [v[0] | change.get(k, {})] for k, v in COCO.items()})


FOUL = {   # file -> contents, words
    'deep.json': (DEEP, 'deep.json'), 'deep2.json': (b'{"a":'*100_000, 'deep2.json'), 'big.json': (b'[{"file_name": "a.jpg", "labels": ' + b'9'*5000 + b'}]', 'big.json'), 'half.json': (b'[{"file_name": "a.jpg", "labels": ["\\ud800"]}]', 'half.json, row 1: .*half a'),
    'not-utf8.json': (b'[{"file_name": "\xe9.jpg"}]', 'not-utf8.json, row 1: is not UTF-8'), 'nan.json': (b'[NaN, 1]', 'nan.json'), 'text.json': (b'"x"', 'text.json'), 'empty.json': (b'', 'empty.json: is empty'), 'keys.json': (b'{"images": 3, "annotations": 4, "categories": 5}', 'keys.json'),
    'studio.json': (b'[{"data": 5, "annotations": [7]}]', 'studio.json'), 'studio2.json': (b'[{"data": {"image": "a.jpg"}, "annotations": [{"result": [{"type": [], "value": {}}]}]}]', 'studio2.json'), 'labelme.json': (b'{"imagePath": "a.jpg", "flags": 5, "shapes": [1]}', 'labelme.json'),
    'deep.jsonl': (b'{"file_name": "a.jpg", "labels": ' + DEEP, 'deep.jsonl, line 1'), 'half.csv': (b"image,tags\na.jpg,\"['\\ud800', 'x']\"\nb.jpg,\"['x']\"\n", 'half.csv, row 2: the class'), 'letters.csv': (b'image,cat,dog\na.jpg,' + b'x'*100_000 + b',1\n', "letters.csv, row 2, column 'cat'"),
    'wide.csv': (b'image,' + b'x'*200_000 + b',' + b'x'*200_000 + b'\na.jpg,1,1\n', 'wide.csv'), 'utf16.csv': ('image,cat\na.jpg,1\n'.encode('utf-16-le')[:-1], 'utf16.csv'), 'zeros.csv': (bytes(500), 'zeros.csv'), 'quote.csv': (b'image,cat\n"a.jpg,1\n', 'quote.csv'),
    'enc.xml': (b'<?xml version="1.0" encoding="foo"?><annotation/>', 'enc.xml: is no XML'), 'multi.xml': (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', 'multi.xml: is no XML'), 'deep.xml': (b'<annotation>'*100_000, 'deep.xml: is no XML'), 'bomb.xml': (
        b'<!DOCTYPE a [<!ENTITY a "' + b'x'*1000 + b'">' + b''.join(b'<!ENTITY %c "%s">' % (98 + k, b'&%c;' % (97 + k)*50) for k in range(9)) + b']><annotation><object><name>&j;</name></object></annotation>', 'bomb.xml: is no XML'),
    'list.yaml': (b'[', 'list.yaml: is no YAML'), 'deep.yaml': (b'['*3000, 'deep.yaml: is no YAML'), 'tag.yaml': (b'names: !!python/object/apply:os.system ["touch x"]', 'tag.yaml: is no YAML'), 'laugh.yaml': (
        b'a: &a [x,x,x,x,x,x,x,x,x,x]\n' + b''.join(b'%c: &%c [%s]\n' % (98 + k, 98 + k, b','.join([b'*%c' % (97 + k)]*10)) for k in range(12)) + b'names: *m\ntrain: .\n', 'laugh.yaml: names'), 'root.yaml': (b'names: [cat]\ntrain: /\n', 'root.yaml: .* leads out'), 'number.yaml': (b'names: [cat]\ntrain: 5\n', 'number.yaml'), 'file.yaml': (b'names: /etc/hostname\ntrain: .\n', 'file.yaml: names: .* is no list of names'), 'long.yaml': (b'names: [cat]\ntrain: ' + b'9'*5000, 'long.yaml'),
    'huge.npy': (b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 5), }".ljust(117) + b'\n', 'huge.npy: cannot be read as an array'), 'pickle.npy': (b'\x80\x04\x95.', 'pickle.npy: cannot be read'), 'header.npy': (b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((((", 'header.npy'),
    'zip.xlsx': (b'PK\3\4' + bytes(50), 'zip.xlsx: cannot be read'), 'none.parquet': (b'PAR1' + bytes(50) + b'PAR1', 'none.parquet')}


@pytest.mark.parametrize('name', FOUL)
def test_a_file_that_no_tool_wrote(folder, name):
    raw, words = FOUL[name]; path = put(folder, name, raw); start = time.time()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(ValueError, match=words) as caught: read(path)
    text = str(caught.value)
    assert str(path) in text and '\n' not in text and len(text) < 2000 and time.time() - start < 10 and type(caught.value) is ValueError


@pytest.mark.parametrize('change, words', [
    (dict(annotations=dict(bbox=[0, 0, 10**400, 1])), 'annotation id 7 has bbox'), (dict(annotations=dict(bbox=[0, 0, 1e15, 1])), 'annotation id 7 has bbox'), (dict(images=dict(width=10**400)), 'image id 1 has width'), (dict(images=dict(id='x'*10**5)), 'image_id 1'),
    (dict(annotations=dict(segmentation=dict(size=[6, 8]))), 'annotation id 7 has a segmentation .*counts'), (dict(annotations=dict(segmentation=dict(size=[6, 8], counts=[99]))), 'annotation id 7 has a segmentation'),
    (dict(annotations=dict(segmentation=dict(size=[10**9, 10**9], counts=[10**18]))), 'too large'), (dict(annotations=dict(segmentation=dict(size=[6], counts='x'))), 'its size is'), (dict(annotations=dict(segmentation=dict(size=[6, 8], counts='~~'))), 'none of COCO'),
    (dict(annotations=dict(area='x')), 'annotations'), (dict(annotations=dict(category_id=10**400)), 'category_id'), (dict(images=dict(file_name='y'*10**5)), 'instances_train.json lists 1 images'), (dict(annotations=dict(bbox=['z'*10**5, 0, 1, 1])), 'holds more than numbers')])
def test_coco_entries(folder, change, words):
    put(folder, 'annotations/instances_train.json', coco(**change))
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught: load(folder)
    assert 'instances_train.json' in str(caught.value) and len(str(caught.value)) < 1500 and '\n' not in str(caught.value)


@pytest.mark.parametrize('raw', [DEEP, b'{"images": ' + DEEP, coco().replace('"cat"', '"\\ud800"').encode(), coco().replace('[0, 0, 2, 2]', '{"a"').encode(), coco().replace('7', '1e999').encode(), b'\xff\xfe', b'{"images": [{"id": 1, "file_name": "\xe9"}]}'], ids=range(7))
def test_coco_files(folder, raw):
    put(folder, 'annotations/instances_train.json', raw); one_sentence(lambda: load(folder), 'instances_train.json')


def test_coco_ids_of_mixed_types(folder):
    d = COCO | dict(categories=[dict(id=1, name='cat'), dict(id='b', name='dog')]); put(folder, 'annotations/instances_train.json', json.dumps(d))
    assert "category id 'b' has id 'b'" in one_sentence(lambda: load(folder), 'instances_train.json').replace("categorie ", 'category ')


@pytest.mark.parametrize('rle', [{}, dict(size=[2, 2]), dict(counts=[4]), dict(size=[2, 2], counts=[5]), dict(size='ab', counts=[4]), dict(size=[2., 2], counts=[4]), dict(size=[-2, -2], counts=[4]), dict(size=[2, 2], counts=[10**400]),
                                 dict(size=[2, 2], counts='\x7f'), dict(size=[2, 2], counts='o'*10**5), dict(size=[2, 2], counts={}), dict(size=[2**20, 2**20], counts=[2**40]), dict(size=[2, 2], counts=['4'])])
def test_codes_that_are_none(rle): assert rle_fault(rle) and one_sentence(lambda: decode_rle(rle), 'run-length code')


@pytest.mark.parametrize('xml', ['<?xml version="1.0" encoding="foo"?><annotation/>', '<annotation><size><width>1' + '0'*30 + '</width><height>5</height></size></annotation>', '<annotation><size><width>-5</width></size></annotation>',
                                 '<annotation><object><name>cat</name><bndbox><xmin>1e300</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>', '<annotation><object/></annotation>', '<annotation><size><width>' + '9'*5000 + '</width></size></annotation>', '<a>'*50_000], ids=range(7))
def test_voc_xml(folder, xml):
    voc = folder.parent/'VOC'; put(voc, 'Annotations/a.xml', xml); put(voc, 'ImageSets/Main/train.txt', 'a\n'); one_sentence(lambda: load(voc), 'a.xml')


@pytest.mark.parametrize('raw', [b'\xe9\xe8\n', b'a\n\xff\xfe'])
def test_voc_list_of_another_encoding(folder, raw):
    voc = folder.parent/'VOC'; put(voc, 'Annotations/a.xml', '<annotation/>'); put(voc, 'ImageSets/Main/train.txt', raw); one_sentence(lambda: load(voc), 'train.txt')


# ---- paths that lead elsewhere

@pytest.mark.parametrize('name', ['../far/x.jpg', '{far}/x.jpg', 'train/../../far/x.jpg', '..\\far\\x.jpg'])
def test_a_table_leads_nowhere_else(folder, name):
    far = folder.parent/'far'; t = put(folder, 't.csv', f'image,cat\na.jpg,1\n{name.format(far=far)},0\n')
    assert 'images=' in one_sentence(lambda: load(t), 't.csv, row 3', 'leads out')
    for images in ('/', folder.parent): assert load(t, images=images).paths == [str(folder/'a.jpg'), str(far/'x.jpg')]


def test_whole_paths_inside_are_right(folder):
    t = write_csv(folder/'t.csv', [folder/'a.jpg', folder/'train'/'..'/'b.jpg'], ['cat'], [[1], [-1]])
    assert load(t).paths == [str(folder/'a.jpg'), str(folder/'b.jpg')]


@pytest.mark.parametrize('name', ['../../far/x.jpg', '{far}/x.jpg', 'b/../../../far/x.jpg'])
def test_coco_leads_nowhere_else(folder, name):
    far = folder.parent/'far'; put(folder, 'annotations/instances_train.json', coco(images=dict(file_name=name.format(far=far))))
    one_sentence(lambda: load(folder), 'instances_train.json', 'leads out', 'images=')
    assert load(folder, images=folder.parent).paths == [str(far/'x.jpg')] and load(folder, images='/').paths == [str(far/'x.jpg')]


@pytest.mark.parametrize('stem', ['../x', '{voc}/x', '../../VOC/x'])
def test_voc_leads_nowhere_else(folder, stem):
    voc = folder.parent/'VOC'; put(voc, 'Annotations/a.xml', '<annotation/>'); put(voc, 'x.xml', '<annotation/>'); put(voc, 'ImageSets/Main/train.txt', stem.format(voc=voc) + '\n')
    one_sentence(lambda: load(voc), 'train.txt', 'leads out')


# ---- time

@pytest.mark.parametrize('make', [lambda n: b'\n'*n + b'image,cat\na.jpg,1\n', lambda n: b'# x\n'*n + b'image,cat\na.jpg,1\n', lambda n: b'image,' + b','.join(b'c%d' % k for k in range(n)) + b'\na.jpg,' + b','.join([b'1']*n) + b'\n', lambda n: b'image,cat\n' + b''.join(b'%d.jpg,1\n' % k for k in range(n))], ids=['blank lines', 'comments', 'columns', 'rows'])
def test_time_is_linear(tmp_path, make):
    "Four times the size takes no more than eight times as long."
    def seconds(n):
        path = put(tmp_path, f'{n}.csv', make(n)); best = 9e9
        for _ in range(3): start = time.process_time(); of_csv(path); read(path) if n < 10**5 else None; best = min(best, time.process_time() - start)
        return best
    few, many = seconds(4000), seconds(16_000)
    assert many < 8*few + .2


# ---- caches, pictures, formulas

def test_a_damaged_cache_is_made_again(tmp_path):
    "A bit anywhere, or a cut: the same as without, with one warning; or the cache as it was."
    import random
    path = put(tmp_path, 'a.json', '{}'); parts = dict(classes=['cat'], names=['a.jpg'], labels=np.ones((1, 1), np.int8), boxes=pd.DataFrame(dict(image=[0], label=[0], x=[1.], rle=[None])), sha256='0'*64)
    asked = []
    def parse(): asked.append(1); return parts
    def get(): return caches.cached(parse, path, {}, tmp_path/'cache', least=0)
    get(); get(); assert len(asked) == 1
    file = next((tmp_path/'cache').glob('*.npz')); raw, rng = file.read_bytes(), random.Random(0); found = 0
    for k in range(200):
        bad = bytearray(raw); bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8); file.write_bytes(bad if k % 5 else raw[:rng.randrange(len(raw))]); before = len(asked)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always'); got = get()
        assert got['labels'].tolist() == [[1]] and got['classes'] == ['cat'] and got['names'] == ['a.jpg'] and got['boxes'].x.tolist() == [1.] and got['sha256'] == '0'*64 and set(got) == set(parts)
        again = len(asked) > before; found += again
        assert sum('cache of annotations is damaged' in str(w.message) and str(file) in str(w.message) for w in said) <= again
    assert found > 120


def test_a_picture_that_is_a_bomb(tmp_path):
    Image.new('1', (13_300, 13_300)).save(tmp_path/'a.png'); assert (tmp_path/'a.png').stat().st_size < 50_000
    text = one_sentence(lambda: open_image(tmp_path/'a.png', 224), 'a.png', '13,300 x 13,300 pixels'); assert 'no photo' in text
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (300, 300), np.uint8)).resize((4000, 3000)).save(tmp_path/'b.png'); open_image(tmp_path/'b.png', 224)


def test_formulas_are_defused_and_read_back(tmp_path):
    names, classes = ['=1.jpg', '-b.jpg', '@c.jpg', 'd.jpg'], ['=cmd|calc', '+x', '@y', 'plain', '-z']
    for n in names: Image.new('RGB', (8, 6)).save(tmp_path/n)
    t = write_csv(tmp_path/'t.csv', names, classes, np.ones((4, 5), int)); lines = t.read_text().splitlines()
    assert not any(cell[:1] in '=+-@' for line in lines for cell in line.split(',') if cell) and lines[0].count("'") == 4
    ds = load(t); assert list(ds.classes) == classes and [os.path.basename(p) for p in ds.paths] == names and read(t, Options(classes=['=cmd|calc'])).classes == ['=cmd|calc']
