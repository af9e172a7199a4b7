"""How notebooks read, in numbers: python .ci/reading.py [notebook ...] [--at COMMIT] [--csv FILE --state before|after]

One row per notebook (all of nbs/ without arguments):

words     of prose; formulas, code, folded answers and the line "previous | index | next" do not count
run       longest run of words without a visible output: a stored output of a code cell, or a picture in Markdown
pictures  stored or in Markdown; `per` is words per picture, `first` the index of the first cell with one (0 is the title)
shown     percent of visible code cells that show something; exported and hidden cells and calls of `interact` do not count
longest   characters of the longest code line; `over` counts the lines over 100
ease      Flesch reading ease of the prose: 60 is plain English, 30 difficult
tries     lines that begin with "Try:"
exercises items below a heading "Exercises", and `folded`, answers folded in <details>

`--csv` keeps the rows of other notebooks and of other states that the file has.
"""
import argparse
import csv
import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ['words', 'run', 'pictures', 'per', 'first', 'shown', 'longest', 'over', 'ease', 'tries', 'exercises', 'folded']
NAVIGATION = re.compile(r'(?m)^\*?(?:\[previous|\[index\]\().*\[(?:next|index).*$')
DETAILS = re.compile(r'<details>.*?</details>', re.S)
NOT_PROSE = re.compile(r'```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|<[^>\n]*>|!\[[^\]]*\]\([^)]*\)', re.S)
PICTURE = re.compile(r'!\[[^\]]*\]\(|<img\b')
TRY = re.compile(r'(?m)^[>\s*_-]*Try:')
NOT_SHOWN = re.compile(r'(?m)^#\s*\|\s*(?:export|default_exp|hide)')


def source(cell): return ''.join(cell['source'])


def prose(text):
    "What is read of a Markdown cell: no formulas, code, pictures, folded answers or navigation; links are their words."
    text = NOT_PROSE.sub(' ', DETAILS.sub(' ', NAVIGATION.sub(' ', text)))
    return re.sub(r'\]\([^)]*\)', ']', text)


def words(text): return [w for w in text.split() if re.search(r'\w', w)]


def has_output(cell):
    "Does a code cell leave something that a reader sees?"
    outputs = cell.get('outputs', [])
    return any(o['output_type'] in ('display_data', 'execute_result') or ''.join(o.get('text', '')).strip() for o in outputs)


def pictures(cell):
    "Stored pictures of a code cell, or pictures in a Markdown cell."
    if cell['cell_type'] == 'markdown': return len(PICTURE.findall(DETAILS.sub('', source(cell))))
    return sum(any(k.startswith('image/') for k in o.get('data', {})) for o in cell.get('outputs', []))


def is_visible(cell): return cell['cell_type'] == 'code' and not NOT_SHOWN.search(source(cell))


def longest_run(cells):
    "The most words of prose that follow each other without a visible output between them."
    run = longest = 0
    for cell in cells:
        if cell['cell_type'] == 'markdown': run += len(words(prose(source(cell))))
        longest = max(longest, run)
        if pictures(cell) or is_visible(cell) and has_output(cell): run = 0
    return longest


def syllables(word):
    "Groups of vowels; a silent e at the end is none."
    word = re.sub(r'(?<=[a-z])e$', '', word.lower()) if not re.search(r'[^aeiouy]le$', word.lower()) else word.lower()
    return max(1, len(re.findall(r'[aeiouy]+', word)))


def reading_ease(texts):
    "206.8 - 1.015 words per sentence - 84.6 syllables per word (Flesch), over sentences of at least three plain words."
    text = re.sub(r'`[^`]*`|\[[^\]]*\]\([^)]*\)', ' it ', '\n\n'.join(texts))
    parts = re.split(r'(?<=[.!?:;])[\s"*)]|\n\s*\n|\n(?=[-*#>|\d])|\|', text)
    sentences = [s for s in (re.findall(r"[A-Za-z]+(?:'[a-z]+)?", p) for p in parts) if len(s) >= 3]
    flat = [w for s in sentences for w in s]
    if not flat: return None
    return 206.835 - 1.015*len(flat)/len(sentences) - 84.6*sum(map(syllables, flat))/len(flat)


