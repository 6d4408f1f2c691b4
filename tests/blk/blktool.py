"""Runs our image tools and, as an oracle only, the distribution's."""
import json
import os
import random
import subprocess

from conftest import need, program


class Tool:
    def __init__(self, cwd):
        self.cwd = cwd

    def run(self, line, ok=0, theirs=False, tool='qemu-img', env=None):
        """One command as typed; returns stdout + stderr. ok: the exit status wanted (None: any)."""
        words = line.split() if isinstance(line, str) else list(line)
        exe = need(tool, 'qemu-utils') if theirs else program(tool)
        p = subprocess.run([exe] + words, cwd=self.cwd, capture_output=True, text=True, timeout=100, env=env)
        out = p.stdout + p.stderr
        if ok is not None:
            assert p.returncode == ok, f'{tool} {line}: exit {p.returncode}, wanted {ok}\n{out}'
        return out

    def oracle(self, line, ok=0, tool='qemu-img'):
        return self.run(line, ok, theirs=True, tool=tool)

    def io(self, *cmds, image, fmt=None, ok=0, theirs=False):
        words = (['-f', fmt] if fmt else []) + [w for c in cmds for w in ('-c', c)] + [image]
        return self.run(words, ok, theirs, 'qemu-io')

    def info(self, image, theirs=False, *more):
        return json.loads(self.run(['info', '--output=json', *more, image], theirs=theirs))

    def snapshot_between_writes(self, image):
        """A qcow2 image whose first MiB held ones when snapshot 'one' was taken and holds twos now."""
        self.run(f'create -q -f qcow2 {image} 8M')
        self.io('write -P 1 0 1M', image=image)
        self.run(f'snapshot -c one {image}')
        self.io('write -P 2 0 1M', image=image)

    def path(self, name):
        return os.path.join(self.cwd, name)

    def random_raw(self, name, size, seed=1, runs=12):
        """A raw file with random runs of data, zeros and holes."""
        rng = random.Random(seed)
        with open(self.path(name), 'wb') as f:
            f.truncate(size)
            for _ in range(runs):
                off = rng.randrange(0, size, 512)
                n = min(rng.choice([512, 4096, 65536, 300000, 1 << 20]), size - off)
                f.seek(off)
                f.write(rng.randbytes(n) if rng.random() < 0.7 else b'\0' * n if rng.random() < 0.5 else b'abcd' * (n // 4))
        return name
