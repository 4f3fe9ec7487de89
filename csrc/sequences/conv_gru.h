#pragma once

// A ConvGRU's arguments, and its step, on any device. All images are channels last.

#include <ATen/core/Tensor.h>

#include "sequences/conv_rnn.h"
#include "sequences/calls.h"

namespace trajgru_ext {

// As the operators take them.
struct ConvGruOptions {
  at::IntArrayRef dilation, slots;
  bool reset_before;
  int64_t activation;
  double negative_slope;
  bool keep;
};

// Some steps of the sequence, their images one after the other.
struct ConvGruSteps {
  int64_t first = 0, last = 0;
  // The inputs' part, then: reset after, what gru_step leaves; reset before, the sums
  // of both parts. Undefined: neither is needed.
  at::Tensor gates;
  at::Tensor candidates;  // undefined: gru_step leaves nothing
};

struct ConvGru : ConvRnn {
  GruChoices choices;
  bool reset_before;

  // Reset before: the convolution of the state, that of what the reset gate lets
  // through, and where the slices of both begin; reset and update gate lie together.
  Conv ru_conv, n_conv;
  Conv x_ru_conv, x_n_conv;  // those of the inputs, where they are joined
  int64_t ru_at = 0, n_at = 0;
  std::vector<int64_t> ru_slots;

  ConvGru(const char* op, const ConvRnnTensors& given, int64_t steps,
          const ConvGruOptions& options, const OptionalTensor& mask);

  // The two parts of some gates.
  at::Tensor ru(const at::Tensor& gates) const {
    return gates.narrow(1, ru_at, 2 * features);
  }
  at::Tensor n(const at::Tensor& gates) const {
    return gates.narrow(1, n_at, features);
  }

  // The convolution of the inputs, and room for what follows from it.
  ConvGruSteps prepare(int64_t first, int64_t last, bool keep_gates) const;

  // Step k of these, from the state before it (undefined: 0).
  void update(ConvGruSteps& steps, int64_t k, const at::Tensor& state,
              const at::Tensor& output) const;

 private:
  void update_reset_before(const at::Tensor& gates, int64_t t, const at::Tensor& state,
                           const at::Tensor& output) const;
  void update_joined(const at::Tensor& gates, int64_t t, const at::Tensor& state,
                     const at::Tensor& output) const;

  // Whether the convolution of the state and the update, reset after, are one.
  bool fused_ = false;

  // Where joined or fused: made when first needed.
  mutable std::optional<JointConv> step_conv_, joint_ru_, joint_n_;
};

}  // namespace trajgru_ext
