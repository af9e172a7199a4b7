"""Label files of tools, competitions and hospitals: right labels or one sentence, and never a wrong label without a word."""
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trmml.data import load
from trmml.formats import Options, plain, read
from trmml.photos import described, read_given
from trmml.photos.given import list_photos, read_to_fit

CASES = Path(__file__).resolve().parents[2]/'shared'/'cases'/'formats'
there = pytest.mark.skipif(not CASES.is_dir(), reason='../shared/cases/formats is not there')
HALF, OPEN, CLOSED = (19, 49), (41, 0), (41, 103)

LISTS = ['labelstudio/project-1.json', 'labelstudio/project-1-min.json', 'labelstudio/project-1.csv', 'labelstudio/two-columns.csv',
         'labelstudio/two-columns-labels.csv', 'cvat/annotations.xml', 'cvat-coco', 'cvat-coco/annotations/instances_default.json',
         'voc-xml', 'yolo', 'yolo/data.yaml', 'tags/spaces.csv', 'tags/spaces-no-extension.csv', 'tags/commas.csv', 'tags/pipes.csv',
         'tags/pipes-target.csv', 'protein-atlas/train.csv', 'nih/Data_Entry_2017.csv', 'nih/two-columns.csv', 'nih/two-columns-labels.csv',
         'huggingface', 'huggingface/train/metadata.jsonl', 'huggingface-csv', 'huggingface-csv/train/metadata.csv', 'parquet/names.parquet',
         'parquet/numbers-with-names-in-schema.parquet', 'parquet/bytes-names.parquet', 'parquet/bytes-numbers.parquet']
CELLS = {'roboflow': CLOSED, 'roboflow/train/_classes.csv': CLOSED, 'labelme': CLOSED, 'truth.csv': CLOSED, 'npy/labels.npy': CLOSED,
         'npy/half.npy': HALF, 'parquet/wide-half.parquet': HALF, 'long/image-class-label.csv': HALF,
         'openimages/oidv6-train-annotations-human-imagelabels.csv': (18, 49), 'chexpert/train.csv': (18, 44), 'chexpert/classes-only.csv': (18, 44)}
CELLS |= {f'wide/{n}': HALF for n in (
    'half.csv', 'semicolon.csv', 'tab.tsv', 'bom.csv', 'utf16.csv', 'truefalse.csv', 'half.xlsx', 'sep-line.csv', 'comment.csv',
    'unnamed-index.csv', 'photo-last.csv', 'na.csv', 'empty-notes.csv', 'split.csv', 'split-capitals.csv', 'path-folder.csv',
    'path-windows.csv', 'path-url.csv', 'path-no-extension.csv', 'path-upper-extension.csv', 'path-lost-zeros.csv')}
TOLD = {'wide/yesno.csv': (dict(code=dict(yes=1, no=0)), "--code 'no=0'"), 'wide/counts.csv': (dict(code={'3': 1}), "--code '3.0=1'"),
        'wide/minus1.csv': (dict(code={'-1': None}), "--code '-1.0='"), 'wide/question.csv': (dict(code={'?': None}), "--code '?='"),
        'wide/extra-columns.csv': (dict(classes=['person', 'car', 'chair', 'cup', 'dining table', 'tv']), "--class person --class car"),
        'parquet/numbers.parquet': (dict(names=str(CASES/'npy'/'classes.txt')), '--names FILE')}


def truth():
    return pd.read_csv(CASES/'truth.csv', index_col=0)


def against(g, T):
    "1, 0 and wrong labels of a `Given`, by photo and class."
    Y = pd.DataFrame(g.labels, [Path(p).name for p in g.paths], [plain(c) for c in g.classes])
    if not set(Y.index) <= set(T.index):   # unpacked from bytes
        Y.index = [Path(n).name for n in g.names]
    Y = Y[[c for c in Y if c in T.columns]]
    t = T.loc[Y.index, Y.columns]
    return int((Y == 1).sum().sum()), int((Y == -1).sum().sum()), int(((Y == 1) & (t == 0) | (Y == -1) & (t == 1)).sum().sum())


def given_of(name, classes=None, **how):
    return read_given(CASES/'photos', CASES/name, classes, **how)


