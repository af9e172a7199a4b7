"""Broken folders and their messages, VOC's difficult objects, RLE masks, and 128 photos of COCO."""
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from trmml.labels import check_trainable
from trmml.data import BOX_COLUMNS, VOC_CLASSES, box_pairs, clean_name, data_root, decode_rle, load, open_image
from trmml.data.coco import _coco_boxes, _entries

COCO128 = Path(__file__).resolve().parents[2]/'shared'/'data'/'coco128'


def document():
    ann = [(10, 5, 0), (10, 2, 0), (12, 5, 1), (11, 5, 0)]
    return dict(images=[dict(id=i, file_name=f'{i}.jpg', width=40, height=20) for i in (10, 11, 12, 13)],
                annotations=[dict(id=k, image_id=i, category_id=c, bbox=[4*k, 2, 10, 8], area=70, iscrowd=crowd)
                             for k, (i, c, crowd) in enumerate(ann)],
                categories=[dict(id=5, name='cat'), dict(id=2, name='old_dog'), dict(id=9, name='ufo')])


def coco(folder, doc=None, text=None, suffix='train'):
    (folder/'annotations').mkdir(parents=True, exist_ok=True)
    (folder/suffix).mkdir(exist_ok=True)
    for i in (10, 11, 12, 13): Image.new('RGB', (40, 20)).save(folder/suffix/f'{i}.jpg')
    path = folder/'annotations'/f'instances_{suffix}.json'
    path.write_text(json.dumps(document() if doc is None else doc) if text is None else text)
    return folder


def test_coco_folder(tmp_path):
    ds = load(coco(tmp_path/'mine'))
    assert (ds.name, len(ds)) == ('mine', 4)
    assert ds.classes == ['old_dog', 'cat', 'ufo'] and ds.prompts == ['old dog', 'cat', 'ufo']       # by category id
    assert ds.labels.tolist() == [[1, 1, -1], [-1, 1, -1], [-1, 1, -1], [-1, -1, -1]] and ds.labels.dtype == np.int8
    assert list(ds.boxes) == BOX_COLUMNS
    assert ds.boxes.image.tolist() == [0, 0, 1, 2] and ds.boxes.label.tolist() == [1, 0, 1, 1]
    assert ds.boxes[['x', 'y', 'w', 'h']].iloc[2].tolist() == [12, 2, 10, 8] and ds.boxes.crowd.tolist() == [0, 0, 0, 1]
    assert ds.sizes.tolist() == [[40, 20]]*4 and all(os.path.isabs(p) and os.path.exists(p) for p in ds.paths)
    assert ds.card['classes without positives'] == ['ufo'] == check_trainable(ds.labels, ds.classes)
    assert ds.card['images'] == 4 and ds.card['images without positives'] == 1
    assert 'only annotation file' in ds.card['note']


def test_empty_policy_drops_and_orders_by_annotations(tmp_path):
    doc = document()
    doc['annotations'].reverse()
    ds = load(coco(tmp_path/'mine', doc), empty='drop')
    assert [Path(p).stem for p in ds.paths] == ['11', '12', '10']                       # a crowd counts as annotated
    assert ds.labels.tolist() == [[-1, 1, -1], [-1, 1, -1], [1, 1, -1]] and ds.boxes.image.tolist() == [0, 1, 2, 2]
    assert ds.variant != load(tmp_path/'mine').variant


def test_variant_follows_the_content_not_the_place(tmp_path):
    a, b = load(coco(tmp_path/'one'/'x')), load(coco(tmp_path/'two'/'x'))
    doc = document()
    doc['annotations'].pop()
    assert a.variant == b.variant != load(coco(tmp_path/'three'/'x', doc)).variant
    assert a.variant != load(tmp_path/'one'/'x', prompts='raw').variant


def test_splits_of_a_coco_folder(tmp_path):
    coco(tmp_path/'x', suffix='train2020')
    coco(tmp_path/'x', dict(document(), images=document()['images'][:3]), suffix='val2020')
    assert [len(load(tmp_path/'x', s)) for s in ('train', 'test', 'val', 'val2020')] == [4, 3, 3, 3]
    for split in 'dev', 'tset', 'trai', '':
        with pytest.raises(ValueError, match=f"for split '{split}'; there are train2020, val2020"): load(tmp_path/'x', split)


