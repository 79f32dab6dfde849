#!/usr/bin/env bash
# Run the headline rows of Verwimp et al. (Tables 1 and 2b) at the paper's scale on one GPU, two runs at once.
#
#   scripts/paper_headline.sh DATA FOLDER [MINUTES]
#
# DATA holds cifar100 (an image folder, tars, or torchvision's files). FOLDER takes the store with all records, and the
# page. It ends after MINUTES (13 by default). It can be cut off at any moment: every run is recorded when it ends, and
# a run that was under way goes on from its last saved state. Called again with the same FOLDER, here or on another
# machine, it goes on; there the store's drops may be missing, since they are packed again from DATA.
set -euo pipefail

data=${1:?the folder of the data sets} folder=${2:?a folder for the store and the page} minutes=${3:-13}
study=${STUDY:-verwimp-headline-paper} jobs=${JOBS:-2} device=${DEVICE:-cuda} python=${PYTHON:-python}
end=$((SECONDS + minutes * 60 - ${SPARE_SECONDS:-20}))
mkdir -p "$folder/evidence"

code=0
for seeds in ${SEEDS:-1 2}; do # every row with one seed, before any has two
    left=$((end - SECONDS))
    if ((left <= 0)); then
        code=124
        break
    fi
    echo "paper_headline: $left seconds left, rows with $seeds of the study's seeds"
    timeout --signal=TERM --kill-after=15 "$left" "$python" -m retrain study run "$study" --seeds "$seeds" \
        --root "$data" --store "$folder/store" --jobs "$jobs" --device "$device" || code=$?
    ((code == 0)) || break
done
((code == 0 || code >= 124)) && "$python" -m retrain study report "$study" --store "$folder/store" --out "$folder/evidence"
case $code in
0) echo "paper_headline: all rows have run" ;;
124 | 137 | 143) echo "paper_headline: the time is over; call it again with $folder to go on" ;;
*) echo "paper_headline: retrain study run ended with code $code" >&2 && exit "$code" ;;
esac
