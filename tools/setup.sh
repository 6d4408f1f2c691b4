#!/bin/sh
# Installs the Debian packages a stage lacks, saying so first. Usage: tools/setup.sh build|run|check
# Does nothing, and needs no network or rights, when everything is there. Uses sudo only when not root.
set -eu
build="gcc libc6-dev meson ninja-build pkg-config python3 libjson-c-dev libcmocka-dev libpng-dev zlib1g-dev libslirp-dev
       libzstd-dev libbz2-dev liburing-dev libgcrypt20-dev libcurl4-gnutls-dev libgnutls28-dev"
run="seabios ipxe-qemu e2fsprogs dpkg apt"
check="git python3-pytest clang-format mmdebstrap uidmap acpica-tools ovmf mtools dosfstools grub-common grub-pc-bin grub-efi-amd64-bin
       xorriso qemu-utils qemu-system-x86 pciutils socat genisoimage fdisk qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross binutils-aarch64-linux-gnu
       gcc-riscv64-linux-gnu libc6-dev-riscv64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross binutils-arm-linux-gnueabihf
       gdb-multiarch gcc-12-multilib libc6-dev-i386 gdb util-linux strace libvmdk-utils libqcow-utils libvhdi-utils python3-libluksde fuse netcat-openbsd ncat iproute2 pulseaudio pulseaudio-utils debootstrap btrfs-progs dmsetup"
case "${1:-}" in
build) want=$build ;;
run) want=$run ;;
check) want=$check ;;
*) echo "usage: tools/setup.sh build|run|check" >&2; exit 2 ;;
esac
lack=
for p in $want; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || lack="$lack $p"
done
[ -n "$lack" ] || exit 0
as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "missing packages:$lack; install them as root (there is no sudo here)" >&2; exit 1; }
    as_root=sudo
fi
echo "To $1, these Debian packages are missing and will be installed now:$lack"
stamp=/var/lib/apt/lists
if [ -z "$(find $stamp -maxdepth 1 -name '*Packages*' -mmin -1440 2>/dev/null | head -1)" ]; then
    $as_root apt-get -qq update
fi
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $lack >/dev/null
