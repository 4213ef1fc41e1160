#!/usr/bin/env bash
# Builds the kernel, boots it in QEMU and runs the demo; given an ELF, boots that instead (cargo's runner).
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/tests/setup.sh"

usage() {
    cat <<'END'
usage: ./qemu-run.sh [OPTION]... [ELF]

Builds the kernel, boots it in QEMU and runs the demo: a JPEG from a disk, through DMA buffers, to the screen.
Installs what is missing. With ELF, boots that program instead and builds nothing: this makes it cargo's runner.

  --board NAME          the board, a folder of boards/ (default: vexpress-a9)
  --image FILE.jpg      the picture on the disk (default: one made for the purpose, target/demo.jpg)
  --screenshot OUT.png  write what the screen shows at the end of the demo
  --window              show the screen in a window; the demo ends when a key is pressed in this terminal
  --append ARGS         further boot arguments; the defaults are cma=64M (a quarter of --memory if that is less) and
                        loglevel=6, and the last of a kind counts
  --dtb FILE            a device tree blob in place of the board's own
  --memory SIZE         RAM, as QEMU's -m takes it (default: the board's, boards/NAME/qemu.args)
  --smp N               number of cores (default: 1)
  --count               let an instruction take a nanosecond of the board's clock, whatever the host does; with
                        --append demo=loans, which says what recalls cost, this is so anyway
  --no-install          install nothing: what is missing is named, and the command ends
  --timeout S           give up after S seconds, 0 for never (default: 120; never with --window)
  --help                this text

The exit code is the guest's; 124 after a timeout; 2 if the command line, a file or the machine is at fault.
END
}

# --- command line ---------------------------------------------------------------------------------------------------

board=vexpress-a9 image='' screenshot='' window='' append='' dtb='' memory='' smp='' limit='' count='' elf=''