@there
@pytest.mark.parametrize('name', LISTS)
def test_lists(name, tmp_path, monkeypatch):
    monkeypatch.setenv('TRMML_DATA', str(tmp_path))
    g = given_of(name)
    assert against(g, truth()) == (*OPEN, 0) and len(g.classes) == 6 and 'say --unlisted negative' in g.said and len(g.said.splitlines()) == 1
    g = given_of(name, unlisted='negative')
    assert against(g, truth()) == (*CLOSED, 0) and '103 x 0' in g.said


@there
def test_a_list_with_a_row_per_tag():
    assert against(given_of('long/image-label.csv'), truth()) == (*OPEN, 0)
    assert against(given_of('long/image-label.csv', unlisted='negative'), truth()) == (41, 91, 0)   # two photos have no row


@there
@pytest.mark.parametrize('name', CELLS)
def test_cells(name):
    g = given_of(name)
    assert against(g, truth()) == (*CELLS[name], 0) and len(g.classes) == 6 and 'unlisted' not in g.said


@there
@pytest.mark.parametrize('name', TOLD)
def test_what_has_to_be_told(name):
    how, words = TOLD[name]
    with pytest.raises(ValueError) as error: given_of(name)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1
    assert against(given_of(name, **how), truth()) == (*(OPEN if 'parquet' in name else HALF), 0)


@there
def test_probabilities_are_refused_and_doubtful_columns_named():
    with pytest.raises(ValueError, match='not rounded'): given_of('wide/probabilities.csv')
    assert 'perhaps no classes: blurry, id (choose with classes=, --class)' in given_of('wide/extra-01-columns.csv').said


@there
def test_every_file_of_the_cases_is_tested():
    known = {*LISTS, *CELLS, *TOLD, 'long/image-label.csv', 'wide/probabilities.csv', 'wide/extra-01-columns.csv'}
    known |= {'protein-atlas/names.csv', 'npy/classes.txt', 'npy/photos.txt', 'openimages/oidv6-class-descriptions.csv'}   # names for others
    files = {p.relative_to(CASES).as_posix() for p in CASES.rglob('*') if p.is_file() and p.suffix != '.jpg' and p.name != 'README.md'}
    assert not {f for f in files - known if f.split('/')[0] not in ('labelme', 'voc-xml', 'yolo')}


@there
@pytest.mark.parametrize('name', [*LISTS, *CELLS])
def test_frames_and_load_agree(name):
    "A DataFrame as pandas reads it, and `load`, through the same reader."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if name.endswith('.csv') and 'wide' not in name and 'atlas' not in name and 'openimages' not in name:
            for index in (None, 0):
                df = pd.read_csv(CASES/name, index_col=index, dtype=str if 'tags' in name else None)
                g = read_given(CASES/'photos', df)
                assert against(g, truth())[2] == 0 and against(g, truth())[0] == against(given_of(name), truth())[0], index
    if 'parquet/bytes' in name or name == 'cvat-coco': return
    ds = load(CASES/name, images=CASES/'photos')
    Y = pd.DataFrame(ds.labels, [Path(p).name for p in ds.paths], [plain(c) for c in ds.classes])
    t = truth().loc[Y.index, Y.columns]
    assert not ((Y == 1) & (t == 0) | (Y == -1) & (t == 1)).any(axis=None) and (Y == 1).sum().sum()


# ---- variations of each kind, made here

NAMES = ['IMG_01.jpg', 'IMG_02.jpg', 'IMG_03.jpg', 'IMG_04.jpg', 'sub/IMG_05.jpg']
TAGS = [['Hund', 'großer Baum'], [], ['Hund', 'Katze', 'Vogel'], ['Katze'], ['Vogel', 'Hund']]
CLASSES = ['Hund', 'Katze', 'Vogel', 'großer Baum']
WANT = np.array([[c in t for c in CLASSES] for t in TAGS])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path/'photos'
    for n in NAMES:
        (folder/n).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(folder/n)
    return folder


def right(g, want=WANT, zero=False):
    "All that is listed is there, the rest unknown, or absent."
    assert [Path(p).name for p in g.paths] == [Path(n).name for n in NAMES] and g.classes == CLASSES
    assert (g.labels == np.where(want, 1, -1 if zero else 0)).all()


