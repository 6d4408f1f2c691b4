#!/usr/bin/env python3
"""Layering: every include of src/ and tests/unit/ against the table tools/layers.

Fails on a room that includes one it may not use, an x_int.h taken from outside its room (unit tests of that room
may), anything in src/ that includes tests or tools, an include cycle, an include that names no file, and a room
that the table does not list."""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def read_table(path):
    level, may = {}, {}
    with open(path) as f:
        for line in f:
            line = line.split('#')[0].split()
            if line:
                level[line[1]] = int(line[0])
                may[line[1]] = set(line[2:])
    for room, uses in may.items():
        if '*' in uses:
            may[room] = {r for r in level if level[r] < level[room]}
    return level, may


def room_of(path, rooms):
    """The room of a path relative to src/, or None."""
    parts = path.split('/')
    for n in (2, 1):
        if '/'.join(parts[:n]) in rooms and len(parts) > n:
            return '/'.join(parts[:n])
    return None


def sources(top):
    for folder, dirs, files in os.walk(os.path.join(ROOT, top)):
        dirs.sort()
        for name in sorted(files):
            if name.endswith(('.c', '.h', '.def', '.inc')):
                yield os.path.relpath(os.path.join(folder, name), ROOT)


def includes(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as f:
        for nr, line in enumerate(f, 1):
            m = INCLUDE.match(line)
            if m:
                yield nr, m.group(1)


def unit_room(path, rooms):
    """Room that a unit test belongs to: tests/unit/<room>/..., '_' for '/' in nested rooms."""
    rest = path[len('tests/unit/'):]
    return room_of(rest, rooms) or room_of(rest.replace('_', '/', 1), rooms)


def check():
    level, may = read_table(os.path.join(ROOT, 'tools', 'layers'))
    bad, edges = [], {}
    for room, uses in may.items():
        for u in uses:
            if u not in level:
                bad.append(f'tools/layers: {room} uses unknown room {u}')
            elif level[u] > level[room]:
                bad.append(f'tools/layers: {room} uses {u}, which is higher')
    for path in list(sources('src')) + list(sources('tests/unit')):
        in_src = path.startswith('src/')
        room = room_of(path[4:], level) if in_src else unit_room(path, level)
        if in_src and room is None:
            bad.append(f'{path}: its folder is no room of tools/layers')
            continue
        edges[path] = []
        for nr, inc in includes(path):
            where = f'{path}:{nr}'
            if inc.endswith('_gen.h'): # made by a generator into the build folder; room_gen.h belongs to its room
                continue
            if not os.path.exists(os.path.join(ROOT, 'src', inc)):
                near = [os.path.join(ROOT, d, inc) for d in (os.path.dirname(path), 'tests/unit')]
                if in_src or not any(map(os.path.exists, near)):
                    bad.append(f'{where}: "{inc}" is no file under src/ (includes are written "room/file.h")')
                continue
            edges[path].append('src/' + inc)
            target = room_of(inc, level)
            if room is None or target is None or target == room:
                continue
            if target not in may[room]:
                bad.append(f'{where}: room {room} may not use {target} ({inc})')
            elif inc.endswith('_int.h'):
                bad.append(f'{where}: {inc} is private to {target}')
    return bad + cycles(edges)


def cycles(edges):
    bad, state, stack = [], {}, []

    def visit(node):
        state[node] = 1
        stack.append(node)
        for nxt in edges.get(node, ()):
            if state.get(nxt) == 1:
                loop = stack[stack.index(nxt):] + [nxt]
                # A table file that includes itself for another pass is no cycle of headers.
                if len(loop) > 2 or not nxt.endswith(('.def', '.inc')):
                    bad.append('include cycle: ' + ' -> '.join(loop))
            elif nxt not in state:
                visit(nxt)
        stack.pop()
        state[node] = 2

    for node in edges:
        if node not in state:
            visit(node)
    return bad


def main():
    bad = check()
    for b in bad:
        print(b)
    print(f'layers: {len(bad)} violations' if bad else 'layers: clean')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