def exercises(texts):
    "Numbered items below a heading Exercises; where answers are folded, at least as many as these."
    part = re.split(r'(?m)^#+ Exercises?\b', DETAILS.sub('', '\n'.join(texts)))[1:]
    items = [re.findall(r'(?m)^(?:#+\s*|\**)(?:Exercise\s*)?\d+[.:)]', p) for p in part]
    return max(sum(map(len, items)), sum(len(DETAILS.findall(t)) for t in texts))


def measure(cells):
    "The numbers of one notebook, by column."
    texts = [source(c) for c in cells if c['cell_type'] == 'markdown']
    code = [c for c in cells if is_visible(c) and not re.search(r'\binteract\(', source(c))]
    lengths = [len(line) for c in cells if c['cell_type'] == 'code' for line in source(c).split('\n')]
    n, count = sum(len(words(prose(t))) for t in texts), sum(map(pictures, cells))
    ease = reading_ease([prose(t) for t in texts])
    return dict(words=n, run=longest_run(cells), pictures=count, per=round(n/count) if count else None,
                first=next((i for i, c in enumerate(cells) if pictures(c)), None),
                shown=round(100*sum(map(has_output, code))/len(code)) if code else None,
                longest=max(lengths, default=0), over=sum(x > 100 for x in lengths),
                ease=None if ease is None else round(ease), tries=sum(len(TRY.findall(t)) for t in texts), exercises=exercises(texts),
                folded=sum(len(DETAILS.findall(t)) for t in texts))


def cells_of(path, commit=None):
    "Cells of a notebook, as it is on disk or in a commit."
    if commit is None: return json.loads(Path(path).read_text(encoding='utf-8'))['cells']
    name = Path(path).resolve().relative_to(ROOT).as_posix()
    return json.loads(subprocess.run(['git', 'show', f'{commit}:{name}'], cwd=ROOT, capture_output=True, check=True, text=True).stdout)['cells']


def name_of(path): return Path(path).resolve().relative_to(ROOT/'nbs').with_suffix('').as_posix()


def store(file, rows, state):
    "Add rows to a CSV file in the place of those with the same notebook and state."
    file, kept = Path(file), []
    if file.exists():
        with file.open(encoding='utf-8', newline='') as f: kept = [r for r in csv.DictReader(f) if (r['notebook'], r['state']) not in {(n, state) for n in rows}]
    with file.open('w', encoding='utf-8', newline='') as f:
        out = csv.DictWriter(f, ['notebook', 'state', *COLUMNS], lineterminator='\n')
        out.writeheader()
        new = [dict(notebook=n, state=state, **r) for n, r in rows.items()]
        out.writerows(sorted(kept + new, key=lambda r: (r['state'] == 'anchor', r['notebook'], r['state'] != 'before')))


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument('notebooks', nargs='*', type=Path)
    ask.add_argument('--at', metavar='COMMIT')
    ask.add_argument('--csv', metavar='FILE')
    ask.add_argument('--state', default='after', choices=['before', 'after'])
    given = ask.parse_args()
    found = given.notebooks or sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not any(x.startswith(('.', '_')) for x in p.relative_to(ROOT).parts))
    rows = {name_of(p): measure(cells_of(p, given.at)) for p in found}
    print('| notebook | ' + ' | '.join(COLUMNS) + ' |\n|---|' + '---:|'*len(COLUMNS))
    for name, row in rows.items(): print(f'| {name} | ' + ' | '.join('-' if v is None else str(v) for v in row.values()) + ' |')
    if given.csv: store(given.csv, rows, given.state)


if __name__ == '__main__': main()
