#!/usr/bin/env python3
"""House numbers: length of files and functions, headers reached from a file, marks of unfinished work.

Fails on a file over 1500 lines, a function over 120 lines (pure switch tables excepted by name), a median or p95 over
the house's, more than 8 parameters, and on marks of unfinished work. Counts, without failing, what is over 25 headers
reached or 6 parameters (--all lists them). tools/size_exceptions holds what is excused: KIND PATH[:FUNCTION] reason."""
import os
import re
import statistics
import sys

from check_layers import ROOT, includes, sources

MAX_FILE, MAX_FUNC, MAX_HEADERS, MAX_PARAMS, HARD_PARAMS = 1500, 120, 25, 6, 8
MAX_MEDIAN, MAX_P95 = 15, 60
MARK = re.compile(r'\b(TODO|FIXME|XXX|HACK)\b|[nN]ot (yet )?implemented')
OPEN = re.compile(r'^[A-Za-z_].*\)\s*$|^[A-Za-z_].*\)\s*\{?$')


def exceptions():
    out = {}
    path = os.path.join(ROOT, 'tools', 'size_exceptions')
    with open(path) as f:
        for nr, line in enumerate(f, 1):
            line = line.split('#')[0].strip()
            if line:
                kind, what, reason = (line.split(None, 2) + ['', ''])[:3]
                if not reason:
                    sys.exit(f'{path}:{nr}: an exception needs a reason')
                out[(kind, what)] = reason
    return out


def functions(lines):
    """(name, first line, length, parameters) of functions laid out as .clang-format does: '{' and '}' in column 0."""
    start = None
    for i, line in enumerate(lines):
        if line.startswith('{') and start is None:
            j = i - 1
            while j > 0 and lines[j][:1] in (' ', '\t'):
                j -= 1
            head = ' '.join(s.strip() for s in lines[j:i])
            m = re.search(r'(\w+)\s*\((.*)\)\s*[\w() ]*$', head)
            if m and not head.startswith(('struct ', 'enum ', 'union ')) or m and '(' in head and '=' not in head:
                start = (m.group(1), j, m.group(2))
        elif line.startswith('}') and start is not None:
            params = start[2].strip()
            nr = 0 if params in ('', 'void') else params.count(',') + 1
            yield start[0], start[1] + 1, i - start[1] + 1, nr
            start = None


# Headers a .c pulls in, directly or not.
def reached(path, memo, seen=None):
    seen = set() if seen is None else seen
    if path not in memo:
        memo[path] = ['src/' + inc for _, inc in includes(path) if os.path.exists(os.path.join(ROOT, 'src', inc))]
    for p in memo[path]:
        if p not in seen:
            seen.add(p)
            reached(p, memo, seen)
    return seen


def main():
    excused, bad, advice, lens, memo = exceptions(), [], [], [], {}

    def fail(kind, what, text, hard=True):
        if (kind, what) not in excused:
            (bad if hard else advice).append(text)

    for path in list(sources('src')) + list(sources('tests/unit')):
        with open(os.path.join(ROOT, path), encoding='utf-8') as f:
            lines = f.read().split('\n')
        if len(lines) > MAX_FILE:
            fail('file', path, f'{path}: {len(lines)} lines (limit {MAX_FILE})')
        for nr, line in enumerate(lines, 1):
            if path.startswith('src/') and MARK.search(line):
                fail('mark', path, f'{path}:{nr}: unfinished work is refused or listed, not marked: {line.strip()}')
        if not path.endswith('.c'):
            continue
        nr = len(reached(path, memo))
        if nr > MAX_HEADERS and path.startswith('src/') and not path.startswith(('src/cmd/', 'src/board/')):
            fail('headers', path, f'{path}: reaches {nr} project headers (aim: {MAX_HEADERS})', False)
        for name, line, length, params in functions(lines):
            if path.startswith('src/'):
                lens.append(length)
            if length > MAX_FUNC:
                fail('function', f'{path}:{name}', f'{path}:{line}: {name} has {length} lines (limit {MAX_FUNC})')
            if params > MAX_PARAMS and path.startswith('src/'):
                fail('params', f'{path}:{name}', f'{path}:{line}: {name} has {params} parameters (aim: {MAX_PARAMS})',
                     params > HARD_PARAMS)
    for b in bad + (advice if '--all' in sys.argv else []):
        print(b)
    if lens:
        lens.sort()
        median, p95 = statistics.median(lens), lens[len(lens) * 95 // 100]
        if median > MAX_MEDIAN or p95 > MAX_P95:
            bad.append('size')
        print(f'size: {len(lens)} functions, median {median:.0f} lines (at most {MAX_MEDIAN}), p95 {p95} (at most {MAX_P95}), '
              f'longest {lens[-1]}; {len(excused)} excused, {len(advice)} over an aim, {len(bad)} violations')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
