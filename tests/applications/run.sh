#!/usr/bin/env bash
# Real applications through the proxy: PostgreSQL (client speaks first, sessions live long), MariaDB and OpenSSH
# (the server speaks first), each from Debian, each reached by its name and virtual IP in another cluster. Then sessions
# that stand (replication, a Redis subscriber, SSH, a gRPC stream) in a testbed, through NAT rebinds, a blackout and a killed gateway.
# Two gateways on 127.83.0.0/24, a folder of its own, nothing left behind. Installs what is missing when it is root.
# The last line is that of cargo's tests, so that the gate can add it up.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

passed=0 failed=0 pids=()
place=$(mktemp -d /tmp/tombolo-applications.XXXXXX)
chmod 755 "$place"

finish() {
  local pid
  [ ! -e "$place/t" ] || "$testbed" down >/dev/null 2>&1
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
  rm -rf "$place"
}
trap finish EXIT

# check NAME COMMAND...: its output is shown when it fails.
check() {
  local name=$1 begun=$SECONDS
  shift
  if "$@" >"$place/out" 2>&1; then
    passed=$((passed + 1))
    printf 'ok    %3s s  %s\n' $((SECONDS - begun)) "$name"
  else
    failed=$((failed + 1))
    printf 'FAIL  %3s s  %s\n' $((SECONDS - begun)) "$name"
    tail -20 "$place/out" | sed 's/^/    /'
  fi
}

# within SECONDS COMMAND...: until it succeeds.
within() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { echo "not within the time: $*"; return 1; }
    sleep 0.1
  done
}

# Databases refuse to serve as root. Words before a command, so that a server's pid is its own.
nobody=(env HOME="$place")
[ "$(id -u)" != 0 ] || nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups "${nobody[@]}")

