#!/bin/sh
# Prepares an empty data directory as the official image does, then becomes the server.
set -eu
data=/var/lib/mysql
mkdir -p "$data" /run/mysqld
chown mysql:mysql "$data" /run/mysqld
# Debian's own settings: an address of its own, and a log for which there is no daemon here.
rm -f /etc/mysql/mariadb.conf.d/*.cnf
for argument in "$@"; do
    # The official image looks at what is asked too.
    [ "$argument" = --wsrep-recover ] && exec mariadbd --user=mysql --datadir="$data" "$@"
done
if [ ! -d "$data/mysql" ]; then
    mariadb-install-db --user=mysql --datadir="$data" --skip-test-db --auth-root-authentication-method=normal >/dev/null
    root=$(cat "$MARIADB_ROOT_PASSWORD_FILE")
    # One statement a line: that is what --bootstrap reads.
    {
        echo "FLUSH PRIVILEGES;"
        echo "ALTER USER root@localhost IDENTIFIED BY '$root';"
        echo "CREATE USER root@'%' IDENTIFIED BY '$root';"
        echo "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;"
        if [ -n "${MARIADB_DATABASE:-}" ]; then echo "CREATE DATABASE $MARIADB_DATABASE;"; fi
        if [ -n "${MARIADB_USER:-}" ]; then
            echo "CREATE USER $MARIADB_USER@'%' IDENTIFIED BY '$(cat "$MARIADB_PASSWORD_FILE")';"
            echo "GRANT ALL ON $MARIADB_DATABASE.* TO $MARIADB_USER@'%';"
        fi
    } | mariadbd --user=mysql --datadir="$data" --bootstrap --wsrep-on=OFF
fi
exec mariadbd --user=mysql --datadir="$data" "$@" 2>&1
