"""A plain PyTorch script with AutoAssist in it: the lines that say `feed`.

python examples/plain.py                              # broker and Assistant are started by the script
torchrun --nproc-per-node 2 examples/plain.py --broker tcp://127.0.0.1:5555      # with roles of their own
"""

import argparse
import os

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
    parser.add_argument("--broker", default="")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--policy", default="autoassist")
    parser.add_argument("--save", default="")
    args = parser.parse_args()
    if "RANK" in os.environ:
        dist.init_process_group("gloo")

    images, labels = load_digits(return_X_y=True)
    train_set = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels))
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model = DistributedDataParallel(net) if dist.is_initialized() else net
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)

    settings = {"batch_size": args.batch_size, "epochs": args.epochs, "policy": args.policy, "window_size": 256}
    if args.broker:
        feed = autoassist.Feed.connect(args.broker, dataset=train_set, **settings)
    else:
        feed = autoassist.Feed.local(train_set, **settings)
    with feed:
        for _ in range(args.epochs):
            for x, y in feed.loader(train_set):
                loss = feed.report(cross_entropy(model(x), y, reduction="none"))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if feed.rank == 0:
            print(f"{feed.instances} instances in {feed.steps} steps, last loss {loss.item():.4f}")
        if args.save and feed.rank == 0:
            torch.save(net.state_dict(), args.save)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
