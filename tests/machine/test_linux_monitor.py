"""The monitors beside a running Linux: keys, clock, registers and memory as they are, reset."""
import re
import time

import pytest

from linux import Linux
from run import PROMPT


@pytest.mark.limit(400)
@pytest.mark.proves('F-MON-13', 'F-MON-14', 'F-MON-12', 'S297', 'S298', 'S319', 'S320', 'S321', 'S322')
def test_monitor_beside_linux():
    with Linux(['-M', 'pc', '-smp', '2'], ('evdev',), no_reboot=False) as g:
        def hmp(line):
            return g.qmp.call('human-monitor-command', command_line=line)

        # sendkey: the guest's keyboard reports the chord.
        n = re.search(r'event(\d+)/device/name:AT Translated Set 2 keyboard', g.sh('grep -H . /sys/class/input/event*/device/name')).group(1)
        g.sh(f'head -c 216 /dev/input/event{n} >/tmp/keys & sleep 1')
        hmp('sendkey ctrl-alt-f2')
        g.sh('wait', 30)
        out = g.sh("hexdump -v -e '12/2 \"%d \" \"\\n\"' /tmp/keys")
        events = [[int(x) for x in line.split()] for line in out.split('\n') if len(line.split()) == 12]
        keys = [(e[9], e[10]) for e in events if e[8] == 1]  # struct input_event: time, type, code, value
        assert keys[:3] == [(29, 1), (56, 1), (60, 1)]  # KEY_LEFTCTRL, KEY_LEFTALT, KEY_F2, all down

        # stop halts the guest's clock; cont goes on where it was.
        before = float(g.sh('cut -d" " -f1 /proc/uptime'))
        hmp('stop')
        assert 'paused' in hmp('info status')
        time.sleep(4)
        hmp('cont')
        assert 'running' in hmp('info status')
        assert float(g.sh('cut -d" " -f1 /proc/uptime')) - before < 3.5

        # What the CPU and memory hold: paging is on, the kernel's text is mapped, both CPUs show registers.
        hmp('stop')
        assert 'PG disabled' not in hmp('info mem') and re.search(r'^ffff[0-9a-f]{12}-ffff[0-9a-f]{12} ', hmp('info mem'), re.M)
        assert re.search(r'^[0-9a-f]{16}: [0-9a-f]{16} ', hmp('info tlb'), re.M)
        assert len(re.findall(r'CPU#\d', hmp('info registers -a'))) == 2
        rip = int(hmp('p $rip'), 16)
        assert rip == int(re.search(r'(?i)\b(?:rip|eip)[ =]+([0-9a-f]{8,16})', hmp('info registers')).group(1), 16)
        gpa = hmp(f'gva2gpa {rip:#x}')
        if 'gpa: ' in gpa:
            pa = int(gpa.split()[1], 16)
            assert hmp(f'x /4xb {rip:#x}').split(':')[1] == hmp(f'xp /4xb {pa:#x}').split(':')[1]
        hmp('cont')
        assert g.sh('echo alive') == 'alive'

        # system_reset starts again from the firmware.
        hmp('system_reset')
        assert g.qmp.wait_event('RESET')['data'] == {'guest': False, 'reason': 'host-qmp-system-reset'}
        g.s.expect(PROMPT, 240, 'the shell after the reset')
        assert float(g.sh('cut -d" " -f1 /proc/uptime')) < 200

        # Ctrl-A C: serial line and monitor share the terminal.
        g.send('\x01c')
        g.s.expect('(qemu) ', 20, 'the monitor prompt')
        g.send('info status\n')
        g.s.expect('VM status: running', 20, 'the answer')
        g.send('\x01x')
        assert g.s.end(30, 'Ctrl-A X') == 0