@pytest.mark.parametrize('sign', ['|', ';', ', ', ' | ', '\n', '/', ' + '])
@pytest.mark.parametrize('column', ['tags', 'Finding Labels', 'Etiketten'])
@pytest.mark.parametrize('code', ['utf-8', 'utf-16', 'utf-8-sig'])
def test_tag_lists(photos, tmp_path, sign, column, code):
    pd.DataFrame({'file name': NAMES, column: [sign.join(t) for t in TAGS]}).to_csv(tmp_path/'x.csv', index=False, encoding=code)
    if sign in ('/', ' + '):   # each part of a list has to occur a second time
        with pytest.raises(ValueError, match='--separator'): read_given(photos, tmp_path/'x.csv')
    right(read_given(photos, tmp_path/'x.csv', separator=sign.strip() or sign))
    if sign not in ('/', ' + '): right(read_given(photos, tmp_path/'x.csv', unlisted='negative'), zero=True)


@pytest.mark.parametrize('write', [str, json.dumps, lambda t: json.dumps(dict(choices=t)), lambda t: str(np.array(t)), lambda t: t, lambda t: tuple(t),
                                   lambda t: np.array(t, object)], ids=['python', 'json', 'choices', 'numpy', 'lists', 'tuples', 'arrays'])
def test_written_lists(photos, tmp_path, write):
    df = pd.DataFrame(dict(photo=NAMES, n=range(5), tags=[write(t) for t in TAGS]))
    right(read_given(photos, df.drop(columns='n')))
    right(read_given(photos, df[['photo', 'tags']].set_index('photo')))
    right(read_given(photos, described(df, tags='tags', unlisted='negative')), zero=True)
    if isinstance(df.tags[0], str):
        df[['photo', 'tags']].to_csv(tmp_path/'x.csv', sep=';', index=False)
        right(read_given(photos, tmp_path/'x.csv'))


@pytest.mark.parametrize('how', ['csv', 'frame', 'parquet', 'records'])
@pytest.mark.parametrize('names', [('image', 'class', 'label'), ('Foto', 'Klasse', 'Wert'), ('path', 'label', 'present')])
def test_long_tables(photos, tmp_path, how, names):
    rows = [(n, c, int(w)) for n, row in zip(NAMES, WANT) for c, w in zip(CLASSES, row)]
    df = pd.DataFrame(rows, columns=names)
    if how == 'csv': df.to_csv(tmp_path/'x.csv', index=False)
    if how == 'parquet': df.to_parquet(tmp_path/'x.parquet')
    if how == 'records': (tmp_path/'x.json').write_text(json.dumps(df.to_dict('records')))
    g = read_given(photos, df if how == 'frame' else next(tmp_path.glob('x.*')))
    right(g, zero=True)


def test_long_tables_that_contradict_themselves_are_refused(photos):
    df = pd.DataFrame([('IMG_01.jpg', 'cat', 1), ('IMG_01.jpg', 'cat', 0), ('IMG_02.jpg', 'cat', 1)], columns=['image', 'class', 'label'])
    with pytest.raises(ValueError, match='keep one of the two'): read_given(photos, df)


def task(k, name, tags, **more):
    return dict(id=k, data=dict(img=f'/data/local-files/?d=x/{name}'), annotations=[dict(result=[
        dict(type='choices', from_name='animals', value=dict(choices=tags))] if tags else [], **more)])


def test_label_studio(photos, tmp_path):
    tasks = [task(k, n, t) for k, (n, t) in enumerate(zip(NAMES, TAGS))]
    (tmp_path/'x.json').write_text(json.dumps(tasks))
    right(read_given(photos, tmp_path/'x.json', unlisted='negative'), zero=True)
    tasks[1]['annotations'][0]['was_cancelled'] = True
    (tmp_path/'x.json').write_text(json.dumps(tasks))
    g = read_given(photos, tmp_path/'x.json', unlisted='negative')
    assert (g.labels[1] == 0).all() and '1 tasks without an annotation' in g.said
    tasks[0]['annotations'] += task(0, 'a', ['Katze'])['annotations']
    (tmp_path/'x.json').write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match='task 0: has 2 annotations that differ'): read_given(photos, tmp_path/'x.json')
    tasks[0]['annotations'][0]['result'].append(dict(type='choices', from_name='light', value=dict(choices=['dark'])))
    tasks[0]['annotations'].pop()
    (tmp_path/'x.json').write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match='--tags CONTROL'): read_given(photos, tmp_path/'x.json')
    assert read_given(photos, tmp_path/'x.json', tags='animals').classes == CLASSES


