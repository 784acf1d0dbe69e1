"""AutoAssist with a network that is sharded over the ranks (FSDP2): the lines that say `feed` are those of plain.py.

torchrun --nproc-per-node 2 examples/fsdp2.py --broker tcp://127.0.0.1:5555
"""

import argparse

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
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
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    images, labels = load_digits(return_X_y=True)
    train_set = TensorDataset(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)  # after sharding: it holds the shards

    settings = {"batch_size": 32, "epochs": args.epochs, "policy": args.policy, "window_size": 256}
    with autoassist.Feed.connect(args.broker, dataset=train_set, **settings) as feed:
        while not feed.ended:
            for x, y in feed.loader(train_set):
                loss = feed.report(cross_entropy(model(x), y, reduction="none"))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if dist.get_rank() == 0:
            torch.save(whole, args.save)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
