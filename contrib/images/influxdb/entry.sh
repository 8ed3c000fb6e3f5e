#!/bin/sh
# As the official image: settings come from the environment, data lies under /var/lib/influxdb.
set -eu
export INFLUXDB_META_DIR="${INFLUXDB_META_DIR:-/var/lib/influxdb/meta}"
export INFLUXDB_DATA_DIR="${INFLUXDB_DATA_DIR:-/var/lib/influxdb/data}"
export INFLUXDB_DATA_WAL_DIR="${INFLUXDB_DATA_WAL_DIR:-/var/lib/influxdb/wal}"
exec "$@"