while (($#)); do
    case $1 in
    --board | --image | --screenshot | --append | --dtb | --memory | --smp | --timeout)
        (($# > 1)) || die "$1 needs a value"
        case $1 in
        --board) board=$2 ;;
        --image) image=$2 ;;
        --screenshot) screenshot=$2 ;;
        --append) append=$2 ;;
        --dtb) dtb=$2 ;;
        --memory) memory=$2 ;;
        --smp) smp=$2 ;;
        --timeout) limit=$2 ;;
        esac
        shift 2
        ;;
    --window) window=1 && shift ;;
    --count) count=1 && shift ;;
    --no-install) export CARVEOUT_NO_INSTALL=1 && shift ;;
    --help) usage && exit 0 ;;
    -*) die "unknown option $1; see --help" ;;
    *)
        elf=$1
        (($# == 1)) || die "nothing may follow the ELF, but '$2' does"
        shift
        ;;
    esac
done

[[ $board != */* && -f $ROOT/boards/$board/qemu.args ]] ||
    die "no board '$board'; there are: $(cd "$ROOT/boards" && echo */qemu.args | sed 's|/qemu.args||g')"
[[ -z $image || (-f $image && -r $image) ]] || die "no such picture: $image"
[[ -z $image || -s $image ]] || die "the picture is an empty file: $image"
[[ -z $dtb || -f $dtb ]] || die "no such device tree blob: $dtb"
[[ -z $elf || -f $elf ]] || die "no such ELF: $elf"
[[ -z $memory || $memory =~ ^[0-9]+[kKmMgG]?$ ]] || die "--memory takes a size such as 512M, not '$memory'"
[[ -z $smp || $smp =~ ^[1-9][0-9]*$ ]] || die "--smp takes a number of cores, not '$smp'"
[[ " $append " != *' demo=loans '* ]] || count=1
[[ -z $limit || $limit =~ ^[0-9]+$ ]] || die "--timeout takes whole seconds, not '$limit'"
[[ -z $screenshot || -z $window ]] || die "--screenshot and --window exclude each other"
[[ -z $screenshot || -d $(dirname -- "$screenshot") ]] || die "no such folder: $(dirname -- "$screenshot")"

# --- what to boot ---------------------------------------------------------------------------------------------------

# QEMU writes the size it is told into the node of the first bank; of others it knows nothing.
banks=$(grep -c 'device_type = "memory"' "$ROOT/boards/$board/$board.dts" || true)
[[ -z $memory || -n $dtb ]] || ((banks < 2)) ||
    die "--memory sizes the first bank alone, and $board has $banks: give a --dtb that says what there is"

if [[ -z $elf ]]; then
    [[ -d $TARGET_DIR/$TARGET ]] ||
        say 'first run: what is missing is installed, then the kernel is built; about three minutes on two cores'
    require "${EMULATOR[@]}" "${TOOLCHAIN[@]}"
else
    require "${EMULATOR[@]}"
fi

display=none
if [[ -n $window ]]; then
    [[ -n ${DISPLAY:-}${WAYLAND_DISPLAY:-} ]] || die "--window needs a graphical session (DISPLAY is not set)"
    displays=$(qemu-system-arm -display help 2>/dev/null)
    display=$(grep -xm1 -e gtk -e sdl <<<"$displays") ||
        die "--window needs QEMU's gtk or sdl display, on Debian the package qemu-system-gui"
fi

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

if [[ -z $elf ]]; then
    choose_toolchain
    build_demo
    elf=$DEMO_ELF
    if [[ -z $image ]]; then
        build_picture
        "$PICTURE" generate "$work/demo.jpg"
        mv -- "$work/demo.jpg" "$TARGET_DIR/demo.jpg"
        image=$TARGET_DIR/demo.jpg
    fi
fi

flatten "$elf" "$work/kernel.bin" 2>/dev/null || die "not an ELF that can be flattened: $elf"
if [[ -z $dtb ]]; then
    dtb=$work/board.dtb
    dtc -q -I dts -O dtb -o "$dtb" "$ROOT/boards/$board/$board.dts"
    # The tree names the cores that QEMU has, 1 unless it is told otherwise.
    for cpu in $(fdtget -l "$dtb" /cpus 2>/dev/null); do
        ((0x${cpu#*@} < ${smp:-1})) || fdtput -r "$dtb" "/cpus/$cpu"
    done
fi

# QEMU puts the device tree into the middle of a small RAM, so that half of it is more than the largest free run.
cma=64M
if [[ -n $memory ]]; then
    [[ $memory != *[0-9] ]] || memory+=M
    quarter=$(($(numfmt --from=iec "${memory^^}") >> 22))
    ((quarter >= 64)) || cma=${quarter}M
fi
bootargs="cma=$cma loglevel=6 semihosting${append:+ $append}"
# `hold` makes the demo wait for a key while the picture is on the screen.
[[ -z $screenshot$window ]] || bootargs+=" hold"
[[ -n $limit ]] || limit=$([[ -n $window ]] && echo 0 || echo 120)

board_args "$board"
DISK_ARGS=()
[[ -z $image ]] || disk_args "$board" "$image" "$work"
qemu=(timeout --foreground --kill-after=5 "$limit" qemu-system-arm "${BOARD_ARGS[@]}" "${DISK_ARGS[@]}"
    -display "$display" -serial stdio -monitor none -semihosting-config 'enable=on,target=native'
    -kernel "$work/kernel.bin" -dtb "$dtb" -append "$bootargs")
[[ -z $memory ]] || qemu+=(-m "$memory")
[[ -z $smp ]] || qemu+=(-smp "$smp")
[[ -z $count ]] || qemu+=(-accel 'tcg,thread=single' -icount 'shift=0,sleep=off')

# --- running it -----------------------------------------------------------------------------------------------------

# shoot [ADDRESS]: asks QEMU, over the pipes of its machine protocol, for a picture of the screen, or on a board without
# a display for the frame that would be shown, from its physical address.
shoot() {
    local reply command='"screendump", "id": "shot", "arguments": {"filename": "'$work/screen.png'", "format": "png"}'
    [[ -z $1 ]] || command='"pmemsave", "id": "shot", "arguments": {"filename": "'$work/screen.raw'", "val": '$(($1))', "size": 1228800}'
    printf '%s\n' '{"execute": "qmp_capabilities"}' '{"execute": '"$command}" >&4
    while IFS= read -r -t 30 reply <&5; do
        [[ $reply == *'"id": "shot"'* ]] || continue
        [[ $reply == *'"error"'* ]] || return 0
        break
    done
    say "error: QEMU took no screenshot: ${reply:-no answer}"
    rm -f -- "$work"/screen.*
}

# with_screenshot: runs QEMU, passing its serial output on line by line; at the demo's word takes the picture and
# presses the key. Each pipe is opened for both directions, since opening it for one would wait for the other end.
with_screenshot() {
    local line status frame=''
    mkfifo "$work/keys" "$work/qmp.in" "$work/qmp.out"
    exec 3<>"$work/keys" 4<>"$work/qmp.in" 5<>"$work/qmp.out"
    set +e
    "${qemu[@]}" -qmp "pipe:$work/qmp" <"$work/keys" | while IFS= read -r line || [[ -n $line ]]; do
        line=${line%$'\r'}
        printf '%s\n' "$line"
        case $line in
        'picture: no display; it is in memory at '*) frame=${line##* } ;;
        'demo: picture '*', waiting for a key')
            shoot "$frame"
            echo >&3
            ;;
        esac
    done
    status=${PIPESTATUS[0]}
    set -e
    return "$status"
}

status=0
if [[ -n $screenshot ]]; then
    with_screenshot || status=$?
elif [[ -t 0 ]]; then
    "${qemu[@]}" || status=$?
else
    # Not a terminal: whatever feeds this script's input did not mean it for the guest.
    "${qemu[@]}" </dev/null || status=$?
fi

# timeout reports 137 where QEMU had to be killed outright.
if ((status == 124 || status == 137)); then
    say "error: no end after $limit seconds"
    exit 124
fi
if [[ -f $work/screen.raw ]]; then
    choose_toolchain
    build_picture
    "$PICTURE" frame "$work/screen.raw" "$work/screen.png"
fi
if [[ -n $screenshot && -f $work/screen.png ]]; then
    mv -- "$work/screen.png" "$screenshot"
elif [[ -n $screenshot ]]; then
    say "error: no screenshot: the demo did not come to show a picture"
    ((status != 0)) || status=1
fi
exit "$status"
