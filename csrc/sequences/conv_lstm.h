#pragma once

// A ConvLSTM's arguments, and its step, on any device. All images are channels last.
//
// Two ways to compute a step, W and V being the weights of inputs and state:
//
//   fused  ahead, for a block of steps    in each step
//   no     W x                            V h; lstm_step
//   yes    nothing                        winograd_lstm_step: W x + V h, h' and c'
//
// Where there is a backward pass, a step leaves i, f, g and o in the buffer of its
// gates.

#include <ATen/core/Tensor.h>

#include "sequences/calls.h"
#include "sequences/conv_rnn.h"

namespace trajgru_ext {

// The weights of the peepholes as the operators take them: all or none.
struct PeepholeTensors {
  const OptionalTensor &w_ci, &w_cf, &w_co;
};

struct ConvLstm : ConvRnn {
  at::Tensor c;  // [B, F, H, W], undefined where it is 0
  at::MemoryFormat c_format = at::MemoryFormat::Contiguous;
  OptionNumbers options;
  OptionalTensor w_ci, w_cf, w_co;  // all or none, in the dtype of sums

  ConvLstm(const char* op, const ConvRnnTensors& given, const OptionalTensor& c,
           const PeepholeTensors& peephole, int64_t steps, const Dilations& dilations,
           at::ArrayRef<double> numbers, const OptionalTensor& mask);

  // The buffer of the gates of some steps, with what is computed ahead.
  at::Tensor prepare(int64_t first, int64_t count) const;

  // Step t from the states before it (undefined: 0), into the states after it, which
  // may be the same. gates: its part of the buffer; save_gates: whether i, f, g and o
  // are left there.
  void step(int64_t t, const at::Tensor& gates, const at::Tensor& h_before,
            const at::Tensor& c_before, bool save_gates, const at::Tensor& h_after,
            const at::Tensor& c_after) const;

 private:
  // That of fused steps, made when first asked for.
  const FusedConv& fused() const;

  mutable std::optional<FusedConv> fused_;
};

}  // namespace trajgru_ext
