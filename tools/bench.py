#!/usr/bin/env python3
"""make bench: start cost and boot cost, ours and Debian's qemu-system-x86_64 in one run, alternating.

  first instruction  wall and CPU time from exec until a ROM's first instructions have ended the program (isa-debug-exit)
  memory             resident and proportional size, paused before the first instruction, guest RAM untouched
  boot               wall and CPU time of the scripted session of tools/run.py: kernel to shell, disk, network, power-off;
                     one session first, untimed: in a new clone it fetches and unpacks what the others find there

  tools/bench.py [--runs N] [--boots N] [--no-boot] [--json FILE] [--ours PATH] [--theirs PATH]"""
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
    """(wall, CPU) seconds of one session."""
    status, wall, cpu, out = timed([sys.executable, os.path.join(ROOT, 'tools', 'run.py'), '--script'],
                                   env={**os.environ, 'LYREBIRD_QEMU': exe})
    if status:
        sys.exit(f'bench: the session with {exe} ended with status {status}: {out[-300:]}')
    return wall, cpu


def spread(samples):
    """{who: values} -> {who: (median, smallest, largest)}"""
    return {n: (statistics.median(v), min(v), max(v)) for n, v in samples.items()}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--runs', type=int, default=10)
    ap.add_argument('--boots', type=int, default=5)
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
            rows[f'{machine}: first instruction, wall ms'] = spread(walls)
            rows[f'{machine}: first instruction, cpu ms'] = spread(cpus)
            mem = {n: [memory(exe, machine) for _ in range(3)] for n, exe in who.items()}
            rows[f'{machine}: resident MiB'] = spread({n: [x[0] for x in m] for n, m in mem.items()})
            rows[f'{machine}: proportional MiB'] = spread({n: [x[1] for x in m] for n, m in mem.items()})
    if not args.no_boot:
        boot(who['ours'])
        walls, cpus = {n: [] for n in who}, {n: [] for n in who}
        for _ in range(args.boots):
            for n, exe in who.items():
                w, c = boot(exe)
                walls[n].append(w)
                cpus[n].append(c)
        rows['boot session, wall s'], rows['boot session, cpu s'] = spread(walls), spread(cpus)
    print(f'{"median (smallest to largest)":36}' + ''.join(f'{n:>24}' for n in who) + ('     ratio' if len(who) == 2 else ''))
    for what, v in rows.items():
        ratio = f"{v['ours'][0] / v['theirs'][0]:10.2f}" if len(v) == 2 and v['theirs'][0] else ''
        print(f'{what:36}' + ''.join(f'{x:8.1f} ({lo:5.1f} to {hi:5.1f})' for x, lo, hi in v.values()) + ratio)
    print(f'{args.runs} starts, 3 machines for memory, {args.boots} sessions; {platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}')
    if args.json:
        with open(args.json, 'w') as f:
            json.dump(rows, f, indent=1)
    return 0


if __name__ == '__main__':
    sys.exit(main())
