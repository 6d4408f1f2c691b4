#!/usr/bin/env python3
"""The whole suite: builds, runs every test, checks the ledger, ends with one line `N passed, N failed, N skipped`. Jobs (a test
program, a file of Python tests) of all stages run beside each other, three for two processors, the longest first (tests/times.tsv).

Stages: static (layers, house numbers, layout, tests the ledger names), unit (cmocka, plain build), asan (the unit and tool tests in a build with
ASan+UBSan), scripts (tests/*/*.sh, exit 77 = skip), pytest (tests/*/test_*.py), ledger. One JSON line per test goes to
<build>/results/<stage>.jsonl, which tools/features.py reads; unit results are there as JUnit XML too.

  tools/check.py [--long] [--only STAGE,...] [--no-build] [--tests PATH ...] [--sanitize thread] [--write-times]
  tools/check.py --accel-set PROPERTIES [--accel-set ...] [--slow N] [--long] [--tests PATH ...]
  tools/check.py --settings [...]
--long adds the tests marked long; --accel-set runs the machine tests with these properties of the translator (such as links=off), one run for each,
with every time limit N times as long (6), and leaves the ledger's results alone; --settings (make check-settings) does so for each of SETTINGS.
Both end with a table, also in <build>/results/settings.tsv. --tests runs only those pytest or script paths, and leaves the ledger's results alone."""
import argparse
import concurrent.futures
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STAGES = ('static', 'unit', 'asan', 'scripts', 'pytest', 'ledger')
# -accel tcg,...: what is rare made common. The smallest code cache, the smallest tables, no blocks, only the first tier, only the second.
SETTINGS = ('tb-size=4', 'tlb-size=4,slots=512', 'one-insn-per-tb=on', 'hot-tier=off', 'hot-tier=first')
TIMES = os.path.join(ROOT, 'tests', 'times.tsv')
ASAN_DIR = os.path.join(ROOT, 'build-asan')
SAN_ENV = {'ASAN_OPTIONS': 'detect_leaks=1:abort_on_error=0:exitcode=99:allocator_may_return_null=1:use_sigaltstack=0:quarantine_size_mb=16',
           'UBSAN_OPTIONS': 'halt_on_error=1:print_stacktrace=1', 'TSAN_OPTIONS': 'halt_on_error=1:exitcode=99'}
PROVES = re.compile(r'proves:\s*((?:[A-Z]+-?[\w-]*\d+[,\s]*)+)')
IDS = re.compile(r'F-[A-Z]+-\d+|N-\d+|S\d{3}')


