"""A host whose reads and writes come back short, or interrupted, at random: nothing is lost and nothing is made up. A small
library laid under the tools does it."""
import os
import random
import subprocess

import pytest
from conftest import need, program

MB = 1 << 20
SHIM = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>
static _Thread_local unsigned long rng = 88172645463325252ul;
static unsigned dice(unsigned n)
{
    rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17;
    return (rng >> 20) % n;
}
/* Cuts the vector in dup to fewer bytes, one at least; the number of segments left. */
static int cut(const struct iovec *v, int nr, struct iovec *dup)
{
    size_t all = 0, keep;
    int i;
    for (i = 0; i < nr; i++) { dup[i] = v[i]; all += v[i].iov_len; }
    if (all < 2 || dice(3)) return nr;
    keep = 1 + dice(all - 1 > 1000000 ? 1000000 : (unsigned)(all - 1));
    for (i = 0; i < nr; i++) {
        if (dup[i].iov_len >= keep) { dup[i].iov_len = keep; return i + 1; }
        keep -= dup[i].iov_len;
    }
    return nr;
}
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define VEC(name, extra_decl, ...) \
    ssize_t name(int fd, const struct iovec *v, int nr extra_decl) \
    { \
        struct iovec dup[1024]; \
        REAL(name); \
        if (!dice(12)) { errno = EINTR; return -1; } \
        nr = cut(v, nr, dup); \
        return real(fd, dup, nr, __VA_ARGS__); \
    }
#define C ,
VEC(preadv, C off_t o, o)
VEC(pwritev, C off_t o, o)
VEC(preadv64, C off_t o, o)
VEC(pwritev64, C off_t o, o)
VEC(preadv2, C off_t o C int f, o, f)
VEC(preadv64v2, C off_t o C int f, o, f)
#define ONE(name, ctype) \
    ssize_t name(int fd, ctype buf, size_t n, off_t o) \
    { \
        REAL(name); \
        if (!dice(12)) { errno = EINTR; return -1; } \
        if (n > 1 && !dice(3)) n = 1 + dice(n - 1 > 1000000 ? 1000000 : (unsigned)(n - 1)); \
        return real(fd, buf, n, o); \
    }
ONE(pread, void *)
ONE(pread64, void *)
ONE(pwrite, const void *)
ONE(pwrite64, const void *)
'''


@pytest.fixture(scope='module')
def shim(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shim')
    (folder / 'short.c').write_text(SHIM)
    subprocess.run([need('gcc'), '-O1', '-shared', '-fPIC', '-o', folder / 'short.so', folder / 'short.c', '-ldl'], check=True, timeout=60)
    return str(folder / 'short.so')


def tool(name, *args, under=None, ok=True):
    env = {**os.environ, **({'LD_PRELOAD': under} if under else {})}
    p = subprocess.run([program(name), *map(str, args)], capture_output=True, text=True, timeout=100, env=env)
    assert (p.returncode == 0) == ok, p.stdout + p.stderr
    return p.stdout + p.stderr


@pytest.mark.proves('F-IMG-02', 'F-IMG-17')
@pytest.mark.parametrize('fmt,options', [('raw', ''), ('qcow2', 'cluster_size=4k'), ('qcow2', 'extended_l2=on'), ('qcow2', 'data_file=d.raw'), ('qcow', ''),
                                         ('vmdk', ''), ('vmdk', 'subformat=monolithicFlat'), ('vdi', ''), ('vhdx', ''), ('vpc', ''), ('parallels', '')])
def test_short_transfers_lose_nothing(shim, tmp_path, monkeypatch, fmt, options):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(fmt + options)
    src, image, back = tmp_path / 'src.raw', tmp_path / 'image', tmp_path / 'back.raw'
    src.write_bytes(b''.join(rng.choice([bytes(65536), rng.randbytes(65536), b'\1' * 4096 + bytes(61440)]) for _ in range(96)))
    tool('qemu-img', 'convert', '-f', 'raw', '-O', fmt, *(['-o', options] if options else []), src, image, under=shim)
    cmds, data = [], bytearray(src.read_bytes())
    for _ in range(20):
        at, n, value = rng.randrange(0, 6 * MB - 300000, 512), rng.randrange(512, 300000, 512), rng.randrange(1, 255)
        zero = rng.random() < 0.3
        cmds += ['-c', f'write -z {at} {n}' if zero else f'write -P {value} {at} {n}']
        data[at:at + n] = bytes([0 if zero else value]) * n
    tool('qemu-io', '-f', fmt, *cmds, image, under=shim)
    tool('qemu-img', 'convert', '-f', fmt, '-O', 'raw', image, back)
    assert back.read_bytes()[:len(data)] == data
    tool('qemu-img', 'convert', '-f', fmt, '-O', 'raw', image, back, under=shim)
    assert back.read_bytes()[:len(data)] == data
    if fmt in ('qcow2', 'vdi', 'vhdx', 'vmdk', 'parallels'):
        tool('qemu-img', 'check', '-f', fmt, image, under=shim)


def test_the_library_does_what_it_should(shim, tmp_path):
    """A plain program that does not go on after a short write is caught."""
    code = ('import os, sys\nfd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n'
            'print(sum(os.pwrite(fd, bytes(1000), 0) < 1000 for _ in range(300)))')
    p = subprocess.run([need('python3'), '-c', code, tmp_path / 'x'], env={**os.environ, 'LD_PRELOAD': shim}, capture_output=True, text=True, timeout=60)
    assert int(p.stdout) > 30, p.stderr