def test_single_annotation_file_serves_every_split_with_the_only_folder(tmp_path):
    folder = coco(tmp_path/'x', suffix='all')
    (folder/'all').rename(folder/'photos')
    assert load(folder, 'train').paths == load(folder, 'test').paths == load(folder, 'all').paths and len(load(folder)) == 4
    for split in 'tset', 'dev', '':
        with pytest.raises(ValueError, match=f"for split '{split}'; there are all"): load(folder, split)


def test_coco2014_layout(tmp_path):
    coco(tmp_path/'coco', suffix='train2014')
    coco(tmp_path/'coco', suffix='val2014')
    ds = load('coco', root=tmp_path)
    assert ds.name == 'coco2014' and [Path(p).stem for p in ds.paths] == ['10', '12', '11']
    assert ds.card['published images'] == 82081 and load('coco2014', 'test', tmp_path).card['published images'] == 40137
    assert len(load('coco', root=tmp_path, empty='keep')) == 4


def test_root_from_the_environment(tmp_path, monkeypatch):
    coco(tmp_path/'coco', suffix='train2014')
    monkeypatch.setenv('TRMML_DATA', str(tmp_path))
    assert len(load('coco')) == 3 and data_root('elsewhere') == Path('elsewhere')
    monkeypatch.delenv('TRMML_DATA')
    assert data_root() == Path('~/.cache/trmml/data').expanduser()


def test_doodles_are_drawn_on_demand(tmp_path, monkeypatch):
    asked = []
    def ensure(root, split, **settings):
        asked.append((root, split, settings))
        return coco(tmp_path/'doodles', suffix='train')
    monkeypatch.setitem(sys.modules, 'trmml.doodles', SimpleNamespace(ensure=ensure))
    ds = load('doodles', root=tmp_path, size=64)
    assert asked == [(tmp_path, 'train', dict(size=64))] and ds.name == 'doodles' and 'size=64' in ds.variant
    with pytest.raises(ValueError, match='only the doodles'): load('voc', root=tmp_path, size=64)


def change(key, index, **values):
    doc = document()
    doc[key][index].update(values)
    return doc


def without(key, index=None, column=None):
    doc = document()
    if index is None: del doc[key]
    else: del doc[key][index][column]
    return doc


