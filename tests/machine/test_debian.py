"""A debootstrapped Debian 12 with systemd: multi-user and a login on 1, 2 and 4 virtual CPUs, and in it gcc, Python's own
tests and stress-ng. The short form is part of make check; the whole belongs to make check-long."""
import re

import pytest

import debian
import guest
from run import Failed, PROMPT, Session, accel, emulator

# Numbers and text: what leans on the FPU, SSE, string instructions and big-integer carries.
PYTHON_TESTS = ('test_float', 'test_math', 'test_cmath', 'test_complex', 'test_decimal', 'test_fractions', 'test_statistics', 'test_long',
                'test_int', 'test_random', 'test_struct', 'test_hashlib', 'test_zlib', 'test_re', 'test_unicode', 'test_string',
                'test_json', 'test_array', 'test_binascii', 'test_textwrap')


class Debian:
    """with Debian('-smp', '2') as g: a root shell after a login, in multi-user mode."""

    def __init__(self, *args, memory='1G', boot_limit=300, cmdline=''):
        try:
            self.disk = debian.disk()
            cmd = [emulator(), '-nodefaults', '-display', 'none', '-serial', 'stdio', '-no-reboot', *accel(), *debian.arguments(memory, cmdline), *args]
        except guest.GuestError as e:
            pytest.skip(str(e))
        self.limit, self.s = boot_limit, Session(cmd)

    def __enter__(self):
        try:
            self.s.expect('lyrebird login: ', self.limit, 'boot to a login')
            self.send('root')
            self.s.expect('Password: ', max(60, self.limit / 5), 'the password is asked for')
            self.send(debian.PASSWORD)
            self.s.expect(PROMPT, max(60, self.limit / 5), 'login')
            self.sh('dmesg -n 1')  # the kernel's lines would stand among the answers
        except Failed as e:
            self.__exit__(Failed, e, None)
            pytest.fail(f'{e}\n{self.s.seen[-3000:]}')
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            print(self.s.seen[-6000:])
        self.s.p.kill()
        self.s.p.wait()
        self.s.p.stdout.close()
        self.s.p.stdin.close()

    def send(self, text):
        self.s.p.stdin.write(text.encode() + b'\n')
        self.s.p.stdin.flush()

    def sh(self, line, timeout=60):
        return self.s.line(line, timeout, line[:60])

    def is_up(self, cpus):
        """Multi-user, nothing failed, all processors at work, no complaint of the kernel's."""
        assert self.sh('systemctl is-system-running --wait', 240) == 'running', self.sh('systemctl --failed; true')
        assert self.sh('systemctl is-active multi-user.target') == 'active'
        assert self.sh('cat /etc/debian_version').startswith('12')
        assert self.sh('nproc') == str(cpus)
        self.kernel_is_calm()

    def kernel_is_calm(self):
        log = self.sh('dmesg')
        bad = re.findall(r'^.*(?:BUG:|Oops|soft lockup|hung task|rcu.*stall|WARNING:|Call Trace|segfault).*$', log, re.M)
        assert not bad, '\n'.join(bad)

    def poweroff(self):
        self.send('poweroff')
        assert self.s.end(120, 'poweroff') == 0


@pytest.mark.limit(600)
def test_two_cpus_reach_a_login_and_compile():
    with Debian('-smp', '2') as g:
        g.is_up(2)
        assert g.sh(debian.COMPILE.format('small'), 200).split()[0] == g.disk.small
        g.sh('python3 -m test -q test_float test_struct test_textwrap', 300)
        g.kernel_is_calm()
        g.poweroff()


@pytest.mark.long
@pytest.mark.limit(3600)
@pytest.mark.parametrize('cpus', [1, 2, 4])
def test_gcc_python_and_stress(cpus):
    with Debian('-smp', str(cpus), memory='2G') as g:
        g.is_up(cpus)
        assert g.sh(debian.COMPILE.format('large'), 900).split()[0] == g.disk.large
        out = g.sh(f'python3 -m test -j{cpus} ' + ' '.join(PYTHON_TESTS), 1800)
        assert 'esult: SUCCESS' in out, out[-3000:]
        out = g.sh('stress-ng --cpu 4 --vm 2 --vm-bytes 256M --verify --timeout 60 --metrics-brief 2>&1', 400)
        assert 'successful run completed' in out and 'fail' not in out.lower(), out[-3000:]
        g.kernel_is_calm()
        g.poweroff()
