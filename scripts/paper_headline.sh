#!/usr/bin/env bash
# Run the headline rows of Verwimp et al. (Tables 1 and 2b) at the paper's scale on one GPU, with two parallel runs.
#
#   scripts/paper_headline.sh DATA FOLDER [MINUTES]
#
# DATA contains cifar100 (an image folder, tars, or torchvision's files). The store with all records and the page are
# written to FOLDER. The script stops after MINUTES (default: 13). It can be interrupted at any moment: every ended run
# is recorded, and an unfinished run resumes from its newest checkpoint. Call it again with the same FOLDER, here or on
# another machine, to continue. If the store in FOLDER has no drops, the study packs them from DATA.
set -euo pipefail

data=${1:?missing DATA, the folder of the data sets} minutes=${3:-13}
folder=${2:?missing FOLDER, a folder for the store and the page}
study=${STUDY:-verwimp-headline-paper} jobs=${JOBS:-2} device=${DEVICE:-cuda} python=${PYTHON:-python}
end=$((SECONDS + minutes * 60 - ${SPARE_SECONDS:-20}))
mkdir -p "$folder/evidence"

code=0
for seeds in ${SEEDS:-1 2}; do # first all rows with one seed, then all rows with two
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
if ((code == 0 || code >= 124)); then
    "$python" -m retrain study report "$study" --store "$folder/store" --out "$folder/evidence" ||
        echo "paper_headline: no page was written"
fi
case $code in
0) echo "paper_headline: all rows have run" ;;
124 | 137 | 143) echo "paper_headline: the time limit is reached; call it again with $folder to continue" ;;
*) echo "paper_headline: retrain study run ended with code $code" >&2 && exit "$code" ;;
esac
