#!/bin/sh
# Builds an image of meshd from a program that is built already, with the engine that `docker` talks to:
#
#   build.sh PROGRAM [IMAGE]          IMAGE is meshd:latest unless given
#
# A static program (cargo build --release --target x86_64-unknown-linux-musl) makes the smallest image; of one that is linked
# with libraries, those come along, and the C library's resolver with them. No registry is needed.
#
# Run it with the machine's network, the right to make a device, and nothing else:
#   docker run -d --name meshd --network host --cap-drop ALL --cap-add NET_ADMIN --device /dev/net/tun --read-only \
#       --security-opt no-new-privileges --tmpfs /run --restart unless-stopped -v /var/lib/meshd:/var/lib/meshd IMAGE
set -eu
[ $# -ge 1 ] && [ -f "$1" ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 64; }
program=$1 image=${2:-meshd:latest}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/rootfs
mkdir -p "$root/usr/bin" "$root/var/lib/meshd" "$root/etc" "$root/run" "$root/tmp"
chmod 700 "$root/var/lib/meshd"
install -m 755 "$program" "$root/usr/bin/meshd"
strip "$root/usr/bin/meshd" 2>/dev/null || true

# Libraries where the linker looks for them, and those that the C library loads by itself to look names up.
libraries=$(ldd "$program" 2>/dev/null | grep -o '/[^ ]* (0x' | sed 's/ (0x//' || true)
if [ -n "$libraries" ]; then
    libc=$(echo "$libraries" | grep '/libc\.so' || true)
    for name in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
        [ -z "$libc" ] || [ ! -e "$(dirname "$libc")/$name" ] || libraries="$libraries $(dirname "$libc")/$name"
    done
    for library in $libraries; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    echo "hosts: files dns" >"$root/etc/nsswitch.conf"
fi
cp "$here/Dockerfile" "$work/Dockerfile"
DOCKER_BUILDKIT=0 docker build -q -t "$image" "$work" 2>&1 | grep -v -e DEPRECATED -e BuildKit -e environment-variable -e '^$' || true
docker image inspect --format "$image {{.Size}} bytes" "$image"
