#!/usr/bin/env bash
# The testbed's part of the gate, with the real binaries: on `proc` and on `netns`, a life that leaves nothing
# behind (after `down`, Ctrl-C and kill -9), names and connections from inside, and gateway kills at 40 ms round
# trip. It asserts what is reached, not what is wished for; docs/evidence.md has both.
# `netns` needs root; without it that half is not run, which is said. The last line is `N passed, M failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

passed=0 failed=0
place=$(mktemp -d /tmp/tbci.XXXXXX)
export TESTBED_DIR=$place/t
trap '"$testbed" down >/dev/null 2>&1; rm -rf "$place"' EXIT

# check NAME COMMAND...: its output is shown when it fails.
check() {
  local name=$1 begun=$SECONDS
  shift
  if "$@" >"$place/out" 2>&1; then
    passed=$((passed + 1))
    printf 'ok    %4s s  %s\n' $((SECONDS - begun)) "$name"
    grep -E '^(gap|wait|failed) ' "$place/out"
  else
    failed=$((failed + 1))
    printf 'FAIL  %4s s  %s\n' $((SECONDS - begun)) "$name"
    sed 's/^/    /' "$place/out"
  fi
}

# What this machine has that a testbed could leave behind. Kept logs are named after the folder.
traces() {
  grep -sl TOMBOLO_TESTBED_RUN= /proc/[0-9]*/environ | xargs -r grep -sl "TESTBED_DIR=$TESTBED_DIR" | wc -l
  ls /run/netns 2>/dev/null | grep -c '^tb'
  ls -d "$place"/t* 2>/dev/null
  if [ "$(id -u)" = 0 ] && command -v nft >/dev/null; then nft list tables; fi
  ls /sys/class/net
}

nothing_is_left() {
  diff <(echo "$before") <(traces) || { echo "< before, > left behind"; return 1; }
}

# Runs inside the client's cluster; on `proc` that is here.
inside() {
  local shell
  shell=$("$testbed" status | sed -n 's/^a shell in east: \(.*\) bash$/\1/p')
  # Words of a command.
  # shellcheck disable=SC2086
  $shell "$@"
}

names_and_connections() {
  local server address answer
  server=$("$testbed" status | awk '$1 == "east" && $2 == "gateway" { print $6 }')
  address=$(inside dig +short +time=3 -p "${server##*:}" "@${server%:*}" web.shop.svc.clusterset.local) || return 1
  echo "web is $address, says $server"
  answer=$(inside curl -sS --max-time 5 "http://$address:8080/") || return 1
  echo "answered by: $answer"
  [ "$answer" = west ]
}

loads() {
  local kind
  for kind in http-keepalive http-per-connection bulk long-tcp server-first; do
    "$testbed" load --kind "$kind" --rps 5 --bulk-bytes 100000 --for 1s -o json >"$place/load" || return 1
    grep -q '"ok": 5,' "$place/load" || { echo "$kind:"; cat "$place/load"; return 1; }
  done
}

faults() {
  "$testbed" fault partition east west --for 500ms && "$testbed" fault rebind east &&
    "$testbed" fault link east west --one-way --loss 1% && "$testbed" fault stop north/1 &&
    "$testbed" fault cont north/1 && "$testbed" fault kill west/endpoint/1 &&
    "$testbed" fault restart west/endpoint/1 && "$testbed" status
}

# Ends an `up` that has made some processes by a signal.
half_up() {
  local signal=$1 up status until=$((SECONDS + 20))
  "$testbed" up 3 --backend "$backend" &
  up=$!
  until [ "$(grep -sc '"pid"' "$TESTBED_DIR/testbed.json")" -ge 3 ] 2>/dev/null; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.02
  done
  kill "-$signal" $up
  wait $up
  status=$?
  echo "up ended with $status"
  # Too late to end it is as good, for `down` must then end what stands; only kill -9 leaves work for it.
  [ $status = 2 ] || "$testbed" down
}

kills() {
  "$testbed" failover --backend "$backend" --delay 20ms --kill gateway --reps 3 --rps 200 --for 6s "$@"
}

tier() {
  backend=$1
  before=$(traces)
  check "$backend: up" "$testbed" up 3 --backend "$backend" --delay 20ms
  check "$backend: a name and a connection from inside" names_and_connections
  check "$backend: every kind of load" loads
  check "$backend: faults" faults
  check "$backend: down" "$testbed" down
  check "$backend: nothing is left after down" nothing_is_left
  check "$backend: Ctrl-C in the middle of up" half_up INT
  check "$backend: nothing is left after Ctrl-C" nothing_is_left
  check "$backend: kill -9 in the middle of up, then down" half_up KILL
  check "$backend: nothing is left after kill -9" nothing_is_left
  # Late are only those on their way back when the gateway died: no more than two a repetition.
  check "$backend: gateway killed, a connection per request" \
    kills --kind http-per-connection --assert 'gap_p99<1s late<=6 wait_max<4s failed==0 unanswered==0'
  check "$backend: gateway killed, connections that stand" \
    kills --kind http-keepalive --assert 'gap_p99<1s wait_max<4s failed==0 unanswered==0'
  check "$backend: nothing is left after failover" nothing_is_left
}

install_tools() {
  local missing=()
  command -v ip >/dev/null || missing+=(iproute2)
  command -v nft >/dev/null || missing+=(nftables)
  command -v dig >/dev/null || missing+=(bind9-dnsutils)
  command -v curl >/dev/null || missing+=(curl)
  [ ${#missing[@]} = 0 ] && return 0
  [ "$(id -u)" = 0 ] || { echo "not installed, and only root can: ${missing[*]}"; return 1; }
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

cargo build --locked -p tombolo -p testbed || { echo "0 passed, 1 failed"; exit 1; }
testbed=${CARGO_TARGET_DIR:-target}/debug/testbed
check "tools" install_tools
tier proc
if [ "$(id -u)" != 0 ]; then
  echo "netns: NOT RUN, it needs root"
elif [ ! -c /dev/net/tun ]; then
  echo "netns: NOT RUN, this machine has no /dev/net/tun"
else
  tier netns
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