BROKEN = [  # contents of the annotation file, error, words in its message
    (change('annotations', 3, image_id=99), ValueError, 'annotation 3 names image_id 99'),
    (change('annotations', 0, category_id=77), ValueError, 'annotation 0 names category_id 77'),
    (change('images', 1, id=10), ValueError, 'image id 10 occurs twice'),
    (change('categories', 1, id=5), ValueError, 'category id 5 occurs twice'),
    (change('categories', 1, name='cat'), ValueError, 'category name cat occurs twice'),
    (change('annotations', 2, bbox=[1, 2, 3]), ValueError, 'annotation id 2 has bbox [1, 2, 3]'),
    (change('annotations', 2, bbox='big'), ValueError, 'annotation id 2 has bbox big; expected [x, y, width, height]'),
    (change('annotations', 2, bbox=[1, '2', 3, 4]), ValueError, "annotation id 2 has bbox [1, '2', 3, 4], which holds more than numbers"),
    (change('annotations', 2, bbox=[None, 2, 3, 4]), ValueError, 'annotation id 2 has bbox [None, 2, 3, 4], which holds more than numbers'),
    (change('annotations', 2, bbox=[1, 2, [3], 4]), ValueError, 'annotation id 2 has bbox [1, 2, [3], 4], which holds'),
    (change('annotations', 2, bbox=[True, 2, 3, 4]), ValueError, 'annotation id 2 has bbox [True, 2, 3, 4], which holds'),
    (change('annotations', 2, id=71, bbox=[1, 2, 3, -4]), ValueError, 'annotation id 71 has bbox [1, 2, 3, -4], with a negative'),
    (change('annotations', 2, image_id=[10]), ValueError, 'annotation id 2 has image_id [10]; expected a number or text'),
    (change('annotations', 2, category_id={}), ValueError, 'annotation id 2 has category_id {}'),
    (change('images', 1, file_name=11), ValueError, 'image id 11 has file_name 11; expected text'),
    (change('images', 1, id=True), ValueError, "image id True has id True; expected a number or text"),
    (change('images', 1, width=0), ValueError, 'image id 11 has width 0; expected a number of pixels'),
    (change('images', 1, height='20'), ValueError, "image id 11 has height '20'"),
    (change('images', 1, width=-40), ValueError, 'image id 11 has width -40'),
    (change('categories', 0, name=3), ValueError, 'category id 5 has name 3; expected text'),
    (change('images', 1, file_name='10.jpg'), ValueError, "image ids 10 and 11 share the file_name '10.jpg'"),
    (change('images', 1, file_name='./10.jpg'), ValueError, "image ids 10 and 11 share the file_name './10.jpg'"),
    (change('images', 0, file_name='gone.jpg'), FileNotFoundError, 'lists 4 images, of which 1 are not in'),
    (change('images', 0, file_name='gone.jpg'), FileNotFoundError, 'first: gone.jpg'),
    (without('annotations'), ValueError, "no list 'annotations'"),
    (without('categories'), ValueError, "no list 'categories'"),
    (without('images', 2, 'id'), ValueError, "entry 2 of 'images' has no 'id'"),
    (without('annotations', 1, 'bbox'), ValueError, "entry 1 of 'annotations' has no 'bbox'"),
    (dict(document(), images=[], annotations=[]), ValueError, 'no images to load'),
    (dict(document(), categories=[], annotations=[]), ValueError, 'no categories'),
    ([1, 2], ValueError, 'expected an object in COCO format')]


@pytest.mark.parametrize('doc, error, words', BROKEN, ids=[b[2] for b in BROKEN])
def test_broken_coco_folders(tmp_path, doc, error, words):
    with pytest.raises(error) as caught: load(coco(tmp_path/'x', doc))
    assert words in str(caught.value) and 'instances_train.json' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('number', ['NaN', 'Infinity', '1e999'])
def test_numbers_that_are_none_in_a_coco_file(tmp_path, number):
    text = json.dumps(document()).replace('"bbox": [4, 2, 10, 8]', f'"bbox": [4, {number}, 10, 8]'); assert number in text
    with pytest.raises(ValueError, match='instances_train.json: ') as caught: load(coco(tmp_path/'x', text=text))
    said = str(caught.value); assert '\n' not in said
    assert '$.annotations[1].bbox[1]' in said if number == '1e999' else '"id": 1, "image_id": 10, "category_id": 2, "bbox": [4, ' in said and 'JSON has no NaN' in said, said


def test_a_box_without_width_and_an_image_without_size_are_taken(tmp_path):
    doc = change('annotations', 1, bbox=[4, 2, 0, 8]); del doc['images'][0]['width']
    ds = load(coco(tmp_path/'x', doc)); assert ds.boxes.w.tolist()[1] == 0 and ds.sizes is None and len(ds) == 4


def test_no_annotation_at_all_is_all_negative(tmp_path):
    ds = load(coco(tmp_path/'x', dict(document(), annotations=[])))
    assert (ds.labels == -1).all() and len(ds.boxes) == 0 and len(box_pairs(ds)[0]) == 0
    with pytest.raises(ValueError, match='no images to load'): load(tmp_path/'x', empty='drop')


