"""The checkers find what they are for: run on a small tree of their own."""
import json
import os
import shutil
import subprocess
import sys

import pytest

from conftest import need

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def tree(tmp_path):
    """A tree with our tools, the layer table and two rooms that are in order."""
    shutil.copytree(os.path.join(ROOT, 'tools'), tmp_path / 'tools', ignore=shutil.ignore_patterns('__pycache__'))
    for path, text in {'src/base/a.h': '', 'src/base/a_int.h': '', 'src/base/a.c': '#include "base/a_int.h"\n',
                       'src/run/b.h': '#include "base/a.h"\n', 'src/run/b.c': '#include "run/b.h"\n',
                       'tests/unit/base/a_test.c': '#include "base/a_int.h"\n'}.items():
        put(tmp_path, path, text)
    return tmp_path


def put(tree, path, text):
    full = tree / path
    full.parent.mkdir(parents=True, exist_ok=True)
    full.write_text(text)


def run(tree, tool, *args):
    p = subprocess.run([sys.executable, str(tree / 'tools' / tool), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, env={**os.environ, 'LYREBIRD_BUILD': str(tree / 'build')})
    return p.returncode, p.stdout


def test_a_clean_tree_passes(tree):
    assert run(tree, 'check_layers.py')[0] == 0


@pytest.mark.parametrize('path, text, says', [
    ('src/base/up.c', '#include "run/b.h"\n', 'room base may not use run'),
    ('src/run/priv.c', '#include "base/a_int.h"\n', 'private to base'),
    ('src/run/typo.c', '#include "base/none.h"\n', 'no file under src'),
    ('src/base/loop1.h', '#include "base/loop2.h"\n', 'include cycle'),
    ('src/nowhere/x.c', '', 'no room'),
    ('tests/unit/base/up_test.c', '#include "run/b.h"\n', 'room base may not use run'),
])
def test_each_kind_of_violation_fails(tree, path, text, says):
    put(tree, path, text)
    put(tree, 'src/base/loop2.h', '#include "base/loop1.h"\n' if 'loop' in path else '')
    status, out = run(tree, 'check_layers.py')
    assert status == 1 and says in out


def test_a_long_file_and_a_long_function_fail(tree):
    put(tree, 'src/base/long.c', '/* */\n' * 1600)
    put(tree, 'src/base/fn.c', 'static int f(int a)\n{\n' + '    a++;\n' * 130 + '    return a;\n}\n')
    status, out = run(tree, 'check_size.py')
    assert status == 1 and 'long.c: 1601 lines' in out and 'f has 134 lines' in out


def ledger(tree, rows, results):
    put(tree, 'docs/features.tsv', 'id\tarea\ttitle\tprio\tstate\ttests\tlimits\n' + ''.join('\t'.join(r) + '\n' for r in rows))
    put(tree, 'docs/seeds.tsv', 'id\tarea\tcommand\tcorrected\tmust see\tstate\ttests\tlimits\n')
    put(tree, 'build/results/x.jsonl', ''.join(json.dumps(dict(zip(('test', 'outcome', 'proves', 'why'), (*r, '')))) + '\n' for r in results))
    return run(tree, 'features.py')


ROW = ['F-PRG-01', 'PRG', 'a thing', 'P0', 'works', 't', '']


def test_a_proven_claim_passes_and_is_counted(tree):
    status, out = ledger(tree, [ROW, ['F-PRG-02', *ROW[1:4], 'absent', '', '']], [('t', 'passed', ['F-PRG-01'])])
    assert status == 0 and out.split('\n')[1].split() == ['PRG', '1', '0', '2', '1/2']


@pytest.mark.parametrize('result', [('t', 'skipped', ['F-PRG-01'], 'Skipped: host: no KVM'), ('t', 'long', ['F-PRG-01'])])
def test_a_claim_this_host_cannot_show_is_open_and_not_counted(tree, result):
    status, out = ledger(tree, [ROW], [result])
    assert status == 0 and 'F-PRG-01: open in this run' in out and out.split('\n')[1].split() == ['PRG', '0', '0', '1', '0/1']


@pytest.mark.parametrize('row, results, says', [
    (ROW, [], 'not run or does not exist'),
    (ROW, [('t', 'failed', ['F-PRG-01'])], 't failed'),
    (ROW, [('t', 'skipped', ['F-PRG-01'])], 'no test that names it passed'),
    (ROW, [('t', 'passed', [])], 'does not say that it proves'),
    (ROW, [('t', 'passed', ['F-PRG-01', 'F-PRG-99'])], 'does not list'),
    (ROW, [('t[a]', 'passed', ['F-PRG-01']), ('t[b]', 'failed', ['F-PRG-01'])], 't failed'),
    (ROW[:4] + ['partial', 't', ''], [('t', 'passed', ['F-PRG-01'])], 'without its limit'),
])
def test_each_kind_of_false_claim_fails(tree, row, results, says):
    status, out = ledger(tree, [row], results)
    assert status == 1 and says in out


def test_a_badly_laid_out_file_fails_and_is_named(tree):
    need('clang-format')
    shutil.copy(os.path.join(ROOT, '.clang-format'), tree)
    put(tree, 'src/base/a.c', 'int a;\n')
    for step in (['init', '-q'], ['add', '.']):
        subprocess.run(['git', *step], cwd=tree, check=True)

    def check():
        p = subprocess.run(['sh', 'tools/check_format.sh'], cwd=tree, stdout=subprocess.PIPE, text=True)
        return p.returncode, p.stdout
    assert check()[0] == 0
    put(tree, 'src/base/a.c', 'int   a ;\n')
    status, out = check()
    assert status == 1 and 'src/base/a.c: layout differs' in out
