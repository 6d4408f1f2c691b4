"""Sound on the command line and through the test channel: a tone is played by a device's registers and found in a WAV file."""
import glob
import os
import shutil
import signal
import struct
import subprocess
import time
import wave

import pytest
from lyre import Machine, run

pytestmark = pytest.mark.limit(60)

LIST, DATA = 0x100000, 0x110000
SHAPE = [round(8000 * (x if x < 25 else 50 - x if x < 75 else x - 100) / 25) for x in range(100)]


def samples(path):
    """(rate, frames of left and right) of a file that a player accepts; the header tells the length that is there."""
    with wave.open(str(path)) as w:
        assert (w.getnchannels(), w.getsampwidth()) == (2, 2)
        data = w.readframes(w.getnframes())
        assert len(data) == w.getnframes() * 4 and path.stat().st_size == 44 + len(data)
        v = struct.unpack(f'<{len(data) // 2}h', data)
        return w.getframerate(), list(zip(v[::2], v[1::2]))


def tone(frames, channels=2, sample='h'):
    """Frames of SHAPE (480 Hz at 48000), the right side upside down."""
    left = [SHAPE[i % 100] for i in range(frames)]
    return struct.pack(f'<{frames * channels}{sample}', *[v if c == 0 else -v for v in left for c in range(channels)])


def is_tone(frames, period=100, skip=0):
    left = [f[0] for f in frames[skip:]]
    ups = [i for i in range(1, len(left)) if left[i - 1] < 0 <= left[i]]
    gaps = {b - a for a, b in zip(ups, ups[1:])}
    assert gaps and max(abs(g - period) for g in gaps) <= 1 and all(abs(a + b) <= 1 for a, b in frames)


class Ac97:
    """The card with its ports mapped, codec at 0 dB."""
    nam, bm = 0xd000, 0xd400

    def __init__(self, m):
        self.q = m.qt
        dev, fn = self.q.pci_find(0x8086, 0x2415)
        self.q.pci_write(dev, 0x10, self.nam, fn=fn)
        self.q.pci_write(dev, 0x14, self.bm, fn=fn)
        self.q.pci_write(dev, 4, 5, size=2, fn=fn)
        self.q.outl(self.bm + 0x2c, 2)
        self.q.outw(self.nam + 2, 0)
        self.q.outw(self.nam + 0x18, 0x0808)

    def play(self, frames):
        """A list of 32 buffers with the tone, and go."""
        each = frames // 32
        self.q.write(DATA, tone(frames))
        self.q.write(LIST, b''.join(struct.pack('<II', DATA + i * each * 4, 1 << 31 | each * 2) for i in range(32)))
        self.q.outl(self.bm + 0x10, LIST)
        self.q.outb(self.bm + 0x15, 31)
        self.q.outb(self.bm + 0x1b, 0x11)


