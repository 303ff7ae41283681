#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each (default 10s).
set -euo pipefail
time=${1:-10s}
cd "$(dirname "$0")/.."

# Up to Go 1.26 the end of the time can be taken for a failure (go.dev/issue/75804). No input is written then, and the
# target runs once more.
fuzz() {
	local dir=$1 target=$2 try out
	for try in 1 2 3; do
		if out=$(go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" </dev/null 2>&1); then
			tail -n 2 <<<"$out"
			return 0
		fi
		if grep -qE 'Failing input written|^panic:' <<<"$out" || ! grep -q '^ *context deadline exceeded$' <<<"$out"; then
			break
		fi
	done
	printf '%s\n' "$out"
	return 1
}

grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -rhoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | awk '{print $2}' | while read -r target; do
		echo "== $dir $target"
		fuzz "$dir" "$target"
	done
done
