"""Published implementations' classes on our operators, one module a repository.

Constructors, calls, results and the keys of `state_dict` are those of the originals, so
that an import is all that changes and checkpoints fit; where an original is faulty the
docstring says what happens instead. What they return nothing else needs: it may be
changed in place.

- `convlstm_pytorch`: ndrplz/ConvLSTM_pytorch
- `convgru_pytorch`: happyjin/ConvGRU-pytorch
- `convolutional_lstm_pytorch`: automan000/Convolutional_LSTM_PyTorch
- `precipitation_nowcasting`: Hzzone/Precipitation-Nowcasting
- `openstl`: the ConvLSTMCell of chengtan9907/OpenSTL
- `warps`: functions, the warps of PWC-Net, RAFT and NowcastNet

`trajgru_ext.accelerate` makes such layers of an existing model fast in place.

`load` reads published checkpoints into them, and HKO-7's into `trajgru_ext.nn`'s
networks.
"""

from trajgru_ext.compat.load import load

__all__ = ["load"]
