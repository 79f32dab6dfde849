# The main steps of `make demo`, and the servers, inside the image. /data/digits is an image folder of scanned digits;
# /data/tasks/digits.yaml is tasks/digits.yaml with store: /data/store and 12 epochs.
say() { echo "== $*"; time "$@" 2>&1 | tail -2; }
TIMEFORMAT='%1R s'
id -u
touch /x /opt/retrain/x
say retrain --version
say retrain drop pack /data/digits -t digits --classes 7+3 --part 1
say retrain run -t digits
say retrain drop pack /data/digits -t digits --classes 7+3 --part 2
say retrain baseline -t digits
say retrain run -t digits
say retrain watch --once -t digits
retrain exporter -t digits --host 0.0.0.0 &
exporter=$!
retrain watch -t digits &
watcher=$!
sleep 20
python3 -c "
from urllib.request import urlopen
for address in ('9109/healthz', '9110/healthz', '9110/readyz'):
    print(address, urlopen('http://127.0.0.1:' + address).status)"
grep VmHWM "/proc/$exporter/status" "/proc/$watcher/status"
kill "$exporter" "$watcher"
wait "$exporter" && wait "$watcher" && echo both ended cleanly
