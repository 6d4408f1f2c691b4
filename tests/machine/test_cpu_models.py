"""What a guest reads with CPUID, under the translator and under KVM, from a ROM of our own: no firmware is needed."""
import os
import re
import select
import struct
import subprocess

import pytest
from conftest import host_lacks, program
from lyre import Machine, QmpError, run

PC = ['-M', 'pc', '-display', 'none', '-nodefaults', '-m', '16', '-debugcon', 'stdio']
OUT4 = b''.join(b'\xee\x66\xc1\xe8\x08' for _ in range(4))   # out dx,al; shr eax,8
LEAVES = [(0, 0), (1, 0), (7, 0), (0x80000000, 0), (0x80000001, 0), (0x80000002, 0), (0x80000003, 0), (0x80000004, 0),
          (0x40000000, 0), (0x40000003, 0), (0x40000004, 0)]


def rom(path, code, table=b''):
    """64 KiB at the top of memory: code at F000:0000, the table at F000:0800, the reset vector behind."""
    image = bytearray(b'\xf4' * 65536)
    image[0:len(code)] = code
    image[0x800:0x800 + len(table)] = table
    image[0xfff0:0xfff5] = b'\xea\x00\x00\x00\xf0'
    path.write_bytes(image)
    return str(path)


def cpuid_rom(path):
    body = (b'\x66\x2e\x8b\x04' b'\x66\x2e\x8b\x4c\x04' b'\x0f\xa2'        # eax, ecx = table; cpuid
            b'\x66\x89\xd5\x66\x89\xcf\xba\xe9\x00' + OUT4 +               # ebp = edx, edi = ecx; dx = E9h; eax out
            b'\x66\x89\xd8' + OUT4 + b'\x66\x89\xf8' + OUT4 + b'\x66\x89\xe8' + OUT4 + b'\x83\xc6\x08')
    code = b'\xbe\x00\x08' + body * len(LEAVES) + b'\xfa\xf4'
    return rom(path, code, b''.join(struct.pack('<II', *x) for x in LEAVES))


