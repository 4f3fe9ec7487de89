#pragma once

// What the sequence operators share, on any device. All images are channels last.

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "operators/conv/sequence_plan.h"
#include "operators/copy_image.h"

namespace trajgru_ext {

struct Sequence {
  int64_t steps, batch = 0, features = 0, height = 0, width = 0;
  at::Tensor inputs;       // [T, B, C, H, W] as given, undefined where there are none
  at::Tensor h;            // [B, F, H, W], undefined where it is 0
  at::Tensor mask;         // [T, B, F, H, W] or undefined; true: the old state stays
  at::TensorOptions like;  // the dtype and the device of everything
  SequencePlan plan;       // of that device

  // The memory format of the outputs, that of the inputs, or of h without any; of h.
  at::MemoryFormat format = at::MemoryFormat::Contiguous;
  at::MemoryFormat h_format = at::MemoryFormat::Contiguous;

  Sequence(const char* op, int64_t steps);

  // Checks the arguments that have the size of the images, and stores them; the state
  // has `count` channels. sequence: [T, B, C, H, W]; parameter: one that has the dtype
  // and the device of all; weight: of a convolution of the state.
  void take_images(const char* op, const OptionalTensor& sequence,
                   const OptionalTensor& state, const OptionalTensor& old_state_mask,
                   int64_t count, const at::Tensor& parameter,
                   const at::Tensor& weight);

  bool empty() const { return steps * batch * features * height * width == 0; }

  // Whether the device takes it in float32 instead, and there is something to take.
  bool in_floats() const { return plan.in_floats && !empty(); }

  // Steps of a block of the forward pass, whose convolutions of the inputs are computed
  // at once, where nothing is saved for a backward pass; and of the backward pass,
  // whose gradients to parameters are. channels: of the gates; saved: whether these
  // were.
  int64_t steps_per_block(int64_t channels) const;
  int64_t steps_per_block_back(int64_t channels, bool saved) const;

  // Images of some steps of a sequence; of the inputs.
  at::Tensor images_of(const at::Tensor& sequence, int64_t first, int64_t count) const;
  at::Tensor inputs_of(int64_t first, int64_t count) const {
    return images_of(inputs, first, count);
  }

  // A sequence [T, B, C, H, W] whose steps are in channels last, where the device has
  // them brought there at once; else the sequence itself.
  at::Tensor at_once(const at::Tensor& sequence) const;

  // Uninitialised images of some steps.
  at::Tensor images(int64_t count, int64_t channels) const;
  at::Tensor images(int64_t count, int64_t channels, at::ScalarType dtype) const;

  // Those of step k among the images of some.
  at::Tensor of_step(const at::Tensor& images, int64_t k, int64_t count = 1) const {
    return images.narrow(0, k * batch, count * batch);
  }

  // The images of all steps as [T, B, ...].
  at::Tensor as_sequence(const at::Tensor& images) const {
    return images.unflatten(0, {steps, batch});
  }

  // Uninitialised images of all steps for the gradient to the inputs, in their format.
  at::Tensor inputs_grad() const;

  // The state, or one of 0.
  at::Tensor or_zero(const at::Tensor& state) const;

  // The mask of step t.
  OptionalTensor mask_of(int64_t t) const;

  // The state before step t (undefined: 0), and before each of some steps, from the
  // states after all steps [T, B, F, H, W] and the first.
  at::Tensor state_before(const at::Tensor& states, const at::Tensor& initial,
                          int64_t t) const;
  at::Tensor states_before(const at::Tensor& states, const at::Tensor& initial,
                           int64_t first, int64_t last) const;

  // The sizes [T, B, channels, H, W].
  std::vector<int64_t> sizes(int64_t channels) const {
    return {steps, batch, channels, height, width};
  }

 private:
  int64_t steps_of(double bytes, int64_t most, int64_t channels) const;
};

// The states after all steps, as an operator returns them. In channels last a step
// writes its state in place. Else it writes one of two buffers, from which the state is
// copied while the cache has it; or, where the device wants that, all are copied at the
// end.
class States {
 public:
  explicit States(const Sequence& net);

  // Uninitialised images for the state after step t; those of t - 1 stay as they are.
  at::Tensor buffer(int64_t t) const;

  // Copies the buffer of step t, once it is filled, to its place in all().
  void store(int64_t t) const;

  // [T, B, F, H, W].
  at::Tensor all() const;

 private:
  const Sequence& net_;
  at::Tensor all_;
  std::array<at::Tensor, 2> buffers_;  // undefined where none are needed
};

// An image in a memory format.
at::Tensor in_format(const at::Tensor& image, at::MemoryFormat layout);

// What an operator returns where nothing is wanted.
at::Tensor nothing(const at::TensorOptions& options);

// Parts of a sequence, one after the other.
at::Tensor join(const std::vector<at::Tensor>& parts);

// Gradients in the order of `wanted`, as an operator returns them.
template <size_t... kth>
auto as_tuple(const std::array<at::Tensor, sizeof...(kth)>& found,
              std::index_sequence<kth...>) {
  return std::make_tuple(found[kth]...);
}
template <size_t count>
auto as_tuple(const std::array<at::Tensor, count>& found) {
  return as_tuple(found, std::make_index_sequence<count>());
}
template <size_t count>
using TensorTuple = decltype(as_tuple(std::array<at::Tensor, count>()));

// Those that are defined in the dtype of the options, the others empty.
template <size_t count>
TensorTuple<count> gradients(std::array<at::Tensor, count> found,
                             const at::TensorOptions& options) {
  for (at::Tensor& one : found) {
    one = one.defined() ? one.to(options.dtype().toScalarType()) : nothing(options);
  }
  return as_tuple(found);
}

}  // namespace trajgru_ext
