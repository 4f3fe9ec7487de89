#pragma once

// A ConvLSTM's arguments, and its step, on any device. All images are channels last.

#include <ATen/core/Tensor.h>

#include "sequences/conv_rnn.h"
#include "sequences/calls.h"

namespace trajgru_ext {

// The weights of the peepholes as the operators take them: all or none.
struct PeepholeTensors {
  const OptionalTensor &w_ci, &w_cf, &w_co;
};

struct ConvLstm : ConvRnn {
  at::Tensor c;  // [B, F, H, W], undefined where it is 0
  at::MemoryFormat c_format = at::MemoryFormat::Contiguous;
  LstmChoices choices;  // the peepholes in the dtype of sums

  ConvLstm(const char* op, const ConvRnnTensors& given, const OptionalTensor& c,
           const PeepholeTensors& peephole, int64_t steps, at::IntArrayRef dilation,
           at::IntArrayRef slots, double forget_bias, const OptionalTensor& mask);

  // Step t from the states before it (undefined: 0), into the states after it, which
  // may be the same. gates: the inputs' part; then, where it `leaves` something, the
  // values that the gradient is computed from.
  void update(int64_t t, const at::Tensor& gates, const at::Tensor& h_before,
              const at::Tensor& c_before, bool leaves, const at::Tensor& h_after,
              const at::Tensor& c_after) const;

 private:
  mutable std::optional<JointConv> step_conv_;  // of joined convolutions, once needed
};

}  // namespace trajgru_ext
