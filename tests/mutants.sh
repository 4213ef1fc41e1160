#!/usr/bin/env bash
# Mistakes planted in the code of loans and contracts, one at a time, in a copy of the tree: the host tests must find
# each. Takes about a minute a mistake, and is run by hand when that code or its tests change.
set -euo pipefail
# shellcheck source=tests/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'END'
usage: tests/mutants.sh [TEXT]

  TEXT  only the mistakes whose name contains it
END
}

if (($# > 1)) || [[ ${1:-} == -* ]]; then
    usage
    exit 2
fi
wanted=${1:-}
choose_toolchain
# The crates of others are built once for both trees.
work=$TARGET_DIR/mutants
rm -rf -- "$work"
mkdir -p -- "$work"
(cd -- "$ROOT" && git ls-files -z --cached --others --exclude-standard | tar --null --files-from - --create --ignore-failed-read) |
    tar --extract --directory "$work"
found=0 missed=0

tests() {
    (cd -- "$work" && CARGO_INCREMENTAL=0 rust timeout 900 cargo test --target-dir "$TARGET_DIR" --package carveout \
        "$@") >"$work/log" 2>&1
}
both() { tests --lib -- cma:: && tests --test loans --test promises; }

# mutant NAME FILE OLD NEW: what stands once in a file of kernel/carveout/src, and what stands there instead.
mutant() {
    local name=$1 file=$2
    [[ $name == *"$wanted"* ]] || return 0
    cp -- "$ROOT/kernel/carveout/src/$file" "$work/kernel/carveout/src/$file"
    OLD=$3 NEW=$4 perl -0777 -i -pe \
        '$n = s/\Q$ENV{OLD}\E/$ENV{NEW}/g; END { exit($n == 1 ? 0 : 1) }' "$work/kernel/carveout/src/$file" ||
        die "$name: kernel/carveout/src/$file does not hold that once: $3"
    if both; then
        echo "MISSED  $name"
        missed=$((missed + 1))
    elif grep -q '^error: could not compile' "$work/log"; then
        cat -- "$work/log" >&2
        die "$name: it does not compile"
    else
        # One that hangs is found too.
        echo "found   $name: $(sed -n "s/^thread '\(.*\)' .*panicked.*/\1/p; s/^test \(.*\) has been running.*/\1/p" \
            "$work/log" | sort -u | sed -n 1p)"
        found=$((found + 1))
    fi
    cp -- "$ROOT/kernel/carveout/src/$file" "$work/kernel/carveout/src/$file"
}

both || { cat -- "$work/log" >&2 && die "the tests fail with no mistake planted"; }

mutant 'I6: a movable budget brings no refuge' cma/loan/mod.rs \
    'self.refuge.add(part);' ''
mutant 'I6: a window is taken with an open page in it' cma/loan/cost.rs \
    '!(self.held | self.open)' '!self.held'
mutant 'I6: an open guest of the refuge is forgotten' cma/loan/mod.rs \
    '!books[borrower].pages[page].open' '!books[borrower].pages[page].moving'
mutant 'I6: a page that holds bytes is moved without them' dma/loan.rs \
    'if *written {' 'if !*written {'
mutant 'I6: a moved page stays where it was' cma/loan/mod.rs \
    'LoanPlace::Refuge(to[n])' 'page.place'
mutant 'I7: a closure holds contract memory' cma/loan/mod.rs \
    'if for_closure && self.occupancy.is_held(frame) =>' \
    'if for_closure && self.occupancy.is_held(frame) && frame == 0 =>'
mutant 'I7: an idle slot is anybody'\''s' cma/area/slots.rs \
    'free_in(&mut self.runs, frames, true);' 'free_in(&mut self.runs, frames, false);'
mutant 'I7: a request spills into a larger class' cma/contract.rs \
    'class.shape.0 >= frames && aligned(class)' 'class.shape.0 >= frames && aligned(class) && !class.idle.is_empty()'
mutant 'I7: a request gets a slot of another alignment' cma/contract.rs \
    'class.shape.0 >= frames && aligned(class)' 'class.shape.0 >= frames'
mutant 'I7: a window that was taken is still to be had' cma/area/alloc.rs \
    '        self.hold(frames);
        self.reclaim(frames, false)' '        self.reclaim(frames, false)'
mutant 'I7: a page is evicted from a slot that was taken' cma/loan/mod.rs \
    'if page.open || page.moving {' 'if page.open {'
mutant 'I7: a slot is taken while a page is evicted from it' cma/loan/mod.rs \
    '        self.occupancy.set_open(frame, true);
        true' '        true'
mutant 'I1: a page is evicted while a copy has it open' cma/loan/mod.rs \
    'if page.open || page.moving {' 'if page.moving {'
mutant 'I1: a page is opened twice' cma/loan/mod.rs \
    '_ if open => return Err(refused(LoanError::InUse { page: n })),' ''
mutant 'I5: a page keeps its bytes for the next loan' cma/loan/mod.rs \
    'book.pages[n].written = false;' ''
mutant 'I5: a first look finds what the frame held' dma/loan.rs \
    'if zero {' 'if zero && false {'
mutant 'a handle is good with another borrower' cma/loan/books.rs \
    'head.loan == loan.number' 'head.loan != 0'
mutant 'I6: a turn is taken before those that were asked for' dma/loan.rs \
    'while self.now.load(Ordering::Acquire) != number {' 'while false {'
mutant 'I7: pages of a slot are opened while it is waited for' cma/loan/mod.rs \
    'if self.slots_awaited > 0 && self.occupancy.is_held(frame) =>' \
    'if self.slots_awaited > 0 && self.occupancy.is_held(frame) && frame == 0 =>'
mutant 'a handle outlives its loan' cma/loan/books.rs \
    'self.pages[loan.first as usize].loan = 0;' ''
mutant 'a discarded page is not told to its borrower' cma/loan/mod.rs \
    '            books[borrower].pages[page].place = LoanPlace::Gone;
' ''
mutant 'what the reserve lacks is lent' cma/area/borrow.rs \
    'idle.saturating_sub(self.reserve.stock.saturating_sub(zeroing))' 'idle'
mutant 'moves come before discards' cma/loan/cost.rs \
    '(dear & mask).count_ones() * extra(n)' '0 * extra(n)'

echo "$found found, $missed missed"
((missed == 0))
