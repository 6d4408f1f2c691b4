"""The command lines of docs/seeds.tsv, taken apart: what follows the program's name, as a shell would split it."""
import os
import shlex

from conftest import ROOT


def _rows():
    with open(os.path.join(ROOT, 'docs', 'seeds.tsv'), encoding='utf-8') as f:
        head, *lines = f.read().rstrip('\n').split('\n')
    return {r['id']: r for r in (dict(zip(head.split('\t'), line.split('\t'))) for line in lines)}


ROWS = _rows()


def words(seed, alt=0, put=None, corrected=False):
    """(program, arguments) of a seed line. alt: which of its ' | ' alternatives. corrected: the form the list corrects it to.
    put: what stands in the line for something of the user's own (a path, a port) and what we have there."""
    line = ROWS[seed]['corrected' if corrected else 'command'].replace('[...]', '').replace('[implied by prose] ', '')
    line = line.split(' | ')[alt]
    for typed, ours in (put or {}).items():
        line = line.replace(typed, ours)
    out = [w for w in shlex.split(line) if w not in ('...', '..')]
    program = 'qemu-system-x86_64'
    if out and 'qemu-' in out[0]:
        program = os.path.basename(out.pop(0))
    return program, out
