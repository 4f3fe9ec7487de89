#pragma once

// A TrajGRU's arguments, and its step, on any device. All images are channels last.

#include <ATen/core/Tensor.h>

#include <optional>

#include "convolution.h"
#include "operators.h"

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

struct TrajGru {
  at::Tensor inputs;             // [T * B, C, H, W], undefined where there are none
  at::Tensor h;                  // [B, F, H, W], undefined where it is 0
  std::optional<Conv> i2h, i2f;  // where there are inputs
  Conv h2f, flows, ret;          // the weight of ret: [3F, L F]
  at::Tensor mask;               // [T, B, F, H, W] or undefined
  GruChoices choices;
  int64_t steps, batch = 0, features = 0, height = 0, width = 0;

  // Checks the arguments. inputs: [T, B, C, H, W]; parameters: weight and bias of
  // i2h, i2f, h2f, flows, ret.
  TrajGru(const char* op, const OptionalTensor& inputs, const OptionalTensor& h,
          const c10::List<OptionalTensor>& parameters, int64_t steps,
          int64_t activation, double negative_slope, const OptionalTensor& mask);

  bool empty() const { return steps * batch * features * height * width == 0; }

  // The memory format of the outputs, that of the inputs, or of h without any; of h.
  at::MemoryFormat format = at::MemoryFormat::Contiguous;
  at::MemoryFormat h_format = at::MemoryFormat::Contiguous;

  // Uninitialised images of some steps.
  at::Tensor images(int64_t count, int64_t channels) const;
  at::Tensor images(int64_t count, int64_t channels, at::ScalarType dtype) const;

  // Those of step k among the images of some.
  at::Tensor of_step(const at::Tensor& images, int64_t k, int64_t count = 1) const {
    return images.narrow(0, k * batch, count * batch);
  }

  // The convolutions of the inputs, and room for what follows from them. with_flows:
  // not where these are there already.
  TrajGruSteps prepare(int64_t first, int64_t last, bool keep_gates,
                       bool with_flows = true) const;

  // The images of all steps as [T, B, ...].
  at::Tensor as_sequence(const at::Tensor& images) const {
    return images.unflatten(0, {steps, batch});
  }

  // The same in a memory format.
  at::Tensor result(const at::Tensor& images, at::MemoryFormat layout) const;

  // Step k of these, from the state before it (undefined: 0).
  void generate_flows(TrajGruSteps& steps, int64_t k, const at::Tensor& state) const;
  void update(TrajGruSteps& steps, int64_t k, const at::Tensor& state,
              const at::Tensor& output) const;

  // The state, or one of 0.
  at::Tensor or_zero(const at::Tensor& state) const;

  // The mask of step t of the sequence.
  OptionalTensor mask_of(int64_t t) const;
};

}  // namespace trajgru_ext
