"""A script that goes on from its checkpoint when torchrun starts its ranks again, as many as before or others.

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
torchrun --nnodes 2 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint host-a:29400 --rdzv-id mine \
    examples/elastic.py --broker tcp://host-a:5555 --checkpoint /shared/last.pt
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import autoassist


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", default="tcp://127.0.0.1:5555")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--checkpoint", type=Path, default=Path("last.pt"))
    args = parser.parse_args()
    dist.init_process_group("gloo")
    saved = torch.load(args.checkpoint, "cpu", weights_only=True) if args.checkpoint.exists() else {}

    images, labels = load_digits(return_X_y=True)
    train_set = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels))
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    net.load_state_dict(saved.get("net", net.state_dict()))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    optimizer.load_state_dict(saved.get("optimizer", optimizer.state_dict()))

    settings = {"batch_size": 32, "epochs": args.epochs, "state": saved.get("feed", {})}
    with autoassist.Feed.connect(args.broker, dataset=train_set, **settings) as feed:
        print(f"rank {feed.rank} of {dist.get_world_size()} goes on from step {feed.steps}", flush=True)
        due = feed.steps + 20
        while not feed.ended:
            for x, y in feed.loader(train_set):
                loss = feed.report(cross_entropy(model(x), y, reduction="none"))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if feed.steps >= due:
                    due = feed.steps + 20
                    if feed.cut() and feed.rank == 0:  # all ranks make the cut
                        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
                        torch.save({**state, "feed": feed.state_dict()}, new := args.checkpoint.with_suffix(".new"))
                        new.replace(args.checkpoint)
                        print(f"checkpoint of step {feed.steps}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
