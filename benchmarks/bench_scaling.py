"""Time and memory of a TrajGRU layer's training step against steps T and links L.

8 to 64 channels at 32 x 32, batch 3, float32, channels last; beside the published
PyTorch port's code path. Gradients are first compared with those of float64. Memory is
the peak beyond what there was before the step, in a process of its own.
"""

import os

import torch
from bench_traj_gru import check, layer_and_inputs, prepare_training
from measure import arguments, machine, medians, write
from peak_memory import peak_mib
from ported_layers import PortedTrajGRU
from torch import nn
from training import Ours, train_step

SIZE, LAYOUT = 32, "channels last"
VALUES = {"T": [2, 5, 10], "L": [1, 5, 13]}
FIXED = {"T": 5, "L": 13}  # the one that does not vary
SIDES = {"ours": "none", "published port": "port", 'ours, recompute="flows"': "flows"}


def times(steps: int, links: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each side's training step."""
    layer, inputs = layer_and_inputs(LAYOUT, steps, links, SIZE)
    again, _ = layer_and_inputs(LAYOUT, steps, links, SIZE)
    again.recompute = "flows"
    models: dict[str, nn.Module] = {"ours": Ours(layer)}
    models["published port"] = PortedTrajGRU(layer)
    models['ours, recompute="flows"'] = Ours(again)
    seed = torch.randn(steps, inputs.shape[1], layer.hidden_channels, SIZE, SIZE)
    double, _ = layer_and_inputs(LAYOUT, steps, links, SIZE)
    doubles = inputs.detach().double().requires_grad_()
    wanted = train_step(PortedTrajGRU(double.double()), doubles, seed.double())
    for name, model in models.items():
        # Where a value rounds across the kink of a leaky ReLU, the gradients of a small
        # layer differ by some 1e-3, the port's as ours.
        check(name, train_step(model, inputs, seed), wanted, tolerance=1e-2)
    sides = {
        name: lambda model=model: train_step(model, inputs, seed)
        for name, model in models.items()
    }
    return medians(sides, rounds)


def main() -> None:
    """Along T, then along L."""
    options = arguments(__doc__, "scaling")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    print(machine())
    records = []
    for along, values in VALUES.items():
        for value in values:
            steps, links = (FIXED | {along: value}).values()
            sizes = (LAYOUT, steps, links, SIZE)
            record = {"along": along, "T": steps, "L": links}
            record["milliseconds"] = times(steps, links, options.rounds)
            record["mebibytes"] = {
                name: peak_mib(prepare_training, kind, *sizes)
                for name, kind in SIDES.items()
            }
            print(record)
            records.append(record)
    write(options.json, records)


if __name__ == "__main__":
    main()
