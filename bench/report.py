"""From samples to a TSV file, a Markdown table with the bars beside the figures, and an SVG chart.

The bars are those of the project's table of speeds, for x86-64 system guests: (first, goal), as a multiple of native time (at
most) or of the peer's speed (at least)."""
import math
import os
import sys

from common import geomean, nanoseconds, number

# row: (title, 'native' or 'peer', first bar, goal)
BARS = {
    'int': ('integer kernels', 'native', 1.8, 1.4),
    'programs': ('programs', 'peer', 3, 6),
    'call': ('call/return-heavy', 'native', 1.8, 1.5),
    'fp': ('scalar FP', 'native', 1.5, 1.25),
    'simd': ('SIMD, crypto, CRC', 'native', 1.7, 1.4),
    'x87': ('x87', 'native', 1.6, 1.3),
    'chase': ('pointer chase in L1', 'native', 1.5, 1.2),
    'bulk': ('bulk copy and strings', 'native', 1.5, 1.2),
    'syscall_pti': ('null syscall, page-table isolation on', 'peer', 4, 10),
    'syscall': ('null syscall', 'peer', None, None),
    'pingpong': ('pipe ping-pong', 'peer', 3, 5),
    'pagefault': ('page fault', 'peer', 2, 3.3),
    'forkexec': ('fork and fork+exec', 'peer', 2, 6),
    'pingpong_pti': ('pipe ping-pong, isolation on', 'peer', None, None),
    'pagefault_pti': ('page fault, isolation on', 'peer', None, None),
    'forkexec_pti': ('fork and fork+exec, isolation on', 'peer', None, None),
    'mem': ('other memory and atomics', 'native', None, None),
}
COLUMNS = ('workload', 'row', 'place', 'min', 'median', 'max', 'cpu_median', 'reps')


def write_tsv(path, facts, records, notes):
    with open(path, 'w', encoding='utf-8') as f:
        for k, v in facts.items():
            f.write(f'# {k}: {v}\n')
        for n in notes:
            f.write(f'# note: {" ".join(n.split())}\n')
        f.write('\t'.join(COLUMNS) + '\n')
        for r in records:
            f.write('\t'.join(f'{r[c]:.6g}' if isinstance(r[c], float) else str(r[c]) for c in COLUMNS) + '\n')


def read(path):
    facts, notes, records = {}, [], []
    with open(path, encoding='utf-8') as f:
        for line in f:
            line = line.rstrip('\n')
            if line.startswith('# note: '):
                notes.append(line[8:])
            elif line.startswith('# '):
                k, _, v = line[2:].partition(': ')
                facts[k] = v
            elif line and not line.startswith('workload\t'):
                r = dict(zip(COLUMNS, line.split('\t')))
                for c in ('min', 'median', 'max', 'cpu_median'):
                    r[c] = float(r[c])
                records.append(r)
    return facts, records, notes


def by_workload(records):
    """[(row, workload, {place: record})] in the order of BARS, then as measured."""
    found = {}
    for r in records:
        found.setdefault((r['row'], r['workload']), {})[r['place']] = r
    order = list(BARS)
    return [(row, name, p) for (row, name), p in sorted(found.items(), key=lambda x: order.index(x[0][0]) if x[0][0] in order else 99)]


def ratio(p, a, b, what):
    return p[a][what] / p[b][what] if a in p and b in p and p[b][what] else float('nan')


def summary(records):
    """[(row, {figure: value})]: geometric means over the row's workloads, of smallest and of median times."""
    rows = {}
    for row, _, p in by_workload(records):
        rows.setdefault(row, []).append(p)
    out = []
    for row, ps in rows.items():
        out.append((row, {'n': len(ps), 'native': geomean(ratio(p, 'ours', 'native', 'min') for p in ps),
                          'native_median': geomean(ratio(p, 'ours', 'native', 'median') for p in ps),
                          'peer': geomean(ratio(p, 'peer', 'ours', 'min') for p in ps),
                          'peer_median': geomean(ratio(p, 'peer', 'ours', 'median') for p in ps),
                          'peer_cpu': geomean(ratio(p, 'peer', 'ours', 'cpu_median') for p in ps) if row == 'programs' else float('nan'),
                          'peer_native': geomean(ratio(p, 'peer', 'native', 'min') for p in ps)}))
    return out


def verdict(row, v):
    _, kind, first, goal = BARS.get(row, (row, 'native', None, None))
    if first is None or not math.isfinite(v[kind]):
        return ''
    ok = (lambda bar: v[kind] <= bar) if kind == 'native' else (lambda bar: v[kind] >= bar)
    return 'goal met' if ok(goal) else 'first met' if ok(first) else '**missed**'


