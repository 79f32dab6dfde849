#!/usr/bin/env bash
# Run a command in the image as Kubernetes does with the chart: as uid 65532, on a read-only root, with volumes at /tmp
# and /cache. Call it as root on a machine with buildah but no container engine:
#   docs/evidence/image/run.sh IMAGE VOLUME COMMAND...    VOLUME is mounted at /data, its tasks/ at /etc/retrain/tasks
# With docker: docker run --read-only --tmpfs /tmp --tmpfs /cache --volume VOLUME:/data --entrypoint COMMAND IMAGE ...
set -euo pipefail
container=$(buildah from --pull=never "$1")
image=$(buildah mount "$container")
trap 'buildah umount "$container" >/dev/null; buildah rm "$container" >/dev/null' EXIT
mkdir -p "$image"/{data,dev,proc,etc/retrain/tasks} # as a container engine does
cp /etc/{hosts,resolv.conf} "$image/etc"

unshare --mount --pid --fork bash -euo pipefail -s "$image" "$(realpath "$2")" "${@:3}" <<'INSIDE'
root=$(mktemp --directory)
mount --bind "$1" "$root"
mount --options remount,ro,bind "$root"
mount --types proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --types tmpfs --options mode=1777 tmpfs "$root/tmp"
mount --types tmpfs --options mode=1777 tmpfs "$root/cache"
mount --bind "$2" "$root/data"
mount --bind "$2/tasks" "$root/etc/retrain/tasks"
exec env --ignore-environment PATH=/opt/retrain/bin:/usr/bin:/bin HOME=/tmp OMP_NUM_THREADS=1 \
  RETRAIN_CACHE=/cache RETRAIN_TASKS=/etc/retrain/tasks /usr/sbin/chroot --userspec=65532:65532 "$root" "${@:3}"
INSIDE
