"""A foreign Debian installs a package and builds a program again and again: every loop must do exactly what the first one did. Short
with a handful of packages and tcc, long (200 loops) in a tree made by debootstrap --foreign, with gcc and make."""
import glob
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT, program

sys.path.insert(0, os.path.join(ROOT, 'tools'))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import debian  # noqa: E402
import guest  # noqa: E402
from test_debian_tree import PACKAGES, available, in_tree  # noqa: E402

TOOLS = ('dpkg', 'tar', 'libmd0', 'liblzma5', 'libzstd1', 'libbz2-1.0', 'hello', 'tcc', 'libc6-dev', 'linux-libc-dev', 'libcrypt-dev')
# One line a loop: its number, then what the package's program and the built one say, and the hashes of what was made. The lines stay in
# the tree too: a long run that is stopped has shown as many loops as stand there.
LOOP = r'''
cd /root/loop; n=$1; : > lines
for i in $(seq $n); do
    rm -rf w; mkdir w; cd w
    dpkg --force-depends --force-bad-path -i ../hello_*.deb > log 2>&1; a=$?
    said=$(hello) || a=$a/$?
    dpkg --force-bad-path --purge hello > log2 2>&1 || a=$a/$?
    test -e /usr/bin/hello && a=$a/left
    for f in table work main; do $CC -c ../$f.c -o $f.o > log3 2>&1 || a=$a/$f; done
    $CC main.o work.o table.o -o prog >> log3 2>&1 || a=$a/ld
    out=$(./prog 2001 | tail -1) || a=$a/run
    echo "loop $i: $a|$said|$out|$(cat table.o work.o main.o prog | sha256sum | cut -c1-16)" | tee -a ../lines
    cd ..
done
'''
TABLE_C = 'const unsigned table[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};\n'
WORK_C = r'''
#include <string.h>
extern const unsigned table[16];
double work(unsigned char *buf, unsigned n, unsigned *sum)
{
    double mean = 0;
    for (unsigned i = 0; i < n; i++) {
        buf[i] = (unsigned char)(table[i & 15] * i + (i >> 3));
        *sum = (*sum << 5 | *sum >> 27) ^ buf[i];
        mean += (buf[i] - mean) / (i + 1);
    }
    memmove(buf + 1, buf, n - 1);
    return mean;
}
'''
MAIN_C = r'''
#include <stdio.h>
#include <stdlib.h>
double work(unsigned char *buf, unsigned n, unsigned *sum);
static int cmp(const void *a, const void *b) { return *(const unsigned char *)a - *(const unsigned char *)b; }
int main(int c, char **v)
{
    unsigned n = c > 1 ? atoi(v[1]) : 10, sum = 1;
    unsigned char *buf = malloc(n);
    for (int i = 0; i < 20; i++)
        printf("%.6f %08x\n", work(buf, n, &sum), sum);
    qsort(buf, n, 1, cmp);
    printf("%08x %u %u\n", sum, buf[n / 2], buf[n - 1]);
    return 0;
}
'''


def put(tree, name, data):
    """A file of the loop, whole at any time: somebody else may be at it in the same tree."""
    os.makedirs(tree + '/root/loop', exist_ok=True)
    tmp = f'{tree}/root/loop/{name}.{os.getpid()}'
    with open(tmp, 'wb') as f:
        f.write(data)
    os.replace(tmp, f'{tree}/root/loop/{name}')


def prepare(tree):
    for name, text in (('table', TABLE_C), ('work', WORK_C), ('main', MAIN_C)):
        put(tree, name + '.c', text.encode())


def oracle(tmp_path):
    """What the program says, on this machine."""
    exe = str(tmp_path / 'prog')
    for name, text in (('table', TABLE_C), ('work', WORK_C), ('main', MAIN_C)):
        (tmp_path / f'{name}.c').write_text(text)
    subprocess.run(['gcc', '-O1', '-o', exe, *(str(tmp_path / f'{n}.c') for n in ('table', 'work', 'main'))], check=True)
    return subprocess.run([exe, '2001'], capture_output=True, text=True, check=True).stdout.split('\n')[-2]


def loops(tmp_path, arch, tree, count, cc, timeout):
    prepare(tree)
    r = in_tree(arch, tree, '/bin/bash', '-c', f'export CC="{cc}"; ' + LOOP, 'loop', str(count), timeout=timeout)
    lines = re.findall(r'^loop \d+: (.*)$', r.stdout, re.M)
    crashes = sum(not l.startswith('0|') for l in lines)
    want = ['0', 'Hello, world!', oracle(tmp_path)]
    wrong = sum(l.split('|')[:3] != want or l != lines[0] for l in lines)
    print(f'\n{arch}: {len(lines)} of {count} loops of install and build ran, {crashes} crashes, {wrong} wrong outputs; the first: {lines[0] if lines else ""}')
    assert (len(lines), crashes, wrong) == (count, 0, 0), r.stdout[-1500:] + r.stderr[-1500:]
    assert not r.stderr.strip(), r.stderr[-1500:]


@pytest.mark.limit(900)
@pytest.mark.proves('F-PRG-16', 'F-USR-06')
@pytest.mark.parametrize('arch', ['arm64', pytest.param('armhf', marks=pytest.mark.long), pytest.param('i386', marks=pytest.mark.long),
                                  pytest.param('amd64', marks=pytest.mark.long)])
def test_a_few_loops_of_install_and_build(tmp_path, arch):
    available(arch)
    try:
        tree = guest.root_tree(f'loops-{arch}', (*PACKAGES, *TOOLS), arch)
        hello = guest.deb('hello', arch)
    except guest.GuestError as e:
        pytest.skip(f'packages: {e}')
    for d in ('var/lib/dpkg/info', 'var/lib/dpkg/updates', 'var/lib/dpkg/triggers', 'root/loop', 'run'):
        os.makedirs(f'{tree}/{d}', exist_ok=True)
    with open(tree + '/var/lib/dpkg/status', 'a', encoding='utf-8'):
        pass
    with open(hello, 'rb') as f:
        put(tree, os.path.basename(hello), f.read())
    loops(tmp_path, arch, tree, 2, 'tcc', 800)


@pytest.mark.long
@pytest.mark.limit(40000)
@pytest.mark.proves('F-PRG-15', 'F-PRG-16', 'F-USR-06')
@pytest.mark.parametrize('arch', ['arm64', 'armhf', 'i386', 'amd64', 'riscv64'])
def test_200_loops_of_install_and_build(tmp_path, arch):
    available(arch)
    try:
        tree = debian.make(arch, ('gcc', 'libc6-dev'))
    except debian.NotHere as e:
        pytest.skip(str(e))
    if not glob.glob(tree + '/root/loop/hello_*.deb'):
        debian.run(arch, tree, 'sh', '-c', 'mkdir -p /root/loop && cd /root/loop && apt-get -q download hello')
    loops(tmp_path, arch, tree, int(os.environ.get('LYREBIRD_LOOPS', '200')), 'gcc -O2', 38000)
