"""Section notebooks as chapters: pictures, outputs, exercises whose answers run; and the words of all that is read."""
import ast
import io
import json
import multiprocessing
import os
import re
import sys
import tokenize
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'.ci'))
import reading   # noqa: E402

CHAPTERS = sorted((ROOT/'nbs'/'paper').glob('[1-6]_*.ipynb'))
WITH_ANSWERS = [p for p in sorted((ROOT/'nbs').glob('**/[!_.]*.ipynb')) if '<details>' in p.read_text(encoding='utf-8')]
TAGGED = [p for p in WITH_ANSWERS if any('parameters' in c['metadata'].get('tags', []) for c in json.loads(p.read_text(encoding='utf-8'))['cells'])]
MP = multiprocessing.get_context('forkserver')
MP.set_forkserver_preload(['trmml.runs', 'trmml.model', 'nbdev.test', 'matplotlib.pyplot'])


def name(path): return path.relative_to(ROOT).with_suffix('').as_posix().removeprefix('nbs/')


chapter = pytest.mark.parametrize('path', CHAPTERS, ids=name)
exercised = pytest.mark.parametrize('path', list(dict.fromkeys(CHAPTERS + WITH_ANSWERS)), ids=name)


def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def texts(path): return [reading.source(c) for c in cells(path) if c['cell_type'] == 'markdown']


# ---- chapters

def test_there_are_chapters():
    assert [p.name[0] for p in CHAPTERS] == list('123456') and {'first_look', 'own_data_set'} <= {p.stem for p in WITH_ANSWERS}


@chapter
def test_opens_with_a_picture(path):
    first = reading.measure(cells(path))['first']
    assert first is not None and first < 5, f'the first picture is in cell {first}'


@chapter
def test_has_pictures(path):
    found = reading.measure(cells(path))
    assert found['words'] <= 400*found['pictures'], f'{found["words"]} words, {found["pictures"]} pictures'


@chapter
def test_words_are_broken_by_outputs(path):
    longest = reading.measure(cells(path))['run']
    assert longest <= 250, f'{longest} words without a visible output'


@chapter
def test_code_shows_something(path):
    shown = reading.measure(cells(path))['shown']
    assert shown >= 70, f'{shown} % of the visible code cells have an output'


@chapter
def test_invites_to_try(path):
    tries = reading.measure(cells(path))['tries']
    assert tries >= 5, f'{tries} lines begin with "Try:"'


@chapter
def test_has_a_summary_and_three_exercises(path):
    headings = re.findall(r'(?m)^#+ (.*?)\s*$', '\n'.join(texts(path)))
    assert 'Summary' in headings and 'Exercises' in headings, headings
    assert len(answers(path)) == 3


@chapter
def test_chapter_is_small(path): assert path.stat().st_size <= 400_000, f'{path.stat().st_size:,} bytes'


@chapter
def test_navigation_is_the_last_line_of_the_first_cell(path):
    last = texts(path)[0].rstrip().splitlines()[-1]
    assert re.search(r'\[index\]\(', last) and '[next: ' in last, last


# ---- answers

def test_companions_fold_no_answers(): assert not TAGGED, 'nothing would run them: a companion takes hours'


def answers(path):
    "Code of each folded answer: all its Python blocks, one after the other."
    folded = [d for t in texts(path) for d in re.findall(r'<details>.*?</details>', t, flags=re.S)]
    return ['\n'.join(re.findall(r'```python\n(.*?)```', d, flags=re.S)) for d in folded]


@exercised
def test_answers_are_short_code(path):
    found = answers(path)
    assert found
    for i, code in enumerate(found, 1): assert 1 <= len([line for line in code.splitlines() if line.strip()]) <= 12, f'answer {i}: {code!r}'


def run_with_answers(path, codes, report):
    "Run a notebook's cells, then each answer; in a process of its own. Nothing is left out but the export."
    os.environ.update(IN_TEST='1', MPLBACKEND='agg', TQDM_DISABLE='1')
    sys.path.insert(0, str(ROOT))
    with open(report, 'w') as f:
        os.dup2(f.fileno(), 2)
        try:
            import numpy
            import torch
            from execnb.nbio import mk_cell
            from execnb.shell import CaptureShell
            from nbdev.process import NBProcessor
            nb, shell = NBProcessor(path, process=True).nb, CaptureShell(path)
            nb.cells.extend(mk_cell(code) for code in codes)
            torch.manual_seed(0)
            numpy.random.seed(0)
            os.chdir(path.parent)
            shell.run_all(nb, exc_stop=True, preproc=lambda c: c.cell_type != 'code' or 'nbdev_export(' in c.source)
            done = True
        except BaseException:
            traceback.print_exc()
            done = False
    os._exit(0 if done else 1)


@exercised
def test_answers_run(path, tmp_path):
    p = MP.Process(target=run_with_answers, args=(path, answers(path), tmp_path/'report'))
    p.start()
    p.join(300)
    if p.is_alive():
        p.kill()
        p.join()
        pytest.fail(f'{path.name} and its answers took more than five minutes')
    assert p.exitcode == 0, f'{path.name}: ' + (tmp_path/'report').read_text()[-3000:]


def test_a_wrong_answer_is_noticed(tmp_path):
    nb = dict(cells=[dict(cell_type='code', id='a', metadata={}, outputs=[], execution_count=None, source='x = 1')],
              metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), nbformat=4, nbformat_minor=5)
    (tmp_path/'n.ipynb').write_text(json.dumps(nb))
    for code, expected in (('assert x == 1', 0), ('assert x == 2', 1)):
        p = MP.Process(target=run_with_answers, args=(tmp_path/'n.ipynb', [code], tmp_path/'report'))
        p.start()
        p.join(120)
        assert p.exitcode == expected, (tmp_path/'report').read_text()[-2000:]