def test_numbers_have_names(photos, tmp_path):
    numbers = [' '.join(str(CLASSES.index(c)) for c in t) for t in TAGS]
    pd.DataFrame(dict(Id=[Path(n).stem for n in NAMES], Predicted=numbers)).to_csv(tmp_path/'x.csv', index=False)
    with pytest.raises(ValueError, match='--names FILE'): read_given(photos, tmp_path/'x.csv')
    right(read_given(photos, tmp_path/'x.csv', names=CLASSES))
    (tmp_path/'label_map.json').write_text(json.dumps({c: k for k, c in enumerate(CLASSES)}))
    assert 'names from label_map.json' in read_given(photos, tmp_path/'x.csv').said
    with pytest.raises(ValueError, match='has no name'): read_given(photos, tmp_path/'x.csv', names=CLASSES[:3])


def test_zeros_and_ones_alone_are_not_guessed(photos, tmp_path):
    pd.DataFrame(dict(Id=NAMES, Target=[0, 1, 0, 1, 0])).to_csv(tmp_path/'x.csv', index=False)
    for source in (tmp_path/'x.csv', pd.read_csv(tmp_path/'x.csv')):
        with pytest.raises(ValueError, match='one class or numbers'): read_given(photos, source)
    assert (read_given(photos, tmp_path/'x.csv', ['Target']).labels[:, 0] == [-1, 1, -1, 1, -1]).all()
    with pytest.raises(ValueError, match='one class or numbers'): load(tmp_path/'x.csv', images=photos)
    g = read_given(photos, tmp_path/'x.csv', tags='Target', names=['cat', 'dog'], unlisted='negative')
    assert (g.labels == [[1, -1], [-1, 1]]*2 + [[1, -1]]).all()


DOUBTS = {   # what a careless reader gets wrong without a word
    'combinations': (['Hund', 'Hund Katze', 'Katze', 'Vogel Hund', ''], '--separator'),
    'names of two words': (['red car', 'blue car', 'red bus', '', 'bus'], '--separator'),
    'two signs': (['a;b', 'a,b', 'b', '', 'a'], 'both'),
    'underscores': (['a_b', 'b_c', 'c_a', 'a', ''], "'_' may separate"),
    'capitals': (['Hund', 'hund', '', '', 'Katze'], "both 'Hund' and 'hund'"),
    'a finding beside none': (['No Finding|Mass', 'Mass', '', '', ''], 'take out one side')}


@pytest.mark.parametrize('name', DOUBTS)
def test_doubts_are_refused(photos, tmp_path, name):
    cells, words = DOUBTS[name]
    pd.DataFrame(dict(image=NAMES, tags=cells)).to_csv(tmp_path/'x.csv', index=False)
    for call in (lambda: read_given(photos, tmp_path/'x.csv'), lambda: load(tmp_path/'x.csv', images=photos)):
        with pytest.raises(ValueError) as error: call()
        assert words in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize('column', ['split', 'Split', 'SUBSET', 'partition'])
@pytest.mark.parametrize('how', ['csv', 'parquet', 'frame', 'tags'])
def test_one_rule_for_splits(photos, tmp_path, column, how):
    parts = ['Train', 'training', 'VAL', 'test', 'Validation']
    body = dict(tags=['|'.join(t) for t in TAGS]) if how == 'tags' else {c: WANT[:, k].astype(int) for k, c in enumerate(CLASSES)}
    df = pd.DataFrame({'image': NAMES, column: parts, **body})
    if how == 'parquet': df.to_parquet(tmp_path/'x.parquet')
    elif how != 'frame': df.to_csv(tmp_path/'x.csv', index=False)
    source = df if how == 'frame' else next(tmp_path.glob('x.*'))
    lines = []
    train, val = read_to_fit(photos, source, say=lines.append)
    assert train.names == NAMES[:2] and val.names == [NAMES[2], NAMES[4]] and len(lines) == 1
    assert 'split: 2 train, 2 val used; left out: 1 test; calibrated on val' in train.said
    assert read_given(photos, source, use='evaluate').names == [NAMES[3]] and len(read_given(photos, source).names) == 5
    assert read_given(photos, source, split='valid').names == [NAMES[2], NAMES[4]]
    if how != 'frame': assert len(list_photos(source)[0] if photos == source.parent else read(source).names) == 5


