"""Sudden ends: the power cut at any point of a workload (full size; make check runs the unit test in small), and kill -9
of a program that writes."""
import json
import os
import random
import subprocess

import pytest
from conftest import build_dir, program

MB = 1 << 20


@pytest.mark.long
@pytest.mark.limit(5400)
@pytest.mark.proves('F-IMG-02', 'F-IMG-17')
def test_ten_thousand_power_cuts_per_workload():
    exe = os.path.join(build_dir(), 'tests/unit/test-blk-crash')
    if not os.path.exists(exe):
        pytest.skip('test-blk-crash is not built')
    seed = str(random.randrange(1, 1 << 30))
    p = subprocess.run([exe], env={**os.environ, 'BLK_CRASH_CUTS': '10000', 'BLK_CRASH_SEED': seed}, capture_output=True, text=True,
                       timeout=5000)
    assert p.returncode == 0, f'seed {seed}\n{p.stdout[-2000:]}{p.stderr[-2000:]}'


@pytest.mark.long
@pytest.mark.limit(3600)
@pytest.mark.proves('F-IMG-02', 'F-IMG-17')
def test_every_single_call_fails_once():
    exe = os.path.join(build_dir(), 'tests/unit/test-blk-fault')
    if not os.path.exists(exe):
        pytest.skip('test-blk-fault is not built')
    p = subprocess.run([exe], env={**os.environ, 'BLK_FAULT_ALL': '1'}, capture_output=True, text=True, timeout=3500)
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-2000:]


class Writer:
    """A qemu-io that writes blocks and flushes, until it is killed; `safe` is what a flush has answered for."""

    def __init__(self, path, fmt, rng):
        self.p = subprocess.Popen([program('qemu-io'), '-f', fmt, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        self.rng, self.now, self.safe, self.unsure = rng, {}, {}, set()

    def step(self):
        block, value = self.rng.randrange(256), self.rng.randrange(1, 255)
        self.unsure.add(block)
        self.p.stdin.write(f'write -P {value} {block * 64}k 64k\n')
        flush = self.rng.random() < 0.2
        if flush:
            self.p.stdin.write('flush\n')
        self.p.stdin.write('length\n')
        self.p.stdin.flush()
        while not (line := self.p.stdout.readline()).strip().endswith('16 MiB'):
            assert line, 'qemu-io ended'
        self.now[block] = value
        if flush:
            self.safe, self.unsure = dict(self.now), set()

    def kill(self):
        # the command under way may or may not have happened
        block, value = self.rng.randrange(256), self.rng.randrange(1, 255)
        self.p.stdin.write(f'write -P {value} {block * 64}k 64k\nflush\nwrite -P {value} {block * 64}k 64k\n')
        self.p.stdin.flush()
        self.unsure.add(block)
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()


@pytest.mark.proves('F-IMG-02', 'F-IMG-04', 'F-IMG-05', 'F-IMG-06', 'F-IMG-07')
@pytest.mark.parametrize('fmt,options', [('qcow2', 'cluster_size=4k'), ('qcow2', 'lazy_refcounts=on'), ('qcow', ''), ('vmdk', ''), ('vdi', ''),
                                         ('vhdx', ''), ('vpc', '')])
def test_kill_9_loses_nothing_flushed(tmp_path, fmt, options):
    path = str(tmp_path / f'k.{fmt}')
    args = ['-o', options] if options else []
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', fmt, *args, path, '16M'], check=True, timeout=60)
    rng = random.Random(7)
    known = {}
    for _ in range(3):
        w = Writer(path, fmt, rng)
        w.now, w.safe = dict(known), dict(known)
        for _ in range(rng.randrange(20, 60)):
            w.step()
        w.kill()
        known = {b: v for b, v in w.safe.items() if b not in w.unsure}
        cmds = [x for b, v in known.items() for x in ('-c', f'read -P {v} {b * 64}k 64k')]
        p = subprocess.run([program('qemu-io'), '-f', fmt, path, *cmds], capture_output=True, text=True, timeout=100)
        assert p.returncode == 0 and 'Pattern' not in p.stdout + p.stderr, p.stdout[-800:] + p.stderr
        assert known
        p = subprocess.run([program('qemu-img'), 'check', '--output=json', '-f', fmt, path], capture_output=True, text=True, timeout=60)
        if p.returncode != 63:
            c = json.loads(p.stdout)
            assert not c.get('corruptions') and not c.get('check-errors'), c
