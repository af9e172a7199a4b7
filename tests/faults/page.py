"""results/tables/faults.md: a section for each command that measures; the others stay as they are."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT/'results'/'tables'/'faults.md'
ORDER = ('Jobs', 'Readers', 'Growth', 'Hostile')
HEAD = '# Faults on purpose\n'


def sections(page=PAGE):
    "Name -> text of what is there."
    text = page.read_text(encoding='utf-8') if page.exists() else ''
    return {name: said.strip('\n') for name, said in re.findall(r'(?ms)^## (\w+)\n(.*?)(?=^## |\Z)', text)}


def put(name, text, page=PAGE):
    "Write a section anew. Raises ValueError for a name that is not in ORDER."
    if name not in ORDER: raise ValueError(f'{name}: no section of {page.name}; it has {", ".join(ORDER)}')
    said = sections(page) | {name: text.strip('\n')}
    page.write_text(HEAD + ''.join(f'\n## {n}\n\n{said[n]}\n' for n in ORDER if n in said), encoding='utf-8')
