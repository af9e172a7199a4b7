"""Tables of one's own: what malformed input of any kind becomes, and random tables written and read back."""
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from trmml.data import load, open_image
from trmml.data.table import parse_table, write_csv
from trmml.formats.columns import plain_name
from trmml.formats.naming import is_number
from trmml.formats.tables import NOTES
from trmml.formats.tags import is_nothing


@pytest.fixture
def photos(tmp_path):
    for n in ('a.jpg', 'b.jpg', 'grün wald.jpg'): Image.new('RGB', (8, 6)).save(tmp_path/n)
    (tmp_path/'sub dir').mkdir()
    Image.new('RGB', (8, 6)).save(tmp_path/'sub dir'/'c.jpg')
    return tmp_path


# ---- the table of malformed input: a CSV file -> labels, or words of the one error

GOOD = [[1, -1], [0, 1]]
NFD = unicodedata.normalize('NFD', 'grün wald.jpg')
HANDLED = {   # what is odd about it: bytes, labels
    'nothing': (b'image,cat,dog\na.jpg,1,0\nb.jpg,,1\n', GOOD),
    'byte order mark': (b'\xef\xbb\xbfimage,cat,dog\na.jpg,1,0\nb.jpg,,1\n', GOOD),
    'Windows line ends': (b'image,cat,dog\r\na.jpg,1,0\r\nb.jpg,,1\r\n', GOOD),
    'old Mac line ends': (b'image,cat,dog\ra.jpg,1,0\rb.jpg,,1\r', GOOD),
    'no end of the last line': (b'image,cat,dog\na.jpg,1,0\nb.jpg,,1', GOOD),
    'blank lines': (b'image,cat,dog\n\na.jpg,1,0\n,,\nb.jpg,,1\n\n', GOOD),
    'semicolons': (b'image;cat;dog\na.jpg;1;0\nb.jpg;;1\n', GOOD),
    'tabs': (b'image\tcat\tdog\na.jpg\t1\t0\nb.jpg\t\t1\n', GOOD),
    'UTF-16, "Unicode text" of Excel': ('image\tcat\tdog\na.jpg\t1\t0\nb.jpg\t\t1\n'.encode('utf-16'), GOOD),
    'decimals, as pandas writes them': (b'image,cat,dog\na.jpg,1.0,0.0\nb.jpg,,1.0\n', GOOD),
    'TRUE and FALSE, as Excel writes them': (b'image,cat,dog\na.jpg,TRUE,FALSE\nb.jpg,,true\n', GOOD),
    'spaces around cells': (b'image, cat ,dog\na.jpg , 1,0\nb.jpg, , 1 \n', GOOD),
    'quotes around everything': (b'"image","cat","dog"\n"a.jpg","1","0"\n"b.jpg","","1"\n', GOOD),
    'unicode and spaces in paths': ('image,cat,dog\ngrün wald.jpg,1,0\nsub dir/c.jpg,,1\n'.encode(), GOOD),
    'a decomposed umlaut in a path': (f'image,cat,dog\n{NFD},1,0\nsub dir/c.jpg,,1\n'.encode(), GOOD),
    'Windows paths': ('image,cat,dog\na.jpg,1,0\nsub dir\\c.jpg,,1\n'.encode(), GOOD),
    'nan and NA for blank': (b'image,cat,dog\na.jpg,1,0\nb.jpg,nan,1\n', GOOD),
    'a class that nobody knows anything of': (b'image,cat,dog\na.jpg,,0\nb.jpg,,1\n', [[0, -1], [0, 1]]),
    'a list in a cell': (b'image,labels\na.jpg,cat;dog\nb.jpg,\n', [[1, 1], [0, 0]]),
    'a list as pandas writes it': (b'image,tags\na.jpg,"[\'cat\', \'dog\']"\nb.jpg,[]\n', [[1, 1], [0, 0]])}
