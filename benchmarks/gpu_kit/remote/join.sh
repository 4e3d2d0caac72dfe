# source .gpu/kit/join.sh [COMPONENT...]   (base, ort, warp, rtx, untouched-ort, ...), in the root of the tree
# Takes in what has arrived, unpacks what is whole, and sets the environment. Fails when a component asked for is not there.
export KIT_TREE="$PWD" KIT_STORE="${KIT_STORE:-${TMPDIR:-/tmp}/gpu-kit}" KIT_DEVICE="${KIT_DEVICE:-cuda:0}"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OUT="${OUT:-$PWD/gpu-kit-out}"
mkdir -p "$OUT" "$KIT_STORE"
if python3 "$KIT_TREE/.gpu/kit/unpack.py" "$@"; then
    kit_libraries="$(python3 -c 'import glob, sys
print(":".join(sorted({p.rsplit("/", 1)[0] for b in sys.path if b for p in glob.glob(b + "/nvidia/*/lib/*.so*")})))')"
    export LD_LIBRARY_PATH="${kit_libraries:+$kit_libraries:}$KIT_STORE/site/tensorrt_rtx_libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export PYTHONPATH="$KIT_STORE/site:$KIT_TREE:$KIT_TREE/benchmarks:$KIT_TREE/.gpu/kit"
    export WARP_CACHE_PATH="$KIT_STORE/warp-cache" XDG_CACHE_HOME="$KIT_STORE/cache"
    true
else
    false
fi