MATCHED = {'as they are': lambda n: n, 'Windows': lambda n: 'C:\\me\\' + n.replace('/', '\\'), 'URL': lambda n: f'https://x.org/a%20b/{n}?v=1',
           'stems': lambda n: Path(n).stem, 'capitals': lambda n: n.upper(), 'Label Studio': lambda n: '/data/upload/3/0a1b2c3d-' + Path(n).name,
           'Roboflow': lambda n: Path(n).stem + '_jpg.rf.0123456789abcdef0123.jpg', 'Path': Path}


@pytest.mark.parametrize('name', MATCHED)
def test_photos_are_matched(photos, name):
    df = pd.DataFrame(dict(image=[MATCHED[name](n) for n in NAMES], cat=[1, 0, 1, None, 0]))
    for source in (photos, [photos/n for n in NAMES]):
        g = read_given(source, df)
        assert [Path(p) for p in g.paths] == [photos/n for n in NAMES]


def test_near_misses_and_twins(photos):
    df = pd.DataFrame(dict(image=['IMG_01.jpg', 'IMG_0l.jpg'], cat=[1, 0]))
    with pytest.raises(FileNotFoundError, match=r'did you mean (sub/)?IMG_0\d.jpg'): read_given(photos, df)
    (photos/'other').mkdir()
    Image.new('RGB', (8, 8)).save(photos/'other'/'IMG_05.jpg')
    df['image'] = ['x/IMG_05.jpg', 'IMG_01.jpg']
    with pytest.raises(ValueError, match='write whole paths'): read_given(photos, df)
    df['image'] = ['x/other/IMG_05.jpg', 'IMG_01.jpg']
    assert Path(read_given(photos, df).paths[0]) == photos/'other'/'IMG_05.jpg'
    df['image'] = ['IMG_01', 'IMG_01.jpg']
    with pytest.raises(ValueError, match='stands in row'): read_given(photos, df)


def test_parquet_with_photos(photos, tmp_path, monkeypatch):
    monkeypatch.setenv('TRMML_DATA', str(tmp_path/'data'))
    df = pd.DataFrame(dict(image=[dict(bytes=(photos/n).read_bytes(), path=None) for n in NAMES], labels=TAGS))
    df.to_parquet(tmp_path/'x.parquet')
    for source in (None, tmp_path/'x.parquet', tmp_path):
        g = read_given(source, tmp_path/'x.parquet', unlisted='negative')
        assert g.classes == CLASSES and (g.labels == np.where(WANT, 1, -1)).all()
        assert [Path(p).read_bytes() for p in g.paths] == [(photos/n).read_bytes() for n in NAMES]
    assert len(load(tmp_path/'x.parquet').paths) == len(list_photos(tmp_path/'x.parquet')[0]) == 5


def test_other_files_get_one_sentence(photos, tmp_path):
    for name, text, words in (('x.json', '{"a": 1}', 'no known kind'), ('x.json', '{"a"', 'is no JSON'), ('x.xml', '<a/>', 'known are exports of CVAT'),
                              ('x.yaml', 'a: 1', 'has no names'), ('x.docx', 'x', 'no kind that can be read'), ('x.xlsx', 'x', 'save the sheet'),
                              ('x.csv', 'title\nimage,cat\na.jpg,1\n', 'delete lines above'), ('x.npy', 'x', 'cannot be read as an array')):
        (tmp_path/name).write_text(text)
        with pytest.raises(ValueError) as error: read_given(photos, tmp_path/name)
        assert words in str(error.value) and len(str(error.value)) < 500 and '\n' not in str(error.value)
        (tmp_path/name).unlink()


