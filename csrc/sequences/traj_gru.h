#pragma once

// A TrajGRU's arguments, and its step, on any device. All images are channels last.

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>

#include "sequences/calls.h"
#include "sequences/convolution.h"
#include "sequences/sequence.h"

namespace trajgru_ext {

// A pixel's content goes where its flow points.
constexpr double kTrajGruFlowScale = -1.0;

// The activation of the layer before the flows, in place.
void activate_(at::Tensor& values, const GruUpdate<double>& update);

// What the forward pass saves beside the outputs; the backward pass computes the rest
// again.
enum class Saved : int64_t { nothing, flows, gates };

// The tensors that its operators take, as they take them: `parameters` are a weight and
// perhaps a bias each of the layers i2h, i2f_conv1, h2f_conv1, flows_conv and ret.
struct TrajGruTensors {
  const OptionalTensor &inputs, &h;
  const c10::List<OptionalTensor>& parameters;
  const OptionalTensor &mask, &flow_offset;
};

// One for each layer.
template <typename T>
struct TrajGruLayers {
  T i2h, i2f, h2f, flows, ret;

  // In the order of the parameters.
  std::array<T*, 5> all() { return {&i2h, &i2f, &h2f, &flows, &ret}; }
  std::array<const T*, 5> all() const { return {&i2h, &i2f, &h2f, &flows, &ret}; }
};

// Some steps of the sequence, their images one after the other.
struct TrajGruBlock {
  int64_t first = 0, last = 0;
  at::Tensor hidden;      // the layer before the flows, activated
  at::Tensor flows;       // in the dtype of coordinates
  at::Tensor gates;       // the inputs' part, then what gru_step leaves
  at::Tensor candidates;  // undefined: gru_step leaves nothing

  int64_t count() const { return last - first; }
};

struct TrajGru : Sequence {
  TrajGruLayers<Conv> layers;  // i2h and i2f undefined without inputs; ret: [3F, L F]
  Conv coordinates;            // layers.flows in the dtype of coordinates
  GruOptions chosen;
  OptionNumbers options;   // the same, as gru_step takes them
  at::Tensor flow_offset;  // [1, 2L, H, W] in the dtype of coordinates, or undefined

  // Checks the arguments. inputs: [T, B, C, H, W]; flow_offset: [2L, H, W], added to
  // the flows of every step.
  TrajGru(const char* op, const TrajGruTensors& given, int64_t steps,
          at::ArrayRef<double> numbers);

  // Channels of the flows, and of the layer before them.
  int64_t flow_channels() const { return layers.flows.weight.size(0); }
  int64_t hidden_channels() const { return layers.h2f.weight.size(0); }

  // The convolutions of the inputs, and buffers for what follows from them. with_flows:
  // not where these are there already.
  TrajGruBlock prepare(int64_t first, int64_t last, bool save_gates,
                       bool with_flows = true) const;

  // Step k of these, from the state before it (undefined: 0): its flows, then its
  // state.
  void generate_flows(const TrajGruBlock& block, int64_t k,
                      const at::Tensor& state) const;
  void step(const TrajGruBlock& block, int64_t k, const at::Tensor& state,
            const at::Tensor& output) const;

 private:
  void generate_flows_in_kernels(const TrajGruBlock& block, int64_t k,
                                 const at::Tensor& state) const;
  void check_layers(const char* op) const;
};

}  // namespace trajgru_ext
