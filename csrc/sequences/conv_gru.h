#pragma once

// A ConvGRU's arguments, and its step, on any device. All images are channels last.
//
// A step is computed in one of four ways, W and V being the slices of the inputs' and
// the state's weights, a the sums of gates before they are activated:
//
//   reset    fused  ahead, for a block of steps    in each step
//   after    no     W x                            V h; gru_step
//   after    yes    W x                            winograd_gru_step: V h and h'
//   before   no     W x                            a_ru = W_ru x + V_ru h; gru_reset;
//                                                  a_n = W_n x + V_n (r h); gru_output
//   before   yes    nothing                        winograd_gru_reset: a_ru, u and r h;
//                                                  winograd_gru_output: a_n and h'
//
// The backward pass reads what a step has left in the buffer of its gates: r, u and n
// where the reset comes after the convolution (and V_n h as the candidate), else a_r,
// a_u and a_n.

#include <ATen/core/Tensor.h>

#include "sequences/calls.h"
#include "sequences/conv_rnn.h"

namespace trajgru_ext {

// Some steps of the sequence, their images one after the other.
struct ConvGruBlock {
  int64_t first = 0, last = 0;
  // W x, then what the backward pass reads; undefined where neither is there.
  at::Tensor gates;
  at::Tensor candidates;  // undefined: gru_step leaves nothing

  int64_t count() const { return last - first; }
};

struct ConvGru : ConvRnn {
  GruOptions chosen;
  OptionNumbers options;  // the same, as the steps' operators take them
  bool reset_before() const { return chosen.reset_before; }

  // Reset before: the state's convolution in two, that to the sums of reset and update
  // gate, whose slices lie together, and that to the candidate's; the options of
  // gru_reset, which sees the first two alone.
  Conv ru_conv, n_conv;
  OptionNumbers ru_options;

  ConvGru(const char* op, const ConvRnnTensors& given, int64_t steps,
          const Dilations& dilations, at::ArrayRef<double> numbers,
          const OptionalTensor& mask);

  // The two parts of some gates, and the first of their slices.
  at::Tensor ru(const at::Tensor& gates) const {
    return gates.narrow(1, ru_first() * features, 2 * features);
  }
  at::Tensor n(const at::Tensor& gates) const {
    return gates.narrow(1, n_first() * features, features);
  }
  int64_t ru_first() const { return std::min(chosen.order.r, chosen.order.u); }
  int64_t n_first() const { return chosen.order.n; }

  // What is computed ahead, and buffers for what a step leaves.
  ConvGruBlock prepare(int64_t first, int64_t last, bool save_gates) const;

  // Step k of these, from the state before it (undefined: 0).
  void step(const ConvGruBlock& block, int64_t k, const at::Tensor& state,
            const at::Tensor& output) const;

 private:
  void step_reset_after(const at::Tensor& gates, const OptionalTensor& candidate,
                        int64_t t, const at::Tensor& state,
                        const at::Tensor& output) const;
  void step_reset_before(const at::Tensor& gates, int64_t t, const at::Tensor& state,
                         const at::Tensor& output) const;
  void step_reset_before_fused(const OptionalTensor& gates, int64_t t,
                               const at::Tensor& state, const at::Tensor& output) const;

  // Those of fused steps, made when first asked for.
  const FusedConv& fused_after() const;
  const FusedConv& fused_ru() const;
  const FusedConv& fused_n() const;
  bool fused_before() const {
    return reset_before() && fused_n().exists() && fused_ru().exists();
  }

  mutable std::optional<FusedConv> fused_after_, fused_ru_, fused_n_;
};

}  // namespace trajgru_ext
