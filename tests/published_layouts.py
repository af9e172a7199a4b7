"""Small complete copies of the known data sets in their published layouts: names of files and folders, formats, odd cases; a few dozen pictures of 64 x 48 pixels each.

Pictures are photos (tests/photos.py); on them a rectangle for each class. Every builder takes the folder under
which data lie and returns what it wrote, as `Part`s: names in the order of the files, labels as 0 and 1. `patched` makes a kernel of papermill and the workers of a test agree on
the hashes of lists whose photos are these, and on a CLIP of a few thousand parameters under the names RN50 and RN101."""
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from photos import PHOTOS
from trmml.data import VOC_CLASSES, published, vg200
from trmml.data.nuswide import CONCEPTS

SIZE = 64, 48
TRAIN, TEST = 24, 12


class Part(NamedTuple):
    names: list          # of N photos, in the order of the file that lists them
    labels: np.ndarray   # (N, C) bool: the class is there, for all to see
    hard: np.ndarray     # (N, C) bool: it is there, but difficult (VOC) or as a crowd (COCO)


# ---- pictures

@cache
def backgrounds():
    return tuple(Image.open(p).convert('RGB').resize(SIZE) for p in sorted(PHOTOS.rglob('*.jpg'))[:48])


def box_of(c, j):
    "x, y, w, h of the j-th object of a class: inside the picture."
    w, h = 8 + 3*(c % 5), 6 + 3*(c % 4)
    return (7*c + 11*j) % (SIZE[0] - w), (5*c + 13*j) % (SIZE[1] - h), w, h


def picture(path, k, classes=()):
    "One picture with a rectangle for each class."
    path.parent.mkdir(parents=True, exist_ok=True)
    some = backgrounds()
    image = some[k % len(some)].copy() if some else Image.new('RGB', SIZE, (29*k % 256, 83*k % 256, 150))
    draw = ImageDraw.Draw(image)
    for j, c in enumerate(classes):
        x, y, w, h = box_of(c, j)
        draw.rectangle((x, y, x + w, y + h), fill=(37*c % 256, 91*c % 256, 151*c % 256))
    image.save(path, quality=90)


def scenes(n, C, seed, most=3):
    "(n, C) bool: one to `most` classes a picture; the first ones go round, so that each is there if n allows."
    rng, Y = np.random.RandomState(seed), np.zeros((n, C), bool)
    for i in range(n):
        Y[i, i % C] = True
        Y[i, rng.choice(C, rng.randint(1, most + 1) - 1, replace=False)] = True
    return Y


def numbers(row): return np.flatnonzero(row).tolist()


# ---- lists of SPLC and SCPNet: a photo and its classes a line

def listed(root, name, names, labels, single=False, seed=0):
    "One list; with `single` one class a photo, the others left out."
    rng = np.random.RandomState(seed)
    kept = [[found[rng.randint(len(found))]] if single else found for found in map(numbers, labels)]
    path = root/'labels'/name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{n},{" ".join(map(str, k))}\n' for n, k in zip(names, kept)))
    return kept


def hashes(root):
    "What `trmml.data.published.LISTS` says of lists, for those that lie under a folder."
    files = {n: root/'labels'/n for n in published.LISTS}
    return {n: (len(p.read_text().splitlines()), hashlib.sha256(p.read_bytes()).hexdigest()) for n, p in files.items() if p.is_file()}


# ---- PASCAL VOC

def voc_xml(easy, hard):
    things = [(c, 0) for c in numbers(easy)] + [(c, 1) for c in numbers(hard)]
    def thing(j, c, difficult):
        x, y, w, h = box_of(c, j)
        return (f'<object><name>{VOC_CLASSES[c]}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>'
                f'<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>')
    return (f'<annotation><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size><segmented>0</segmented>'
            f'{"".join(thing(j, *t) for j, t in enumerate(things))}</annotation>')


def voc_part(base, stems, seed):
    "Pictures and annotations; the last is of difficult objects alone, the one before has one more class as a difficult object, another its own class twice."
    easy = scenes(len(stems), 20, seed)
    hard = np.zeros_like(easy)
    easy[-1], hard[-1, 8] = False, True
    hard[-2, numbers(~easy[-2])[3]] = True
    hard[-3] = easy[-3]
    for k, (s, e, h) in enumerate(zip(stems, easy, hard)):
        picture(base/'JPEGImages'/f'{s}.jpg', k + seed, numbers(e | h))
        (base/'Annotations'/f'{s}.xml').write_text(voc_xml(e, h))
    return Part([f'{s}.jpg' for s in stems], easy, hard & ~easy)