@pytest.mark.parametrize('kind', ['yolo', 'voc', 'cvat', 'coco', 'labelme', 'imagefolder'])
def test_folders_of_tools(tmp_path, kind):
    "Small data sets with photos beside, of which one has nothing in it, and classes with umlauts."
    files, tags = ['a.jpg', 'b.jpg', 'c.jpg'], [['Äpfel', 'tv'], [], ['tv']]
    root = tmp_path/'export'
    (root/'images'/'val').mkdir(parents=True)
    where = root/'images'/'val' if kind == 'yolo' else root
    for n in files: Image.new('RGB', (8, 8)).save(where/n)
    if kind == 'yolo':
        (root/'labels'/'val').mkdir(parents=True)
        (root/'data.yaml').write_text('train: ../images/val\nval: images/val\nnc: 2\nnames: ["Äpfel", "tv"]\n', encoding='utf-8')
        for n, t in zip(files, tags): (root/'labels'/'val'/f'{n[0]}.txt').write_text(''.join(f'{["Äpfel", "tv"].index(c)} .1 .1 .9 .1 .9 .9\n' for c in t))
    if kind == 'voc':
        for n, t in zip(files, tags):
            (root/f'{n[0]}.xml').write_text('<annotation><filename>' + n + '</filename>' + ''.join(
                f'<object><name>{c}</name></object>' for c in t) + '</annotation>', encoding='utf-8')
    if kind == 'cvat':
        (root/'annotations.xml').write_text('<annotations><meta><job><labels><label><name>Äpfel</name></label><label><name>tv</name></label></labels></job></meta>' + ''.join(
            f'<image id="{k}" name="sub/{n}">' + ''.join(f'<box label="{c}" xtl="1"/>' for c in t) + '</image>' for k, (n, t) in enumerate(zip(files, tags))) + '</annotations>', encoding='utf-8')
    if kind == 'coco':
        (root/'_annotations.coco.json').write_text(json.dumps(dict(
            images=[dict(id=k, file_name=n) for k, n in enumerate(files)], categories=[dict(id=7, name='Äpfel'), dict(id=9, name='tv')],
            annotations=[dict(image_id=k, category_id=dict(Äpfel=7, tv=9)[c], id=0) for k, t in enumerate(tags) for c in t])))
    if kind == 'labelme':
        for n, t in zip(files, tags): (root/f'{n[0]}.json').write_text(json.dumps(dict(version='5', flags={}, imagePath=n, shapes=[dict(label=c) for c in t])))
    if kind == 'imagefolder':
        (root/'metadata.jsonl').write_text(''.join(json.dumps(dict(file_name=n, objects=dict(bbox=[[1, 2, 3, 4]]*len(t), categories=t))) + '\n' for n, t in zip(files, tags)))
    source = root/'annotations.xml' if kind == 'cvat' else root
    for photos in (root, None) if kind != 'cvat' else (root,):
        g = read_given(photos, source, unlisted='negative')
        assert g.classes == ['tv', 'Äpfel'][::-1 if kind in ('yolo', 'cvat', 'coco') else 1]
        at = {Path(p).name: dict(zip(g.classes, y)) for p, y in zip(g.paths, g.labels.tolist())}
        assert at == {n: {c: 1 if c in t else -1 for c in g.classes} for n, t in zip(files, tags)}


def test_wide_variations(photos, tmp_path):
    (tmp_path/'x.csv').write_text('Foto;Hund;Katze\nIMG_01.jpg;1,0;\nIMG_02.jpg;0,0;WAHR\n'.replace('WAHR', 'true'), encoding='utf-8')
    assert read_given(photos, tmp_path/'x.csv').labels.tolist() == [[1, 0], [-1, 1]]
    (tmp_path/'x.csv').write_text('# mine;;\nname|Hund|Katze\nIMG_01.jpg|1|\nIMG_02.jpg|0|1\n')
    assert read_given(photos, tmp_path/'x.csv').labels.tolist() == [[1, 0], [-1, 1]]
    df = pd.DataFrame(dict(Hund=[1, 0], Katze=pd.array([None, 1], 'Int8'), file=NAMES[:2]))
    for frame in (df, df.set_index('file'), df.astype(dict(Hund=float)), df.reset_index()):
        assert read_given(photos, frame).labels.tolist() == [[1, 0], [-1, 1]]
    by_order = df[['Hund', 'Katze']]
    assert read_given([photos/n for n in NAMES[:2]], by_order).labels.tolist() == [[1, 0], [-1, 1]]
    with pytest.raises(ValueError, match='column 2 has no name|has no name'): read_given(photos, df.rename(columns={'Hund': ''})[['file', '', 'Katze']])
