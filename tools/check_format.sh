#!/bin/sh
# Layout: clang-format decides. Without arguments checks every C file of src/ and tests/; --changed only those that
# differ from the branch main; --fix rewrites them. Exit 1 and the names when files differ, 77 when clang-format is
# missing.
cd "$(dirname "$0")/.." || exit 1
command -v clang-format >/dev/null || { echo "format: SKIPPED, clang-format is not installed"; exit 77; }
case "$1" in
--changed) files=$(git diff --name-only --diff-filter=d main -- 'src/*.c' 'src/*.h' 'tests/*.c' 'tests/*.h') ;;
*) files=$(git ls-files 'src/*.c' 'src/*.h' 'tests/*.c' 'tests/*.h') ;;
esac
[ -n "$files" ] || { echo "format: nothing to check"; exit 0; }
if [ "$1" = --fix ]; then
    echo "$files" | xargs clang-format -i
    exit $?
fi
bad=$(echo "$files" | xargs -P "$(nproc)" -n 16 clang-format --dry-run --Werror 2>&1 | sed -n 's/^\([^: ]*\.[ch]\):[0-9]*:[0-9]*: error:.*/\1/p' | sort -u)
[ -z "$bad" ] || echo "$bad" | sed 's/$/: layout differs from .clang-format/'
nr=$(printf '%s' "$bad" | grep -c .)
echo "format: $nr files differ from .clang-format (make format rewrites them)"
[ "$nr" = 0 ]