def voc(root, year=2007):
    "VOCdevkit/VOC2007 with trainval and test, or VOC2012 with train, val, trainval and SCPNet's lists."
    base = root/'VOCdevkit'/f'VOC{year}'
    for d in ('Annotations', 'ImageSets/Main', 'JPEGImages'): (base/d).mkdir(parents=True)
    stems = [f'{i:06}' if year == 2007 else f'2008_{i:06}' for i in range(1, TRAIN + TEST + 1)]
    words = ('trainval', 'test') if year == 2007 else ('train', 'val')
    lists = dict(zip(words, (stems[:TRAIN], stems[TRAIN:])))
    parts = {w: voc_part(base, s, 2*i) for i, (w, s) in enumerate(lists.items())}
    if year == 2012: lists['trainval'] = stems
    for w, s in lists.items(): (base/'ImageSets'/'Main'/f'{w}.txt').write_text(''.join(f'{x}\n' for x in s))
    for c, name in enumerate(VOC_CLASSES):          # a list for each class: 1, 0 for difficult ones, -1
        for w in words:
            p = parts[w]
            said = np.where(p.labels[:, c], 1, np.where(p.hard[:, c], 0, -1))
            (base/'ImageSets'/'Main'/f'{name}_{w}.txt').write_text(''.join(f'{Path(n).stem} {v:2}\n' for n, v in zip(p.names, said)))
    train, test = (parts[w] for w in words)
    if year == 2012:
        listed(root, 'scpnet/voc_train.txt', train.names, train.labels | train.hard, single=True)
        listed(root, 'scpnet/voc_val.txt', test.names, test.labels | test.hard)
    return dict(train=train, test=test)


# ---- MS-COCO

COCO_CLASSES = dict(enumerate(
    'person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra '
    'giraffe - backpack umbrella - - handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle - '
    'wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed - dining_table - - toilet - tv '
    'laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator - book clock vase scissors teddy_bear hair_drier toothbrush'.split(), 1))
COCO_CLASSES = {i: n.replace('_', ' ') for i, n in COCO_CLASSES.items() if n != '-'}


def coco_part(base, year, n, seed):
    "n annotated pictures, one of them a crowd alone, and two without annotation; annotations stand in another order than pictures, and ids have 1 to 6 digits."
    rng, cats = np.random.RandomState(seed), list(COCO_CLASSES)
    ids = [int(i) for i in rng.permutation([9, 25, 30, *rng.choice(np.arange(100, 500000), n - 1, replace=False)])]
    Y = np.vstack([scenes(n, 80, seed), np.zeros((2, 80), bool)])[rng.permutation(n + 2)]
    crowd = np.zeros_like(Y)
    some = np.flatnonzero(Y.any(1))[0]
    crowd[some], Y[some] = Y[some], False
    names = [f'COCO_{year}_{i:012}.jpg' for i in ids]
    rows = [(i, c, j, bool(crowd[i, c])) for i in rng.permutation(n + 2) for j, c in enumerate(numbers((Y | crowd)[i]))]
    def annotation(k, i, c, j, many):
        x, y, w, h = box_of(c, j)
        outline = dict(size=[SIZE[1], SIZE[0]], counts=[0, SIZE[0]*SIZE[1]]) if many else [[x, y, x + w, y, x + w, y + h, x, y + h]]
        return dict(id=1000 + k, image_id=ids[i], category_id=cats[c], bbox=[x, y, w, h], area=w*h, iscrowd=int(many), segmentation=outline)
    doc = dict(info=dict(year=2014), licenses=[],
               images=[dict(id=i, file_name=s, width=SIZE[0], height=SIZE[1], license=1) for i, s in zip(ids, names)],
               annotations=[annotation(k, *r) for k, r in enumerate(rows)],
               categories=[dict(id=i, name=s, supercategory='thing') for i, s in COCO_CLASSES.items()])
    (base/'annotations').mkdir(parents=True, exist_ok=True)
    (base/'annotations'/f'instances_{year}.json').write_text(json.dumps(doc))
    for k, s in enumerate(names): picture(base/year/s, k + seed, numbers((Y | crowd)[k]))
    said = [dict(id=k, image_id=i, caption=f'There is a {" and a ".join([COCO_CLASSES[cats[c]] for c in numbers(y)] or ["wall"])}.') for k, (i, y) in enumerate(zip(ids, Y | crowd))]
    (base/'annotations'/f'captions_{year}.json').write_text(json.dumps(doc | dict(annotations=said)))
    seen = list(dict.fromkeys(i for i, *_ in rows))   # in the order of annotations
    return Part(names, Y, crowd), seen


