"""AutoAssist with Hugging Face Accelerate: the lines that say `feed`. The feed's loader is never given to `prepare`.

accelerate launch --cpu --num_processes 2 examples/with_accelerate.py --broker tcp://127.0.0.1:5555
"""

import argparse

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import autoassist


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", default="tcp://127.0.0.1:5555")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--policy", default="autoassist")
    parser.add_argument("--save", default="boss.pt")
    args = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    train_set = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels))
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    accelerator = Accelerator(cpu=True)  # the ranks know each other from here on
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9))

    settings = {"batch_size": 32, "epochs": args.epochs, "policy": args.policy, "window_size": 256}
    with autoassist.Feed.connect(args.broker, dataset=train_set, **settings) as feed:
        while not feed.ended:
            for batch in feed.loader(train_set):
                x, y = (part.to(accelerator.device) for part in batch)
                loss = feed.report(cross_entropy(model(x), y, reduction="none"))
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
        if accelerator.is_main_process:
            accelerator.save(accelerator.unwrap_model(model).state_dict(), args.save)
    accelerator.end_training()


if __name__ == "__main__":
    main()
