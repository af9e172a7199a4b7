"""Hostile archives, servers and model folders, each kind with its count: python tests/faults/hostile.py

Runs the tests of them and writes the section Hostile of results/tables/faults.md: a line for each test, with the cases that passed.
"""
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import page
from page import ROOT

FILES = {'archives': ['test_foul_archives'], 'servers': ['test_foul_downloads'], 'model folders and weights': ['test_damaged_models', 'test_wrong_uses'], 'files of labels and photos': ['test_foul_readers']}
HEAD = 'Cases that passed, of how many; a case is one archive, server, folder or file. `python tests/faults/hostile.py` makes it.\n\n| what | test | passed | of |\n|---|---|---:|---:|\n'


def outcomes(files):
    "(file, test) -> passed, run; those that were skipped do not count."
    with tempfile.TemporaryDirectory() as tmp:
        report = Path(tmp)/'report.xml'
        subprocess.run([sys.executable, '-m', 'pytest', '-q', '-n', '0', f'--junitxml={report}', *(f'tests/{f}.py' for f in files)], cwd=ROOT, stdout=subprocess.DEVNULL)
        passed, ran = Counter(), Counter()
        for case in ET.parse(report).iter('testcase'):
            name = case.get('classname').rpartition('.')[2], re.sub(r'\[.*', '', case.get('name'), flags=re.S)
            if case.find('skipped') is not None: continue
            ran[name] += 1
            passed[name] += case.find('failure') is None and case.find('error') is None
    return {name: (passed[name], n) for name, n in ran.items()}


def main():
    lines, wrong = [], 0
    for what, files in FILES.items():
        found = outcomes(files)
        for (file, test), (good, n) in found.items():
            lines.append(f'| {what} | {file}: {test.removeprefix("test_").replace("_", " ")} | {good} | {n} |')
        good, n = (sum(x) for x in zip(*found.values()))
        lines.append(f'| **{what}** | all | **{good}** | **{n}** |')
        wrong += n - good
        print(lines[-1], flush=True)
    page.put('Hostile', HEAD + '\n'.join(lines))
    sys.exit(bool(wrong))


if __name__ == '__main__': main()
