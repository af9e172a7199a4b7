#!/usr/bin/env python
"""Put rows that were run anew (results/_partial/) into a table's files; all other rows stay as its file of runs has them.

python .ci/renew_rows.py table1 'sarb-frozen=prototypes of ten starts' 'taidpt+dualcoop=TaI-DPT's own DualCoOp'

A table whose runs are gone with the machine that made them can so be brought up to date without training all rows. What each row
was before and is now, and why, is added to results/tables/moved-doodles.csv.
"""
import sys
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use('agg')
from trmml import report, viz
from trmml.files import write_whole
from trmml.report import component_figures as pictures
from trmml.report import figures, sentences

ROOT = Path(__file__).resolve().parents[1]
ABOUT = 'trmml'
SAID = {'table1': ('voc2007', 'coco2014', 'vg200'), 'table2': ('voc2012',)}


def merged(name:str, methods:list)->tuple[pd.DataFrame, pd.DataFrame]:
    "Runs as they were, and with those of some methods replaced, in the order of the table."
    old, new = (pd.read_csv(ROOT/'results'/folder/f'{name}-runs.csv') for folder in ('tables', '_partial/tables'))
    full = old.groupby('method').size().max()
    missing = [m for m in methods if len(new[new.method == m]) < (sum(old.method == m) or full)]
    if missing: raise ValueError(f'results/_partial has fewer runs of {", ".join(missing)} than the table: run them first')
    parts = [(new if m in methods else old).query('method == @m') for m in rows_of(name) if m in {*old.method, *methods}]
    return old, pd.concat(parts).astype({'seed': int})


def rows_of(name:str)->list:
    "Rows in the order that the notebook has them today; a row that the table did not have yet is in its place."
    return list(pd.read_csv(ROOT/'results'/'_partial'/'tables'/f'{name}.csv').method)


def printed(table:str)->pd.DataFrame:
    return report.printed(table, SAID[table][0]) if table == 'table1' else report.printed_setups(SAID[table][0])


def orders(table:str, df:pd.DataFrame)->str:
    pairs = [(s, report.printed(table, s) if table == 'table1' else report.printed_setups(s)) for s in SAID[table]]
    return '\n'.join(report.order_said(report.order_pairs(df, p), f'on {s}') for s, p in pairs)


def said(table:str, df:pd.DataFrame, rows:list)->str:
    "The table's reading, as its notebook writes it."
    there = [m for m in rows if m != ABOUT] + [ABOUT]
    if table == 'table1': return '\n'.join(filter(None, (report.reading(df, there), report.below_zero_shot(df), orders(table, df))))
    claims = sentences.claims(df, ABOUT, there[:-1], 'setups')
    return '\n'.join(p for p in (*claims, report.pace(df), report.below_zero_shot(df) or None, orders(table, df)) if p is not None)


def renew(table:str, why:dict)->None:
    name = f'{table}-doodles'
    old, df = merged(name, list(why))
    path, columns = ROOT/'results'/'tables'/name, list(old.known.unique())
    there = {*pd.read_csv(ROOT/'results'/'tables'/f'{name}.csv').method, *why}
    rows = [m for m in rows_of(name) if m in there]
    before, t = (report.means(d, rows, columns) for d in (old, df))
    shown = report.beside(t, printed(table), report.PRINTED, f'paper, {SAID[table][0]}', report.unsure(df, ABOUT))
    report.write(shown, t, path, report.caption(t, ABOUT) + ' Printed averages are over the columns shown.', df,
                 'ratios' if table == 'table1' else 'setups')
    write_whole(f'{path}-reading.md', said(table, df, rows).replace('\n', '\n\n') + '\n')
    title = 'doodles: mAP over known labels' if table == 'table1' else 'doodles: one positive label per image'
    fig = figures.curve_figure(df, title=title, order=rows) if table == 'table1' else pictures.dots(df, rows, title)
    viz.save(fig, ROOT/'results'/'figures'/f'{name}.png')
    remember([dict(table=table, method=m, before=round(before.loc[m, ('avg', 'mean')], 2), now=round(t.loc[m, ('avg', 'mean')], 2),
                   why=w) for m, w in why.items()])


def remember(rows:list)->None:
    path = ROOT/'results'/'tables'/'moved-doodles.csv'
    known = pd.read_csv(path) if path.exists() else pd.DataFrame()
    both = pd.concat([known, pd.DataFrame(rows)]).drop_duplicates(['table', 'method'], keep='last')
    write_whole(path, both.to_csv(index=False))
    print(both.to_string(index=False))


if __name__ == '__main__':
    if len(sys.argv) < 3 or sys.argv[1] not in SAID: sys.exit(__doc__)
    renew(sys.argv[1], dict(a.split('=', 1) for a in sys.argv[2:]))
