#!/bin/sh
# The first process of a container gets only signals that it asks for.
/marathon_double "$@" &
child=$!
trap 'kill "$child"' TERM INT
wait "$child"