REFUSED = {   # what is wrong with it: bytes, words of the error
    'zero bytes': (b'', 'is empty'),
    'only white space': (b' \n\n', 'is empty'),
    'a header alone': (b'image,cat,dog\n', 'a header and no rows'),
    'no header': (b'a.jpg,1,0\nb.jpg,,1\n', 'write a header above it'),
    'photos alone': (b'image\na.jpg\n', 'a column for the photo and one for each class'),
    'a separator that is none': (b'image:cat:dog\na.jpg:1:0\n', 'separated by , ; | or tab'),
    'another separator in a row': (b'image,cat,dog\na.jpg;1;0\n', 'row 2: 1 cells, the header has 3'),
    'a row that is short': (b'image,cat,dog\na.jpg,1,0\nb.jpg,1\n', 'row 3: 2 cells, the header has 3'),
    'a row that is long': (b'image,cat,dog\na.jpg,1,0,1\n', 'row 2: 4 cells, the header has 3'),
    'a quote that is not closed': (b'image,cat,dog\n"a.jpg,1,0\nb.jpg,,1\n', 'a quote is opened and not closed'),
    'another code: -1': (b'image,cat,dog\na.jpg,1,-1\n', "row 2, column 'dog': '-1' is no label; write 1"),
    'a word as a label': (b'image,cat,dog\na.jpg,1,0\nb.jpg,maybe,0\n', "row 3, column 'cat': 'maybe' is no label"),
    'a probability as a label': (b'image,cat,dog\na.jpg,0.7,0\n', "'0.7' is no label"),
    'a question mark as a label': (b'image,cat,dog\na.jpg,?,0\n', "'?' is no label"),
    'a class without a name': (b'image,cat,\na.jpg,1,0\n', 'row 1: column 3 has no name'),
    'two classes of one name': (b'image,cat,cat\na.jpg,1,0\n', "two columns are called 'cat'"),
    'two rows for one photo': (b'image,cat,dog\na.jpg,1,0\nb.jpg,1,0\na.jpg,1,0\n', 'row 4: a.jpg stands in row 2 too'),
    'one photo spelt in two ways': (b'image,cat,dog\na.jpg,1,0\n./a.jpg,1,0\n', 'row 3: a.jpg stands in row 2 too'),
    'a row without a photo': (b'image,cat,dog\n,1,0\n', 'row 2: names no photo'),
    'a photo that is not there': (b'image,cat,dog\na.jpg,1,0\nz.jpg,1,0\n', 'of which 1 are not in'),
    'a folder in place of a photo': (b'image,cat,dog\nsub dir,1,0\n', 'first: row 2, sub dir'),
    'Latin-1 text': ('image,café\na.jpg,1\n'.encode('latin-1'), 'row 1: is not UTF-8 text (byte 0xe9)'),
    'a zero byte': (b'image,cat,dog\na.jpg,1,\x000\n', 'holds zero bytes'),
    'a spreadsheet file called .csv': (b'PK\x03\x04\x14\x00\x08\x00\xd9\xff', 'is not UTF-8 text'),
    'a list column that holds -1': (b'image,labels\na.jpg,1\nb.jpg,-1\n', "row 3, column 'labels': '-1' is no label"),
    'a split that no row has': (b'image,cat,split\na.jpg,1,test\n', "no row has split 'train'; there are test"),
    'lists that are all empty': (b'image,labels\na.jpg,\n', 'no row lists a class'),
    'a broken list': (b'image,labels\na.jpg,[cat\n', 'row 2:'),
    'columns of splits and photos alone': (b'image,split\na.jpg,train\n', 'no column for a class')}


@pytest.mark.parametrize('name', HANDLED)
def test_odd_tables_are_handled(photos, name):
    content, labels = HANDLED[name]
    (photos/'mine.csv').write_bytes(content)
    ds = load(photos/'mine.csv')
    assert ds.labels.tolist() == labels and ds.classes == ['cat', 'dog'] and open_image(ds.paths[1]).size == (8, 6)


@pytest.mark.parametrize('column', ['labels', 'Tags'])
@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_a_class_that_is_called_labels(photos, column, suffix):
    t = pd.DataFrame({'image': ['a.jpg', 'b.jpg', 'grün wald.jpg'], column: [1, 0, None]})
    t.to_csv(photos/'mine.csv', index=False) if suffix == 'csv' else t.to_parquet(photos/'mine.parquet')
    with pytest.raises(ValueError, match=rf"may be one class or numbers of classes; say classes=\['{column}'\]"): load(photos/f'mine.{suffix}')
    ds = load(photos/f'mine.{suffix}', classes=[column])
    assert ds.classes == [column] and ds.labels.tolist() == [[1], [-1], [0]] and 'blank unknown' in ds.card['code']


