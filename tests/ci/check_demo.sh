#!/usr/bin/env bash
# Reads what `tombolo demo --once -o json` printed and says what is missing from its promise; see STEPS in .ci/run.
# Usage: check_demo.sh FILE SECONDS
set -u
file=$1 seconds=$2 wrong=0

# The number of a key in a line of JSON, or nothing.
number() { sed -n "s/.*\"$2\" *: *\([0-9][0-9]*\)\(\.[0-9]*\)\{0,1\}[^0-9].*/\1/p" <<<"$1"; }

# The lines of one kind of event.
events() { grep -E "\"event\" *: *\"$1\"" "$file"; }

expect() {
  if [ "$2" "$3" "$4" ] 2>/dev/null; then
    echo "ok      $1: $2"
  else
    echo "WRONG   $1: '$2', wanted $3 $4"
    wrong=1
  fi
}

expect "seconds" "$seconds" -lt 20
expect "failovers" "$(events failover | wc -l)" -eq 2
while read -r line; do
  expect "gap in milliseconds" "$(number "$line" gap_ms)" -lt 1000
  expect "failed at the failover" "$(number "$line" failed)" -eq 0
done < <(events failover)
expect "summaries" "$(events summary | wc -l)" -eq 1
summary=$(events summary)
expect "clusters joined" "$(number "$summary" joined)" -eq 3
expect "requests" "$(number "$summary" requests)" -gt 0
expect "failed in all" "$(number "$summary" failed)" -eq 0
exit $wrong