def coco(root):
    "coco/annotations/instances_{train,val}2014.json, coco/train2014, coco/val2014, SPLC's list of single labels; 'seen' are rows in the order of annotations."
    (train, seen), (test, seen_test) = (coco_part(root/'coco', year, n, seed) for year, n, seed in (('train2014', TRAIN, 3), ('val2014', TEST, 5)))
    listed(root, 'splc/coco_train_singlelabel.txt', [train.names[i] for i in seen], (train.labels | train.hard)[seen], single=True)
    return dict(train=train, test=test, seen=dict(train=seen, test=seen_test))


# ---- Visual Genome

def vg(root, lists=None):
    "vg/objects.json, photos in VG_100K and VG_100K_2; lists and labels of 'sarb' or 'ssgrl', with names; without lists those that our rule derives."
    rng, n = np.random.RandomState(7), TRAIN + TEST
    things = [*map(str, COCO_CLASSES.values()), *[c for c in CONCEPTS if c not in COCO_CLASSES.values()]]
    things += [f'{colour} {w}' for colour in ('white', 'wooden') for w in ('wall', 'sign', 'shirt', 'door', 'line', 'leaf', 'pole', 'plate', 'shoe', 'roof', 'fence', 'box', 'cloth',
                                                                             'table', 'floor', 'hat', 'post', 'tile', 'paper', 'rail', 'handle', 'wheel', 'lamp', 'step')]
    found = rng.rand(n, len(things)) < .12
    found[np.arange(len(things)) % TEST, np.arange(len(things))] = True       # each is on a photo that is tested on
    photos = []
    for i in range(n):
        second = 'VG_100K_2' if i % 3 == 0 else 'VG_100K'
        picture(root/'vg'/second/f'{i + 1}.jpg', i, numbers(found[i])[:4])
        objects = [dict(object_id=1000*i + k, names=[things[k]], synsets=[f'{things[k].replace(" ", "_")}.n.01'], merged_object_ids=[], **dict(zip('xywh', box_of(k, 0)))) for k in numbers(found[i])]
        photos.append(dict(image_id=i + 1, image_url=f'https://example.org/{i + 1}.jpg', objects=objects))
    (root/'vg'/'objects.json').write_text(json.dumps(photos))
    names = [f'{i + 1}.jpg' for i in range(n)]
    if lists is None:
        vg200.write_derived(root, tests=TEST)
        return dict(names=names, things=things)
    place = root/dict(sarb='vg200', ssgrl='labels/ssgrl')[lists]
    place.mkdir(parents=True)
    order = np.argsort(-found.sum(0), kind='stable')          # published classes fall in frequency; SSGRL's file holds 500, SARB's 200
    most = dict(sarb=200, ssgrl=len(things))[lists]
    Y = found[:, order[:most]]
    parts = dict(test=Part(names[:TEST], Y[:TEST, :200], None), train=Part(names[TEST:], Y[TEST:, :200], None))
    for s, p in parts.items(): (place/f'{s}_list_500.txt').write_text(''.join(f'{x}\n' for x in p.names))
    (place/vg200.INDEX[lists]).write_text(json.dumps({x: numbers(y) for x, y in zip(names, Y)}))
    (root/'vg'/'vg200_names.txt').write_text(''.join(f'{things[c]}\n' for c in order[:200]))
    return parts


# ---- NUS-WIDE

