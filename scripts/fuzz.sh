#!/usr/bin/env bash
# Runs every fuzz test of the repository for the given time each, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
each=${1:-30s}
grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | while read -r file; do
	grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | while read -r _ name; do
		echo "== $(dirname "$file") $name"
		"${GO:-go}" test "$(dirname "$file")" -run '^$' -fuzz "^${name}\$" -fuzztime "$each" </dev/null
	done
done
