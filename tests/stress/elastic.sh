#!/usr/bin/env bash
# Two nodes train one network, one is killed and comes back, and the training ends as one that nobody disturbed.
#
#     sudo tests/stress/elastic.sh [FOLDER]
#
# The nodes are network namespaces joined by a cable (veth); they share a disk, as nodes of a cluster do. torchrun starts
# the same command on both: one process per node, 32 images per step on all of them together. Steps:
#   1. node 2 is killed (SIGKILL, all its processes) after the first epoch: node 1 goes on alone from the last checkpoint;
#   2. node 2 starts again: both go on from the last checkpoint;
#   3. at the end, epochs and steps are counted and the loss is compared with that of one undisturbed process.
# Needs Linux, root, iproute2, and tiedconv's environment first in PATH or in .venv. A few minutes.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
PATH=$repository/.venv/bin:$PATH
export OMP_NUM_THREADS=1
folder=${1:-$(mktemp -d)}
mkdir -p "$folder" && cd "$folder"
epochs=${EPOCHS:-12}
steps=${STEPS:-20}
one=tied$$a two=tied$$b # names that no other run has

say() { printf '%3ds  %s\n' $SECONDS "$*"; }

end_node() {
    local processes
    processes=$(ip netns pids "$1" 2>/dev/null || true)
    [ -z "$processes" ] || kill -9 $processes 2>/dev/null || true
}

tear_down() {
    for node in $one $two; do
        end_node $node
        ip netns del $node 2>/dev/null || true
    done
}
trap tear_down EXIT

# The rate is low: rounding, which differs between one process and two, grows with it.
fit() { # folder, strategy and so on
    cat <<END
exec tiedconv fit --config $repository/configs/digits/train.yaml \
    --model.model_kwargs='{norm_layer: groupnorm1}' --model.optimization='{lr: 0.002}' \
    --trainer.accelerator=cpu --trainer.devices=1 --trainer.max_epochs=$epochs --trainer.limit_train_batches=$steps \
    --trainer.num_sanity_val_steps=0 --trainer.enable_progress_bar=false --trainer.enable_model_summary=false \
    --checkpoint.dirpath=$folder/$1 --trainer.default_root_dir=$folder/$1 $2
END
}

# Batch and nodes follow from what torchrun found, so that a step has 32 images with any number of nodes.
elastic=$(fit elastic '--ckpt_path=last --trainer.strategy=ddp --trainer.num_nodes=$WORLD_SIZE --data.batch_size=$((32 / WORLD_SIZE))')

# A node that comes back finds the others only if processes and torchrun do not share a store: the address of a shared one
# is announced once, to those who came first.
start() { # namespace, address, whether the meeting place is there
    ip netns exec "$1" env GLOO_SOCKET_IFNAME=wire TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 \
        torchrun --nnodes 1:2 --nproc-per-node 1 --max-restarts 20 \
        --rdzv-backend c10d --rdzv-endpoint 10.99.0.1:29400 --rdzv-id tied --local-addr "$2" --no-python \
        --rdzv-conf is_host=$3,last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5,join_timeout=300 \
        bash -c "echo \"node $2: process \$RANK of \$WORLD_SIZE\"; $elastic" >>"$folder/$1.log" 2>&1 &
}

started() { grep -c "node .*: process .* of $2\$" "$folder/$1.log" 2>/dev/null || true; }

wait_for() { # what, command
    local limit=$((SECONDS + 400))
    until eval "$2"; do
        sleep 0.5
        [ $SECONDS -lt $limit ] || { say "gave up waiting: $1"; tail -n 20 "$folder"/*.log; exit 1; }
    done
    say "$1"
}

for node in $one $two; do
    ip netns add $node
    ip -n $node link set lo up
done
ip link add wire netns $one type veth peer name wire netns $two
ip -n $one address add 10.99.0.1/24 dev wire
ip -n $two address add 10.99.0.2/24 dev wire
ip -n $one link set wire up
ip -n $two link set wire up
say "two nodes, 10.99.0.1 and 10.99.0.2, in $folder"

start $one 10.99.0.1 true
first=$!
start $two 10.99.0.2 false
disown # no notice of its end
wait_for "two processes began" '[ "$(started $one 2)" -ge 1 ]'
wait_for "the first epoch is kept" '[ -e "$folder/elastic/last.ckpt" ]'
end_node $two
say "node 2 killed"
wait_for "node 1 began again, alone" '[ "$(started $one 1)" -ge 1 ]'
before=$(started $one 2)
touch "$folder/alone_from_here"
wait_for "node 1 alone kept another epoch" '[ "$folder/elastic/last.ckpt" -nt "$folder/alone_from_here" ]'
start $two 10.99.0.2 false
wait_for "node 2 is back: two processes" '[ "$(started $one 2)" -gt $before ]'
wait $first
say "the training ended"

bash -c "$(fit alone --data.batch_size=32)" >"$folder/alone.log" 2>&1
python - "$folder" "$epochs" "$steps" <<'END'
import csv
import sys
from pathlib import Path

import torch

folder, epochs, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
losses = []
for run in ("elastic", "alone"):
    last = torch.load(folder / run / "last.ckpt", weights_only=True)
    logs = sorted((folder / run / "fit").glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:]))
    rows = [row for row in csv.DictReader(logs[-1].read_text().splitlines()) if row["val/loss"]]
    for log in logs:
        done = [row["epoch"] for row in csv.DictReader(log.read_text().splitlines()) if row["val/loss"]]
        print(f"{run}, {log.parent.name}: epochs {', '.join(done)}")
    losses.append(float(rows[-1]["val/loss"]))
    print(f"{run}: {last['epoch'] + 1} epochs, {last['global_step']} steps, val/loss {losses[-1]:.6f}")
    if (last["epoch"] + 1, last["global_step"]) != (epochs, epochs * steps):
        sys.exit(f"expected {epochs} epochs and {epochs * steps} steps")
if abs(losses[0] - losses[1]) > 1e-3 * losses[1]:
    sys.exit("the losses differ")
END
say "as many epochs and steps as without the kill, and the same loss"
