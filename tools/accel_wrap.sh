#!/bin/bash
# Runs the emulator it is named after with more properties for the translator: LYREBIRD_ACCEL_SET, such as "links=off".
# The test suites start this in the emulator's place when that variable is set (tests/conftest.py); LYREBIRD_REAL is the
# folder of the programs. Other accelerators are left alone.
args=()
seen=
while [ $# -gt 0 ]; do
    case $1 in
    -accel | --accel)
        seen=1
        case ${2-} in
        tcg | tcg,* | dbt | dbt,*) args+=("$1" "$2,$LYREBIRD_ACCEL_SET") ;;
        *) args+=("$1" ${2+"$2"}) ;;
        esac
        shift
        ;;
    -enable-kvm | -qtest | -h | -help | --help | -version | --version | accel=* | *,accel=*)
        seen=1
        args+=("$1")
        ;;
    *) args+=("$1") ;;
    esac
    shift
done
[ "$seen" ] || args+=(-accel "tcg,$LYREBIRD_ACCEL_SET")
exec -a "$0" "$LYREBIRD_REAL/$(basename "$0")" "${args[@]}"