def build_dir():
    return os.path.abspath(os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build')))


class Tally:
    """Counts, and the result files of the stages. Only the main thread uses it: jobs return what they found."""

    def __init__(self, ext):
        self.ext = ext
        self.counts = {'passed': 0, 'failed': 0, 'skipped': 0}
        self.notes, self.times, self.out = [], {}, {}

    def stage(self, name):
        """From now on the stage has a result file, though it may stay empty."""
        os.makedirs(os.path.join(build_dir(), 'results'), exist_ok=True)
        if name not in self.out:
            self.out[name] = open(os.path.join(build_dir(), 'results', name + self.ext), 'w', encoding='utf-8')

    def add(self, stage, r):
        if r['outcome'] in self.counts:
            self.counts[r['outcome']] += 1
        if r['outcome'] in ('failed', 'skipped'):
            line = f"{r['outcome'].upper():8} {r['test']}{': ' + r['why'] if r['why'] else ''}"
            self.notes.append(line)
            print(line, flush=True)
        if stage:
            self.stage(stage)
            self.out[stage].write(json.dumps(r) + '\n')

    def close(self):
        for f in self.out.values():
            f.close()


def result(test, outcome, proves=(), seconds=0.0, why=''):
    return {'test': test, 'outcome': outcome, 'proves': sorted(set(proves)), 's': round(seconds, 3), 'why': why}


class Job:
    """One thing to run beside others: call() gives (results, text to print). Two jobs with the same alone never run at once."""

    def __init__(self, stage, name, call, alone=None):
        self.stage, self.name, self.call, self.alone = stage, name, call, alone


def workers():
    """More than there are processors: a good part of the tests waits (for guests' timers, for time-outs) a quarter of its time."""
    n = os.cpu_count() or 1
    return n + (n + 1) // 2


def expected():
    """job -> seconds it took when tests/times.tsv was written, on a quiet machine with two processors."""
    with open(TIMES, encoding='utf-8') as f:
        rows = [line.rstrip('\n').split('\t') for line in f if line.strip() and not line.startswith('#')]
    return {job: float(s) for job, s in rows}


def run_jobs(tally, jobs):
    """The longest first, so that no processor is left without work at the end. Gives job -> seconds."""
    took, weight = {}, expected()
    os.makedirs(os.path.join(build_dir(), 'results'), exist_ok=True)
    locks = {j.alone: threading.Lock() for j in jobs if j.alone}

    def one(job):
        with locks[job.alone] if job.alone else contextlib.nullcontext():
            start = time.monotonic()
            try:
                results, text = job.call()
            except Exception as e:  # a test that cannot even be run must not take the others with it
                results, text = [result(job.name, 'failed', why=f'{type(e).__name__}: {e}')], ''
        return results, text, time.monotonic() - start
    jobs = sorted(jobs, key=lambda j: -weight.get(f'{j.stage} {j.name}', 10))
    with concurrent.futures.ThreadPoolExecutor(workers()) as pool:
        futures = {pool.submit(one, j): j for j in jobs}
        for done in concurrent.futures.as_completed(futures):
            job = futures[done]
            results, text, secs = done.result()
            took[f'{job.stage} {job.name}'] = secs
            tally.times[job.stage] = tally.times.get(job.stage, 0) + secs
            if text:
                print(text.rstrip(), flush=True)
            for r in results:
                tally.add(job.stage, r)
    return took


def run(cmd, timeout, env=None, cwd=ROOT):
    """(status, output, seconds); the whole process group goes when time is up. Status None: timed out."""
    start = time.monotonic()
    p = subprocess.Popen(cmd, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors='replace', start_new_session=True)
    try:
        out, _ = p.communicate(timeout=timeout)
        status = p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, _ = p.communicate()
        status = None
    return status, out, time.monotonic() - start


def ninja(folder, sanitize, tally):
    """Configures when needed and builds; False when that failed."""
    start = time.monotonic()
    if not os.path.exists(os.path.join(folder, 'build.ninja')):
        env = dict(os.environ)
        if shutil.which('ccache') and 'CC' not in env:
            env['CC'] = 'ccache gcc'
        cmd = ['meson', 'setup', folder]
        if sanitize:
            cmd += [f'-Db_sanitize={sanitize}', '-Db_lundef=false', '-Doptimization=1', '-Dwerror=false']  # gcc warns of things that sanitizers add
        if subprocess.call(cmd, cwd=ROOT, env=env, stdout=subprocess.DEVNULL):
            return False
    # -j: what the machine has, not meson's extra two
    p = subprocess.run(['ninja', '-C', folder, f'-j{os.cpu_count() or 1}'], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, errors='replace')
    if p.returncode:
        print(p.stdout[-8000:])
        tally.add(None, result(f'build {os.path.basename(folder)}', 'failed', why='does not build'))
        return False
    print(f'built {os.path.basename(folder)} in {time.monotonic() - start:.0f} s', flush=True)
    return True


def checker(name, cmd, env=None):
    status, out, secs = run(cmd, 300, env)
    outcome = {0: 'passed', 77: 'skipped'}.get(status, 'failed')
    return [result('check ' + name, outcome, (), secs, '' if outcome == 'passed' else out.strip().split('\n')[-1])], out


def static_jobs():
    for name, cmd in (('layers', ['tools/check_layers.py']), ('size', ['tools/check_size.py']),
                      ('format', ['tools/check_format.sh']), ('names', [sys.executable, 'tools/features.py', '--names'])):
        yield Job('static', name, functools.partial(checker, name, cmd))


def c_proves(path):
    """function -> ids: `/* proves: ... */` in the comment above it, or one for the file in its first comment."""
    with open(os.path.join(ROOT, path), encoding='utf-8') as f:
        text = f.read()
    first = re.match(r'/\*.*?\*/', text, re.S)
    whole = IDS.findall(first.group(0).split('proves:')[1]) if first and 'proves:' in first.group(0) else []
    out, pending = {}, []
    for m in re.finditer(r'/\*.*?\*/|^static void (\w+)\(void \*\*\s*\w+\)', text, re.S | re.M):
        if m.group(1):
            out[m.group(1)] = pending + whole
            pending = []
        elif 'proves:' in m.group(0) and m is not None and m.start() != 0:
            pending += IDS.findall(m.group(0).split('proves:')[1])
    return out


def unit_list(folder):
    """[(command, name, [sources])] of the unit suite, from meson."""
    def ask(what):
        return json.loads(subprocess.check_output(['meson', 'introspect', folder, what]))
    targets = {t['filename'][0]: t for t in ask('--targets') if t['type'] == 'executable'}
    for t in ask('--tests'):
        if 'unit' in ' '.join(t['suite']):
            exe = t['cmd'][0]
            srcs = [s for g in targets[exe]['target_sources'] for s in g.get('sources', [])] if exe in targets else []
            yield t['cmd'], t['name'], [os.path.relpath(s, ROOT) for s in srcs if '/tests/unit/' in s]


def last_words(out):
    """What a dying program said that matters: the sanitizer's summary and first frames of ours, or the last lines."""
    lines = out.split('\n')
    told = [l.strip() for l in lines if 'SUMMARY:' in l or 'runtime error:' in l or 'Assertion' in l]
    ours = [l.strip() for l in lines if re.match(r'\s+#\d+ .* \.\./(src|tests)/', l)][:4]
    return ' | '.join(told + ours) if told else ' '.join(out.split()[-60:])


def unit_cases(xml, where, proves, base, tag):
    """Results of one cmocka program from the file it wrote."""
    try:
        cases = list(ET.parse(xml).getroot().iter('testcase'))
    except (OSError, ET.ParseError):
        return []
    out = []
    for c in cases:
        fn, outcome, why = c.get('name'), 'passed', ''
        if c.find('failure') is not None or c.find('error') is not None:
            outcome = 'failed'
            node = c.find('failure') if c.find('failure') is not None else c.find('error')
            why = ' '.join((node.text or '').split())[:300]
        elif c.find('skipped') is not None:
            outcome = 'skipped'
        name = f"{where.get(fn, 'tests/unit/' + base)}::{fn}" + ('' if tag == 'unit' else f'[{tag}]')
        out.append(result(name, outcome, proves.get(fn, ()), float(c.get('time') or 0), why))
    return out


def unit(folder, tag, env, cmd, base, srcs):
    xml = os.path.join(build_dir(), 'results', f'{tag}-{base}.xml')
    if os.path.exists(xml):
        os.unlink(xml)
    # in the build folder, as meson runs them: arguments that name what it built are relative to it
    status, out, secs = run(cmd, 400, {'CMOCKA_MESSAGE_OUTPUT': 'XML', 'CMOCKA_XML_FILE': xml, **(env or {})}, folder)
    proves, where = {}, {}
    for s in srcs:
        for fn, ids in c_proves(s).items():
            proves[fn], where[fn] = ids, s
    results = unit_cases(xml, where, proves, base, tag)
    if not results and status in (0, 77) and len(cmd) > 1: # no cmocka: one claim, its exit status
        results = [result(f'tests/unit/{base}' + ('' if tag == 'unit' else f'[{tag}]'), 'skipped' if status else 'passed', (), secs,
                          last_words(out) if status else '')]
    elif not results or (status != 0 and not any(r['outcome'] == 'failed' for r in results)):
        why = 'timed out' if status is None else f'ended with status {status}: ' + last_words(out)
        results.append(result(f'tests/unit/{base}[{tag}]', 'failed', (), secs, why))
    return results, ''


def unit_jobs(folder, tag, env=None):
    for cmd, title, srcs in unit_list(folder):
        base = os.path.basename(cmd[0]) if len(cmd) == 1 else title.replace('/', '-')
        yield Job(tag, base, functools.partial(unit, folder, tag, env, cmd, base, srcs), 'unit ' + base)


def script(path, tag, env):
    with open(os.path.join(ROOT, path), encoding='utf-8') as f:
        head = f.read()
    m = PROVES.search(head)
    limit = re.search(r'# limit: (\d+)', head)
    status, out, secs = run(['sh' if head.startswith('#!/bin/sh') else 'bash', path],
                            int(limit.group(1)) if limit else 120, {'LYREBIRD_BUILD': build_dir(), **(env or {})})
    last = out.strip().split('\n')[-1] if out.strip() else ''
    outcome = {0: 'passed', 77: 'skipped'}.get(status, 'failed')
    why = '' if outcome == 'passed' else 'timed out' if status is None else last[:300]
    return [result(path + tag, outcome, IDS.findall(m.group(1)) if m else (), secs, why)], out[-3000:] if outcome == 'failed' else ''


def script_jobs(stage, paths, tag='', env=None):
    return [Job(stage, p, functools.partial(script, p, tag, env), 'script ' + p) for p in paths]


def python_with_pytest():
    """Debian's pytest belongs to Debian's Python, which need not be the first one on the path."""
    for exe in (sys.executable, '/usr/bin/python3'):
        if not subprocess.call([exe, '-c', 'import pytest'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            return exe
    return None


def pytest_file(exe, path, marks, limit):
    """One test file (or folder) in a pytest of its own: (results, what pytest printed, complaint or '')."""
    cases = os.path.join(build_dir(), 'results', path.replace('/', '-') + '.cases')
    if os.path.exists(cases):
        os.unlink(cases)
    cmd = [exe, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-c', 'tests/pytest.ini', '--rootdir=.', path, *marks]
    status, out, _ = run(cmd, limit, {'LYREBIRD_BUILD': build_dir(), 'LYREBIRD_RESULTS': cases})
    results = []
    if os.path.exists(cases):
        with open(cases, encoding='utf-8') as f:
            results = [json.loads(line) for line in f]
        os.unlink(cases)
    bad = '' if status in (0, 5) or (status == 1 and results) else 'ran out of its time' if status is None else f'ended with status {status}'
    return results, out, bad


def pytest_job(exe, path, marks, limit):
    results, out, bad = pytest_file(exe, path, marks, limit)
    if bad:
        results.append(result('pytest ' + path, 'failed', why=bad))
    if any(r['outcome'] == 'failed' for r in results):
        return results, out[-6000:]
    return results, f"{path}: {sum(r['outcome'] == 'passed' for r in results)} passed in {sum(r['s'] for r in results):.0f} s"


def pytest_jobs(tally, stage, paths, long_too, slow=1):
    """Each file is a job. Settings that make the translator slow stretch every limit, here as in tests/conftest.py."""
    limit = (7200 if long_too else 1500) * slow
    exe = python_with_pytest()
    if not exe:
        tally.add(stage, result('pytest', 'failed', why='no Python with pytest (package python3-pytest)'))
        return []
    return [Job(stage, p, functools.partial(pytest_job, exe, p, [] if long_too else ['-m', 'not long'], limit)) for p in paths]


def settings(tally, paths, long_too, sets, slow):
    """Runs the paths once for each setting; the rows of the table."""
    rows = []
    for props in sets:
        print(f'== -accel tcg,{props}', flush=True)
        os.environ.update(LYREBIRD_ACCEL_SET=props, LYREBIRD_SLOW=str(slow))
        before, start = dict(tally.counts), time.monotonic()
        run_jobs(tally, pytest_jobs(tally, 'settings', paths, long_too, slow))
        rows.append([props, *(tally.counts[k] - before[k] for k in before), round(time.monotonic() - start)])
        with open(os.path.join(build_dir(), 'results', 'settings.tsv'), 'w', encoding='utf-8') as f:
            f.writelines('\t'.join(map(str, r)) + '\n' for r in [['setting', *before, 'seconds']] + rows)
    del os.environ['LYREBIRD_ACCEL_SET'], os.environ['LYREBIRD_SLOW']
    return rows


def write_times(took):
    """Keeps what a whole run took, for the order of the next."""
    with open(TIMES, 'w', encoding='utf-8') as f:
        f.write('# Seconds of each job of tools/check.py in a whole run; it starts the longest first. Written by --write-times.\n')
        for job, secs in sorted(took.items(), key=lambda t: (-round(t[1]), t[0])):
            if secs >= 1:
                f.write(f'{job}\t{secs:.0f}\n')


def find_tests(suffix, prefix=''):
    for folder, dirs, files in os.walk(os.path.join(ROOT, 'tests')):
        dirs.sort()
        for name in sorted(files):
            if name.endswith(suffix) and name.startswith(prefix) and not name.startswith('_'):
                yield os.path.relpath(os.path.join(folder, name), ROOT)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--long', action='store_true')
    ap.add_argument('--only', default=','.join(STAGES))
    ap.add_argument('--no-build', action='store_true')
    ap.add_argument('--sanitize', help='run units in a build of its own, e.g. thread')
    ap.add_argument('--tests', nargs='*')
    ap.add_argument('--accel-set', action='append', default=[], metavar='PROPERTIES')
    ap.add_argument('--settings', action='store_true')
    ap.add_argument('--slow', type=int, default=6, metavar='N')
    ap.add_argument('--write-times', action='store_true')
    args = ap.parse_args()
    if args.settings:
        args.accel_set += SETTINGS
    if args.accel_set:
        args.tests = args.tests or sorted(p for p in find_tests('.py', 'test_') if p.startswith('tests/machine/'))
    only, tally, start = args.only.split(','), Tally('.part' if args.tests else '.jsonl'), time.monotonic()
    if args.sanitize:
        only = []
    if args.tests:
        only = ['scripts', 'pytest']
    shells = [p for p in find_tests('.sh') if not args.tests or any(p.startswith(t) for t in args.tests)]
    pys = [t for t in args.tests if not t.endswith('.sh')] if args.tests else list(find_tests('.py', 'test_'))
    whole = set(only) == set(STAGES)
    if whole:  # a claim rests on this run alone
        for name in os.listdir(os.path.join(build_dir(), 'results')) if os.path.isdir(os.path.join(build_dir(), 'results')) else ():
            os.unlink(os.path.join(build_dir(), 'results', name))
    ok = args.no_build or ninja(build_dir(), None, tally)
    asan = 'asan' in only and (args.no_build or ninja(ASAN_DIR, 'address,undefined', tally))
    jobs = []

    def add(stage, some):
        jobs.extend(some)

    if args.sanitize:
        folder = os.path.join(ROOT, f'build-{args.sanitize}')
        if ninja(folder, args.sanitize, tally):
            add(args.sanitize, unit_jobs(folder, args.sanitize, SAN_ENV))
    if 'static' in only:
        add('static', static_jobs())
    if ok and 'unit' in only:
        add('unit', unit_jobs(build_dir(), 'unit'))
    if asan:
        add('asan', unit_jobs(ASAN_DIR, 'asan', SAN_ENV))
        add('asan-tools', script_jobs('asan-tools', [p for p in shells if p.startswith('tests/blk/')], '[asan]', {**SAN_ENV, 'LYREBIRD_BUILD': ASAN_DIR}))
    if ok and 'scripts' in only and shells and not args.accel_set:
        add('scripts', script_jobs('scripts', shells))
    if ok and 'pytest' in only and pys and not args.accel_set:
        add('pytest', pytest_jobs(tally, 'pytest', pys, args.long or bool(args.tests)))
    took, sets = run_jobs(tally, jobs), []
    if ok and args.accel_set:
        tally.stage('settings')
        sets = settings(tally, pys, args.long, args.accel_set, args.slow)
    tally.close()
    if 'ledger' in only:
        tally.stage('ledger')
        results, out = checker('ledger', [sys.executable, 'tools/features.py'], {'LYREBIRD_BUILD': build_dir()})
        print(out.rstrip(), flush=True)
        tally.add('ledger', results[0])
        tally.close()
    if args.write_times and whole:
        write_times(took)
    print()
    for n in tally.notes:
        print(n)
    print(f'time: {workers()} jobs at once: ' + ', '.join(f'{n} {s:.0f} s' for n, s in tally.times.items()) + f'; all {time.monotonic() - start:.0f} s')
    for props, passed, failed, skipped, secs in sets:
        print(f'-accel tcg,{props:22} {passed} passed, {failed} failed, {skipped} skipped, {secs} s')
    c = tally.counts
    print(f"{c['passed']} passed, {c['failed']} failed, {c['skipped']} skipped")
    return 1 if c['failed'] or not c['passed'] else 0


if __name__ == '__main__':
    sys.exit(main())
