// Every operator's schema, one line each. The implementations register themselves
// beside their code: csrc/cpu/<operator>.cpp and csrc/cuda/<operator>.cu.

#include "library.h"

// clang-format off
TRAJGRU_LIBRARY(m) {
  m.def("flow_warp(Tensor input, Tensor flow, float flow_scale=1.0) -> Tensor");
  m.def("flow_warp_backward(Tensor grad, Tensor? input, Tensor flow, float flow_scale, bool input_grad, bool flow_grad) -> (Tensor, Tensor)");
  m.def("flow_conv(Tensor input, Tensor flows, Tensor weight, Tensor? bias=None, float flow_scale=1.0) -> Tensor");
  m.def("flow_conv_backward(Tensor grad, Tensor input, Tensor flows, Tensor weight, float flow_scale, bool input_grad, bool flows_grad, bool weight_grad, bool bias_grad) -> (Tensor, Tensor, Tensor, Tensor)");
}
// clang-format on
