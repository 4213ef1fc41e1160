# shellcheck shell=bash
# Sourced by every command of the project: finds the tools they need, or installs them with apt. Guarantees:
#
# - A tool is asked, not assumed: it must run, and be of the version, with the parts, that the project needs. It is asked
#   again after an installation. What then does not suffice is an error of one line: what was found, what is needed.
# - What is installed is announced first. Nothing that is installed already is removed for it: where apt would have to
#   remove something for QEMU, QEMU is unpacked into target/tools. The newer QEMU of one check goes into target/tools-10.
# - cargo, rustc, clippy and rustfmt come from one folder, chosen once. Commands that start others pass the choice on.
# - rustup installs only what rust-toolchain.toml names, and not even that where RUSTUP_AUTO_INSTALL=0 is set.
#
# Once that is done, it hands over to xtask.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=armv7a-none-eabi
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
MIN_RUST_MINOR=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' "$ROOT/Cargo.toml")
# Where Debian's packages put programs and libraries; tests/setup-test.sh puts its own folders here.
SYSTEM_BIN=/usr/bin
SYSTEM_LIB=/usr/lib
SYSTEM_RELEASE=/etc/os-release

# Where unpack_emulator puts a QEMU that cannot be installed.
PATH=$TARGET_DIR/tools/bin:$PATH

# die MESSAGE...: one line, exit code 2, as for every mistake of the caller or the machine.
die() {
    echo "error: $*" >&2
    exit 2
}

say() { echo "$*" >&2; }

# --- people wait knowingly ------------------------------------------------------------------------------------------

last_tick=0
# tick TEXT: says how far something is: in place on a terminal, elsewhere in a line at most every ten seconds.
tick() {
    if [[ -t 2 ]]; then
        printf '\r\e[K%.*s' "$((${COLUMNS:-80} - 1))" "$1" >&2
    elif ((SECONDS - last_tick >= 10)); then
        say "$1"
        last_tick=$SECONDS
    fi
}

tick_done() { [[ ! -t 2 ]] || printf '\r\e[K' >&2; }

# --- what is needed -------------------------------------------------------------------------------------------------

# Needs by purpose, as the commands ask for them.
EMULATOR=(qemu-system-arm dtc fdtget fdtput objcopy)
TOOLCHAIN=(cc certificates rust)
INCOHERENT=(c++ cmake make pkg-config libclang)
CARDS=(mformat sfdisk dpkg-deb)
EXAMPLES=(clang ld.lld)

# The programs that the folder of Rust's toolchain must have; a command that checks adds CHECKERS.
RUST_TOOLS=(rustc cargo rustdoc)
CHECKERS=(cargo-clippy clippy-driver cargo-fmt rustfmt)

# packages NEED: Debian's packages that bring it.
packages() {
    case $1 in
    dtc | fdtget | fdtput) echo device-tree-compiler ;;
    objcopy) echo binutils ;;
    cc) echo gcc libc6-dev ;;
    c++) echo g++ ;;
    certificates) echo ca-certificates ;;
    rust)
        echo rustc-web cargo-web rust-web-src lld
        [[ ${RUST_TOOLS[*]} != *clippy* ]] || echo rust-web-clippy rustfmt-web
        ;;
    libclang) echo libclang-dev ;;
    ld.lld) echo lld ;;
    mformat) echo mtools ;;
    sfdisk) echo fdisk ;;
    dpkg-deb) echo dpkg ;;
    # The keys that Debian signs with, on another distribution; and mount, which a container may lack.
    debootstrap) echo debootstrap debian-archive-keyring mount ;;
    *) echo "$1" ;;
    esac
}

