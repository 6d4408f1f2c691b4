#!/usr/bin/env python3
"""make bench: start cost and boot cost, ours and Debian's qemu-system-x86_64 in one run, alternating.

  first instruction  wall and CPU time from exec until a ROM's first instructions have ended the program (isa-debug-exit)
  memory             resident and proportional size, paused before the first instruction, guest RAM untouched
  boot               wall and CPU time of the scripted session of tools/run.py: kernel to shell, disk, network, power-off

  tools/bench.py [--runs N] [--no-boot] [--json FILE] [--ours PATH] [--theirs PATH]"""
import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from guest import ROOT

# mov dx,0xf4; xor al,al; out dx,al; hlt; jmp $-1
CODE = bytes((0xba, 0xf4, 0x00, 0x30, 0xc0, 0xee, 0xf4, 0xeb, 0xfd))


def rom(path):
    """A 64 KiB BIOS whose reset vector jumps to CODE at f000:0000."""
    image = bytearray(b'\xf4' * 65536)
    image[0:len(CODE)] = CODE
    image[0xfff0:0xfff5] = bytes((0xea, 0x00, 0x00, 0x00, 0xf0))
    with open(path, 'wb') as f:
        f.write(image)


def timed(cmd, env=None, timeout=600):
    """(status, wall, cpu) of a command and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, timeout=timeout)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return p.returncode, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, p.stdout.decode('utf-8', 'replace')


def first_instruction(exe, machine, bios):
    status, wall, cpu, out = timed([exe, '-M', machine, '-accel', 'tcg', '-m', '128', '-display', 'none', '-bios', bios,
                                    '-device', 'isa-debug-exit,iobase=0xf4'], timeout=30)
    if status != 1:
        sys.exit(f'bench: {exe} -M {machine} ended with status {status}: {out[-300:]}')
    return wall * 1000, cpu * 1000


def memory(exe, machine):
    """(RSS, PSS) in MiB of a machine that has not run."""
    p = subprocess.Popen([exe, '-M', machine, '-m', '128', '-display', 'none', '-S', '-serial', 'null', '-monitor', 'none'],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        with open(f'/proc/{p.pid}/smaps_rollup') as f:
            kb = {line.split(':')[0]: int(line.split()[1]) for line in f if line.split(':')[0] in ('Rss', 'Pss')}
    finally:
        p.kill()
        p.wait()
    return kb['Rss'] / 1024, kb['Pss'] / 1024


def boot(exe):
    status, wall, cpu, out = timed([sys.executable, os.path.join(ROOT, 'tools', 'run.py'), '--script'],
                                   env={**os.environ, 'LYREBIRD_QEMU': exe})
    if status:
        return None
    return wall, cpu


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--runs', type=int, default=10)
    ap.add_argument('--no-boot', action='store_true')
    ap.add_argument('--json')
    ap.add_argument('--ours', default=os.path.join(os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build')), 'bin', 'qemu-system-x86_64'))
    ap.add_argument('--theirs', default='/usr/bin/qemu-system-x86_64')
    args = ap.parse_args()
    who = {n: p for n, p in (('ours', args.ours), ('theirs', args.theirs)) if os.access(p, os.X_OK)}
    if 'ours' not in who:
        sys.exit(f'bench: {args.ours} is not there: run make build first')
    rows = {}
    with tempfile.TemporaryDirectory() as tmp:
        bios = os.path.join(tmp, 'bios.bin')
        rom(bios)
        for machine in ('pc', 'q35'):
            walls, cpus = {n: [] for n in who}, {n: [] for n in who}
            for _ in range(args.runs):  # alternating, so that both see the same weather
                for n, exe in who.items():
                    w, c = first_instruction(exe, machine, bios)
                    walls[n].append(w)
                    cpus[n].append(c)
            rows[f'{machine}: first instruction, wall ms'] = {n: statistics.median(v) for n, v in walls.items()}
            rows[f'{machine}: first instruction, cpu ms'] = {n: statistics.median(v) for n, v in cpus.items()}
            mem = {n: memory(exe, machine) for n, exe in who.items()}
            rows[f'{machine}: resident MiB'] = {n: m[0] for n, m in mem.items()}
            rows[f'{machine}: proportional MiB'] = {n: m[1] for n, m in mem.items()}
    if not args.no_boot:
        b = {n: boot(exe) for n, exe in who.items()}
        for i, what in enumerate(('boot session, wall s', 'boot session, cpu s')):
            rows[what] = {n: v[i] if v else float('nan') for n, v in b.items()}
    print(f'{"":36}' + ''.join(f'{n:>10}' for n in who) + ('     ratio' if len(who) == 2 else ''))
    for what, v in rows.items():
        ratio = f"{v['ours'] / v['theirs']:10.2f}" if len(v) == 2 and v['theirs'] else ''
        print(f'{what:36}' + ''.join(f'{x:10.1f}' for x in v.values()) + ratio)
    print(f'median of {args.runs} runs; {platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}')
    if args.json:
        with open(args.json, 'w') as f:
            json.dump(rows, f, indent=1)
    return 0


if __name__ == '__main__':
    sys.exit(main())
