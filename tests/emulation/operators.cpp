// All operators again, from the CUDA sources, on CPU tensors and under a namespace of
// their own (TRAJGRU_NAMESPACE).

#include "conv_gru.cpp"
#include "conv_gru_backward.cpp"
#include "conv_lstm.cpp"
#include "conv_lstm_backward.cpp"
#include "conv_rnn.cpp"
#include "convolution.cpp"
#include "registration.cpp"
#include "sequence.cpp"
#include "traj_gru.cpp"
#include "traj_gru_backward.cpp"

#include "cuda/flow_conv.cu"
#include "cuda/flow_warp.cu"
#include "cuda/gru_gates.cu"
#include "cuda/gru_step.cu"
#include "cuda/lstm_gates.cu"
#include "cuda/lstm_step.cu"