def read_guest(image, nbytes, *args):
    """The first bytes the guest writes to port E9h, and what the program said."""
    p = subprocess.Popen([program('qemu-system-x86_64'), *PC, '-bios', image, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    try:
        data = b''
        while len(data) < nbytes:
            if not select.select([p.stdout], [], [], 20)[0]:
                break
            got = os.read(p.stdout.fileno(), nbytes - len(data))
            if not got:
                break
            data += got
    finally:
        p.terminate()
        err = p.communicate(timeout=10)[1].decode()
    assert len(data) == nbytes, err
    return data, err


def cpuid(tmp_path, *args):
    data, err = read_guest(cpuid_rom(tmp_path / 'rom'), 16 * len(LEAVES), *args)
    regs = {leaf: struct.unpack_from('<4I', data, 16 * i) for i, (leaf, _) in enumerate(LEAVES)}
    return regs, err


def vendor(r, leaf=0):
    order = (1, 3, 2) if leaf in (0, 0x80000000) else (1, 2, 3)
    return b''.join(struct.pack('<I', r[leaf][i]) for i in order).decode()


def brand(r):
    return b''.join(struct.pack('<4I', *r[0x80000002 + i]) for i in range(3)).split(b'\0')[0].decode()


def kvm_or_skip():
    r = run('-M', 'none', '-accel', 'kvm', '-display', 'none', '-S', '-monitor', 'stdio', stdin='quit\n')
    if r.returncode:
        host_lacks('KVM cannot be used here: ' + r.stderr.strip())


SIGNATURE = {'n270': (0x106c2, 'GenuineIntel', 'Intel(R) Atom(TM) CPU N270   @ 1.60GHz'),
             'Conroe': (0x6f3, 'GenuineIntel', 'Intel Celeron_4x0 (Conroe/Merom Class Core 2)'),
             'Skylake-Client': (0x506e3, 'GenuineIntel', 'Intel Core Processor (Skylake)'),
             'EPYC-Milan': (0xa00f11, 'AuthenticAMD', 'AMD EPYC-Milan Processor'),
             'qemu64': (0x60fb1, 'AuthenticAMD', 'Lyrebird Virtual CPU version 1.0')}


@pytest.mark.proves('F-CPU-04', 'F-CPU-05', 'S004', 'S005', 'S033', 'S034')
@pytest.mark.parametrize('model', SIGNATURE)
def test_the_guest_sees_the_model_it_was_given(tmp_path, model):
    r, _ = cpuid(tmp_path, '-cpu', model, '-accel', 'tcg')
    assert r[1][0] == SIGNATURE[model][0]
    assert vendor(r) == SIGNATURE[model][1]
    assert brand(r) == SIGNATURE[model][2]
    assert r[1][2] >> 31, 'the hypervisor bit'


@pytest.mark.proves('F-ACC-15', 'S034')
def test_features_the_host_lacks_are_named_and_enforce_refuses(tmp_path):
    r, err = cpuid(tmp_path, '-cpu', 'Skylake-Client', '-accel', 'tcg')
    assert re.search(r"warning: CPU model 'Skylake-Client': .*left out: .*hle, .*rtm", err)
    assert not r[7][1] & (1 << 4 | 1 << 11)
    out = run(*PC, '-cpu', 'Skylake-Client,enforce', '-accel', 'tcg')
    assert out.returncode == 1 and 'rtm' in out.stderr
    _, err = cpuid(tmp_path, '-cpu', 'Skylake-Client,-hle,-rtm', '-accel', 'tcg')
    assert 'left out' not in err


@pytest.mark.proves('F-CPU-08', 'S036')
def test_hyperv_leaves_and_the_time_counter(tmp_path):
    r, _ = cpuid(tmp_path, '-cpu', 'qemu64,hv_relaxed,hv_spinlocks=0x1fff,hv_vapic,hv_time', '-accel', 'tcg')
    assert vendor(r, 0x40000000) == 'Microsoft Hv'
    assert r[0x40000003][0] & 0x212 == 0x212          # time counter, APIC MSRs, reference TSC
    assert r[0x40000004][0] & 0x28 == 0x28 and r[0x40000004][1] == 0x1fff
    # mov ecx,40000020h; rdmsr; out; again
    body = b'\x66\xb9\x20\x00\x00\x40\x0f\x32\x66\x89\xd3\xba\xe9\x00' + OUT4 + b'\x66\x89\xd8' + OUT4
    data, _ = read_guest(rom(tmp_path / 'msr', body * 2 + b'\xfa\xf4'), 16, '-cpu', 'qemu64,hv_time', '-accel', 'tcg')
    first, second = struct.unpack('<QQ', data)
    assert first <= second < 600 * 10**7                # units of 100 ns since the start


@pytest.mark.proves('F-CPU-09', 'F-ACC-01', 'F-ACC-11')
def test_one_model_looks_the_same_under_kvm_and_the_translator(tmp_path):
    kvm_or_skip()
    t, _ = cpuid(tmp_path, '-cpu', 'pentium3', '-accel', 'tcg')
    k, err = cpuid(tmp_path, '-cpu', 'pentium3', '-accel', 'kvm')
    assert vendor(t) == vendor(k) and t[1][0] == k[1][0]
    assert vendor(k, 0x40000000).startswith('KVMKVMKVM')
    if 'left out' in err or 'the kernel shows features' in err:
        host_lacks('this KVM shows other features than it was given: ' + err.strip())
    assert t[1][2:] == k[1][2:]


@pytest.mark.proves('F-CPU-03', 'S032')
def test_the_host_model_is_for_kvm(tmp_path):
    r = run(*PC, '-cpu', 'host', '-accel', 'tcg')
    assert r.returncode == 1 and "'host' requires KVM" in r.stderr
    kvm_or_skip()
    k, _ = cpuid(tmp_path, '-cpu', 'host', '-accel', 'kvm')
    with open('/proc/cpuinfo') as f:
        assert vendor(k) in f.read()


def test_definitions_name_aliases_and_what_is_missing():
    with Machine('-M', 'none', '-accel', 'tcg') as m:
        models = {d['name']: d for d in m.qmp('query-cpu-definitions')}
    assert models['Haswell']['alias-of'] == 'Haswell-v1' and models['Haswell-noTSX']['alias-of'] == 'Haswell-v2'
    assert 'rtm' in models['Haswell']['unavailable-features'] and 'rtm' not in models['Haswell-v2']['unavailable-features']
    assert models['qemu64']['typename'] == 'qemu64-x86_64-cpu' and models['qemu64']['unavailable-features'] == []
    assert models['base']['static'] and not models['max']['migration-safe']


def test_a_model_is_expanded_with_its_properties():
    with Machine('-M', 'none', '-accel', 'tcg') as m:
        r = m.qmp('query-cpu-model-expansion', type='static', model={'name': 'max'})['model']
        assert r['name'] == 'base' and r['props']['sse2'] is True and r['props']['svm'] is False
        r = m.qmp('query-cpu-model-expansion', type='full', model={'name': 'Nehalem', 'props': {'sse4.2': False, 'aes': True}})['model']
        assert r['name'] == 'Nehalem' and not r['props']['sse4.2'] and r['props']['popcnt'] and r['props']['family'] == 6
        with pytest.raises(QmpError):
            m.qmp('query-cpu-model-expansion', type='full', model={'name': 'Nehalem', 'props': {'nonsense': True}})