# ---- words

WORDS = {   # private words, and what to write
    r'\b(?:this|these|(?:the )?(?:later|earlier|next|previous|last|other)) rooms?\b(?! (?:for|to))|\bthe room before\b': 'this notebook, the next module',
    r'\bembedded (?:world|default|picture|data|set)': 'the bundled synthetic dataset (doodles)',
    r'\bpeers?\b': 'the compared methods, baselines, prior methods',
    r'\bin print\b|\bas printed\b|\bPrint (?:has|is|or|says)\b|\bthat print\b|\bprinted (?:rows?|means?|averages?|numbers?|values?|orders?|totals?|KL)\b':
        'published, reported, the paper',
    r'\b(?-i:[Tt]owers?)\b': 'image encoder, text encoder, backbone',
    r'\b(?:the|one|front|that|same|only) doors?\b': 'input validation, entry point',
    r'\bstrangers?\b': 'independent reference',
    r'\bwhoever\b': 'if you ..., users who ...',
    r'\bcategor(?:y|ies)\b(?!-aware)': 'class, classes',
    r'(?<![\w.@\[])\.\d+\b': 'a leading zero: 0.9',
}
ALLOWED = {   # (file, or any): what may be written there, and why
    'nbs/doodles/': [r'\b(?:castle )?towers?\b', r'\bdoors?\b', r'\bcategor(?:y|ies)\b'],   # things that are drawn; COCO's word, of its format
    'nbs/formats/': [r'\bcategor(?:y|ies)\b'],
    'nbs/data/': [r'\bcategor(?:y|ies)\b'],
    'nbs/tutorials/own_data_set': [r'\bcategor(?:y|ies)\b'],
    'nbs/paper/4_contrastive': [r'from other categories"'], 'nbs/paper/6_model': [r'learnable category embeddings"'],   # quoted from the paper
    'results/README.md': [r'\*mode of the printed row\*'],   # a setting's name
    '': [r'category-aware', r'\btest_peers\b', r'\btower='],   # the paper's term; a file; a setting
}
NOT_READ = re.compile(r'```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)|https?://\S+', re.S)
PAGES = [p for p in [*sorted((ROOT/'nbs').rglob('*.ipynb')), ROOT/'README.md', ROOT/'results'/'README.md', ROOT/'CONTRIBUTING.md',
                     *sorted((ROOT/'.ci').glob('*.py'))] if not any(x.startswith(('_', '.ipynb')) for x in p.relative_to(ROOT).parts)]


def messages(tree):
    "The text of errors and warnings; numbers of a format, as in {x:.2f}, are not text."
    for n in ast.walk(tree):
        if isinstance(n, ast.Raise) or isinstance(n, ast.Call) and getattr(n.func, 'attr', '') == 'warn':
            formats = {id(c) for v in ast.walk(n) if isinstance(v, ast.FormattedValue) and v.format_spec for c in ast.walk(v.format_spec)}
            yield ''.join(c.value for c in ast.walk(n) if isinstance(c, ast.Constant) and isinstance(c.value, str) and id(c) not in formats)


def said_in_code(code):
    "Docstrings, comments, and what errors and warnings say."
    code = re.sub(r'(?m)^\s*[%!].*$', '', code)
    try: tree = ast.parse(code)
    except SyntaxError: tree = ast.Module([], [])
    nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.FunctionDef, ast.ClassDef))]
    found = [ast.get_docstring(n) or '' for n in nodes if getattr(n, 'body', None)] + list(messages(tree))
    try: return found + [t.string for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type == tokenize.COMMENT and not t.string.startswith('#|')]
    except (tokenize.TokenError, IndentationError): return found


def read_of(path):
    "All that is read of a page: prose, docstrings, comments."
    if path.suffix == '.md': return [path.read_text(encoding='utf-8')]
    if path.suffix == '.py': return said_in_code(path.read_text(encoding='utf-8'))
    return [t for c in cells(path) for t in ([reading.source(c)] if c['cell_type'] == 'markdown' else said_in_code(reading.source(c)))]


def private(text, place=''):
    "(word with what is around it, what to write) of each private word in a text."
    text = NOT_READ.sub(' ', text)
    for part, patterns in ALLOWED.items():
        if place.startswith(part):
            for p in patterns: text = re.sub(p, ' ', text, flags=re.I)
    return [(text[max(0, m.start() - 40):m.end() + 30].replace('\n', ' '), better)
            for pattern, better in WORDS.items() for m in re.finditer(pattern, text, re.I)]


@pytest.mark.parametrize('text', ['in this room', 'the text tower', 'numbers in print', 'a threshold of .9', 'its peers', 'at the front door', 'one category'])
def test_private_words_are_found(text): assert private(text)


def test_private_words_of_messages_are_found():
    assert [private(t) for t in said_in_code('def f(x):\n    if x: raise ValueError(f"{x:.2f}: the tower of {x} peers")')][-1]
    assert not any(private(t) for t in said_in_code('def f(x): raise ValueError(f"{x:.2f}: use tower=\'all\'")'))


@pytest.mark.parametrize('text', ['a living room', 'room for one', '`tower`', 'it prints a line', 'category-aware regions', '0.9 of v1.2', 'a door is drawn', '$.5$'])
def test_other_words_are_not(text): assert not private(text)


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_private_words(path):
    place = path.relative_to(ROOT).as_posix()
    found = [f'"...{around}...": {better}' for text in read_of(path) for around, better in private(text, place)]
    assert not found, f'{place}:\n' + '\n'.join(found)
