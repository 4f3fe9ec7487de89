#pragma once

// A TrajGRU's arguments, and its step, on any device. All images are channels last.

#include <ATen/core/Tensor.h>

#include <optional>

#include "sequences/convolution.h"
#include "sequences/calls.h"
#include "sequences/sequence.h"

namespace trajgru_ext {

// A pixel's content goes where its flow points.
constexpr double kTrajGruFlowScale = -1.0;

// What the forward pass leaves beside the outputs; the backward pass computes the rest
// again.
enum class Kept : int64_t { nothing, flows, gates };

// Some steps of the sequence, their images one after the other.
struct TrajGruSteps {
  int64_t first = 0, last = 0;
  at::Tensor hidden;      // the layer before the flows, activated
  at::Tensor flows;       // in the dtype of coordinates
  at::Tensor gates;       // the inputs' part, then what gru_step leaves
  at::Tensor candidates;  // undefined: gru_step leaves nothing
};

struct TrajGru : Sequence {
  std::optional<Conv> i2h, i2f;  // where there are inputs
  Conv h2f, flows, ret;          // the weight of ret: [3F, L F]
  Conv coordinates;              // flows in the dtype of coordinates
  GruChoices choices;
  at::Tensor flow_offset;  // [1, 2L, H, W] in the dtype of coordinates, or undefined

  // Checks the arguments. inputs: [T, B, C, H, W]; parameters: weight and bias of
  // i2h, i2f, h2f, flows, ret; offset: [2L, H, W], added to the flows of every step.
  TrajGru(const char* op, const OptionalTensor& inputs, const OptionalTensor& h,
          const c10::List<OptionalTensor>& parameters, int64_t steps,
          int64_t activation, double negative_slope, const OptionalTensor& mask,
          const OptionalTensor& offset);

  // The convolutions of the inputs, and room for what follows from them. with_flows:
  // not where these are there already.
  TrajGruSteps prepare(int64_t first, int64_t last, bool keep_gates,
                       bool with_flows = true) const;

  // Step k of these, from the state before it (undefined: 0).
  void generate_flows(TrajGruSteps& steps, int64_t k, const at::Tensor& state) const;
  void update(TrajGruSteps& steps, int64_t k, const at::Tensor& state,
              const at::Tensor& output) const;
};

}  // namespace trajgru_ext
