#!/usr/bin/env bash
# Serve an HF checkpoint with the SGLang that setup.sh installed, on the CPU, in the foreground.
# usage: serve.sh VENV MODEL_DIR PORT [more flags of SGLang]
# fp32: without AMX or avx512_bf16, bf16 is several times slower. It answers GET /health after about a minute.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:?VENV} model=${2:?MODEL_DIR} port=${3:?PORT}
shift 3
export PYTHONPATH="$here/shim" SGLANG_USE_CPU_ENGINE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# --mem-fraction-static is of the machine's free memory; the token limit is what bounds the cache
exec "$venv/bin/python" -m sglang.launch_server --model-path "$model" --device cpu --attention-backend torch_native \
  --host 127.0.0.1 --port "$port" --dtype float32 --mem-fraction-static 0.3 --max-total-tokens 8192 "$@"
