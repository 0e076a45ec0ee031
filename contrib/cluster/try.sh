#!/usr/bin/env bash
# Three JetStream servers and two brokers on loopback, for trying a cluster (docs/cluster.md). Stops them all when it is
# stopped.
#
#   contrib/cluster/try.sh DIR
#
# DIR keeps their data. NATS_SERVER and SEALCAST name the two programs if they are not on the path.
set -euo pipefail

dir=${1:?give a directory for their data}
here=$(cd "$(dirname "$0")" && pwd)
nats=${NATS_SERVER:-nats-server}
sealcast=${SEALCAST:-sealcast}
mkdir -p "$dir"
cd "$dir"

started=()
stop() {
  trap - EXIT INT TERM
  # Only what was started here.
  kill "${started[@]}" 2>/dev/null || true
  wait
}
trap stop EXIT
trap 'exit 0' INT TERM

for n in 1 2 3; do
  sed -e "s/sealcast-1/sealcast-$n/; s/^listen: 127.0.0.1:14221/listen: 127.0.0.1:1422$n/; s/server-1/server-$n/" \
    -e "s/  listen: 127.0.0.1:15221/  listen: 127.0.0.1:1522$n/" "$here/nats-server.conf" >"nats-$n.conf"
  "$nats" -c "nats-$n.conf" >"nats-$n.log" 2>&1 &
  started+=($!)
done

for n in 1 2; do
  # Servers that have just started elect their leaders first: a broker that comes too early says so, and comes again.
  tries=0
  until
    rm -f "broker-$n.link"
    "$sealcast" broker --listen "127.0.0.1:1744$n" --data "broker-$n" --link-file "broker-$n.link" \
      --store nats://127.0.0.1:14221,127.0.0.1:14222,127.0.0.1:14223 >/dev/null 2>"broker-$n.log" &
    broker=$!
    while kill -0 "$broker" 2>/dev/null && ! [ -s "broker-$n.link" ]; do sleep 0.1; done
    [ -s "broker-$n.link" ]
  do
    tries=$((tries + 1))
    if [ "$tries" -ge 30 ]; then
      cat "broker-$n.log" >&2
      exit 1
    fi
    sleep 1
  done
  started+=("$broker")
done

# One link for both: their hosts, and a key each.
one=$(cat broker-1.link)
two=$(cat broker-2.link)
host_two=${two#sealcast://}
link="sealcast://$(h=${one#sealcast://}; echo "${h%%\?*}"),${host_two%%\?*}?${one#*\?}&${two#*\?}"
echo "$link"
wait
