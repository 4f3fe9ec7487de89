#pragma once

// What conv_gru and conv_lstm share, on any device: a convolution of the inputs, one of
// the state, and their gradients.

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <vector>

#include "sequences/convolution.h"
#include "sequences/sequence.h"

namespace trajgru_ext {

// The tensors that both have, as their operators take them.
struct ConvRnnTensors {
  const OptionalTensor &inputs, &h, &x_weight, &x_bias;
  const at::Tensor& h_weight;
  const OptionalTensor& h_bias;
};

// The convolution of a step that the device computes in one with the update of the
// gates; see operators/conv/winograd_step.h.
struct FusedConv {
  at::Tensor weights;  // empty where the device has no such step
  OptionalTensor bias;
  int64_t taps = 0;

  bool exists() const { return weights.numel() > 0; }
};

// Along height and width, of the convolutions of the inputs and of the state.
struct Dilations {
  at::IntArrayRef x, h;
};

struct ConvRnn : Sequence {
  Conv x_conv;  // undefined without inputs
  Conv h_conv;
  // Whether a step adds the biases, not the convolutions.
  bool steps_add_biases = false;

  // Checks the arguments. gates: slices of the weights.
  ConvRnn(const char* op, const ConvRnnTensors& given, int64_t steps, int64_t gates,
          const Dilations& dilations, const OptionalTensor& mask);

  // The biases that a step adds to the inputs' and the state's part of its gates.
  OptionalTensor x_bias() const { return step_bias(x_conv); }
  OptionalTensor h_bias() const { return step_bias(h_conv); }

  // The inputs' part of the gates of some steps; uninitialised without inputs.
  at::Tensor x_gates(int64_t first, int64_t count) const;

  // The state's part of the gates of a step, by h_conv or a part of it; a state that is
  // undefined is 0.
  at::Tensor h_gates(const at::Tensor& state, const Conv& conv) const;

  // One convolution of the inputs and the state (of the state alone where x has no
  // weight) to some gates, and the images that it takes in step t.
  FusedConv fuse(const Conv& x, const Conv& h, int64_t gates) const;
  std::vector<at::Tensor> fused_images(int64_t t, const at::Tensor& state) const;

 private:
  OptionalTensor step_bias(const Conv& conv) const {
    return steps_add_biases ? conv.bias : std::nullopt;
  }
  std::array<int64_t, 2> within_image(std::array<int64_t, 2> dilation) const;
};

// The gradients that both have, in this order.
enum ConvRnnWanted { kToInputs, kToH, kToXWeight, kToXBias, kToHWeight, kToHBias };

// Those that come from the inputs.
struct InputsGrad {
  at::Tensor inputs;  // undefined where not wanted
  ConvGrad conv;

  InputsGrad(const ConvRnn& net, const std::vector<bool>& wanted);

  // Adds what comes from the gradients to the gates of some steps.
  void add(const ConvRnn& net, int64_t first, int64_t count,
           const at::Tensor& gates_grad);
};

}  // namespace trajgru_ext