def test_splits_of_a_table_without_a_column_of_splits(photos):
    (photos/'mine.csv').write_bytes(HANDLED['nothing'][0])
    assert load(photos/'mine.csv', 'test').paths == load(photos/'mine.csv', 'train').paths
    with pytest.raises(ValueError, match="mine.csv: no column 'split', so there is no split 'tset'; there are train, test, val"): load(photos/'mine.csv', 'tset')


@pytest.mark.parametrize('name', REFUSED)
def test_broken_tables_are_refused_in_one_sentence(photos, name):
    content, words = REFUSED[name]
    (photos/'mine.csv').write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError)) as caught: load(photos/'mine.csv')
    told = str(caught.value)
    assert words in told and 'mine.csv' in told and '\n' not in told


def test_enough_kinds():
    assert len(HANDLED) + len(REFUSED) >= 25


# ---- settings, splits, parquet

def test_splits_and_card(photos):
    (photos/'x.csv').write_text('image,cat,split\na.jpg,1,train\nb.jpg,0,test\nsub dir/c.jpg,,train\n')
    assert [len(load(photos/'x.csv', s)) for s in ('train', 'test')] == [2, 1] and load(photos/'x.csv').classes == ['cat']
    assert load(photos/'x.csv').card['code'] == '1 is positive, 0 negative, blank unknown' and 'note' not in load(photos/'x.csv').card
    (photos/'x.csv').write_text('image,cat\na.jpg,1\n')
    ds = load(photos/'x.csv', 'test')
    assert 'same rows for every split' in ds.card['note'] and list(ds.card['sha256']) == ['x.csv'] and ds.card['positives per class'] == dict(cat=1)


def test_unlisted_and_separator(photos):
    (photos/'x.csv').write_text('image,labels\na.jpg,"cat, small|dog"\nb.jpg,dog\n')
    with pytest.raises(ValueError, match='may|both'): load(photos/'x.csv')   # a class of its own, or two
    ds = load(photos/'x.csv', unlisted='negative', separator='|')
    assert ds.classes == ['cat, small', 'dog'] and ds.labels.tolist() == [[1, 1], [-1, 1]] and 'the rest negative' in ds.card['code']
    assert ds.variant != load(photos/'x.csv', separator='|').variant
    with pytest.raises(ValueError, match="'unknown', 'negative'"): load(photos/'x.csv', unlisted='no')


def test_images_elsewhere(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp('elsewhere')/'x.csv'
    path.write_text('image,cat\na.jpg,1\n')
    with pytest.raises(FileNotFoundError, match=r'name the folder they are in \(images= of load\)'): load(path)
    assert load(path, images=photos).paths == [str(photos/'a.jpg')]
    path.write_text(f'image,cat\n{photos/"a.jpg"},1\n')
    with pytest.raises(ValueError, match="a.jpg' leads out of .*images="): load(path)   # a table may come from anybody
    for images in (photos, '/'): assert load(path, images=images).paths == [str(photos/'a.jpg')]


@pytest.mark.parametrize('cat', [[1, None], [1., float('nan')], [True, None], ['1', '']], ids=['integers', 'decimals', 'booleans', 'strings'])
def test_parquet_columns(photos, cat):
    pd.DataFrame(dict(image=['a.jpg', 'b.jpg'], cat=pd.array(cat, dtype={int: 'Int64', bool: 'boolean'}.get(type(cat[0]), None)), dog=[0, 1])).to_parquet(photos/'x.parquet')
    assert load(photos/'x.parquet').labels.tolist() == GOOD


def test_parquet_lists_and_broken_parquet(photos):
    pd.DataFrame(dict(image=['a.jpg', 'b.jpg', 'sub dir/c.jpg'], labels=[['dog', 'cat'], [], None])).to_parquet(photos/'x.parquet')
    assert load(photos/'x.parquet').labels.tolist() == [[1, 1], [0, 0], [0, 0]]
    content = (photos/'x.parquet').read_bytes()
    for wrong in (content[:60], b'', b'image,cat'):
        (photos/'x.parquet').write_bytes(wrong)
        with pytest.raises(ValueError, match='x.parquet: cannot be read as parquet'): load(photos/'x.parquet')


# ---- photos of every kind, and what is no photo

def save(path, mode='RGB', size=(8, 6), **how): Image.new(mode, size, **how).save(path)


def exif_rotated(path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new('RGB', (8, 6)).save(path, exif=exif)


PICTURES = {   # kind: maker, size as opened
    'greyscale': (lambda p: save(p, 'L'), (8, 6)), 'CMYK': (lambda p: save(p, 'CMYK'), (8, 6)),
    'palette with transparency': (lambda p: Image.new('P', (8, 6)).save(p, 'PNG', transparency=0), (8, 6)),
    '16-bit PNG': (lambda p: Image.fromarray(np.full((6, 8), 40000, np.uint16)).save(p, 'PNG'), (8, 6)),
    'EXIF-rotated': (exif_rotated, (6, 8)), 'a PNG called .jpg': (lambda p: Image.new('RGBA', (8, 6)).save(p, 'PNG'), (8, 6)),
    'an animation': (lambda p: Image.new('P', (8, 6)).save(p, 'GIF', save_all=True, append_images=[Image.new('P', (8, 6), 1)]), (8, 6)),
    'one pixel': (lambda p: save(p, size=(1, 1)), (1, 1))}
NO_PICTURES = {'zero bytes': b'', 'text': b'<html>404</html>', 'a truncated JPEG': None}


@pytest.mark.parametrize('kind', PICTURES)
def test_pictures_open_as_rgb(tmp_path, kind):
    make, size = PICTURES[kind]
    make(tmp_path/'x.jpg')
    img = open_image(tmp_path/'x.jpg')
    assert img.mode == 'RGB' and img.size == size
    if kind == '16-bit PNG': assert img.getpixel((0, 0)) == (156, 156, 156)


@pytest.mark.parametrize('kind', NO_PICTURES)
def test_no_pictures_are_named(tmp_path, kind):
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)).save(tmp_path/'x.jpg')
    (tmp_path/'x.jpg').write_bytes((tmp_path/'x.jpg').read_bytes()[:900] if NO_PICTURES[kind] is None else NO_PICTURES[kind])
    with pytest.raises(ValueError, match='x.jpg: cannot be read as an image .* drop it from the list'): open_image(tmp_path/'x.jpg')


