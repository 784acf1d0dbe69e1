"""AutoAssist in a Lightning module: the lines that say `feed`, and two of the Trainer's switches.

torchrun --nproc-per-node 2 examples/with_lightning.py --broker tcp://127.0.0.1:5555
"""

import argparse
import os
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import autoassist


class Boss(LightningModule):
    def __init__(self, broker: str, save: str, **settings: Any) -> None:
        super().__init__()
        self.broker, self.save, self.settings = broker, save, settings
        images, labels = load_digits(return_X_y=True)
        self.train_set = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels))
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def on_fit_start(self) -> None:  # the ranks know each other from here on
        self.feed = autoassist.Feed.connect(self.broker, dataset=self.train_set, **self.settings)

    def train_dataloader(self) -> Any:  # Lightning looks one batch ahead, to know which is the last
        return self.feed.loader(self.train_set, lookahead=1)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.feed.report(cross_entropy(self.net(batch[0]), batch[1], reduction="none"))

    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = self.feed.ended != ""

    def on_fit_end(self) -> None:
        if self.feed.rank == 0:  # before the broker hears that all is done
            torch.save(self.net.state_dict(), self.save)
        self.feed.close()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", default="tcp://127.0.0.1:5555")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--policy", default="autoassist")
    parser.add_argument("--save", default="boss.pt")
    args = parser.parse_args()
    boss = Boss(args.broker, args.save, batch_size=32, epochs=args.epochs, policy=args.policy, window_size=256)
    as_the_feed_says = {"use_distributed_sampler": False, "max_epochs": -1}
    here = {"devices": int(os.environ.get("LOCAL_WORLD_SIZE", "1")), "logger": False, "enable_checkpointing": False}
    Trainer(accelerator="cpu", strategy="ddp", **here, **as_the_feed_says).fit(boss)
