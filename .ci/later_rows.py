#!/usr/bin/env python
"""Put the stored tables of methods since the paper into the notebooks that show them: python .ci/later_rows.py && python .ci/readme.py

To be run after nbs/studies/since.ipynb has written its tables; nothing else of the notebooks is run or changed.
"""
import json
from pathlib import Path

from trmml.report import since

NBS = Path(__file__).resolve().parents[1]/'nbs'
SHOWN = {   # notebook -> the last line of a cell that shows Markdown, and what it gives today
    'table1': ("Markdown(since.section('table1', name))", since.section('table1')),
    'table2': ("Markdown(since.section('table2', name))", since.section('table2')),
    'report/11_results': ("Markdown('\\n\\n'.join(dict.fromkeys(map(since.section, ('table1', 'table2')))))",
                          '\n\n'.join(dict.fromkeys(map(since.section, ('table1', 'table2'))))),
    'studies/since': ("Markdown(f'**Stored result, doodles:** {since.stored()}.')", f'**Stored result, doodles:** {since.stored()}.')}


def put(path:Path, line:str, text:str)->None:
    nb = json.loads(path.read_text(encoding='utf-8'))
    [cell] = [c for c in nb['cells'] if c['cell_type'] == 'code' and ''.join(c['source']).splitlines()[-1] == line]
    shown = {'text/markdown': text.splitlines(True), 'text/plain': ['<IPython.core.display.Markdown object>']}
    cell['outputs'] = [dict(output_type='execute_result', execution_count=None, metadata={}, data=shown)]
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    for name, (line, text) in SHOWN.items(): put(NBS/f'{name}.ipynb', line, text)