install_tools() {
  local missing=()
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
  command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] || missing+=(mariadb-server)
  command -v mariadb >/dev/null || missing+=(mariadb-client)
  [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
  command -v ssh >/dev/null || missing+=(openssh-client)
  command -v redis-server >/dev/null || missing+=(redis-server)
  command -v etcd >/dev/null || missing+=(etcd-server)
  command -v etcdctl >/dev/null || missing+=(etcd-client)
  command -v dig >/dev/null || missing+=(bind9-dnsutils)
  [ ${#missing[@]} = 0 ] && return 0
  [ "$(id -u)" = 0 ] || { echo "not installed, and only root can: ${missing[*]}"; return 1; }
  # At run level 1 the packages do not start their own servers.
  apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

start_postgres() {
  local bin
  bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
  "${nobody[@]}" "$bin/initdb" -D "$place/db/postgres" -U tester --auth=trust --no-sync >"$place/db/initdb.log" 2>&1 ||
    { cat "$place/db/initdb.log"; return 1; }
  "${nobody[@]}" "$bin/postgres" -D "$place/db/postgres" -h 127.83.0.3 -p 5432 -k "$place/db" >"$place/db/postgres.log" 2>&1 &
  pids+=($!)
  within 30 psql -h 127.83.0.3 -p 5432 -U tester -d postgres -c 'select 1' || { cat "$place/db/postgres.log"; return 1; }
}

start_mariadb() {
  "${nobody[@]}" mariadb-install-db --no-defaults --datadir="$place/db/maria" --auth-root-authentication-method=normal \
    --skip-test-db >"$place/db/install.log" 2>&1 || { cat "$place/db/install.log"; return 1; }
  "${nobody[@]}" "$(PATH=$PATH:/usr/sbin command -v mariadbd)" --no-defaults --datadir="$place/db/maria" --bind-address=127.83.0.3 --port=3306 \
    --socket="$place/db/maria.sock" --pid-file="$place/db/maria.pid" >"$place/db/maria.log" 2>&1 &
  pids+=($!)
  within 30 mariadb --no-defaults -S "$place/db/maria.sock" -u root -e 'select 1' || { cat "$place/db/maria.log"; return 1; }
  mariadb --no-defaults -S "$place/db/maria.sock" -u root \
    -e "create database shop; create user tester identified by 'secret'; grant all on shop.* to tester"
}

start_sshd() {
  mkdir -p "$place/ssh"
  [ -d /run/sshd ] || [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
  ssh-keygen -q -t ed25519 -N '' -f "$place/ssh/host" && ssh-keygen -q -t ed25519 -N '' -f "$place/ssh/user" || return 1
  cp "$place/ssh/user.pub" "$place/ssh/authorized"
  chmod 600 "$place/ssh/authorized"
  /usr/sbin/sshd -D -e -f /dev/null -p 2222 -h "$place/ssh/host" -o ListenAddress=127.83.0.3 \
    -o AuthorizedKeysFile="$place/ssh/authorized" -o StrictModes=no -o PermitRootLogin=yes -o UsePAM=no \
    -o PidFile=none >"$place/ssh/log" 2>&1 &
  pids+=($!)
  within 10 bash -c 'exec 3<>/dev/tcp/127.83.0.3/2222' || { cat "$place/ssh/log"; return 1; }
}

start_redis() {
  "${nobody[@]}" redis-server --bind 127.83.0.3 --port 6379 --save '' --dir "$place/db" >"$place/db/redis.log" 2>&1 &
  pids+=($!)
  within 10 redis-cli -h 127.83.0.3 ping || { cat "$place/db/redis.log"; return 1; }
}

# gRPC: a watch is a stream each way for as long as it lasts.
start_etcd() {
  "${nobody[@]}" etcd --data-dir "$place/db/etcd" --listen-client-urls http://127.83.0.3:2379 \
    --advertise-client-urls http://127.83.0.3:2379 --listen-peer-urls http://127.83.0.3:2380 >"$place/db/etcd.log" 2>&1 &
  pids+=($!)
  within 30 etcd_here endpoint health || { tail -20 "$place/db/etcd.log"; return 1; }
}

etcd_here() { ETCDCTL_API=3 etcdctl --endpoints http://127.83.0.3:2379 "$@"; }

# gateway CLUSTER ADDRESS FLAG...: stands when it says it is ready.
gateway() {
  local cluster=$1 address=$2
  shift 2
  "$tombolo" run --cluster "$cluster" --state "$place/$cluster" --listen "$address:7443" --dns "$address:5533" \
    --admin "$address:7070" "$@" >"$place/$cluster.out" 2>"$place/$cluster.log" &
  pids+=($!)
  within 10 grep -q '^next\|^ok' "$place/$cluster.out" || { cat "$place/$cluster.log"; return 1; }
}

start_clusters() {
  gateway east 127.83.0.1 --virtual-ips 127.83.64.0/26 --export pg.db=127.83.0.3:5432 \
    --export maria.db=127.83.0.3:3306 --export ssh.db=127.83.0.3:2222 || return 1
  gateway west 127.83.0.2 --virtual-ips 127.83.128.0/26 || return 1
  "$tombolo" --state "$place/east" token create --allow-private >"$place/token" || return 1
  "$tombolo" --state "$place/west" join - <"$place/token" && resolve_all
}

# The virtual IPs, as a client in west learns them.
resolve_all() {
  local name address
  for name in pg maria ssh; do
    address=$(dig +short +time=3 @127.83.0.2 -p 5533 "$name.db.svc.clusterset.local")
    [ -n "$address" ] || { echo "$name has no address"; return 1; }
    echo "$address" >"$place/address.$name"
  done
}

postgres() { psql -X -A -t -v ON_ERROR_STOP=1 -h "$(cat "$place/address.pg")" -p 5432 -U tester -d postgres "$@"; }
mariadb_west() { MYSQL_PWD=secret mariadb --no-defaults -h "$(cat "$place/address.maria")" -P 3306 -u tester shop -N "$@"; }
ssh_west() {
  ssh -F none -p 2222 -i "$place/ssh/user" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -o LogLevel=ERROR -o IdentitiesOnly=yes "$(id -un)@$(cat "$place/address.ssh")" "$@"
}

# 200,000 rows up by COPY and down again, the same.
postgres_rows() {
  seq 1 200000 | sed 's/$/,a row of text/' >"$place/rows"
  postgres -c 'create table rows (id int, text text)' -c "\\copy rows from '$place/rows' csv" &&
    postgres -c "\\copy (select * from rows order by id) to '$place/back' csv" && cmp "$place/rows" "$place/back"
}

# One session: a transaction, silence for 5 s on both sides, then its temporary table is still there.
postgres_session() {
  local answer
  answer=$({ printf 'begin; create temp table kept as select 42 as n;\n'; sleep 5; printf 'select n from kept; select pg_sleep(5); commit;\n'; } |
    postgres) || return 1
  echo "$answer"
  grep -qx 42 <<<"$answer"
}

# A notification crosses from one session to another that waits for it.
postgres_notify() {
  { printf 'listen orders;\n'; sleep 2; printf 'select 1;\n'; } | postgres >"$place/heard" &
  local listener=$!
  sleep 1
  postgres -c "notify orders, 'paid'" || return 1
  wait $listener
  cat "$place/heard"
  grep -q 'Asynchronous notification "orders" with payload "paid"' "$place/heard"
}

mariadb_rows() {
  mariadb_west -e 'create table items (id int primary key, text varchar(80)); insert into items select seq, repeat("x", 80) from seq_1_to_100000' &&
    [ "$(mariadb_west -e 'select text from items' | wc -l)" = 100000 ] &&
    [ "$(mariadb_west -e 'select sleep(3); select count(*) from items' | tail -1)" = 100000 ]
}

# 20 MB each way over one session a way; the sums are the same.
ssh_bytes() {
  head -c 20000000 /dev/urandom >"$place/random"
  local sum back
  sum=$(sha256sum <"$place/random")
  ssh_west sha256sum <"$place/random" >"$place/there" && [ "$(cat "$place/there")" = "$sum" ] || return 1
  back=$(ssh_west "cat $place/random" | sha256sum)
  [ "$back" = "$sum" ]
}

# A command's own end code, its error stream, and a client that hangs up early.
ssh_ends() {
  ssh_west 'echo on the side >&2; exit 7' 2>"$place/err"
  [ $? = 7 ] && grep -q 'on the side' "$place/err" && [ "$(ssh_west 'yes' 2>/dev/null | head -1)" = y ]
}

# Two clusters with faults on demand; from here on, the names lead there.
start_testbed() {
  local server name
  "$testbed" up --scenario tests/applications/faults.toml --backend proc || return 1
  server=$("$testbed" status | awk '$1 == "east" && $2 == "gateway" { print $6 }')
  for name in pg redis ssh etcd; do
    within 10 bash -c "dig +short +time=3 -p ${server##*:} @${server%:*} $name.db.svc.clusterset.local | tee $place/address.$name | grep -q ." || return 1
  done
}

here() { psql -X -A -t -v ON_ERROR_STOP=1 -h 127.83.0.3 -p 5432 -U tester -d postgres "$@"; }
standby() { psql -X -A -t -v ON_ERROR_STOP=1 -h 127.83.0.3 -p 5433 -U tester -d postgres "$@"; }

# A standby server in east copies the server in west and follows it; a subscriber and a watch wait; a shell stands.
open_sessions() {
  local bin
  bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
  here -c 'create table if not exists said (text text)' || return 1
  "${nobody[@]}" "$bin/pg_basebackup" -h "$(cat "$place/address.pg")" -p 5432 -U tester -D "$place/db/standby" -R --checkpoint=fast || return 1
  "${nobody[@]}" "$bin/postgres" -D "$place/db/standby" -h 127.83.0.3 -p 5433 -k "$place/db" >"$place/db/standby.log" 2>&1 &
  pids+=($!)
  within 30 standby -c 'select 1' || { cat "$place/db/standby.log"; return 1; }
  open_subscriber && open_watch && open_shell && sessions_carry first
}

open_subscriber() {
  redis-cli -h "$(cat "$place/address.redis")" subscribe news >"$place/news" 2>&1 &
  subscriber=$!
  pids+=($subscriber)
  within 10 grep -q '^subscribe' "$place/news" || { cat "$place/news"; return 1; }
}

open_watch() {
  ETCDCTL_API=3 etcdctl --debug --endpoints "http://$(cat "$place/address.etcd"):2379" watch news >"$place/watch" 2>"$place/grpc" &
  watch=$!
  pids+=($watch)
  within 20 watch_hears || { tail -5 "$place/grpc"; return 1; }
}

# Only what is put after it began; when that is, it does not say.
watch_hears() { etcd_here put news open && sleep 0.2 && grep -qx open "$place/watch"; }

open_shell() {
  rm -f "$place/say"
  mkfifo "$place/say"
  ssh_west cat <"$place/say" >"$place/heard" 2>"$place/shell" &
  shell=$!
  pids+=($shell)
  exec 9>"$place/say"
}

# sessions_carry WORD: each of them brings it to the other side, on what stands.
sessions_carry() {
  here -c "insert into said values ('$1')" && (echo "$1" >&9) && redis-cli -h 127.83.0.3 publish news "$1" &&
    etcd_here put news "$1" || return 1
  within 20 bash -c "psql -X -A -t -h 127.83.0.3 -p 5433 -U tester -d postgres -c 'select text from said' | grep -qx '$1'" &&
    within 20 grep -qx "$1" "$place/news" && within 20 grep -qx "$1" "$place/heard" && within 20 grep -qx "$1" "$place/watch"
}

receiver() { standby -c 'select pid from pg_stat_wal_receiver'; }

# sessions_stand WORD COMMAND...: after it, the same sessions carry, on the same connections.
sessions_stand() {
  local word=$1 before
  before=$(receiver)
  shift
  "$@" && sessions_carry "$word" && kill -0 "$subscriber" "$shell" "$watch" || return 1
  ! grep TRANSIENT_FAILURE "$place/grpc" || return 1
  [ -n "$before" ] && [ "$before" = "$(receiver)" ] || { echo "replication began anew"; return 1; }
}

rebinds() { "$testbed" fault rebind east && sleep 1 && "$testbed" fault rebind west && sleep 1; }

blackout() { "$testbed" fault partition east west --for 2s && sleep 3; }

# Each is told that it was cut; none sees an end as if all had been said.
gateway_killed() {
  local log=$place/db/standby.log lines
  lines=$(wc -l <"$log")
  "$testbed" fault kill west/1 || return 1
  within 20 bash -c "! kill -0 $subscriber" && within 20 bash -c "! kill -0 $shell" || return 1
  exec 9>&-
  wait "$shell"
  echo "ssh ended with $?:"
  tail -n 5 "$place/shell" "$place/news" "$place/grpc"
  # Of an end in peace, ssh says that it was closed by the remote host, and Redis that the server closed it.
  grep -q 'reset by peer\|Broken pipe' "$place/shell" && ! grep -q 'closed by remote' "$place/shell" || return 1
  grep -q 'Connection reset by peer' "$place/news" || return 1
  # gRPC does not say why; it says that the stream is gone, and the watch asks again.
  within 20 grep -q TRANSIENT_FAILURE "$place/grpc" && kill -0 "$watch" || return 1
  # Of a reset PostgreSQL says the same as of any end in the middle; an end in peace is "replication terminated".
  within 20 bash -c "tail -n +$((lines + 1)) '$log' | grep -q 'could not receive data from WAL stream'" &&
    ! tail -n +$((lines + 1)) "$log" | grep 'replication terminated' || { tail -n 5 "$log"; return 1; }
}

# Replication and the watch go on by themselves; the others ask again.
gateway_back() {
  "$testbed" fault restart west/1 || return 1
  within 60 ssh_west true && within 60 open_subscriber && open_shell && within 60 sessions_carry back
}

cargo build --locked --workspace --bin tombolo --bin testbed || { echo "test result: FAILED. 0 passed; 1 failed"; exit 1; }
tombolo=${CARGO_TARGET_DIR:-target}/debug/tombolo
testbed=${CARGO_TARGET_DIR:-target}/debug/testbed
export TESTBED_DIR=$place/t
mkdir "$place/db"
[ "$(id -u)" != 0 ] || chown 65534:65534 "$place/db"
check "the applications are installed" install_tools
check "PostgreSQL stands" start_postgres
check "MariaDB stands" start_mariadb
check "OpenSSH stands" start_sshd
check "two clusters joined, three names resolve" start_clusters
check "PostgreSQL: 200,000 rows up and down" postgres_rows
check "PostgreSQL: a session that is silent for 5 s, and a query of 5 s" postgres_session
check "PostgreSQL: a notification between sessions" postgres_notify
check "MariaDB: 100,000 rows and a query of 3 s" mariadb_rows
check "OpenSSH: 20 MB up and down" ssh_bytes
check "OpenSSH: end code, error stream, early hang-up" ssh_ends
check "Redis stands" start_redis
check "etcd stands" start_etcd
check "a testbed stands, four names resolve" start_testbed
check "replication, a subscriber, a watch and a shell stand" open_sessions
check "they live through NAT rebinds on both sides" sessions_stand rebound rebinds
check "they live through a blackout of 2 s" sessions_stand later blackout
check "a killed gateway: each is told by a reset" gateway_killed
check "they come back with the gateway" gateway_back
[ $failed = 0 ] && verdict=ok || verdict=FAILED
echo "test result: $verdict. $passed passed; $failed failed"
[ $failed = 0 ]
