#include <bit>

#include "device/backend.h"

namespace emulation {

at::Tensor round_to_tf32(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.scalar_type() != at::kFloat) return tensor;
  constexpr uint32_t kDropped = 13, kInfinite = 0xff, kMantissa = 23;
  const at::Tensor rounded = tensor.clone();  // without gaps
  auto* numbers = rounded.mutable_data_ptr<float>();
  for (int64_t k = 0; k < rounded.numel(); ++k) {
    const auto bits = std::bit_cast<uint32_t>(numbers[k]);
    if ((bits >> kMantissa & kInfinite) == kInfinite) continue;
    const uint32_t half = (1u << (kDropped - 1)) - 1 + (bits >> kDropped & 1);
    numbers[k] = std::bit_cast<float>((bits + half) >> kDropped << kDropped);
  }
  return rounded;
}

}  // namespace emulation