# called NEED: its name for people who install it by other means.
called() {
    case $1 in
    cc) echo 'a C compiler (cc) with the C library' ;;
    c++) echo 'a C++ compiler (c++) with its library' ;;
    certificates) echo 'the CA certificates in /etc/ssl/certs' ;;
    rust)
        echo -n "Rust 1.$MIN_RUST_MINOR or later with the target $TARGET"
        [[ ${RUST_TOOLS[*]} != *clippy* ]] || echo -n ', clippy and rustfmt'
        echo " (rustup target add $TARGET)"
        ;;
    libclang) echo "libclang with clang's headers" ;;
    clang) echo 'clang that compiles C for ARMv7-A' ;;
    dtc | fdtget | fdtput) echo "the device tree compiler ($1)" ;;
    qemu-system-arm) echo 'QEMU for ARM (qemu-system-arm)' ;;
    *) echo "$1" ;;
    esac
}

# look NEED: asks whether it is here and suffices. Sets FOUND to what is here, LACKS to what is wrong, empty if nothing is.
look() {
    FOUND='' LACKS=''
    case $1 in
    rust) look_rust ;;
    cc) look_compiler cc c '#include <stdio.h>
int main(void) { return puts("") < 0; }' ;;
    c++) look_compiler c++ c++ '#include <vector>
int main() { return (int)std::vector<int>(1).at(0); }' ;;
    libclang) look_libclang ;;
    clang) look_clang ;;
    certificates) look_certificates ;;
    qemu-system-arm) look_emulator ;;
    objcopy)
        look_command objcopy
        [[ -n $LACKS || $(objcopy --info 2>/dev/null) == *elf32-little* ]] || LACKS='does not know 32-bit ELF'
        ;;
    *) look_command "$1" ;;
    esac
    [[ -z $LACKS ]]
}

# look_command NAME: whether the PATH has it and it runs.
look_command() {
    local path version
    if ! path=$(type -P "$1"); then
        LACKS='not in the PATH'
    elif ! version=$("$path" --version 2>/dev/null </dev/null); then
        FOUND=$path LACKS='does not run'
    else
        FOUND="$path, ${version%%$'\n'*}"
    fi
}

# look_compiler COMMAND LANGUAGE PROGRAM: whether it makes a program that runs.
look_compiler() {
    local dir
    look_command "$1"
    [[ -z $LACKS ]] || return 0
    dir=$(mktemp -d)
    "$1" -x "$2" -o "$dir/program" - <<<"$3" >/dev/null 2>&1 && "$dir/program" >/dev/null ||
        LACKS='makes no program that runs; are its headers and libraries there?'
    rm -rf -- "$dir"
}

# look_clang: whether it compiles a freestanding program for the boards, its own headers included.
look_clang() {
    look_command clang
    [[ -n $LACKS ]] || clang --target="$TARGET" -ffreestanding -fsyntax-only -x c - <<<'#include <stdint.h>' 2>/dev/null ||
        LACKS="compiles nothing for $TARGET"
}

look_certificates() {
    local file
    for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        [[ -z $file || ! -s $file ]] || FOUND=$file
        [[ -z $FOUND ]] || return 0
    done
    LACKS='none found'
}

look_emulator() {
    local machine machines
    look_command qemu-system-arm
    [[ -z $LACKS ]] || return 0
    machines=$(qemu-system-arm -machine help 2>/dev/null)
    while read -r machine; do
        grep -q "^$machine " <<<"$machines" || LACKS=${LACKS:-has no machine $machine}
    done < <(sed -n 's/^machine = "\(.*\)"/\1/p' "$ROOT"/boards/*/board.toml)
}

# look_libclang: as bindgen looks for it, and more: libclang-cpp is another library, and the headers of clang's own stand
# beside the library. The folder found is the one that bindgen is told.
look_libclang() {
    local folder file headers
    for folder in ${LIBCLANG_PATH:+"$LIBCLANG_PATH"} "$(llvm-config --libdir 2>/dev/null)" \
        "$SYSTEM_LIB"/llvm-*/lib "$SYSTEM_LIB"64/llvm*/lib* "$SYSTEM_LIB" "$SYSTEM_LIB"64 "$SYSTEM_LIB"/*-linux-gnu*; do
        for file in "$folder"/libclang.so "$folder"/libclang-*.so "$folder"/libclang.so.* "$folder"/libclang-*.so.*; do
            [[ -f $file ]] || continue
            if [[ $file == */libclang-cpp* ]]; then
                [[ -n $FOUND ]] || FOUND=$file LACKS='is the C++ half only; bindgen loads libclang.so'
                continue
            fi
            FOUND=$file LACKS="clang's own headers (stddef.h) are absent beside it"
            for headers in "$(dirname -- "$(realpath -- "$file")")"/clang/*/include "$SYSTEM_LIB"/llvm-*/lib/clang/*/include \
                "$SYSTEM_LIB"/clang/*/include; do
                if [[ -f $headers/stddef.h ]]; then
                    LACKS=''
                    export LIBCLANG_PATH=$folder
                    return
                fi
            done
        done
    done
    [[ -n $FOUND ]] || LACKS='no libclang.so found'
}