def nuswide(root):
    "nuswide/ with the official lists, the arrays of ROLE and LargeLoss, and SPLC's lists in labels/: three data sets of the same photos, each with other splits. By setup."
    base, n = root/'nuswide', 2*(TRAIN + TEST)
    Y = scenes(n, 81, 11)
    Y[1] = False                                    # the official lists hold photos of no concept
    ids = [str(70000 + 37*i) for i in range(n)]
    names = [f'{CONCEPTS[i % 7]}/{i:04}_{ids[i]}.jpg' for i in range(n)]
    for i, s in enumerate(names): picture(base/'Flickr'/s, i, numbers(Y[i]))
    for d in ('ImageList', 'Groundtruth/TrainTestLabels'): (base/d).mkdir(parents=True)
    rng = np.random.RandomState(13)
    cuts, parts = {}, {}
    for setup, some in (('official', np.arange(n)), ('largeloss', np.flatnonzero(Y.any(1))), ('splc', np.flatnonzero(Y.any(1)))):
        order = some if setup == 'official' else rng.permutation(some)
        cuts[setup] = dict(train=order[:TRAIN], test=order[TRAIN:TRAIN + TEST + 2*(setup == 'splc')])
        parts[setup] = {s: Part([names[i] for i in rows], Y[rows], None) for s, rows in cuts[setup].items()}
    for s, p in parts['official'].items():
        (base/'ImageList'/f'{s.capitalize()}Imagelist.txt').write_bytes(''.join(x.replace('/', '\\') + '\r\n' for x in p.names).encode())
        for c, concept in enumerate(CONCEPTS):
            (base/'Groundtruth'/'TrainTestLabels'/f'Labels_{concept}_{s.capitalize()}.txt').write_text(''.join(f'{int(v)}\n' for v in p.labels[:, c]))
    for s, p in parts['largeloss'].items():
        word = dict(train='train', test='val')[s]
        np.save(base/f'formatted_{word}_images.npy', np.array(p.names))
        np.save(base/f'formatted_{word}_labels.npy', p.labels.astype(float))
    splc = {s: ([f'{k}_{ids[i]}_0a1b2c3d4e_m.jpg' for k, i in enumerate(rows)], Y[rows]) for s, rows in cuts['splc'].items()}
    listed(root, 'splc/nus_train_full.txt', *splc['train'])
    listed(root, 'splc/nus_train_singlelabel.txt', *splc['train'], single=True)
    listed(root, 'splc/nus_val.txt', *splc['test'])
    return parts


# ---- CUB-200-2011

PARTS = {'bill_shape': 9, 'wing_color': 15, 'upperparts_color': 15, 'underparts_color': 15, 'breast_pattern': 4, 'back_color': 15, 'tail_shape': 6, 'upper_tail_color': 15,
         'head_pattern': 11, 'breast_color': 15, 'throat_color': 15, 'eye_color': 14, 'bill_length': 3, 'forehead_color': 15, 'under_tail_color': 15, 'nape_color': 15,
         'belly_color': 15, 'wing_shape': 5, 'size': 5, 'shape': 14, 'back_pattern': 4, 'tail_pattern': 4, 'belly_pattern': 4, 'primary_color': 15, 'leg_color': 15,
         'bill_color': 15, 'crown_color': 15, 'wing_pattern': 4}
COLOURS = 'blue brown iridescent purple rufous grey yellow olive green pink orange black white red buff'.split()
VALUES = dict(bill_shape='curved_(up_or_down) dagger hooked needle hooked_seabird spatulate all-purpose cone specialized', tail_shape='forked_tail rounded_tail notched_tail fan-shaped_tail pointed_tail squared_tail',
              head_pattern='spotted malar crested masked unique_pattern eyebrow eyering plain eyeline striped capped', bill_length='about_the_same_as_head longer_than_head shorter_than_head',
              wing_shape='rounded-wings pointed-wings broad-wings tapered-wings long-wings', size='large_(16_-_32_in) small_(5_-_9_in) very_large_(32_-_72_in) medium_(9_-_16_in) very_small_(3_-_5_in)',
              shape='upright-perching_water-like chicken-like-marsh long-legged-like duck-like owl-like gull-like hummingbird-like pigeon-like tree-clinging-like hawk-like sandpiper-like upland-ground-like swallow-like perching-like')
VALUES = {k: v.split() for k, v in VALUES.items()} | dict(eye_color=[c for c in COLOURS if c != 'iridescent'])
ATTRIBUTES = [f'has_{kind}::{v}' for kind, n in PARTS.items() for v in VALUES.get(kind, COLOURS if n == 15 else 'solid spotted striped multi-colored'.split())]


