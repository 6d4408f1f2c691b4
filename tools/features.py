#!/usr/bin/env python3
"""The ledger: docs/features.tsv (features F-, pains N-) and docs/seeds.tsv (command lines S-) against the tests.

A test declares what it proves: pytest `@pytest.mark.proves("F-FW-03", "S052")`; C `/* proves: F-FW-03, S052 */` above the
test function; scripts `# proves: F-FW-03`. The last run of tools/check.py left one line per test in
build/results/*.jsonl. A row claimed `works` or `partial` needs at least one test that names it and passed, none that
names it and failed, and every test of its `tests` column must be there; `partial` rows need their limit in words.
False claims and unknown ids fail. Where every test of a claim was skipped for want of something no package brings (reason
`host: ...`), or runs with make check-long only, the claim is not false but open in this run: said, and not counted.

  tools/features.py                  the table: proven of all, per area and priority; exit 1 on a false claim
  tools/features.py --open P0        rows of that priority not yet `works`
  tools/features.py --unclaimed      rows that passing tests name but that are still claimed absent
  tools/features.py --names          every test a row names exists in the sources (no run needed); exit 1 where one does not
  tools/features.py --claim ID works|partial|absent [LIMIT]   writes a row (its tests column comes from the results)
  tools/features.py --sync           rewrites the tests columns from the results"""
import glob
import json
import os
import re
import sys
from collections import defaultdict

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LEDGERS = ('docs/features.tsv', 'docs/seeds.tsv')
ID = re.compile(r'^(F-[A-Z]+-\d+|N-\d+|S\d{3})$')
STATES = ('works', 'partial', 'absent')


class Ledger:
    """One TSV file: a header line, then one row per id. Written back byte for byte when nothing changed."""

    def __init__(self, path):
        self.path = path
        with open(os.path.join(ROOT, path), encoding='utf-8') as f:
            lines = f.read().split('\n')
        self.columns = lines[0].split('\t')
        self.rows = [dict(zip(self.columns, l.split('\t'))) for l in lines[1:] if l]

    def write(self):
        with open(os.path.join(ROOT, self.path), 'w', encoding='utf-8') as f:
            f.write('\t'.join(self.columns) + '\n')
            for r in self.rows:
                f.write('\t'.join(r.get(c, '') for c in self.columns) + '\n')


