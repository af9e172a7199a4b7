"""Labelling without a browser: the order of questions, answers in the file, undo, resume, two programs at once, wrong uses."""
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from trmml import cli
from trmml.photos import TRMML, answers, label, labelling, open_round, page
from trmml.photos.labelling import Labelling, pictures, scaled, view_of


@pytest.fixture
def photos(tmp_path):
    "A folder of twelve photos."
    folder = tmp_path/'photos'; folder.mkdir()
    for k in range(12): Image.new('RGB', (30, 20), (20*k, 90, 200)).save(folder/f'{k:02}.jpg')
    return folder


@pytest.fixture
def table(tmp_path): return tmp_path/'labels.csv'


def rows(table): return pd.read_csv(table, index_col=0, dtype=object).fillna('')


class Model:
    "What labelling asks of a fitted model, without training: probabilities by photo number."
    classes_, photos_ = ['cat', 'dog'], None
    import numpy as np
    thresholds_ = np.array([.5, .5])

    def check_fitted(self): pass
    def say(self, text): pass

    def predict(self, paths, skip_unreadable=False):
        import numpy as np
        k = np.array([int(Path(p).stem) for p in paths])
        return pd.DataFrame(np.stack([.5 + k/30, np.full(len(k), .99)], 1), [str(p) for p in paths], self.classes_)


# ---- the round

def test_ten_answers_are_ten_rows(photos, table):
    r = open_round(photos, table, ['dog'], n=10)
    seen = []
    for k in range(10):
        seen.append(r.question().image)
        assert r.answer('10'[k % 2]) == ''
        assert len(rows(table)) == k + 1, 'written after each answer'
    assert r.question() is None and r.words() == '10 of 10, 0 skipped'
    t = rows(table)
    assert list(t.index) == seen and list(t['dog']) == ['1', '0']*5 and len(set(seen)) == 10


def test_the_order_follows_the_seed(photos, table):
    order = lambda seed: [open_round(photos, table, ['dog'], n=12, seed=seed).at(k).image for k in range(12)]
    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == sorted(p.name for p in photos.iterdir()) != order(0)


def test_a_model_sets_the_order(photos, table):
    "Cats nearest to the threshold first; dogs are far from it."
    r = open_round(photos, table, model=Model(), n=4)
    asked = [r.at(k) for k in range(4)]
    assert [q.image for q in asked] == ['00.jpg', '01.jpg', '02.jpg', '03.jpg'] and {q.name for q in asked} == {'cat'}
    only = open_round(photos, table, ['dog'], Model(), n=3)
    assert [only.at(k).name for k in range(len(only.cells))] == ['dog']*3


def test_known_cells_are_not_asked(photos, table):
    table.write_text('photo,dog,cat\n03.jpg,1,\n04.jpg,,0\n')
    for model in None, Model():
        asked = open_round(photos, table, model=model)
        pairs = {(asked.at(k).image, asked.at(k).name) for k in range(len(asked.cells))}
        assert len(asked.cells) == len(pairs) == 22
        assert not {('03.jpg', 'dog'), ('04.jpg', 'cat')} & pairs


def test_resumes_at_the_same_question(photos, table):
    r = open_round(photos, table, ['dog', 'cat'], n=9)
    for said in '1', 'skip', '0', 'skip', '1': r.answer(said)
    again = open_round(photos, table, ['dog', 'cat'], n=9)
    assert again.words() == r.words() == '3 of 9, 2 skipped' and again.question() == r.question()
    assert again.undo() == '' and again.words() == '2 of 9, 2 skipped' and again.question().number == 4
    other = open_round(photos, table, ['dog'], n=9)
    assert other.counts()['answered'] == 0 and len(other.cells) <= 9   # something else is asked for: a new round


@pytest.mark.parametrize('spoilt', ['', '{', '[]', '{"request": 1}', None])
def test_without_the_hidden_file_no_answer_is_lost(photos, table, spoilt):
    r = open_round(photos, table, ['dog'], n=12)
    for _ in range(5): r.answer('1')
    hidden = answers.beside(r.sheet.path)
    assert hidden.name == '.labels.csv.round.json'
    hidden.unlink() if spoilt is None else hidden.write_text(spoilt)
    again = open_round(photos, table, ['dog'], n=12)
    assert len(again.cells) == 7 and len(rows(table)) == 5