@pytest.mark.proves('F-AUD-01', 'F-AUD-11', 'F-DEV-07', 'S228', 'S240')
@pytest.mark.parametrize('rate,machine', [(48000, 'pc'), (44100, 'q35')])
def test_a_tone_played_by_the_ac97_is_in_the_file(tmp_path, rate, machine):
    wav = tmp_path / 'a.wav'
    with Machine('-M', machine, '-device', 'AC97,audiodev=snd0', '-audiodev', f'wav,id=snd0,path={wav},out.frequency={rate}', qtest=True) as m:
        card = Ac97(m)
        card.play(3200)
        m.qt.clock_step(50_000_000)
        assert m.qt.inb(card.bm + 0x14) == 24 and m.qt.inw(card.bm + 0x18) == 200
        m.qt.clock_step(50_000_000)
        assert m.qt.inw(card.bm + 0x16) == 0xf
        assert m.quit() == 0
    got, frames = samples(wav)
    assert got == rate and abs(len(frames) - 3200 * rate // 48000) <= 2
    is_tone(frames, round(100 * rate / 48000), skip=2)
    if rate == 48000:
        assert [f[0] for f in frames] == [SHAPE[i % 100] for i in range(3200)]


@pytest.mark.proves('F-AUD-11')
@pytest.mark.parametrize('end', ['quit', 'term', 'kill'])
def test_the_file_is_whole_however_it_ends(tmp_path, end):
    wav = tmp_path / 'a.wav'
    with Machine('-device', 'AC97,audiodev=s', '-audiodev', f'wav,id=s,path={wav},out.frequency=48000', qtest=True) as m:
        card = Ac97(m)
        card.play(32 * 1500)
        m.qt.clock_step(960_000_000)
        if end == 'quit':
            assert m.quit() == 0
        elif end == 'term':
            m.proc.send_signal(signal.SIGTERM)
            assert m.wait() == 0
        else:
            m.kill()
    if end == 'kill':  # what the header says is there, and it is not far behind
        with wave.open(str(wav)) as w:
            assert w.getnframes() >= 16000 and len(w.readframes(48000)) == w.getnframes() * 4
    else:
        assert abs(len(samples(wav)[1]) - 46080) <= 480


@pytest.mark.proves('F-AUD-13', 'S228')
@pytest.mark.parametrize('args', [[], ['-audiodev', 'none,id=x']])
def test_without_a_named_back_end_the_card_works_in_silence(args):
    with Machine('-device', 'ac97', *args, qtest=True) as m:
        card = Ac97(m)
        card.play(3200)
        m.qt.clock_step(1_000_000_000)
        assert m.qt.inw(card.bm + 0x16) == 0xf
        assert m.stderr() == ''


@pytest.mark.proves('F-AUD-13')
def test_the_one_back_end_there_is_is_taken(tmp_path):
    wav = tmp_path / 'a.wav'
    with Machine('-device', 'ac97', '-audiodev', f'driver=wav,id=x,path={wav}', qtest=True) as m:
        Ac97(m).play(3200)
        m.qt.clock_step(100_000_000)
        m.quit()
    assert len(samples(wav)[1]) > 2900


@pytest.mark.proves('F-AUD-14', 'S236')
def test_back_ends_are_listed():
    r = run('-audiodev', 'help')
    assert r.returncode == 0 and {'none', 'wav'} <= set(r.stdout.split('\n'))
    r = run('-audiodev', 'wav,help')
    assert r.returncode == 0 and '  path\n' in r.stdout and '  out.frequency\n' in r.stdout
    assert run('-audiodev', 'nosuch,help').returncode == 1


@pytest.mark.proves('F-AUD-14', 'S238')
def test_devices_are_listed():
    out = run('-device', 'help').stdout
    assert 'Sound devices:' in out and 'name "AC97", bus PCI, alias "ac97"' in out
    for name, bus in (('intel-hda', 'PCI'), ('ich9-intel-hda', 'PCI'), ('hda-output', 'HDA'), ('hda-duplex', 'HDA'), ('hda-micro', 'HDA')):
        assert f'name "{name}", bus {bus}' in out


@pytest.mark.parametrize('args,said', [
    (['-audiodev', 'jack,id=s'], "audio driver 'jack' is not built into this program"),
    (['-audiodev', 'alsa,id=s,out.dev=nosuch'], "alsa: cannot open the sound device 'nosuch'"),
    (['-audiodev', 'alsa,id=s,out.period-length=x'], 'out.period-length'),
    (['-audiodev', 'pipewire,id=s'], "audio driver 'pipewire' is not built into this program"),
    (['-audiodev', 'nosuch,id=s'], "unknown audio driver 'nosuch'"),
    (['-audiodev', 'wav'], 'id= is missing'),
    (['-audiodev', 'none,id=a', '-audiodev', 'none,id=a'], "audio back end with id 'a' already"),
    (['-audiodev', 'none,id=a', '-device', 'AC97,audiodev=b'], "no audio back end with id 'b'"),
    (['-device', 'hda-duplex'], "no 'HDA' bus found"),
    (['-audio', 'none'], 'model= is missing'),
    (['-audio', 'none,model=sb16'], "no sound card 'sb16'"),
    (['-audio', 'nosuch,model=hda'], "unknown audio driver 'nosuch'"),
    (['-device', 'intel-hda', '-device', 'hda-duplex,cad=16'], 'cad= goes from 0 to 14'),
    (['-audiodev', '{"driver":"none","id":"a","out":{"frequency":1}}'], 'out.frequency=1 is out of range'),
])
def test_refusals_are_one_line(args, said):
    r = run(*args)
    assert r.returncode == 1 and said in r.stderr and len(r.stderr.splitlines()) == 1


@pytest.mark.proves('F-AUD-01')
def test_a_snapshot_goes_on_where_it_was(tmp_path):
    """Played halfway, saved, played on, loaded: from there on the same samples come again."""
    disk, wav = tmp_path / 'd.qcow2', tmp_path / 'a.wav'
    assert run('create', '-f', 'qcow2', str(disk), '16M', prog='qemu-img').returncode == 0
    with Machine('-device', 'AC97,audiodev=s', '-audiodev', f'wav,id=s,path={wav},out.frequency=48000', '-drive', f'if=none,file={disk},id=d', qtest=True) as m:
        card = Ac97(m)
        card.play(3200)
        m.qt.clock_step(33_000_000)
        m.hmp('savevm a')
        was = m.qt.inb(card.bm + 0x14), m.qt.inw(card.bm + 0x18)
        m.qt.clock_step(100_000_000)
        assert m.hmp('loadvm a').strip() == ''
        assert (m.qt.inb(card.bm + 0x14), m.qt.inw(card.bm + 0x18)) == was
        m.qt.clock_step(100_000_000)
        m.quit()
    frames = [f[0] for f in samples(wav)[1]]
    assert len(frames) > 3200 and frames[3200:] == [SHAPE[i % 100] for i in range(3200)][-(len(frames) - 3200):]


class Hda:
    """The controller with its registers mapped and out of reset; commands go by the immediate registers."""
    base = 0xfeb00000

    def __init__(self, m, device):
        self.q = m.qt
        dev, fn = self.q.pci_find(0x8086, device)
        self.q.pci_write(dev, 0x10, self.base, fn=fn)
        self.q.pci_write(dev, 4, 6, size=2, fn=fn)
        self.q.writel(self.base + 8, 1)

    def ask(self, nid, verb, cad=0):
        self.q.writew(self.base + 0x68, 2)
        self.q.writel(self.base + 0x60, cad << 28 | nid << 20 | verb)
        self.q.writew(self.base + 0x68, 1)
        assert self.q.readw(self.base + 0x68) == 2
        return self.q.readl(self.base + 0x64)

    def play(self, data, fmt, buffers=4, tag=1):
        """A ring of these bytes on the first output stream, heard by the codec's DAC."""
        sd, each = self.base + 0x100, len(data) // buffers
        self.q.write(DATA, data)
        self.q.write(LIST, b''.join(struct.pack('<QII', DATA + i * each, each, 1) for i in range(buffers)))
        self.ask(2, 0x70600 | tag << 4)
        self.ask(2, 0x20000 | fmt)
        self.q.writel(sd + 0x18, LIST)
        self.q.writel(sd + 8, len(data))
        self.q.writew(sd + 0xc, buffers - 1)
        self.q.writew(sd + 0x12, fmt)
        self.q.writel(sd, tag << 20 | 6)

    def position(self):
        return self.q.readl(self.base + 0x104)


@pytest.mark.parametrize('controller,device,codec,rate', [
    pytest.param('intel-hda', 0x2668, 'hda-duplex', 48000, marks=pytest.mark.proves('F-AUD-02', 'F-AUD-04', 'F-AUD-11', 'F-DEV-07', 'S227')),
    pytest.param('intel-hda', 0x2668, 'hda-micro', 44100, marks=pytest.mark.proves('F-AUD-02', 'F-AUD-05', 'S229')),
    pytest.param('ich9-intel-hda', 0x293e, 'hda-output', 48000, marks=pytest.mark.proves('F-AUD-03', 'F-AUD-06', 'S230', 'S239')),
])
def test_a_tone_played_by_hd_audio_is_in_the_file(tmp_path, controller, device, codec, rate):
    wav = tmp_path / 'a.wav'
    with Machine('-device', controller, '-device', f'{codec},audiodev=snd0', '-audiodev', f'wav,id=snd0,path={wav},out.frequency=48000', qtest=True) as m:
        card = Hda(m, device)
        assert m.qt.readw(card.base + 0xe) == 1
        card.play(tone(4800), 0x4011 if rate == 44100 else 0x0011)
        for ms in range(1, 50):  # right to the frame, however often one looks
            m.qt.clock_step(1_000_000)
            assert card.position() == rate * ms // 1000 * 4
        m.qt.clock_step(51_000_000)
        m.qt.writeb(card.base + 0x100, 0)
        assert m.quit() == 0
    got, frames = samples(wav)
    assert got == 48000 and abs(len(frames) - 4800) <= 2
    is_tone(frames, round(100 * 48000 / rate), skip=2)
    if rate == 48000:
        assert [f[0] for f in frames] == [SHAPE[i % 100] for i in range(4800)]


@pytest.mark.proves('F-AUD-13', 'S227')
def test_hd_audio_works_in_silence_without_a_back_end():
    with Machine('-M', 'q35', '-device', 'intel-hda', '-device', 'hda-duplex', qtest=True) as m:
        card = Hda(m, 0x2668)
        card.play(tone(4800), 0x11)
        m.qt.clock_step(1_025_000_000)
        assert card.position() == 1200 * 4 and m.stderr() == ''


@pytest.mark.proves('F-AUD-03')
def test_a_snapshot_of_hd_audio_goes_on_where_it_was(tmp_path):
    disk, wav = tmp_path / 'd.qcow2', tmp_path / 'a.wav'
    assert run('create', '-f', 'qcow2', str(disk), '16M', prog='qemu-img').returncode == 0
    with Machine('-device', 'ich9-intel-hda', '-device', 'hda-duplex,audiodev=s', '-audiodev', f'wav,id=s,path={wav},out.frequency=48000', '-drive',
                 f'if=none,file={disk},id=d', qtest=True) as m:
        card = Hda(m, 0x293e)
        card.play(tone(4800), 0x11)
        card.ask(3, 0x71c77)
        m.qt.clock_step(33_000_000)
        m.hmp('savevm a')
        was = card.position()
        m.qt.clock_step(100_000_000)
        card.ask(3, 0x71c00)
        m.qt.writel(card.base + 8, 0)
        assert m.hmp('loadvm a').strip() == ''
        assert card.position() == was == 33 * 192 and card.ask(3, 0xf1c00) & 0xff == 0x77
        m.qt.clock_step(50_000_000)
        m.quit()
    frames = [f[0] for f in samples(wav)[1]]
    end = frames[6384:]  # 133 ms, then again from 33 ms on
    assert len(end) > 2000 and end == [SHAPE[(1584 + i) % 100] for i in range(len(end))]


@pytest.fixture
def alsa(tmp_path):
    """ALSA's own file plug as the default device: (environment, the WAV file it writes)."""
    if not glob.glob('/usr/lib/*/libasound.so.2'):
        pytest.skip('libasound2 is not installed')
    (tmp_path / 'asound.conf').write_text(f'''
pcm.!default {{ type file slave.pcm "nul" file "{tmp_path}/alsa.wav" format "wav" }}
pcm.other {{ type file slave.pcm "nul" file "{tmp_path}/other.wav" format "wav" }}
pcm.nul {{ type null }}
''')
    return {'ALSA_CONFIG_PATH': str(tmp_path / 'asound.conf')}, tmp_path / 'alsa.wav'


@pytest.mark.parametrize('args,name', [
    pytest.param(['-device', 'ac97,audiodev=sd1', '-audiodev', 'alsa,id=sd1'], 'alsa.wav', marks=pytest.mark.proves('F-AUD-08', 'S232')),
    pytest.param(['-device', 'intel-hda', '-device', 'hda-micro,audiodev=sd1', '-audiodev', 'alsa,id=sd1,out.try-poll=off'], 'alsa.wav',
                 marks=pytest.mark.proves('F-AUD-08', 'S233')),
    pytest.param(['-device', 'ac97,audiodev=sd1', '-audiodev', 'alsa,id=sd1,out.dev=other,out.buffer-length=20000'], 'other.wav',
                 marks=pytest.mark.proves('F-AUD-08')),
    pytest.param(['-device', 'ac97'], 'alsa.wav', marks=pytest.mark.proves('F-AUD-13')),
])
def test_a_tone_goes_to_the_hosts_sound_device(alsa, args, name):
    """0.2 s of it; the device takes all at once, so the ring's own rate is 0.2 % off at most."""
    env, wav = alsa
    with Machine(*args, qtest=True, env=env) as m:
        if 'intel-hda' in args:
            Hda(m, 0x2668).play(tone(4800), 0x11)
        else:
            Ac97(m).play(9600)
        m.qt.clock_step(200_000_000)
        assert m.quit() == 0 and m.stderr() == ''
    got, frames = samples(wav.with_name(name))
    assert got == 44100 and abs(len(frames) - 8820) <= 0.003 * 8820
    is_tone(frames, 92, skip=2)


@pytest.fixture
def pulse(tmp_path):
    """A PulseAudio server of our own with a sink that goes nowhere, and a recording of what it gets: (its address, environment, samples())."""
    for tool in ('pulseaudio', 'parec'):
        if not shutil.which(tool):
            pytest.skip(f'{tool} is not installed')
    sock, raw = tmp_path / 'native', tmp_path / 'heard'
    env = {**os.environ, 'HOME': str(tmp_path), 'XDG_RUNTIME_DIR': str(tmp_path), 'PULSE_RUNTIME_PATH': str(tmp_path / 'p')}
    env.pop('PULSE_SERVER', None)
    server = subprocess.Popen(['pulseaudio', '-n', '--daemonize=no', '--exit-idle-time=-1', '--disable-shm=yes', '-L',
                               f'module-native-protocol-unix auth-anonymous=1 socket={sock}', '-L', 'module-null-sink sink_name=n rate=44100'],
                              env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if sock.exists():
                break
            time.sleep(0.05)
        with open(raw, 'wb') as f:
            rec = subprocess.Popen(['parec', '-s', f'unix:{sock}', '-d', 'n.monitor', '--raw', '--rate=44100', '--latency-msec=20'], stdout=f, env=env)
        for _ in range(100):
            if raw.stat().st_size:
                break
            time.sleep(0.05)

        def heard():
            data = raw.read_bytes()
            v = struct.unpack(f'<{len(data) // 4 * 2}h', data[:len(data) // 4 * 4])
            frames = list(zip(v[::2], v[1::2]))
            loud = [i for i, f in enumerate(frames) if f[0]]
            return frames[loud[0]:loud[-1] + 1] if loud else []
        yield f'unix:{sock}', env, heard
        rec.kill()
        rec.wait()
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize('args', [
    pytest.param(['-device', 'ac97,audiodev=sd1', '-audiodev', 'pa,id=sd1,server=SERVER'], marks=pytest.mark.proves('F-AUD-09', 'S234')),
    pytest.param(['-device', 'intel-hda', '-device', 'hda-micro,audiodev=sd1', '-audiodev', 'pa,id=sd1,server=SERVER'],
                 marks=pytest.mark.proves('F-AUD-09', 'S235')),
    pytest.param(['-device', 'ac97'], marks=pytest.mark.proves('F-AUD-13')),
])
def test_a_tone_goes_to_a_sound_server(pulse, args):
    server, env, heard = pulse
    if '-audiodev' not in args:
        env = {**env, 'PULSE_SERVER': server}
    with Machine(*[a.replace('SERVER', server) for a in args], qtest=True, env=env) as m:
        if 'intel-hda' in args:
            Hda(m, 0x2668).play(tone(4800), 0x11)
        else:
            Ac97(m).play(9600)
        m.qt.clock_step(200_000_000)
        time.sleep(0.6)
        assert m.quit() == 0 and m.stderr() == ''
    frames = heard()
    assert 8000 < len(frames) < 8900
    is_tone(frames, 92, skip=2)


@pytest.mark.parametrize('card', ['ac97', 'hda'])
@pytest.mark.proves('F-AUD-09', 'F-AUD-04', 'F-AUD-01')
def test_the_guest_records_what_a_sound_server_hears(pulse, tmp_path, card):
    """A tone is played into the server; the guest records its monitor, in step with the clock on the wall, for half a second."""
    server, env, _ = pulse
    (tmp_path / 'tone').write_bytes(tone(44100 * 3))
    devices = ['-device', 'ac97,audiodev=s'] if card == 'ac97' else ['-device', 'intel-hda', '-device', 'hda-duplex,audiodev=s']
    player = subprocess.Popen(['pacat', '-p', '-s', server, '-d', 'n', '--raw', '--rate=44100', str(tmp_path / 'tone')], env=env)
    try:
        with Machine(*devices, '-audiodev', f'pa,id=s,server={server},in.name=n.monitor', qtest=True, env=env) as m:
            if card == 'ac97':
                c = Ac97(m)
                m.qt.write(LIST, b''.join(struct.pack('<II', DATA + i * 4000, 2000) for i in range(32)))
                m.qt.outl(c.bm, LIST)
                m.qt.outb(c.bm + 5, 31)
                m.qt.outb(c.bm + 0xb, 1)
            else:
                c = Hda(m, 0x2668)
                m.qt.write(LIST, struct.pack('<QII', DATA, 128000, 0) * 2)
                c.ask(4, 0x70610)
                for off, size, v in ((0x18, 'l', LIST), (8, 'l', 256000), (0xc, 'w', 1), (0x12, 'w', 0x11), (0, 'l', 0x100002)):
                    getattr(m.qt, 'write' + size)(c.base + 0x80 + off, v)
            start = done = time.monotonic()
            while done < start + 0.55:
                time.sleep(0.01)
                now = time.monotonic()
                m.qt.clock_step(int((now - done) * 1e9))
                done = now
            data = m.qt.read(DATA, 24000 * 4)
            assert m.quit() == 0 and m.stderr() == ''
    finally:
        player.kill()
        player.wait()
    v = struct.unpack('<48000h', data)
    left = v[::2]
    ups = [i for i in range(1, len(left)) if left[i - 1] < 0 <= left[i]]
    gaps = [b - a for a, b in zip(ups, ups[1:])]
    assert len(gaps) > 100 and sum(abs(g - 109) <= 2 for g in gaps) > 0.9 * len(gaps), gaps  # 441 Hz at 48000


@pytest.mark.proves('F-AUD-09', 'S237')
def test_no_sound_server_is_said_in_one_line(tmp_path):
    if not glob.glob('/usr/lib/*/libpulse-simple.so.0'):
        pytest.skip('libpulse0 is not installed')
    r = run('-audiodev', f'pa,id=snd0,server=unix:{tmp_path}/none', env={'HOME': str(tmp_path)})
    assert r.returncode == 1 and f'no sound server at unix:{tmp_path}/none' in r.stderr and len(r.stderr.splitlines()) == 1


def beep(q, count=2712):
    """Timer 2 makes a square wave of this many ticks (440 Hz) and the speaker is on."""
    q.outb(0x43, 0xb6)
    q.outb(0x42, count & 0xff)
    q.outb(0x42, count >> 8)
    q.outb(0x61, 3)


@pytest.mark.parametrize('machine', ['pc', 'q35', 'isapc'])
def test_the_speaker_beeps_where_the_machine_says(tmp_path, machine):
    """300 ms of 440 Hz, a pause that is left out, 100 ms of 880 Hz, and what no ear hears."""
    wav = tmp_path / 'a.wav'
    with Machine('-M', f'{machine},pcspk-audiodev=s', '-audiodev', f'wav,id=s,path={wav}', qtest=True) as m:
        beep(m.qt)
        m.qt.clock_step(300_000_000)
        m.qt.outb(0x61, 0)
        m.qt.clock_step(1_000_000_000)
        beep(m.qt, 1356)
        m.qt.clock_step(100_000_000)
        m.qt.outb(0x61, 1)
        beep(m.qt, 20)
        m.qt.clock_step(100_000_000)
        m.quit()
    frames = [f[0] for f in samples(wav)[1]]
    assert abs(len(frames) - 22050) <= 3 and set(frames) == {-8000, 0, 8000} and not any(frames[17650:])
    for part, hz in ((frames[:13220], 440), (frames[13240:17630], 880)):
        ups = [i for i in range(1, len(part)) if part[i - 1] < part[i]]
        assert abs((ups[-1] - ups[0]) / (len(ups) - 1) - 44100 / hz) < 0.1


def test_the_speaker_goes_on_after_a_snapshot(tmp_path):
    disk, wav = tmp_path / 'd.qcow2', tmp_path / 'a.wav'
    assert run('create', '-f', 'qcow2', str(disk), '16M', prog='qemu-img').returncode == 0
    with Machine('-M', 'pc,pcspk-audiodev=s', '-audiodev', f'wav,id=s,path={wav}', '-drive', f'if=none,file={disk},id=d', qtest=True) as m:
        beep(m.qt)
        m.qt.clock_step(50_000_000)
        m.hmp('savevm a')
        m.qt.outb(0x61, 0)
        m.qt.clock_step(50_000_000)
        assert m.hmp('loadvm a').strip() == ''
        m.qt.clock_step(100_000_000)
        m.quit()
    assert abs(len(samples(wav)[1]) - 6615) <= 3


@pytest.mark.parametrize('args,said', [(['-M', 'pc,pcspk-audiodev=s'], 'no audio back end with this id'),
                                       (['-M', 'pc,pit=off,pcspk-audiodev=s', '-audiodev', 'none,id=s'], 'the speaker needs pit=on')])
def test_a_speaker_that_cannot_be_is_refused(args, said):
    r = run(*args)
    assert r.returncode == 1 and said in r.stderr and len(r.stderr.splitlines()) == 1


@pytest.mark.parametrize('model', ['ac97', 'hda', 'pcspk'])
def test_back_end_and_card_in_one_option(tmp_path, model):
    wav = tmp_path / 'a.wav'
    with Machine('-M', 'pc', '-audio', f'wav,model={model},path={wav}', qtest=True) as m:
        if model == 'ac97':
            Ac97(m).play(3200)
        elif model == 'hda':
            Hda(m, 0x2668).play(tone(4800), 0x11)
        else:
            beep(m.qt)
        m.qt.clock_step(60_000_000)
        m.quit()
    assert len(samples(wav)[1]) > 2000


def test_the_cards_of_the_one_option_are_listed():
    for args in (['help'], ['none,model=help']):
        r = run('-audio', *args)
        assert r.returncode == 0 and {'ac97', 'hda', 'pcspk'} <= set(r.stdout.split())


@pytest.mark.proves('F-AUD-08')
def test_no_microphone_is_said_once_and_is_silence(alsa):
    env, _ = alsa
    with Machine('-device', 'ac97,audiodev=s', '-audiodev', 'alsa,id=s,in.dev=nosuch', qtest=True, env=env) as m:
        card = Ac97(m)
        m.qt.write(LIST, struct.pack('<II', DATA, 2000) * 32)
        m.qt.write(DATA, b'x' * 4000)
        for _ in range(3):
            m.qt.outl(card.bm, LIST)
            m.qt.outb(card.bm + 5, 31)
            m.qt.outb(card.bm + 0xb, 1)
            m.qt.clock_step(50_000_000)
            m.qt.outb(card.bm + 0xb, 0)
            m.qt.outb(card.bm + 0xb, 2)
        assert not any(m.qt.read(DATA, 4000)) and m.quit() == 0
        assert len(m.stderr().splitlines()) == 1 and "cannot open 'nosuch' to record" in m.stderr()