def test_other_failures_of_loading(tmp_path):
    def fails(error, words, *args, **kwargs):
        with pytest.raises(error) as caught: load(*args, **kwargs)
        assert words in str(caught.value)
    fails(ValueError, 'not valid JSON', coco(tmp_path/'bad', text='{"images": ['))
    (tmp_path/'empty').mkdir(); fails(FileNotFoundError, 'no annotations/instances_<split>.json', tmp_path/'empty')
    fails(FileNotFoundError, 'it should hold', tmp_path/'nowhere')
    fails(ValueError, 'known are voc2007', 'imagenet')
    fails(FileNotFoundError, 'VOCtrainval_06-Nov-2007.tar', 'voc', root=tmp_path)
    fails(FileNotFoundError, 'annotations_trainval2014.zip and val2014.zip', 'coco', 'test', tmp_path)
    fails(ValueError, "'negative', 'positive', 'ignore'", 'voc', root=tmp_path, difficult='drop')
    fails(ValueError, "'clean', 'raw'", 'voc', root=tmp_path, prompts='nice')
    gone = coco(tmp_path/'gone')
    for p in (gone/'train').iterdir(): p.unlink()
    fails(FileNotFoundError, 'of which 4 are not in', gone)
    (gone/'train').rmdir()
    fails(FileNotFoundError, 'no such folder; put the images of', gone)


@pytest.mark.parametrize('content', [b'', b'no image', 'cut'], ids=['zero bytes', 'text', 'cut off'])
def test_unreadable_image_is_named(tmp_path, content):
    path = tmp_path/'photo.jpg'
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900] if content == 'cut' else content)
    with pytest.raises(ValueError, match='photo.jpg: cannot be read as an image'): open_image(path)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'CMYK', '1', 'LA', 'I;16'])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path/('x.jpg' if mode == 'CMYK' else 'x.png')
    img = Image.new(mode, (6, 4))
    img.save(path, **(dict(transparency=b'\x00\x80') if mode == 'P' else {}))
    assert open_image(path).mode == 'RGB' and open_image(path).size == (6, 4)


@pytest.mark.parametrize('name, pixels, grey', [   # how a ramp of four pixels is stored, and what comes out
    ('i16.tif', np.uint16([[0, 256, 32768, 65535]]), [0, 1, 128, 255]), ('i16.png', np.uint16([[0, 256, 32768, 65535]]), [0, 1, 128, 255]),
    ('big.tif', np.array([[0, 256, 32768, 65535]], '>u2'), [0, 1, 128, 255]), ('i16.pgm', np.uint16([[0, 256, 32768, 65535]]), [0, 1, 128, 255]),
    ('real.tif', np.float32([[0, .25, .5, 1]]), [0, 64, 128, 255]), ('i8.tif', np.uint8([[0, 1, 128, 255]]), [0, 1, 128, 255])])
def test_deep_pictures_are_scaled(tmp_path, name, pixels, grey):
    Image.fromarray(pixels).save(tmp_path/name)
    assert np.asarray(open_image(tmp_path/name))[0].tolist() == [[g]*3 for g in grey]


@pytest.mark.parametrize('pixels, words', [(np.int32([[0, 70000]]), '32-bit whole numbers from 0 to 70000'), (np.int32([[-5, 200]]), 'from -5 to 200'),
    (np.int32([[0, 200]]), 'from 0 to 200'), (np.float32([[0, 255]]), 'real numbers from 0 to 255'), (np.float32([[0, np.nan]]), 'real numbers from nan')])
def test_deep_pictures_without_a_white_are_refused_by_name(tmp_path, pixels, words):
    Image.fromarray(pixels).save(tmp_path/'deep.tif')
    with pytest.raises(ValueError, match=f'deep.tif: its pixels are .*{words}.*8 or 16 bits'): open_image(tmp_path/'deep.tif')


def voc(root, lists=(('trainval', '1 2'), ('test', '3'))):
    "Image 1: a cat and a difficult dog; 2: a difficult tvmonitor; 3: nothing but a difficult and an easy person."
    base = root/'VOCdevkit'/'VOC2007'
    for sub in ('Annotations', 'JPEGImages', 'ImageSets/Main'): (base/sub).mkdir(parents=True)
    objects = {1: [('cat', 0), ('dog', 1)], 2: [('tvmonitor', 1)], 3: [('person', 1), ('person', 0)]}
    for n, objs in objects.items():
        Image.new('RGB', (30, 20)).save(base/'JPEGImages'/f'{n}.jpg')
        xml = ''.join(f'<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>'
                      f'<xmax>10</xmax><ymax>20</ymax></bndbox></object>' for name, hard in objs)
        (base/'Annotations'/f'{n}.xml').write_text(
            f'<annotation><size><width>30</width><height>20</height></size>{xml}</annotation>')
    for name, stems in lists: (base/'ImageSets'/'Main'/f'{name}.txt').write_text(stems.replace(' ', '\n') + '\n')
    return base