def test_skipped_come_last_in_the_next_round(photos, table):
    r = open_round(photos, table, ['dog'], n=4)
    for said in 'skip', 'skip', '1', '0': r.answer(said)
    late = {r.at(0).image, r.at(1).image}
    following = open_round(photos, table, ['dog'], n=12)
    assert {following.at(8).image, following.at(9).image} == late and len(following.cells) == 10
    assert rows(table).shape == (2, 1), 'a skip writes nothing'


def test_undo_restores_the_file(photos, table):
    table.write_text('photo;dog;note\r\n03.jpg;;"a; b"\r\n')
    before = table.read_bytes()
    r = open_round(photos, table, ['dog'], n=12)
    for _ in range(12): r.answer('1')
    assert r.question() is None and len(rows_of_semicolons(table)) == 12
    for _ in range(12): assert r.undo() == ''
    assert table.read_bytes() == before and r.undo() == 'there is nothing to undo'


def rows_of_semicolons(table): return pd.read_csv(table, sep=';')


# ---- others write too

def test_rows_of_others_stay(photos, table):
    r = open_round(photos, table, ['dog'], n=12)
    r.answer('1')
    first = r.at(0).image
    table.write_text(table.read_text().replace('image,dog', 'image,dog,cat').replace(',1', ',1,0') + 'elsewhere/x.jpg,0,1\n')
    r.answer('0')
    t = rows(table)
    assert t.loc[first].tolist() == ['1', '0'] and t.loc['elsewhere/x.jpg'].tolist() == ['0', '1'] and t.loc[r.at(1).image, 'dog'] == '0'


def test_an_answer_of_another_program_is_kept(photos, table):
    r = open_round(photos, table, ['dog'], n=12)
    asked = r.question().image
    table.write_text(f'image,dog\n{asked},0\n')
    assert 'kept' in r.answer('1') and rows(table).loc[asked, 'dog'] == '0'
    assert r.question().image != asked and r.counts()['answered'] == 1


def test_undo_leaves_what_was_changed_since(photos, table):
    r = open_round(photos, table, ['dog'], n=12)
    r.answer('1')
    table.write_text(table.read_text().replace(',1', ',0'))
    assert 'changed since' in r.undo() and rows(table).iloc[0, 0] == '0'


def test_two_processes_lose_nothing(photos, table):
    "Each asks for a class of its own, at the same time, in the same file."
    code = ('import sys; from trmml.photos import open_round\n'
            'r = open_round(sys.argv[1], sys.argv[2], [sys.argv[3]], n=12)\n'
            'while r.question(): r.answer("1")')
    env = os.environ | dict(PYTHONPATH=str(Path(cli.__file__).parents[1]))
    both = [subprocess.Popen([sys.executable, '-c', code, str(photos), str(table), c], env=env) for c in ('dog', 'cat')]
    assert [p.wait(300) for p in both] == [0, 0]
    t = rows(table)
    assert t.shape == (12, 2) and (t == '1').all().all()


def test_two_threads_lose_nothing(photos, table):
    rounds = [open_round(photos, table, [c], n=12) for c in ('dog', 'cat', 'cow')]
    def run(r):
        while r.question(): r.answer('0')
    threads = [threading.Thread(target=run, args=(r,)) for r in rounds]
    for t in threads: t.start()
    for t in threads: t.join()
    assert rows(table).shape == (12, 3) and (rows(table) == '0').all().all()


def test_a_held_table_is_said(photos, table, monkeypatch):
    from filelock import FileLock
    r = open_round(photos, table, ['dog'], n=12)
    monkeypatch.setattr(answers, 'WAIT', .1)
    with FileLock(table.with_name('.labels.csv.lock')):
        with pytest.raises(ValueError, match='another program has been writing it'): r.answer('1')
    assert r.answer('1') == ''


# ---- the form of the file

@pytest.mark.parametrize('code, between, end', [('utf-8', ',', '\n'), ('utf-8-sig', ';', '\r\n'), ('utf-16', '\t', '\r\n')])
def test_the_form_stays(photos, table, code, between, end):
    text = end.join([f'photo{between}dog{between}größe', f'03.jpg{between}{between}"5{between}0"', ''])
    table.write_bytes(text.encode(code))
    r = open_round(photos, table, ['dog'], n=12)
    while r.question(): r.answer('1')
    raw = table.read_bytes().decode(code)
    assert raw.startswith(f'photo{between}dog{between}größe{end}03.jpg{between}1{between}"5{between}0"{end}') and raw.count(end) == 13
    assert raw.encode(code)[:2] == text.encode(code)[:2]