def cub(root):
    "cub/CUB_200_2011 with attributes.txt beside it, 30 of 312 attributes a bird, and SCPNet's lists."
    base, n, rng = root/'cub'/'CUB_200_2011', TRAIN + TEST, np.random.RandomState(17)
    (base/'attributes').mkdir(parents=True)
    kinds = ['001.Black_footed_Albatross', '002.Laysan_Albatross', '003.Sooty_Albatross']
    names = [f'{kinds[k % 3]}/{kinds[k % 3][4:]}_{k:04}_{79 + k}.jpg' for k in range(n)]
    present, sure = rng.rand(n, 312) < .1, rng.randint(1, 5, (n, 312))
    for k, s in enumerate(names): picture(base/'images'/s, k, numbers(present[k])[:4])
    train = np.arange(n) % 3 > 0
    (base/'images.txt').write_text(''.join(f'{k + 1} {s}\n' for k, s in enumerate(names)))
    (base/'classes.txt').write_text(''.join(f'{k + 1} {s}\n' for k, s in enumerate(kinds)))
    (base/'train_test_split.txt').write_text(''.join(f'{k + 1} {int(t)}\n' for k, t in enumerate(train)))
    (root/'cub'/'attributes.txt').write_text(''.join(f'{k + 1} {a}\n' for k, a in enumerate(ATTRIBUTES)))
    lines = [f'{i + 1} {a + 1} {int(present[i, a])} {sure[i, a]} {7 + i % 5}.{a}' for i in range(n) for a in range(312)]
    lines[700] = ' '.join(lines[700].split()[:4]) + ' 0 12.5'          # as in the archive: a field too many
    (base/'attributes'/'image_attribute_labels.txt').write_text('\n'.join(lines) + '\n')
    parts = {s: Part([names[i] for i in rows], present[rows], None) for s, rows in dict(train=np.flatnonzero(train), test=np.flatnonzero(~train)).items()}
    listed(root, 'scpnet/cub_train.txt', parts['train'].names, parts['train'].labels, single=True)
    listed(root, 'scpnet/cub_val.txt', parts['test'].names, parts['test'].labels)
    return parts


BUILDERS = dict(voc2007=voc, voc2012=lambda root: voc(root, 2012), coco2014=coco, vg200=lambda root: vg(root, 'sarb'), nuswide=nuswide, cub200=cub)


# ---- for kernels

SMALL_CLIP = dict(embed_dim=32, vision_cfg=dict(image_size=32, layers=[1, 1, 1, 1], width=16, patch_size=None),
                  text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=1))


def patch(models, lists):
    "In this process: lists that count as the published ones, and, with a folder of configurations, small backbones under the published names and few templates of sentences."
    published.LISTS |= lists
    if not models: return
    import open_clip
    import torchvision
    from trmml.clip.imagenet import SmallResNet
    open_clip.add_model_config(models)
    open_clip.OPENAI_IMAGENET_TEMPLATES = open_clip.OPENAI_IMAGENET_TEMPLATES[:3]
    torchvision.models.resnet50 = torchvision.models.resnet101 = lambda num_classes: SmallResNet(num_classes)


CUSTOMIZE = '''
import sys
if any(w in ('ipykernel_launcher', 'joblib.externals.loky.backend.popen_loky_posix') for w in sys.orig_argv):
    import published_layouts
    published_layouts.patch({models!r}, {lists!r})
'''


def patched(folder, root, small=True):
    "Environment in which `patch` is called as a kernel or a worker of joblib starts: {name: value}. Python imports `sitecustomize` before anything else."
    models, custom, here = folder/'models', folder/'custom', Path(__file__).resolve().parent
    for d in (models, custom): d.mkdir(parents=True, exist_ok=True)
    for name in ('RN50', 'RN101'): (models/f'{name}.json').write_text(json.dumps(SMALL_CLIP))
    (custom/'sitecustomize.py').write_text(CUSTOMIZE.format(models=str(models)*small, lists=hashes(root)))
    return dict(PYTHONPATH=os.pathsep.join(filter(None, [str(custom), str(here.parent), str(here), os.environ.get('PYTHONPATH')])))


def captions(root):
    "A file in the format of COCO's captions, of three sentences a class for some classes of each data set."
    names = [*VOC_CLASSES, *COCO_CLASSES.values(), *CONCEPTS]
    said = [dict(id=k, image_id=k, caption=f'A {w} {rest}.') for k, (w, rest) in enumerate((w, rest) for w in names for rest in ('in a picture', 'beside a person', 'and a dog'))]
    path = root/'captions_train2017.json'
    path.write_text(json.dumps(dict(images=[], annotations=said)))
    return path