# --- Rust -----------------------------------------------------------------------------------------------------------
#
# Two candidates, in this order. A toolchain that has the target needs no help. Debian's rustc-web builds core and alloc
# from rust-web-src; that takes RUSTC_BOOTSTRAP=1, because build-std is not stable, and a linker.

# look_rust: chooses the toolchain, once. Sets RUST_BIN to its folder and RUST_CORE to `built` or `source`.
look_rust() {
    local user='' found lacks
    if [[ -n ${CARVEOUT_RUST:-} ]]; then
        RUST_BIN=${CARVEOUT_RUST%:*} RUST_CORE=${CARVEOUT_RUST##*:}
    elif [[ -n $(type -P rustc) ]] && may_ask_rustup; then
        user=$(cd "$ROOT" && rustc --print sysroot 2>/dev/null) || user=''
        RUST_BIN=${user:+$user/bin} RUST_CORE=built
    else
        RUST_BIN=''
    fi
    [[ -z $RUST_BIN ]] || look_toolchain
    if [[ -n $RUST_BIN && -z $LACKS ]]; then return; fi
    found=$FOUND lacks=$LACKS FOUND='' LACKS=''
    RUST_BIN=$SYSTEM_BIN RUST_CORE=source
    look_toolchain
    [[ -n $LACKS ]] || return 0
    # What was found first is what its owner knows.
    if [[ -z $FOUND && -n $found ]]; then
        FOUND=$found LACKS=$lacks
    elif [[ -n $found && $found != "$FOUND" ]]; then
        FOUND="$found ($lacks); $FOUND"
    fi
}

# Whether to ask the rustc on the user's PATH at all: rustup's proxy may answer by installing a toolchain, which rustup
# before 1.28 does whatever RUSTUP_AUTO_INSTALL says.
may_ask_rustup() {
    [[ ${RUSTUP_AUTO_INSTALL:-1} != 0 ]] || [[ -z $(type -P rustup) ]] ||
        [[ $(rustup toolchain list 2>/dev/null) == *stable-* ]]
}

# look_toolchain: judges the folder RUST_BIN, of which the programs come and no others.
look_toolchain() {
    local tool version minor='' sysroot missing=()
    for tool in "${RUST_TOOLS[@]}"; do
        if ! version=$("$RUST_BIN/$tool" --version 2>/dev/null </dev/null); then
            missing+=("$tool")
        elif [[ $tool == rustc ]]; then
            FOUND="$version in $RUST_BIN"
            minor=$(sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p' <<<"$version")
        elif [[ $version =~ ^(cargo|rustdoc|clippy)\ (0\.)?1\.([0-9]+) && ${BASH_REMATCH[3]} != "$minor" ]]; then
            LACKS="$tool there is of another version, $version"
        fi
    done
    if [[ -z $minor ]]; then
        LACKS='no rustc that runs'
    elif ((minor < MIN_RUST_MINOR)); then
        LACKS="1.$MIN_RUST_MINOR or later is needed"
    elif ((${#missing[@]})); then
        LACKS="${missing[*]} missing there"
    elif [[ -z $LACKS ]]; then
        sysroot=$("$RUST_BIN/rustc" --print sysroot)/lib/rustlib
        if [[ $RUST_CORE == built ]]; then
            [[ -d $sysroot/$TARGET/lib ]] || LACKS="no target $TARGET"
        elif [[ ! -f $sysroot/src/rust/library/core/src/lib.rs ]]; then
            LACKS="no target $TARGET, and no source of core to build it from"
        elif [[ $(readlink -f -- "$sysroot/src/rust") =~ rustc-1\.([0-9]+) && ${BASH_REMATCH[1]} != "$minor" ]]; then
            LACKS="the source of core there is of another version, 1.${BASH_REMATCH[1]}"
        elif ! "$SYSTEM_BIN/ld.lld" --version >/dev/null 2>&1; then
            LACKS="no linker $SYSTEM_BIN/ld.lld"
        fi
    fi
}

# ask_rustup: has rustup add to the user's toolchain what it lacks, where it may.
ask_rustup() {
    [[ ${RUSTUP_AUTO_INSTALL:-1} != 0 && -n $(type -P rustup) ]] || return 0
    say "installing: Rust's target $TARGET, clippy and rustfmt (rustup)"
    (cd "$ROOT" && rustup --quiet target add "$TARGET" && rustup --quiet component add clippy rustfmt) || true
}

# --- getting it -----------------------------------------------------------------------------------------------------

# require NEED...: returns once all are here and suffice; installs what is not; else ends the command with a line for each.
require() {
    local need missing=() round
    for round in found installed refreshed; do
        missing=()
        for need; do
            # A command that started this one found it already.
            [[ " ${CARVEOUT_FOUND:-} " != *" $need "* ]] || continue
            if look "$need"; then
                CARVEOUT_FOUND+=" $need"
            elif [[ $need == rust && $round == found && -z ${CARVEOUT_NO_INSTALL:-} ]]; then
                ask_rustup
                look rust || missing+=(rust)
            else
                missing+=("$need")
            fi
        done
        if ((${#missing[@]} == 0)); then
            export CARVEOUT_FOUND
            return
        fi
        [[ -z ${CARVEOUT_NO_INSTALL:-} && -n $(type -P apt-get) && $round != refreshed ]] || break
        # Lists that are older than the archive give an older package, and no complaint.
        if [[ $round == installed ]]; then
            ((refreshed == 0)) || break
            say "not enough yet: ${missing[*]}; trying with fresh package lists"
            refresh
        fi
        install_packages "${missing[@]}"
    done
    for need in "${missing[@]}"; do
        look "$need" || say "error: $need: found ${FOUND:-nothing}${LACKS:+: $LACKS}; needed: $(called "$need")$(remedy "$need")"
    done
    exit 2
}

# remedy NEED: the command that brings it.
remedy() {
    if [[ -n $(type -P apt-get) ]]; then
        echo "; to get it: apt-get update && apt-get install $(packages "$1" | tr '\n' ' ')" | sed 's/ *$//'
    elif [[ -z ${CARVEOUT_NO_INSTALL:-} ]]; then
        echo '; this is no Debian: install it by its means, then --no-install says that nothing is to be installed'
    fi
}

# Whether the package lists were fetched by this command.
refreshed=0
APT_LOG=/dev/null
refresh() {
    say 'refreshing: the package lists'
    run_apt update || say "warn: the package lists could not all be fetched: $(apt_reason)"
    refreshed=1
}

# install_packages NEED...: their packages, in one go. Refreshes lists that are absent or name packages that are gone.
install_packages() {
    local need names mib
    names=$(for need; do packages "$need"; done | tr ' ' '\n' | sort -u | tr '\n' ' ')
    read -ra names <<<"$names"
    if ((EUID != 0)) && [[ -z $(type -P sudo) ]]; then
        die "missing: $*; run as root: apt-get update && apt-get install ${names[*]}"
    fi
    APT_LOG=$(mktemp)
    if ! mib=$(download_mib "${names[@]}"); then
        ((refreshed)) || refresh
        if [[ " ${names[*]} " == *' qemu-system-arm '* ]] && stands_in_the_way qemu-system-arm; then
            unpack_emulator
            names=("${names[@]/#qemu-system-arm/}")
            read -ra names <<<"${names[*]}"
            ((${#names[@]})) || return 0
        fi
        mib=$(download_mib "${names[@]}") || give_up "${names[@]}"
    fi
    # Measured: a MiB that is fetched, unpacked and configured takes a third of a second.
    say "installing: ${names[*]} and what they depend on: $mib MiB to fetch, about $((mib / 180 + 1)) min"
    if ! run_apt install "${names[@]}"; then
        ((refreshed == 0)) || give_up "${names[@]}"
        refresh
        run_apt install "${names[@]}" || give_up "${names[@]}"
    fi
    rm -f -- "$APT_LOG"
}

apt_options=(-qq -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300)

# download_mib PACKAGE...: how much apt would fetch for them.
download_mib() {
    LC_ALL=C apt-get "${apt_options[@]}" --print-uris install "$@" 2>"$APT_LOG" |
        awk -v sum=0 '{ sum += $3 } END { print int(sum / 1048576) + 1 }'
}

# run_apt COMMAND ARGUMENT...: apt-get as root, its progress shown; its output goes to APT_LOG.
run_apt() {
    local line as_root=() doing status=0
    ((EUID == 0)) || as_root=(sudo)
    : >"$APT_LOG"
    last_tick=$SECONDS
    "${as_root[@]}" env LC_ALL=C DEBIAN_FRONTEND=noninteractive \
        apt-get "${apt_options[@]}" -o APT::Status-Fd=1 "$@" 2>&1 </dev/null |
        while IFS= read -r line; do
            if [[ $line =~ ^(dlstatus|pmstatus):[^:]*:([0-9]+)[0-9.]*:(.*) ]]; then
                [[ ${BASH_REMATCH[1]} == dlstatus ]] && doing=fetching || doing=installing
                tick "$doing: ${BASH_REMATCH[2]} %: ${BASH_REMATCH[3]}"
            else
                printf '%s\n' "$line" >>"$APT_LOG"
            fi
        done || status=$?
    tick_done
    return "$status"
}

# stands_in_the_way PACKAGE: whether something would have to be removed for it, qemu-utils of another release, say.
stands_in_the_way() { ! download_mib "$1" >/dev/null && [[ $(apt_reason) == *'need to be removed'* ]]; }

# unpack_emulator: QEMU and what it depends on, into a folder of the project's own, where it finds its data and libraries.
unpack_emulator() {
    say "unpacking: qemu-system-arm, into $TARGET_DIR/tools: apt would have to remove other packages to install it; half a minute"
    unpack_qemu "$TARGET_DIR/tools" || give_up qemu-system-arm
}

# unpack_qemu FOLDER APT_OPTION...: QEMU and what it depends on that is not installed. The folder is there once it is whole.
unpack_qemu() {
    local dir=$1 part=$1.part parts=() package library libraries=''
    rm -rf -- "$dir" "$part"
    mkdir -p -- "$part/packages" "$part/bin"
    # Of `Inst NAME [OLD] (NEW ...`, the name and the new version.
    mapfile -t parts < <(LC_ALL=C apt-get -qq -s --no-install-recommends "${@:2}" install qemu-system-arm 2>"$APT_LOG" |
        sed -n 's/^Inst \([^ ]*\) [^(]*(\([^ ]*\) .*/\1=\2/p')
    ((${#parts[@]})) || return 1
    (cd -- "$part/packages" && apt-get -qq "${@:2}" download "${parts[@]}") >"$APT_LOG" 2>&1 || return 1
    for package in "$part"/packages/*.deb; do dpkg-deb -x "$package" "$part" || return 1; done
    rm -r -- "$part/packages"
    for library in "$part"/usr/lib/*-linux-gnu* "$part"/lib/*-linux-gnu*; do
        [[ ! -d $library ]] || libraries+=:$dir${library#"$part"}
    done
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "${libraries#:}" "$dir/usr/bin/qemu-system-arm" >"$part/bin/qemu-system-arm"
    chmod +x -- "$part/bin/qemu-system-arm"
    mv -- "$part" "$dir"
}

# The version of QEMU from which on the Allwinner A10's boot ROM starts a card.
ROM_EMULATOR=10

# has_boot_rom PROGRAM: whether that QEMU runs and is of the version.
has_boot_rom() {
    local version
    version=$("$1" --version 2>/dev/null </dev/null) || return 1
    [[ $version =~ version\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= ROM_EMULATOR))
}

# rom_emulator: prints the path of a QEMU with the boot ROM: the machine's own, or else that of its Debian's backports,
# unpacked into target/tools-10. Neither the machine's packages nor its package lists change. Without one the exit code is 3,
# and the last line says why.
rom_emulator() {
    local dir=$TARGET_DIR/tools-$ROM_EMULATOR own suite archive options
    own=$(type -P qemu-system-arm) || true
    for own in ${own:+"$own"} "$dir/bin/qemu-system-arm"; do
        if has_boot_rom "$own"; then
            echo "$own"
            return
        fi
    done
    suite=$(sed -n 's/^VERSION_CODENAME=//p' "$SYSTEM_RELEASE" 2>/dev/null) || true
    [[ -n $suite && -n $(type -P apt-get) ]] || no_rom_emulator 'no Debian to fetch it from'
    # The mirror that the machine uses for itself.
    # shellcheck disable=SC2016 # apt's own variables
    archive=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^$suite main //p" | head -n 1) || true
    [[ -n $archive ]] || no_rom_emulator "apt has no sources for $suite"
    say "unpacking: qemu-system-arm of $suite-backports, into $dir, for the boot ROM; half a minute"
    mkdir -p -- "$TARGET_DIR/apt-$suite/lists/partial" "$TARGET_DIR/apt-$suite/archives/partial"
    printf 'deb %s %s main\n' "$archive" "$suite" "$archive" "$suite-backports" >"$TARGET_DIR/apt-$suite/sources.list"
    options=(-o "Dir::Etc::SourceList=$TARGET_DIR/apt-$suite/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::lists=$TARGET_DIR/apt-$suite/lists" -o "Dir::Cache=$TARGET_DIR/apt-$suite"
        -o "APT::Default-Release=$suite-backports" -o APT::Sandbox::User= -o Acquire::Languages=none)
    APT_LOG=$(mktemp)
    apt-get -qq "${options[@]}" update >"$APT_LOG" 2>&1 || no_rom_emulator "$(apt_reason)"
    unpack_qemu "$dir" "${options[@]}" || no_rom_emulator "$(apt_reason)"
    has_boot_rom "$dir/bin/qemu-system-arm" || no_rom_emulator "$suite-backports has only an older one"
    rm -f -- "$APT_LOG"
    echo "$dir/bin/qemu-system-arm"
}

no_rom_emulator() {
    say "QEMU $ROM_EMULATOR, which has the boot ROM, cannot be had: $1"
    exit 3
}

# apt_reason: what apt said was wrong, on a line.
apt_reason() { grep -m 1 '^E:' "$APT_LOG" || tail -n 1 "$APT_LOG"; }

give_up() { die "could not install $*: $(apt_reason); to see more: apt-get update && apt-get install $*"; }

# --- what was chosen ------------------------------------------------------------------------------------------------

# doctor: lists every need, where it was found and whether it suffices; installs nothing. Fails if one does not.
doctor() {
    local need status=0 tool version
    RUST_TOOLS+=("${CHECKERS[@]}")
    for need in "${EMULATOR[@]}" "${TOOLCHAIN[@]}" "${INCOHERENT[@]}" "${CARDS[@]}" "${EXAMPLES[@]}"; do
        if look "$need"; then
            printf '%-16s ok       %s\n' "$need" "$FOUND"
        else
            status=1
            printf '%-16s LACKING  %s: %s; packages: %s\n' "$need" "${FOUND:-nothing}" "$LACKS" "$(packages "$need" | tr '\n' ' ')"
        fi
        [[ $need == rust && -z $LACKS ]] || continue
        for tool in "${RUST_TOOLS[@]}"; do
            version=$("$RUST_BIN/$tool" --version 2>/dev/null </dev/null)
            printf '  %-14s ok       %s, %s\n' "$tool" "$RUST_BIN/$tool" "$version"
        done
        if [[ $RUST_CORE == built ]]; then
            printf '  %-14s ok       %s\n' core "built, for $TARGET" linker "rust-lld, the toolchain's own"
        else
            printf '  %-14s ok       %s\n' core 'from source, with RUSTC_BOOTSTRAP=1' linker \
                "$SYSTEM_BIN/ld.lld, $("$SYSTEM_BIN/ld.lld" --version)"
        fi
    done
    return "$status"
}

# choose_toolchain: sets, once rust was required, what host_cargo, target_cargo and xtask need.
choose_toolchain() {
    require "${TOOLCHAIN[@]}"
    if [[ -n ${CARVEOUT_RUST:-} ]]; then RUST_BIN=${CARVEOUT_RUST%:*} RUST_CORE=${CARVEOUT_RUST##*:}; fi
    export CARVEOUT_RUST=$RUST_BIN:$RUST_CORE CARVEOUT_TARGET_ENV='' CARVEOUT_TARGET_FLAGS="--target $TARGET"
    if [[ $RUST_CORE == source ]]; then
        CARVEOUT_TARGET_ENV="RUSTC_BOOTSTRAP=1 CARGO_TARGET_ARMV7A_NONE_EABI_LINKER=$SYSTEM_BIN/ld.lld"
        # Tests otherwise ignore the profile's panic = "abort", and core would be built twice, in two incompatible ways.
        CARVEOUT_TARGET_FLAGS+=' -Zbuild-std=core,alloc -Zpanic-abort-tests'
    fi
}

# host_cargo COMMAND ARGS...: cargo for this machine, in the workspace, with the chosen toolchain first in the PATH.
host_cargo() { (cd "$ROOT" && PATH=$RUST_BIN:$PATH cargo "$@"); }

# target_cargo COMMAND ARGS...: the same for the boards.
target_cargo() {
    local words=() flags=()
    read -ra words <<<"$CARVEOUT_TARGET_ENV"
    read -ra flags <<<"$CARVEOUT_TARGET_FLAGS"
    (cd "$ROOT" && PATH=$RUST_BIN:$PATH env "${words[@]}" cargo "$1" "${flags[@]}" "${@:2}")
}

# --- xtask ----------------------------------------------------------------------------------------------------------

# xtask COMMAND NEED... -- ARG...: runs a command of xtask/, in place of this script, once it has what it needs.
xtask() {
    local command=$1 needs=() arg program=$TARGET_DIR/xtask/debug/xtask
    shift
    while [[ $1 != -- ]]; do
        needs+=("$1")
        shift
    done
    shift
    for arg; do
        case $arg in
        --help) exec cat -- "$ROOT/xtask/help/$command.txt" ;;
        --no-install) export CARVEOUT_NO_INSTALL=1 ;;
        esac
    done
    require "${needs[@]}"
    # Under cargo this is its runner, and cargo is what builds.
    if [[ -z ${CARGO_MANIFEST_DIR:-} || ! -x $program ]]; then
        choose_toolchain
        [[ -x $program ]] || say 'building: xtask, which builds, boots and checks the rest; half a minute'
        # A folder of its own: no other build waits for this one. That nothing was to be done is no news.
        host_cargo build --package xtask --target-dir "$TARGET_DIR/xtask" 2>&1 | sed -u '/^ *Finished /d' >&2 ||
            die 'xtask did not build'
    fi
    export CARVEOUT_ROOT=$ROOT
    exec "$program" "$command" "$@"
}
