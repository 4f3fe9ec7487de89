#pragma once

// Images as the kernels of convolutions read and write them, in float32 and channels
// last, from and to others.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <array>
#include <optional>

#include "cpu/copy_image.h"
#include "cpu/scratch.h"

namespace trajgru_ext {

constexpr auto kLast = at::MemoryFormat::ChannelsLast;

// Such an image while it is worked on. A thread may have one of each User at a time.
template <typename User>
class Pixels {
 public:
  // Uninitialised.
  explicit Pixels(const std::array<int64_t, 4>& sizes)
      : memory_(std::in_place, c10::multiply_integers(sizes)) {
    const auto& [batch, channels, height, width] = sizes;
    image = at::from_blob(memory_->data(), sizes,
                          {height * width * channels, 1, width * channels, channels},
                          at::kFloat);
  }

  // The values of others, or these themselves.
  explicit Pixels(const at::Tensor& from) {
    const at::Tensor floats = from.to(at::kFloat);
    if (floats.is_contiguous(kLast)) {
      image = floats;
    } else {
      *this = Pixels({from.size(0), from.size(1), from.size(2), from.size(3)});
      copy_on_cpu(image, floats);
    }
  }

  at::Tensor image;

 private:
  std::optional<Scratch<User>> memory_;
};

// A tensor that f writes as the kernels do, whatever its memory format.
template <typename User, typename F>
at::Tensor from_pixels(const std::array<int64_t, 4>& sizes,
                       const at::TensorOptions& options, const F& f) {
  const at::Tensor result = at::empty(sizes, options);
  if (result.is_contiguous(kLast)) {
    f(result);
  } else {
    const Pixels<User> pixels(sizes);
    f(pixels.image);
    copy_on_cpu(result, pixels.image);
  }
  return result;
}

}  // namespace trajgru_ext
