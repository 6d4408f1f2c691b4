"""Sound cards from inside Linux: its drivers play a tone, and the tone is in the WAV file of the back end."""
import struct
import wave

import pytest

from linux import CMDLINE, Linux, initramfs, kernel
from test_x86_smp import build


class Guest(Linux):
    def __init__(self, args, modules, arch='amd64'):
        with open(build('tone'), 'rb') as f:
            files = {'bin/tone': (f.read(), 0o755)}
        path = initramfs(modules, '', arch=arch, files=files)
        super().__init__(['-kernel', kernel(arch).image, '-initrd', path, '-append', CMDLINE, *args], boot=False)

    def card(self):
        """What the cards are called; their drivers may take a while."""
        return self.sh('for i in $(seq 40); do [ -e /dev/snd/pcmC0D0p ] && break; sleep 0.5; done; cat /proc/asound/cards')

    def tone(self, line):
        out = self.sh(f'tone {line} || true', 120)
        assert ' 0 failed' in out, out


def left_side(path):
    with wave.open(str(path)) as w:
        v = struct.unpack(f'<{w.getnframes() * 2}h', w.readframes(w.getnframes()))
        return w.getframerate(), v[::2]


def found(path, guest_rate, seconds):
    """The tone of 100 frames a period is there, at the file's rate; where a busy host stopped the machine for a moment, a period
    may be cut. What is lost at every buffer's end (each 20 periods) would be too much."""
    rate, v = left_side(path)
    while v and not v[0]:
        v = v[1:]
    ups = [i for i in range(1, len(v)) if v[i - 1] < 0 <= v[i]]
    gaps = [b - a for a, b in zip(ups, ups[1:])][:-1]  # the last period is cut off
    want = 100 * rate / guest_rate
    good = [g for g in gaps if abs(g - want) <= 2]
    assert abs(sum(good) / len(good) - want) < 0.005 * want, (sum(good) / len(good), want)
    assert len(good) > 0.98 * len(gaps), [g for g in gaps if abs(g - want) > 2][:20]
    assert len(ups) > seconds * guest_rate / 100 * 0.9
    assert 1500 < max(v) < 9000


@pytest.mark.limit(400)
@pytest.mark.proves('F-AUD-01', 'F-AUD-11', 'F-DEV-07', 'S228')
@pytest.mark.parametrize('rate', [44100, 48000])
def test_linux_plays_through_the_ac97(tmp_path, rate):
    wav = tmp_path / 'a.wav'
    with Guest(['-device', 'AC97,audiodev=s', '-audiodev', f'wav,id=s,path={wav}'], ('snd_intel8x0',)) as g:
        assert 'ICH' in g.card()
        g.tone(f'{rate} 2 2')
        g.tone('record 48000')
        g.poweroff()
    found(wav, rate, 2)


HDA = ('snd_hda_codec_generic', 'snd_hda_intel')  # the codec's driver first: nothing loads it on demand here


@pytest.mark.limit(400)
@pytest.mark.parametrize('machine,controller,codec,rate', [
    pytest.param('pc', 'intel-hda', 'hda-duplex', 44100, marks=pytest.mark.proves('F-AUD-02', 'F-AUD-04', 'F-AUD-11', 'F-DEV-07', 'S227')),
    pytest.param('pc', 'intel-hda', 'hda-micro', 48000, marks=pytest.mark.proves('F-AUD-02', 'F-AUD-05', 'F-DEV-07', 'S229')),
    pytest.param('q35', 'ich9-intel-hda', 'hda-duplex', 48000, marks=pytest.mark.proves('F-AUD-03', 'F-AUD-04', 'F-DEV-07', 'S230')),
    pytest.param('q35', 'ich9-intel-hda', 'hda-output', 96000, marks=pytest.mark.proves('F-AUD-03', 'F-AUD-06', 'F-DEV-07', 'S239')),
])
def test_linux_plays_through_hd_audio(tmp_path, machine, controller, codec, rate):
    wav = tmp_path / 'a.wav'
    with Guest(['-M', machine, '-device', f'{controller},id=sound0', '-device', f'{codec},bus=sound0.0,cad=0,audiodev=s', '-audiodev', f'wav,id=s,path={wav}'],
               HDA) as g:
        assert 'HDA Intel' in g.card()
        g.tone(f'{rate} 2 2')
        if codec != 'hda-output':
            g.tone('record 48000')
        assert not g.sh('dmesg | grep -iE "hda.*(timeout|error|fail|invalid|inconsistent)" || true').strip()
        g.poweroff()
    found(wav, rate, 2)
