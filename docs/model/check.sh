#!/usr/bin/env bash
# Checks the voting rules exhaustively with spin, and that every planted mistake is found.
# Needs the Debian packages `spin` and `gcc`. Takes about half a minute.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

search() {  # $1: preprocessor options; prints spin's report
    # shellcheck disable=SC2086
    spin $1 -a "$here/simplex.pml"
    gcc -O2 -w -DSAFETY -DCOLLAPSE -DMEMLIM=4096 -o pan pan.c
    ./pan -m200000
}

for options in "-DVIEWS=2 -DANY_ORDER" "-DVIEWS=3" "-DVIEWS=4"; do
    report=$(search "$options")
    states=$(grep -o '[0-9]* states, stored' <<<"$report" | cut -d' ' -f1)
    grep -q 'errors: 0' <<<"$report" && ! grep -qE 'Search not completed|max search depth' <<<"$report" ||
        { echo "$report"; echo "FAILED: $options"; exit 1; }
    echo "holds      $options   ($states states, all of them)"
done

for mistake in FINALIZE_AFTER_NULLIFY NULLIFY_AFTER_FINALIZE TWO_NOTARIZES NO_ANCESTRY \
    NO_GAP_CHECK PARENT_UNCHECKED WEAK_QUORUM NOTHING_FINAL; do
    for options in "-DVIEWS=3" "-DVIEWS=2 -DANY_ORDER"; do
        case "$mistake$options" in  # these need a third view to do harm
            NO_GAP_CHECK*ANY_ORDER | PARENT_UNCHECKED*ANY_ORDER) continue ;;
        esac
        report=$(search "$options -D$mistake") || true
        grep -q 'assertion violated' <<<"$report" ||
            { echo "$report"; echo "NOT FOUND: $mistake $options"; exit 1; }
        echo "found      $mistake $options"
    done
done