@pytest.mark.parametrize('policy, value', [('negative', -1), ('positive', 1), ('ignore', 0)])
def test_voc_difficult(tmp_path, policy, value):
    base = voc(tmp_path)
    train, test = (load('voc2007', s, tmp_path, difficult=policy) for s in ('train', 'test'))
    i = {name: VOC_CLASSES.index(name) for name in ('cat', 'dog', 'tvmonitor', 'person')}
    assert train.labels[0, [i['cat'], i['dog']]].tolist() == [1, value]
    assert train.labels[1, i['tvmonitor']] == value and test.labels[0, i['person']] == 1
    assert (train.labels == -1).sum() == 40 - 1 - 2*(policy != 'negative')
    assert train.boxes.difficult.tolist() == [False, True, True]
    assert train.boxes[['x', 'y', 'w', 'h']].iloc[0].tolist() == [0, 1, 10, 19]
    assert train.prompts[i['tvmonitor']] == 'tv monitor' and f'difficult={policy}' in train.variant
    assert train.card['published images'] == 5011 and train.sizes.tolist() == [[30, 20]]*2
    for place in (tmp_path, base.parent, base):
        assert load(place, difficult=policy).labels.tolist() == train.labels.tolist()


def test_voc_without_test_list_splits_train_and_val(tmp_path):
    voc(tmp_path, (('trainval', '1 2'), ('train', '1'), ('val', '2')))
    assert [Path(load(tmp_path, s).paths[0]).stem for s in ('train', 'test')] == ['1', '2']
    with pytest.raises(FileNotFoundError, match='VOCtest_06-Nov-2007.tar'): load('voc', 'test', tmp_path)


@pytest.mark.parametrize('file, text, error, words', [
    ('Annotations/1.xml', '<annotation><obj', ValueError, '1.xml: not a VOC annotation'),
    ('Annotations/1.xml', '<annotation><object><name>cat</name></object></annotation>', ValueError, '1.xml: not a VOC'),
    ('Annotations/1.xml', None, FileNotFoundError, 'first: 1.xml'),
    ('JPEGImages/2.jpg', None, FileNotFoundError, 'first: 2.jpg'),
    ('ImageSets/Main/trainval.txt', '', ValueError, 'trainval.txt: no images'),
    ('ImageSets/Main/trainval.txt', '1\n1\n', ValueError, 'image 1 occurs twice')])
def test_broken_voc_folders(tmp_path, file, text, error, words):
    path = voc(tmp_path)/file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(error) as caught: load('voc', root=tmp_path)
    assert words in str(caught.value)


def change_xml(base, old, new):
    path = base/'Annotations'/'1.xml'; assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_names_in_voc_files_are_stripped(tmp_path):
    same = load('voc', root=tmp_path) if voc(tmp_path) else None
    change_xml(tmp_path/'VOCdevkit'/'VOC2007', '<name>cat</name>', '<name>\n  cat </name>')
    assert load('voc', root=tmp_path).labels.tolist() == same.labels.tolist()


@pytest.mark.parametrize('number', ['NaN', 'inf', '1e999'])
def test_corners_in_voc_files_are_finite(tmp_path, number):
    change_xml(voc(tmp_path), '<xmin>1</xmin>', f'<xmin>{number}</xmin>')
    with pytest.raises(ValueError, match=r"1.xml: not a VOC annotation \(xmin of 'cat' is (nan|inf)\)"): load('voc', root=tmp_path)


def test_a_voc_list_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    base = voc(tmp_path); (base/'ImageSets'/'Main'/'cat_train.txt').write_text('1 1\n')
    with pytest.raises(FileNotFoundError, match=r'tset.txt: no such list \(there are test, trainval\)'): load(base, 'tset')


def test_unknown_voc_class_is_named(tmp_path):
    path = voc(tmp_path)/'Annotations'/'2.xml'
    path.write_text(path.read_text().replace('tvmonitor', 'ufo'))
    with pytest.raises(ValueError, match="2.xml: 'ufo' is none of the 20 VOC classes"): load('voc', root=tmp_path)


