"""AutoAssist in Ray Train's workers: the lines that say `feed`. Its loader is never given to `prepare_data_loader`.

python examples/ray_train.py --broker tcp://127.0.0.1:5555 --workers 2
"""

import argparse
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, prepare_model
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import autoassist


def train(config: dict[str, Any]) -> None:
    """What each worker does; Ray has made the ranks known to each other."""
    images, labels = load_digits(return_X_y=True)
    train_set = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels))
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model = prepare_model(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)

    with autoassist.Feed.connect(config["broker"], dataset=train_set, **config["settings"]) as feed:
        while not feed.ended:
            for x, y in feed.loader(train_set):
                loss = feed.report(cross_entropy(model(x), y, reduction="none"))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            ray.train.report({"loss": loss.item(), "instances": feed.instances})
        if feed.rank == 0:
            torch.save(net.state_dict(), config["save"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", default="tcp://127.0.0.1:5555")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--policy", default="autoassist")
    parser.add_argument("--save", default="boss.pt")
    args = parser.parse_args()
    settings = {"batch_size": 32, "epochs": args.epochs, "policy": args.policy, "window_size": 256}
    config = {"broker": args.broker, "settings": settings, "save": args.save}
    workers = ray.train.ScalingConfig(num_workers=args.workers)
    TorchTrainer(train, train_loop_config=config, scaling_config=workers).fit()


if __name__ == "__main__":
    main()