# ---- written and read back

word = st.text(st.characters(exclude_categories=['Cs', 'Cc']), min_size=1, max_size=12).filter(lambda s: s == s.strip())
name = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), min_size=1, max_size=12).filter(lambda s: s == s.strip())


def is_class(c):
    "A header that means a class: one that says split, tags, notes, 'none' or a number is read as that, and said (tests/test_formats.py)."
    said = ('split', 'labels', 'tags', 'true', 'false')
    return c.lower() not in said and not is_number(c) and not is_nothing(c) and plain_name(c) not in NOTES


@pytest.mark.parametrize('classes, said', [(['00', '000'], 'lists 0, which are no names of classes'), (['cat', 'NONE'], None), (['cat', 'notes'], None)])
def test_headers_that_mean_no_class(tmp_path, classes, said):
    path = write_csv(tmp_path/'x.csv', ['a.jpg', 'b.jpg'], classes, np.array([[1, 0], [-1, 0]], np.int8))
    if said is None: assert parse_table(path)['classes'] == ['cat']
    else:
        with pytest.raises(ValueError, match=said): parse_table(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_table_comes_back(tmp_path, data):
    classes = data.draw(st.lists(word.filter(is_class), min_size=1, max_size=4, unique=True).filter(lambda c: 'image' not in c))
    names = data.draw(st.lists(name, min_size=1, max_size=5))
    labels = data.draw(arrays(np.int8, (len(names), len(classes)), elements=st.sampled_from([-1, 0, 1])))
    table = parse_table(write_csv(tmp_path/'x.csv', names, classes, labels))
    assert table['classes'] == classes and table['names'] == names and (table['labels'] == labels).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.sampled_from([-1, 0, 1])), ends=st.sampled_from(['\n', '\r\n', '\r']),
       delimiter=st.sampled_from([',', ';', '\t']), mark=st.booleans(), code=st.sampled_from(['{}', '{}.0', ' {} ', '"{}"']))
def test_any_spelling_of_a_table_gives_the_same_labels(tmp_path, labels, ends, delimiter, mark, code):
    cell = lambda v: '' if v == 0 else code.format(int(v == 1))
    rows = [['image', *(f'c{k}' for k in range(labels.shape[1]))]] + [[f'{n}.jpg', *map(cell, row)] for n, row in enumerate(labels)]
    (tmp_path/'x.csv').write_bytes(ends.join(delimiter.join(r) for r in rows).encode('utf-8-sig' if mark else 'utf-8'))
    assert (parse_table(tmp_path/'x.csv')['labels'] == labels).all()
