#!/bin/sh
# Writes zoo.cfg and myid from the environment as the official image does: only where they are absent.
set -eu
config=/conf/zoo.cfg
data=${ZOO_DATA_DIR:-/data}
log=${ZOO_DATA_LOG_DIR:-/datalog}
mkdir -p /conf "$data" "$log"
if [ ! -f "$config" ]; then
    {
        echo "dataDir=$data"
        echo "dataLogDir=$log"
        echo "tickTime=${ZOO_TICK_TIME:-2000}"
        echo "initLimit=${ZOO_INIT_LIMIT:-5}"
        echo "syncLimit=${ZOO_SYNC_LIMIT:-2}"
        echo "autopurge.snapRetainCount=${ZOO_AUTOPURGE_SNAPRETAINCOUNT:-3}"
        echo "autopurge.purgeInterval=${ZOO_AUTOPURGE_PURGEINTERVAL:-0}"
        echo "maxClientCnxns=${ZOO_MAX_CLIENT_CNXNS:-60}"
        echo "standaloneEnabled=${ZOO_STANDALONE_ENABLED:-true}"
        echo "admin.enableServer=${ZOO_ADMINSERVER_ENABLED:-true}"
        echo "4lw.commands.whitelist=${ZOO_4LW_COMMANDS_WHITELIST:-srvr}"
        for line in ${ZOO_CFG_EXTRA:-}; do echo "$line"; done
        for server in $ZOO_SERVERS; do echo "$server"; done
    } > "$config"
fi
[ -f "$data/myid" ] || echo "${ZOO_MY_ID:-1}" > "$data/myid"
exec java -Xmx${ZK_SERVER_HEAP:-128}m -Dorg.slf4j.simpleLogger.defaultLogLevel=info -cp "/usr/share/java/*:/conf" \
    org.apache.zookeeper.server.quorum.QuorumPeerMain "$config"
