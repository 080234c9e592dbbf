#!/usr/bin/env bash
# Real applications through the proxy: PostgreSQL (client speaks first, sessions live long), MariaDB and OpenSSH
# (the server speaks first), each from Debian, each reached by its name and virtual IP in another cluster.
# Two gateways on 127.83.0.0/24, a folder of its own, nothing left behind. Installs what is missing when it is root.
# The last line is that of cargo's tests, so that the gate can add it up.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

passed=0 failed=0 pids=()
place=$(mktemp -d /tmp/tombolo-applications.XXXXXX)
chmod 755 "$place"

finish() {
  local pid
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
  "${nobody[@]}" "$bin/initdb" -D "$place/db/postgres" -U tester --auth=trust >"$place/db/initdb.log" 2>&1 ||
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

cargo build --locked --bin tombolo || { echo "test result: FAILED. 0 passed; 1 failed"; exit 1; }
tombolo=${CARGO_TARGET_DIR:-target}/debug/tombolo
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
[ $failed = 0 ] && verdict=ok || verdict=FAILED
echo "test result: $verdict. $passed passed; $failed failed"
[ $failed = 0 ]
