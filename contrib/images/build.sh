#!/bin/sh
# Builds images from Debian's packages where no registry can be reached: for `meshd demo --stack`, and for the scenarios of
# `meshd stack`.
#
#   build.sh DIRECTORY [IMAGE...]     leaves DIRECTORY/IMAGE.tar with meshnet-test/IMAGE:test; all images if none is named
#
# Needs root, docker, dockerd, debootstrap, and Debian's mirror. The engine is one of its own, which ends with it.
set -eu
[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 64; }
PATH=$PATH:/usr/sbin:/sbin
missing=
for pair in docker=docker.io dockerd=docker.io debootstrap=debootstrap; do
    command -v "${pair%=*}" >/dev/null || missing="$missing ${pair#*=}"
done
missing=$(echo "$missing" | tr ' ' '\n' | sort -u | tr '\n' ' ')
[ -z "${missing% }" ] || { echo "missing: run  apt-get install$missing" >&2; exit 69; }
[ "$(id -u)" = 0 ] || { echo "images can only be built by root" >&2; exit 77; }

into=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
shift
[ $# -gt 0 ] || set -- zookeeper mariadb influxdb haproxy
suite=${MESHNET_DEBIAN_SUITE:-bookworm}
log=$into/build.log

# One at a time: the second finds what the first has built.
exec 9>"$into/lock"
flock 9
wanted=
for image in "$@"; do
    [ -f "$here/$image/Dockerfile" ] || { echo "there is no image called $image: $(ls -d "$here"/*/ | xargs -n1 basename | tr '\n' ' ')" >&2; exit 64; }
    [ -f "$into/$image.tar" ] || wanted="$wanted $image"
done
[ -n "$wanted" ] || exit 0

work=$(mktemp -d)
export DOCKER_HOST="unix://$work/sock" DOCKER_BUILDKIT=0
dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" -H "$DOCKER_HOST" \
    --iptables=false --ip6tables=false --bridge=none >"$into/engine.log" 2>&1 9>&- &
engine=$!
clean() {
    kill $engine 2>/dev/null || true
    wait $engine || true
    umount -l "$work/exec/netns/default" 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
failed() { echo "$1; the end of $log:" >&2; tail -n 15 "$log" >&2; exit 1; }

: >"$log"
if [ ! -f "$into/base.tar" ]; then
    echo "Debian $suite" >&2
    debootstrap --variant=minbase "$suite" "$work/base" ${MESHNET_DEBIAN_MIRROR:-} >"$log" 2>&1 9>&- || failed "debootstrap failed"
    rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/usr/share/doc/* "$work"/base/usr/share/man/*
    tar -C "$work/base" -cf "$into/base.tar.new" .
    mv "$into/base.tar.new" "$into/base.tar"
    rm -rf "$work/base"
fi
for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    docker info >/dev/null 2>&1 && break
    [ "$second" != 20 ] || { log=$into/engine.log; failed "the container engine does not start"; }
    sleep 1
done
docker import "$into/base.tar" meshnet-test/base:bookworm >>"$log" 2>&1 || failed "the base cannot be imported"
for image in $wanted; do
    echo "image $image" >&2
    docker build --network host -t "meshnet-test/$image:test" "$here/$image" >>"$log" 2>&1 9>&- || failed "image $image cannot be built"
    docker save "meshnet-test/$image:test" -o "$into/$image.tar.new"
    mv "$into/$image.tar.new" "$into/$image.tar"
done
