"""A LightningModule of our layers trains."""

import copy

import pytest
import torch
from small_networks import SMALL, make_small, sample_frames
from torch.utils.data import DataLoader

lightning = pytest.importorskip("lightning", reason="needs trajgru_ext[test]")


class Forecaster(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.losses = []

    def training_step(self, batch, _):
        frames = batch.transpose(0, 1)
        loss = (self.net(frames[:3]) - frames[3:]).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@SMALL
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_trains_as_without(kind, tmp_path):
    net, sequences = make_small(kind), sample_frames(4, 6, 2, 4, 6)
    plain = copy.deepcopy(net)
    model = Forecaster(net)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, DataLoader(sequences, batch_size=2))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for batch in [*sequences.split(2)] * 2:
        optimizer.zero_grad()
        frames = batch.transpose(0, 1)
        (plain(frames[:3]) - frames[3:]).square().mean().backward()
        optimizer.step()
    assert len(model.losses) == 4
    torch.testing.assert_close(net.state_dict(), plain.state_dict(), rtol=0, atol=1e-10)
