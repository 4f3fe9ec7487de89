"""How long torch.compile takes for a training step of a layer, ours and the published.

5 steps of 8 to 16 channels at 16 x 16, batch 2; TrajGRU with 5 links; no caches. The
published code is unrolled over the steps, ours is an operator whatever their number.
Outputs and gradients are compared with those of the published code without compiling.
"""

import time

import torch
from measure import arguments, machine, print_table, write
from ported_layers import PortedConvLSTM, PortedGatedConvs, PortedTrajGRU
from torch import Tensor, nn
from training import Ours, train_step

from trajgru_ext.nn import ConvGRU, ConvLSTM, TrajGRU

LAYERS = {
    "TrajGRU": (lambda: TrajGRU(8, 16, 5), PortedTrajGRU),
    "ConvLSTM": (lambda: ConvLSTM(8, 16), PortedConvLSTM),
    "ConvGRU": (lambda: ConvGRU(8, 16, activation="leaky_relu"), PortedGatedConvs),
}


def first_call(model: nn.Module, inputs: Tensor, seed: Tensor) -> float:
    """Milliseconds of a training step that has to be compiled; it must be right."""
    wanted = train_step(model, inputs, seed)
    torch.compiler.reset()
    start = time.perf_counter()
    got = train_step(torch.compile(model), inputs, seed)
    milliseconds = 1e3 * (time.perf_counter() - start)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    return milliseconds


def main() -> None:
    """All three; compiled once each, whatever --rounds says."""
    options = arguments(__doc__, "compile")
    print(machine())
    records = []
    with torch._inductor.config.patch(force_disable_caches=True):
        # What the first of all compilations prepares.
        torch.compile(torch.sin)(torch.ones(2))
        for name, (make, ported) in LAYERS.items():
            torch.manual_seed(0)
            layer = make()
            inputs = torch.randn(5, 2, 8, 16, 16).requires_grad_()
            seed = torch.randn(5, 2, 16, 16, 16)
            models = {"ours": Ours(layer), "(a) published": ported(layer)}
            times = {k: first_call(one, inputs, seed) for k, one in models.items()}
            print_table(name, times, "ours")
            ratios = {side: ms / times["ours"] for side, ms in times.items()}
            record = {"net": name, "mode": "compilation", "milliseconds": times}
            records.append(record | {"times_ours": ratios})
    write(options.json, records)


if __name__ == "__main__":
    main()
