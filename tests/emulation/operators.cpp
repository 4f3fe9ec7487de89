// All operators again, from the CUDA sources, on CPU tensors and under a namespace of
// their own (TRAJGRU_NAMESPACE).

#include "registration.cpp"

#include "cuda/flow_conv.cu"
#include "cuda/flow_warp.cu"
#include "cuda/gru_gates.cu"
#include "cuda/lstm_gates.cu"
