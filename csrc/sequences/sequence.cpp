#include "sequences/sequence.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "sequences/calls.h"
#include "sequences/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

using at::Tensor;

Sequence::Sequence(const char* op, int64_t count) : steps(count) {
  TORCH_CHECK_VALUE(steps >= 0, op, ": steps must not be below 0, got ", steps);
}

void Sequence::take_images(const char* op, const OptionalTensor& sequence,
                           const OptionalTensor& state,
                           const OptionalTensor& old_state_mask, int64_t count,
                           const Tensor& parameter, const Tensor& weight) {
  features = count;
  like = at::TensorOptions().dtype(parameter.scalar_type()).device(parameter.device());
  plan = read_options<SequencePlan>(op, call::sequence_plan(parameter));
  TORCH_CHECK_VALUE(sequence.has_value() || state.has_value(), op,
                    ": inputs or h must be given, got None for both");
  if (sequence.has_value()) {
    check_argument(op, "inputs", *sequence, {steps, -1, -1, -1, -1}, parameter);
    TORCH_CHECK_VALUE(sequence->size(2) > 0, op,
                      ": inputs must be [T, B, C, H, W], C > 0, got ",
                      sequence->sizes());
    inputs = *sequence;
    // One channel fits both formats: then as the weights, or the state below.
    if (sequence->size(2) == 1) {
      format = memory_format(weight);
    } else if (steps > 0) {
      format = memory_format(sequence->select(0, 0));
    }
  } else {
    check_argument(op, "h", *state, {-1, features, -1, -1}, parameter);
  }
  const Tensor& sized = sequence.has_value() ? *sequence : *state;
  batch = sized.size(-4);
  height = sized.size(-2);
  width = sized.size(-1);
  if (state.has_value()) {
    check_argument(op, "h", *state, {batch, features, height, width}, parameter);
    h = channels_last(*state);
    h_format = memory_format(*state);
    if (!sequence.has_value() || sequence->size(2) == 1) format = h_format;
  }
  if (old_state_mask.has_value()) {
    const auto wanted = sizes(features);
    TORCH_CHECK_TYPE(old_state_mask->scalar_type() == at::kBool, op,
                     ": the mask must be bool, got ", old_state_mask->scalar_type());
    TORCH_CHECK_VALUE(old_state_mask->sizes() == at::IntArrayRef(wanted) &&
                          old_state_mask->device() == parameter.device(),
                      op, ": the mask must be ", at::IntArrayRef(wanted), " on ",
                      parameter.device(), ", got ", old_state_mask->sizes(), " on ",
                      old_state_mask->device());
    mask = at_once(*old_state_mask);
  }
}

int64_t Sequence::steps_of(double bytes, int64_t most, int64_t channels) const {
  const double step = static_cast<double>(batch * channels * height * width) *
                      static_cast<double>(like.dtype().itemsize());
  const double fit = std::floor(bytes / std::max(step, 1.0));
  const int64_t all = std::min(most, steps);
  return fit < static_cast<double>(all)
             ? std::max<int64_t>(1, static_cast<int64_t>(fit))
             : all;
}

int64_t Sequence::steps_per_block(int64_t channels) const {
  return steps_of(plan.ahead_bytes, plan.ahead_steps, channels);
}

int64_t Sequence::steps_per_block_back(int64_t channels, bool saved) const {
  return saved ? steps_of(plan.saved_bytes, plan.saved_steps, channels)
               : steps_of(plan.again_bytes, plan.again_steps, channels);
}

Tensor Sequence::images_of(const Tensor& sequence, int64_t first, int64_t count) const {
  const Tensor some = sequence.narrow(0, first, count);
  const bool even = some.stride(0) == batch * some.stride(1);
  if (even || count == 1 || batch == 1) return channels_last(some.flatten(0, 1));
  // Where flatten would copy, once is enough.
  const Tensor from = images(count, sequence.size(2), sequence.scalar_type());
  from.unflatten(0, {count, batch}).copy_(some);
  return from;
}

Tensor Sequence::at_once(const Tensor& sequence) const {
  if (!plan.at_once || sequence.numel() == 0) return sequence;
  return as_sequence(images_of(sequence, 0, steps));
}

Tensor Sequence::images(int64_t count, int64_t channels) const {
  return images(count, channels, like.dtype().toScalarType());
}

Tensor Sequence::images(int64_t count, int64_t channels, at::ScalarType dtype) const {
  return at::empty({count * batch, channels, height, width},
                   like.dtype(dtype).memory_format(at::MemoryFormat::ChannelsLast));
}

Tensor Sequence::inputs_grad() const {
  return at::empty({steps * batch, inputs.size(2), height, width},
                   like.memory_format(format));
}

Tensor Sequence::or_zero(const Tensor& state) const {
  return state.defined() ? state : images(1, features).zero_();
}

OptionalTensor Sequence::mask_of(int64_t t) const {
  if (!mask.defined()) return std::nullopt;
  return mask.select(0, t);
}

Tensor Sequence::state_before(const Tensor& states, const Tensor& initial,
                              int64_t t) const {
  return t == 0 ? initial : channels_last(states.select(0, t - 1));
}

Tensor Sequence::states_before(const Tensor& states, const Tensor& initial,
                               int64_t first, int64_t last) const {
  if (first > 0) {
    return channels_last(states.slice(0, first - 1, last - 1).flatten(0, 1));
  }
  const Tensor start = or_zero(initial);
  if (last == 1) return start;
  return at::cat({start, channels_last(states.slice(0, 0, last - 1).flatten(0, 1))});
}

States::States(const Sequence& net)
    : net_(net),
      all_(at::empty({net.steps * net.batch, net.features, net.height, net.width},
                     net.like.memory_format(net.plan.at_once && !net.empty()
                                                ? at::MemoryFormat::ChannelsLast
                                                : net.format))) {
  if (net.empty() || net.plan.at_once) return;
  if (net.format == at::MemoryFormat::ChannelsLast) return;
  for (Tensor& buffer : buffers_) buffer = net.images(1, net.features);
}

Tensor States::buffer(int64_t t) const {
  return buffers_[0].defined() ? buffers_[t % 2] : net_.of_step(all_, t);
}

void States::store(int64_t t) const {
  if (buffers_[0].defined()) call::copy_image(net_.of_step(all_, t), buffer(t));
}

Tensor States::all() const {
  return net_.as_sequence(net_.empty() ? all_ : in_format(all_, net_.format));
}

Tensor in_format(const Tensor& image, at::MemoryFormat layout) {
  const Tensor target = at::empty(image.sizes(), image.options().memory_format(layout));
  return in_form_of(target, image, [](const Tensor& to, const Tensor& from) {
    call::copy_image(to, from);
  });
}

Tensor nothing(const at::TensorOptions& options) {
  return at::empty({0}, options);
}

Tensor join(const std::vector<Tensor>& parts) {
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

}  // namespace trajgru_ext