def results_dir():
    return os.path.join(os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build')), 'results')


def load_results():
    """test id -> {'outcome', 'proves'}: parametrised tests are one, and failed if any case failed. Outcome of a proof:
    passed, failed, skipped, open (skipped for want of a host part, or left to the long run)."""
    tests = {}
    for path in sorted(glob.glob(os.path.join(results_dir(), '*.jsonl'))):
        with open(path, encoding='utf-8') as f:
            for line in f:
                r = json.loads(line)
                t = tests.setdefault(r['test'].split('[')[0], {'outcome': 'skipped', 'proves': defaultdict(list)})
                outcome = 'open' if r['outcome'] == 'long' or 'host: ' in r['why'] and r['outcome'] == 'skipped' else r['outcome']
                for i in r['proves']:
                    t['proves'][i].append(outcome)
                if outcome == 'failed' or t['outcome'] in ('skipped', 'open'):
                    t['outcome'] = outcome
    return tests


def proofs(tests):
    """id -> {test: 'passed' | 'failed' | 'open' | 'skipped'}, by the cases of the test that name the id."""
    out = defaultdict(dict)
    for name, t in tests.items():
        for i, outcomes in t['proves'].items():
            out[i][name] = next(o for o in ('failed', 'passed', 'open', 'skipped') if o in outcomes)
    return out


def check_row(row, proof, tests):
    """Complaints about one row."""
    bad, named = [], [t for t in row['tests'].split(' ') if t]
    if row['state'] not in STATES:
        return [f"{row['id']}: state '{row['state']}' is none of {', '.join(STATES)}"]
    if row['state'] == 'partial' and not row['limits']:
        bad.append(f"{row['id']}: partial without its limit")
    if row['state'] == 'absent':
        return bad
    for t in named:
        if t not in tests:
            bad.append(f"{row['id']}: test {t} was not run or does not exist")
        elif t not in proof:
            bad.append(f"{row['id']}: test {t} does not say that it proves this")
    for t, outcome in proof.items():
        if outcome == 'failed':
            bad.append(f"{row['id']}: claimed {row['state']}, but {t} failed")
    if 'passed' not in proof.values() and 'open' not in proof.values():
        why = ' (skipped: ' + ', '.join(proof) + ')' if proof else ''
        bad.append(f"{row['id']}: claimed {row['state']}, but no test that names it passed{why}")
    return bad


def summary(ledgers, proof):
    """Rows per area: those that work and those that work in part, as this run proved; the former of each priority."""
    table = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
    for led in ledgers:
        for r in led.rows:
            area = 'seeds' if r['id'].startswith('S') else r['area']
            for key in (r.get('prio', '-'), 'all'):
                for a in (area, 'total' if area not in ('seeds', 'N') else None):
                    if a:
                        cell = table[a][key]
                        cell[2] += 1
                        shown = 'passed' in proof.get(r['id'], {}).values()
                        cell[0] += shown and r['state'] == 'works'
                        cell[1] += shown and r['state'] == 'partial'
    print(f"{'area':6} {'proven':>6} {'partial':>8} {'of':>5}    " + ''.join(f'{p:>10}' for p in ('P0', 'P1', 'P2', 'P3')))
    for area, by in sorted(table.items(), key=lambda kv: (kv[0] in ('total', 'N', 'seeds'), kv[0])):
        w, p, n = by['all']
        cells = ''.join(f"{(str(by[k][0]) + '/' + str(by[k][2])) if k in by else '':>10}" for k in ('P0', 'P1', 'P2', 'P3'))
        print(f'{area:6} {w:6} {p:8} {n:5}    {cells}'.rstrip())


def check(ledgers, tests):
    proof, bad, known = proofs(tests), [], set()
    for led in ledgers:
        for r in led.rows:
            if r['id'] in known:
                bad.append(f"{led.path}: {r['id']} is there twice")
            known.add(r['id'])
            bad += check_row(r, proof.get(r['id'], {}), tests)
    for i in sorted(set(proof) - known):
        bad.append(f"tests {', '.join(proof[i])} prove {i}, which the ledger does not list")
    return bad


def names(ledgers):
    """Rows that name a test whose file, or function in it, is not in the sources: seen without a run."""
    text, bad = {}, []
    for led in ledgers:
        for r in led.rows:
            for t in r['tests'].split():
                path, _, fn = t.partition('::')
                if path not in text:
                    try:
                        with open(os.path.join(ROOT, path), encoding='utf-8') as f:
                            text[path] = f.read()
                    except OSError:
                        text[path] = ''
                if not text[path] or fn and not re.search(rf'^(def|static void) {re.escape(fn)}\(', text[path], re.M):
                    bad.append(f"{r['id']}: {t} does not exist")
    print('\n'.join(bad + [f'ledger: {len(bad)} tests named that do not exist']))
    return bool(bad)


def claim(ledgers, proof, args):
    if len(args) < 2 or not ID.match(args[0]) or args[1] not in STATES:
        sys.exit('usage: tools/features.py --claim ID works|partial|absent [LIMIT]')
    for led in ledgers:
        for r in led.rows:
            if r['id'] == args[0]:
                r['state'], r['limits'] = args[1], ' '.join(args[2:])
                r['tests'] = ' '.join(sorted(t for t, o in proof.get(r['id'], {}).items() if o != 'failed'))
                led.write()
                return 0
    sys.exit(f'{args[0]} is in no ledger')


def main(argv):
    ledgers = [Ledger(p) for p in LEDGERS]
    if argv[:1] == ['--names']:
        return names(ledgers)
    tests = load_results()
    proof = proofs(tests)
    if argv[:1] == ['--claim']:
        return claim(ledgers, proof, argv[1:])
    if argv[:1] == ['--sync']:
        for led in ledgers:
            for r in led.rows:
                if r['state'] != 'absent':
                    r['tests'] = ' '.join(sorted(t for t, o in proof.get(r['id'], {}).items() if o != 'failed'))
            led.write()
        return 0
    if argv[:1] == ['--open']:
        for r in ledgers[0].rows:
            if r['state'] != 'works' and r['prio'] in argv[1:]:
                print('\t'.join((r['id'], r['state'], r['title'][:90], r['limits'])))
        return 0
    if argv[:1] == ['--unclaimed']:
        for led in ledgers:
            for r in led.rows:
                ok = [t for t, o in proof.get(r['id'], {}).items() if o == 'passed']
                if r['state'] == 'absent' and ok:
                    print(r['id'], *ok)
        return 0
    if not tests:
        print(f'no test results under {os.path.relpath(results_dir(), ROOT)}: run make check first')
    bad = check(ledgers, tests)
    summary(ledgers, proof)
    for led in ledgers:
        for r in led.rows:
            p = proof.get(r['id'], {})
            if r['state'] != 'absent' and 'open' in p.values() and 'passed' not in p.values():
                print(f"{r['id']}: open in this run ({', '.join(t for t, o in p.items() if o == 'open')} did not run here)")
    for b in bad:
        print(b)
    print(f'ledger: {len(bad)} false claims' if bad else 'ledger: every claim is proven')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
