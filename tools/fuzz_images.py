#!/usr/bin/env python3
"""make fuzz-images: hostile images, NBD servers and clients, vhost-user peers and partition tables, under ASan+UBSan.

One program per format (tests/fuzz). With clang they are libFuzzer programs, guided by what the inputs reach; without it
they are gcc's and change inputs blindly. Each begins with the inputs kept in tests/fuzz/corpus and those found before
(<build>/corpus). Memory is held to 1 GiB, each input to 10 s. What fails is left in <build>/findings; -runs=0 FILE repeats it.

  tools/fuzz_images.py [--seconds N] [--only FORMAT,...] [--gcc] [--merge]
--merge copies to tests/fuzz/corpus the few inputs under 2 KiB that reach most (look at them before they are committed)."""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEEP_SIZE, KEEP_NR = 2048, 12
ENV = {'ASAN_OPTIONS': 'allocator_may_return_null=1:max_allocation_size_mb=1024:hard_rss_limit_mb=1536:detect_leaks=1',
       'UBSAN_OPTIONS': 'halt_on_error=1:print_stacktrace=1'}


def build(clang):
    folder = os.path.join(ROOT, 'build-fuzz' if clang else 'build-asan')
    options = ['-Db_sanitize=address,undefined', '-Db_lundef=false', '-Doptimization=1', '-Dwerror=false']
    if not os.path.exists(os.path.join(folder, 'build.ninja')):
        env = {**os.environ, 'CC': ('ccache ' if shutil.which('ccache') else '') + ('clang' if clang else 'gcc')}
        subprocess.run(['meson', 'setup', folder, *options, *(['-Dfuzzer=true'] if clang else [])], cwd=ROOT, check=True, env=env,
                       stdout=subprocess.DEVNULL)
    with open(os.path.join(ROOT, 'tests/fuzz/meson.build'), encoding='utf-8') as f:
        formats = re.findall(r"'([\w]+)'", re.search(r'fuzz_formats = \[(.*?)\]', f.read())[1]) + ['nbd', 'nbdserver', 'vhost', 'part', 'ac97', 'hda']
    subprocess.run(['ninja', '-C', folder, f'-j{os.cpu_count() or 1}', *(f'tests/fuzz/fuzz-{n}' for n in formats)], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL)
    return folder, formats


def run(folder, name, seconds, clang):
    """None, or the end of what the target said."""
    kept, grown, findings = (os.path.join(*p) for p in ((ROOT, 'tests/fuzz/corpus', name), (folder, 'corpus', name), (folder, 'findings')))
    os.makedirs(grown, exist_ok=True)
    os.makedirs(findings, exist_ok=True)
    exe, corpus = os.path.join(folder, 'tests/fuzz', 'fuzz-' + name), [d for d in (grown, kept) if os.path.isdir(d)]
    if clang:
        cmd = [exe, f'-max_total_time={seconds}', '-rss_limit_mb=1536', '-malloc_limit_mb=1024', '-timeout=10', '-max_len=65536', '-close_fd_mask=2',
               '-print_final_stats=1', f'-artifact_prefix={findings}/{name}-', *corpus]
    else:
        cmd = [exe, f'-seconds={seconds}', f'-keep={findings}/{name}-crash', *corpus]
    p = subprocess.run(cmd, env={**os.environ, **ENV}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                       timeout=seconds + 300)
    done = re.search(r'stat::number_of_executed_units: (\d+)', p.stdout) or re.search(r'(\d+) inputs, nothing found', p.stdout)
    reached = re.findall(r'cov: (\d+)', p.stdout)
    print(f"{name}: {done[1] if done else '?'} inputs{', ' + reached[-1] + ' edges' if reached else ''}: {'FAILED' if p.returncode else 'nothing found'}",
          flush=True)
    return p.stdout[-6000:] if p.returncode else None


def merge(folder, name):
    """Few and small: libFuzzer's own choice of what reaches most, then the smallest of those."""
    kept, grown, least = os.path.join(ROOT, 'tests/fuzz/corpus', name), os.path.join(folder, 'corpus', name), os.path.join(folder, 'least', name)
    shutil.rmtree(least, ignore_errors=True)
    os.makedirs(least)
    os.makedirs(kept, exist_ok=True)
    subprocess.run([os.path.join(folder, 'tests/fuzz', 'fuzz-' + name), '-merge=1', '-close_fd_mask=2', least, kept, grown], env={**os.environ, **ENV},
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    small = sorted((os.path.getsize(f), f) for f in glob.glob(least + '/*'))
    for _, f in [x for x in small if x[0] <= KEEP_SIZE][-KEEP_NR:]:
        shutil.copy(f, kept)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--seconds', type=int, default=120, help='per target')
    ap.add_argument('--only')
    ap.add_argument('--gcc', action='store_true')
    ap.add_argument('--merge', action='store_true')
    args = ap.parse_args()
    clang = bool(shutil.which('clang')) and not args.gcc
    folder, formats = build(clang)
    bad = {}
    for name in args.only.split(',') if args.only else formats:
        if args.merge:
            merge(folder, name)
            continue
        said = run(folder, name, args.seconds, clang)
        if said:
            bad[name] = said
    for name, said in bad.items():
        print(f'\n== {name}\n{said}')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