def markdown(facts, records, notes):
    out = []
    if facts.get('busy'):
        out += [f'**Not a quiet machine: others used {facts["busy"]} CPUs while this was measured. The figures only show that the '
                'measuring works.**', '']
    out += [f'{facts["cpu"]}; Linux {facts["kernel"]}; {facts["date"]}. Ours: {facts["ours"]}. Peer: {facts["peer"]}. Guest: `-accel tcg '
            '-cpu max -M pc -m 1024`, the same kernel, initramfs and programs in both. Smallest of the repetitions, medians in brackets.', '',
            '| row | workloads | x native | x peer | peer x native | bar: first, goal | |', '|---|---|---|---|---|---|---|']
    for row, v in summary(records):
        title, kind, first, goal = BARS.get(row, (row, 'native', None, None))
        bar = f'x {kind} {"<=" if kind == "native" else ">="} {first}, {goal}' if first else ''
        peer = f'{number(v["peer"])} ({number(v["peer_median"])})' if math.isfinite(v['peer']) else '-'
        if math.isfinite(v['peer_cpu']):
            peer += f', by CPU time {number(v["peer_cpu"])}'
        out.append(f'| {title} | {v["n"]} | {number(v["native"])} ({number(v["native_median"])}) | {peer} | {number(v["peer_native"])} | {bar} | '
                   f'{verdict(row, v)} |')
    out += ['', '| workload | row | native | ours | peer | x native | x peer |', '|---|---|---|---|---|---|---|']
    slower = []
    for row, name, p in by_workload(records):
        t = {k: nanoseconds(p[k]['min']) if k in p else '-' for k in ('native', 'ours', 'peer')}
        against = ratio(p, 'peer', 'ours', 'min')
        if against < 1 and ratio(p, 'peer', 'ours', 'median') < 1:
            slower.append(f'{name} ({number(against)})')
        out.append(f'| {name} | {row} | {t["native"]} | {t["ours"]} | {t["peer"]} | {number(ratio(p, "ours", "native", "min"))} | {number(against)} |')
    out += ['', 'Slower than the peer: ' + (', '.join(slower) if slower else 'none') + '.', '']
    out += [f'- {n}' for n in notes] + ([''] if notes else [])
    return '\n'.join(out)


def esc(s):
    return s.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')


def svg(facts, records):
    """Bars per row on a logarithmic scale: how many times native time, ours and the peer's; a tick where the first bar is."""
    rows = [(r, v) for r, v in summary(records) if math.isfinite(v['native'])]
    left, width, high, top = 260, 560, 34, 60
    most = max([v[k] for _, v in rows for k in ('native', 'peer_native') if math.isfinite(v[k])] + [10])
    decades = math.log10(most * 1.3) + 0.3

    def x(v):
        return left + max(0.0, (math.log10(max(v, 0.5)) + 0.3) / decades) * width
    height = top + high * len(rows) + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="12" y="22" font-size="15">Time against native (1 = as fast as the bare CPU; shorter is better)</text>',
           f'<text x="12" y="40" fill="#555">{esc(facts["cpu"])}, {esc(facts["date"])}{" - NOT A QUIET MACHINE" if facts.get("busy") else ""}</text>']
    t = 1
    while t <= most * 1.3:
        out.append(f'<line x1="{x(t):.1f}" y1="{top - 6}" x2="{x(t):.1f}" y2="{height - 40}" stroke="#ccc"/>'
                   f'<text x="{x(t):.1f}" y="{height - 26}" text-anchor="middle" fill="#555">{t:g}</text>')
        t *= 10 if t >= 10 else (2 if t in (1, ) else 5 if t == 2 else 1)
    for i, (row, v) in enumerate(rows):
        title, kind, first, _ = BARS.get(row, (row, 'native', None, None))
        y = top + i * high
        out.append(f'<text x="{left - 8}" y="{y + 18}" text-anchor="end">{esc(title)}</text>')
        for k, what, colour in ((0, 'native', '#2a7ab9'), (1, 'peer_native', '#d08a3a')):
            if math.isfinite(v[what]):
                out.append(f'<rect x="{x(0.5):.1f}" y="{y + 13 * k}" width="{max(1, x(v[what]) - x(0.5)):.1f}" height="11" fill="{colour}"/>'
                           f'<text x="{x(v[what]) + 4:.1f}" y="{y + 13 * k + 10}" font-size="10">{number(v[what])}</text>')
        if first:
            at = first if kind == 'native' else v['peer_native'] / first
            if math.isfinite(at):
                out.append(f'<line x1="{x(at):.1f}" y1="{y - 2}" x2="{x(at):.1f}" y2="{y + 14}" stroke="#c00" stroke-width="2"/>')
    y = height - 10
    out.append(f'<rect x="{left}" y="{y - 9}" width="10" height="10" fill="#2a7ab9"/><text x="{left + 14}" y="{y}">Lyrebird</text>'
               f'<rect x="{left + 90}" y="{y - 9}" width="10" height="10" fill="#d08a3a"/><text x="{left + 104}" y="{y}">QEMU 7.2, TCG</text>'
               f'<rect x="{left + 220}" y="{y - 9}" width="3" height="10" fill="#c00"/><text x="{left + 230}" y="{y}">first bar</text></svg>')
    return '\n'.join(out) + '\n'


def write(folder, facts, records, notes, stem='cpu'):
    if not records:
        sys.exit('bench: nothing was measured: ' + '; '.join(notes))
    os.makedirs(folder, exist_ok=True)
    write_tsv(os.path.join(folder, stem + '.tsv'), facts, records, notes)
    text = markdown(facts, records, notes)
    for name, data in ((stem + '.md', text), (stem + '.svg', svg(facts, records))):
        with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
            f.write(data)
    print(text)
    print(f'written: {folder}/{stem}.tsv .md .svg')
