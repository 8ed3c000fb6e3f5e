#!/bin/sh
# Builds the images that the scenarios of `meshd stack` run, from Debian's packages, with a Docker engine that this
# starts for itself: build.sh DIRECTORY leaves DIRECTORY/NAME.tar. Needs root, dockerd, docker, debootstrap, and Debian's mirror.
set -eu
into=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
export DOCKER_HOST="unix://$work/sock" DOCKER_BUILDKIT=0
dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" \
    --iptables=false --ip6tables=false --bridge=none >"$into/build-engine.log" 2>&1 &
engine=$!
trap 'kill $engine; wait $engine || true; rm -rf "$work"' EXIT
for second in 1 2 3 4 5 6 7 8 9 10; do docker info >/dev/null 2>&1 && break; sleep 1; done
debootstrap --variant=minbase bookworm "$work/base" >/dev/null
rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/usr/share/doc/* "$work"/base/usr/share/man/*
tar -C "$work/base" -c . | docker import - meshnet-test/base:bookworm
for image in zookeeper mariadb; do
    docker build -q --network host -t "meshnet-test/$image:test" "$here/$image"
    docker save "meshnet-test/$image:test" -o "$into/$image.tar.new"
    mv "$into/$image.tar.new" "$into/$image.tar"
done