@pytest.mark.parametrize('name', ['03.jpg', 'photos/03.jpg', 'C:\\my photos\\03.jpg', '03', '/elsewhere/03.JPG', ' 03.jpg '])
def test_a_row_is_found_by_nearly_its_name(photos, table, name):
    table.write_text(f'image,dog\n{name},1\n')
    r = open_round(photos, table, ['dog'])
    assert len(r.cells) == 11 and r.answer('0') == '' and len(rows(table)) == 2


def test_a_link_stays_a_link(photos, table, tmp_path):
    real = tmp_path/'real.csv'
    real.write_text('image,dog\n')
    table.symlink_to(real)
    open_round(photos, table, ['dog']).answer('1')
    assert table.is_symlink() and len(rows(real)) == 1


# ---- what is shown

def test_a_key_for_an_earlier_screen_does_nothing(photos, table):
    shown = Labelling(open_round(photos, table, ['dog']), pictures(None))
    view, plain, region = shown.shown()
    assert plain[:2] == b'\xff\xd8' and region == b''
    shown.heard('1', view['turn']); shown.heard('1', view['turn']); shown.heard('0', 99)
    assert len(rows(table)) == 1
    shown.heard('undo', shown.turn)
    assert len(rows(table)) == 0


def test_an_error_of_the_disk_is_said_and_nothing_is_lost(photos, table, monkeypatch):
    shown = Labelling(open_round(photos, table, ['dog']), pictures(None))
    shown.shown()
    shown.heard('1', shown.turn)
    def full(*_): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr(answers, 'write_whole', full)
        view = shown.heard('0', shown.turn)[0]
        assert view['message'].startswith('Not saved:') and 'No space left' in view['message'] and view['number'] == 1
    view = shown.heard('0', shown.turn)[0]
    assert (view['message'], view['number'], len(rows(table))) == ('', 2, 2)


def test_a_photo_that_cannot_be_read_can_be_skipped(photos, table):
    for p in photos.iterdir(): p.write_bytes(b'no picture')
    shown = Labelling(open_round(photos, table, ['dog'], n=2), pictures(None))
    view, plain, _ = shown.shown()
    assert 'cannot be read' in view['message'] and plain == b''
    assert shown.heard('skip', shown.turn)[0]['number'] == 1


def test_large_and_turned_photos_are_scaled(tmp_path):
    exif = Image.Exif(); exif[0x0112] = 6
    Image.new('RGB', (8000, 4000)).save(tmp_path/'a.jpg', exif=exif)
    assert scaled(tmp_path/'a.jpg').size == (320, 640)
    for name, mode in ('b.png', 'RGBA'), ('c.gif', 'P'), ('d.tif', 'I;16'), ('e.webp', 'RGB'), ('f.jpg', 'CMYK'), ('g.bmp', '1'):
        Image.new(mode, (10, 20)).save(tmp_path/name)
        assert (scaled(tmp_path/name).size, scaled(tmp_path/name).mode) == ((320, 640), 'RGB')


@pytest.mark.parametrize('name, asked', [('dog', 'a dog'), ('apple', 'an apple'), ('dining_table', 'a dining table')])
def test_the_question(photos, table, name, asked):
    assert view_of(open_round(photos, table, [name]), 1, '')['question'] == f'Is there {asked} in this photo?'


def test_the_widget(photos, table):
    pytest.importorskip('anywidget')
    w = label(photos, table, ['dog'], n=10)
    for k in range(10): w.heard(w, dict(said='10'[k % 2], turn=w.view['turn']), [])
    assert w.view['question'] == 'Done: 10 answered, 0 skipped' and len(rows(table)) == 10
    w.heard(w, dict(said='1', turn=w.view['turn']), [])
    assert len(rows(table)) == 10


# ---- wrong uses

def wrong(photos, table, **how):
    with pytest.raises((ValueError, OSError)) as caught: open_round(**(dict(photos=photos, labels=table, classes=['dog']) | how))
    return str(caught.value)


