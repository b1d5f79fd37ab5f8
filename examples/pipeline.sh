#!/bin/sh
# From a trained network to a served version without one of its classes, as a pipeline calls it.
# It stops at the first stage that fails, with that stage's exit code: 2 something asked for cannot
# be done, 3 the gate is missed, 4 the graph does not compute what PyTorch does, 5 a file is not what
# it should be. Nothing is published then.
#
# Set any of these in the environment. Once before:
#   bandstop train --arch resnet --data digits --out base.safetensors && bandstop keygen release.pem
set -eu

BANDSTOP=${BANDSTOP:-bandstop}
MODEL=${MODEL:-base.safetensors}    # the trained network
DATA=${DATA:-digits}                # what it was trained on
FORGET=${FORGET:-3}                 # the class, by name or index
METHOD=${METHOD:-svd}
GATE=${GATE:-$(dirname "$0")/gate.yaml}
KEY=${KEY:-release.pem}             # the private key; KEY.pub is the public one
REPO=${REPO:-models}                # the Triton model repository
NAME=${NAME:-digits_forgotten}      # of the model in it
WORK=${WORK:-work}                  # a new folder; kept, since it holds the evidence

stage() {
  echo "pipeline: $1" >&2
  "$BANDSTOP" "$@"
}
trap 'code=$?; [ "$code" -eq 0 ] || echo "pipeline: stopped with exit code $code" >&2' EXIT

if ! mkdir "$WORK"; then
  exit 2
fi
stage unlearn "$METHOD" --model "$MODEL" --data "$DATA" --forget "$FORGET" --out "$WORK/artifact"
stage evaluate "$WORK/artifact" --data "$DATA" --original "$MODEL" --metrics accuracy,loss \
  --out "$WORK/evidence"
stage gate "$WORK/evidence" -c "$GATE" --junit "$WORK/gate.xml"
stage export "$WORK/artifact" --mode baked --data "$DATA" --out "$WORK/release"

# a release that replaces a signed one names it, so that the old one can be refused from now on
newest=$(find "$REPO/$NAME" -path '*/[1-9]*/signature.json' 2>/dev/null |
  sed 's,/signature.json$,,; s,.*/,,' | sort -n | tail -n 1)
set -- --model "$NAME"
if [ -n "$newest" ]; then
  set -- "$@" --parent "$REPO/$NAME/$newest"
fi
stage sign "$WORK/release" --key "$KEY" "$@"
stage verify "$WORK/release" --key "$KEY.pub" --model "$NAME"

# the repository is touched here for the first time; the version appears whole or not at all
published=$(stage repo publish "$WORK/release" "$REPO" --model "$NAME")
version=${published##*version: }
stage verify "$REPO/$NAME/$version" --key "$KEY.pub" --after "$WORK/release"
echo "$REPO/$NAME/$version"
