#include "autograd/conv2d_or_torch.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/conv2d.h>

#include <algorithm>
#include <array>

#include "cpu/conv/conv2d.h"
#include "operators/conv/conv2d.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// What autocast makes of an operand.
Tensor cast(const Tensor& tensor, at::ScalarType dtype) {
  return at::autocast::cached_cast(dtype, tensor, at::kCPU);
}

bool all_ones(at::IntArrayRef values) {
  return std::all_of(values.begin(), values.end(), [](int64_t k) { return k == 1; });
}

}  // namespace

Tensor conv2d_or_torch(const Tensor& input, const Tensor& weight,
                       const OptionalTensor& bias, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation,
                       int64_t groups) {
  const auto plain = [](const Tensor& one) {
    return one.defined() && one.is_cpu() && one.layout() == at::kStrided;
  };
  const bool ours = groups == 1 && (padding.size() == 1 || padding.size() == 2) &&
                    plain(input) && plain(weight) && input.dim() == 4 &&
                    weight.dim() == 4 && all_ones(stride) && all_ones(dilation) &&
                    (!bias.has_value() || (plain(*bias) && bias->dim() == 1 &&
                                           bias->size(0) == weight.size(0)));
  if (ours) {
    const std::array<int64_t, 2> both = {padding[0], padding[padding.size() - 1]};
    const bool autocast = at::autocast::is_autocast_enabled(at::kCPU);
    const auto dtype =
        autocast ? at::autocast::get_autocast_dtype(at::kCPU) : input.scalar_type();
    const Tensor x = autocast ? cast(input, dtype) : input;
    const Tensor w = autocast ? cast(weight, dtype) : weight;
    const OptionalTensor b =
        autocast && bias.has_value() ? OptionalTensor(cast(*bias, dtype)) : bias;
    if (conv2d_pays(x, w, both) && (!b.has_value() || b->scalar_type() == dtype)) {
      return call::conv2d(x, w, b, both);
    }
  }
  return at::conv2d(input, weight, bias, stride, padding, dilation, groups);
}

}  // namespace trajgru_ext