def test_wrong_uses_are_one_sentence(photos, table, tmp_path):
    empty = tmp_path/'empty'; empty.mkdir()
    assert 'no class to ask for' in wrong(photos, table, classes=None)
    assert 'holds no picture' in wrong(empty, table)
    assert 'no such folder' in wrong(tmp_path/'none', table)
    assert 'such as labels.csv' in wrong(photos, pd.DataFrame())
    assert 'is a folder' in wrong(photos, tmp_path)
    assert 'make it first' in wrong(photos, tmp_path/'none'/'x.csv')
    assert 'answers are written into .csv' in wrong(photos, tmp_path/'x.parquet')
    assert 'n=0' in wrong(photos, table, n=0)
    assert 'twice' in wrong(photos, table, classes=['dog', 'dog'])
    assert "no class 'horse'" in wrong(photos, table, classes=['horse'], model=Model())
    table.write_text('image,dog\n01.jpg,maybe\n')
    assert "'maybe' is no label" in wrong(photos, table)
    table.write_text('image,tags\n01.jpg,dog|cat\n')
    assert 'give the name of a new table' in wrong(photos, table)
    table.write_text('image,dog\n' + ''.join(f'{p.name},1\n' for p in photos.iterdir()))
    assert 'nothing is blank for dog' in wrong(photos, table)
    assert not list(tmp_path.glob('.x*'))


def test_other_columns_may_hold_anything(photos, table):
    table.write_text('image,width,dog\n01.jpg,640,\n')
    open_round(photos, table, ['dog']).answer('1')
    assert rows(table).loc['01.jpg', 'width'] == '640'
    assert "'640' is no label" in wrong(photos, table, classes=None)


def test_a_folder_that_cannot_be_written(photos, table, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    assert 'cannot be written' in wrong(photos, table)
    assert not table.exists()


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write everywhere')
def test_a_read_only_folder(photos, tmp_path):
    folder = tmp_path/'locked'; folder.mkdir(); folder.chmod(0o555)
    assert 'cannot be written' in wrong(photos, folder/'labels.csv')


def test_without_anywidget(photos, table, monkeypatch):
    monkeypatch.setitem(sys.modules, 'anywidget', None)
    labelling.widget_class.cache_clear()
    with pytest.raises(ImportError, match=r'needs anywidget: pip install "trmml\[label\]"'): label(photos, table, ['dog'])
    labelling.widget_class.cache_clear()


def test_an_unfitted_model():
    with pytest.raises(ValueError, match='fit'): TRMML().label('photos')


# ---- the console

def says(capsys, *args):
    with pytest.raises(SystemExit) as stop: cli.main(['label', *map(str, args)])
    return stop.value.code, capsys.readouterr().err


def test_the_console_says_what_is_wrong(photos, table, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, 'check_page', lambda: None)
    for args, words in [((photos, table), 'no class to ask for'), ((tmp_path/'no', table, '--class', 'dog'), 'no such folder'),
                        ((photos, table, '--class', 'dog', '-n', 0), 'n=0'), ((photos, tmp_path, '--class', 'dog'), 'is a folder')]:
        code, err = says(capsys, *args)
        assert code == 2 and words in err and len(err.splitlines()) == 1, err
    code, err = says(capsys, photos, table, '--model', photos)
    assert code == 3 and len(err.splitlines()) == 1


def test_the_console_names_what_is_missing(photos, table, capsys, monkeypatch):
    monkeypatch.setattr(page, 'find_spec', lambda name: None if name == 'voila' else object())
    code, err = says(capsys, photos, table, '--class', 'dog')
    assert (code, err) == (2, 'trmml: the page needs voila: pip install "trmml[label]"\n')


def test_the_page_is_for_this_computer(tmp_path):
    s = page.settings_of(tmp_path/'labelling.ipynb', 'secret', 8866)
    assert (s['ip'], s['token'], s['root_dir']) == ('127.0.0.1', 'secret', str(tmp_path))
    source = page.notebook_of(dict(photos="it's", labels='l.csv', model=None))['cells'][0]['source']
    compile(source, 'cell', 'exec')
    assert json.loads(eval(source[source.index('(') + 1:-1]))['photos'] == os.path.abspath("it's")