@pytest.mark.parametrize('form', ['list', 'string', 'bytes'])
def test_rle_masks(tmp_path, form):
    mask = np.zeros((20, 40), bool)
    mask[3:9, 5:30] = True
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = mask.T.ravel()
    runs = np.diff(np.flatnonzero(np.diff(flat, prepend=not flat[0], append=not flat[-1]))).tolist()
    counts = dict(list=runs, string=rle['counts'].decode(), bytes=rle['counts'])[form]
    assert (decode_rle(dict(size=[20, 40], counts=counts)) == mask).all()
    if form == 'bytes': return                                   # JSON knows no bytes
    doc = document()
    doc['annotations'][2]['segmentation'] = dict(size=[20, 40], counts=counts)
    doc['annotations'][0]['segmentation'] = [[1, 1, 5, 1, 5, 5]]
    ds = load(coco(tmp_path/'x', doc))
    assert (decode_rle(ds.boxes.rle[3]) == mask).all() and ds.boxes.rle[:3].tolist() == [None]*3  # no polygons
    assert (decode_rle(ds.subset([2]).boxes.rle[0]) == mask).all()


def test_subset_keeps_everything_together(tmp_path):
    ds = load(coco(tmp_path/'x'))
    part = ds.subset([2, 0])
    assert part.paths == [ds.paths[2], ds.paths[0]] and part.labels.tolist() == ds.labels[[2, 0]].tolist()
    assert part.boxes.image.tolist() == [0, 1, 1] and part.card['images'] == 2 and part.card['boxes'] == 3
    assert part.variant != ds.variant != ds.subset([0, 2]).variant != part.variant
    assert ds.subset(np.array([True, False, False, True])).paths == [ds.paths[0], ds.paths[3]]
    assert ds.card['images'] == 4 and len(ds.boxes) == 4


def test_box_pairs_leave_out_crowds(tmp_path):
    ds = load(coco(tmp_path/'x'))
    image, label, boxes = box_pairs(ds)
    assert list(zip(image.tolist(), label.tolist())) == [(0, 0), (0, 1), (1, 1)]
    assert boxes[2].tolist() == [[12/40, 2/20, 10/40, 8/20]]


@pytest.mark.skipif(not COCO128.is_dir(), reason='shared/data/coco128 is not beside the repository')
def test_coco128():
    ds = load(COCO128)
    assert (len(ds), len(ds.boxes), len(ds.classes)) == (128, 929, 80)
    assert ((ds.labels == 1).any(0).sum(), (ds.labels != 1).all(1).sum()) == (71, 2)
    assert ds.classes[0] == 'person' and ds.classes[-1] == 'toothbrush' and ds.prompts == ds.classes
    assert load(COCO128, 'test').paths == ds.paths and len(load(COCO128, empty='drop')) == 126
    assert all(open_image(p).size == tuple(s) for p, s in zip(ds.paths[:20], ds.sizes[:20].tolist()))
    doc = json.loads((COCO128/'annotations'/'instances_train2017.json').read_text())
    ids, cats = [i['id'] for i in doc['images']], sorted(c['id'] for c in doc['categories'])
    slow = {(ids.index(a['image_id']), cats.index(a['category_id'])) for a in doc['annotations']}
    assert slow == set(map(tuple, np.argwhere(ds.labels == 1).tolist()))


def test_large_annotation_files(tmp_path):
    n = 200_000
    doc = dict(annotations=[dict(id=i, image_id=i % 999, category_id=i % 80, bbox=[1, 2, 3, 4], area=12, iscrowd=0)
                            for i in range(n)])
    ann = _entries(doc, 'annotations', ['image_id', 'category_id', 'bbox'], 'x')
    assert len(_coco_boxes(ann, np.zeros(n, int), np.zeros(n, int), 'x')) == n


def test_class_names():
    assert [clean_name(c) for c in VOC_CLASSES if clean_name(c) != c] == ['dining table', 'potted plant', 'tv monitor']
    assert clean_name('hot_dog') == 'hot dog'
