#!/bin/sh
# clear.sh FOLDER [when-gone]: kills what works below a folder of the tests, and removes that and its network namespaces;
# with a second argument at the end of stdin, which comes however the process at the other end of the pipe ends.
[ -z "$2" ] || cat >/dev/null
kill -9 $(find /proc/[0-9]*/cwd -prune -lname "$1/*" -printf '%h\n' | cut -d/ -f3)
rm -rf "$1"
for namespace in $(ip netns list | cut -d' ' -f1 | grep "^$(basename "$1")-"); do
  ip netns delete "$namespace"
  rm -rf "/etc/netns/$namespace"
done
