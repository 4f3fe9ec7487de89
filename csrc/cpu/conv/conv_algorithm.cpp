#include "cpu/conv/conv_algorithm.h"

#include <algorithm>
#include <atomic>

#include "cpu/capability.h"
#include "cpu/images.h"
#include "math/winograd.h"
#include "sequences/calls.h"

namespace trajgru_ext {
namespace {

std::atomic<ConvAlgorithm> chosen{ConvAlgorithm::automatic};

// Whether it can be computed so at all, by this build's operators.
bool possible(const at::Tensor& image, const Conv& conv) {
  const at::Tensor& weight = conv.weight;
  const int64_t taps = weight.size(2);
  const bool fits = image.is_cpu() && image.scalar_type() == at::kFloat &&
                    (taps == 3 || taps == 5) && weight.size(3) == taps &&
                    conv.dilation[0] == 1 && conv.dilation[1] == 1 &&
                    image.size(2) * image.size(3) > 1;
  return fits && conv_algorithm() != ConvAlgorithm::direct && has_cpu_operators();
}

// Whether it pays. Tiles reach beyond the image by less than half of it; below some
// channels the transformations take longer than the products that they save, and below
// some pixels those of the weights do, which each call of an operator makes once
// (measured with AVX2 and AVX512; torch's own convolution has them in any case).
bool pays(const at::Tensor& image, int64_t channels, int64_t outputs, int64_t taps) {
  constexpr int64_t kTile = kTileOutputs, kLeastPixels = 256;
  const int64_t pixels = image.size(2) * image.size(3);
  const int64_t tiled =
      divide_up(image.size(2), kTile) * divide_up(image.size(3), kTile) * kTile * kTile;
  const bool wide =
      taps == 3 ? channels >= 16 && outputs >= 32 : channels >= 8 && outputs >= 16;
  return wide && pixels >= kLeastPixels && 2 * tiled <= 3 * pixels &&
         cpu_capability() != Capability::DEFAULT;
}

bool forced() {
  return conv_algorithm() == ConvAlgorithm::winograd;
}

}  // namespace

ConvAlgorithm conv_algorithm() {
  return chosen;
}

void set_conv_algorithm(ConvAlgorithm algorithm) {
  chosen = algorithm;
}

bool winograd_serves(const at::Tensor& image, const Conv& conv) {
  if (!possible(image, conv)) return false;
  const at::Tensor& weight = conv.weight;
  return forced() || pays(image, weight.size(1), weight.size(0), weight.size(2));
}

bool winograd_serves_weights_grad(const at::Tensor& image, const Conv& conv) {
  // Few pixels have few products to sum up.
  constexpr int64_t kFewPixels = 1024, kFewChannels = 64, kLeastChannels = 32;
  if (!possible(image, conv)) return false;
  if (forced()) return true;
  const at::Tensor& weight = conv.weight;
  const int64_t outputs = weight.size(0), channels = weight.size(1);
  const int64_t fewest = std::min(outputs, channels);
  const bool few = image.size(2) * image.size(3) < kFewPixels;
  return pays(image, channels, outputs, weight.size(2)) &&
         fewest >= (few ? kFewChannels : kLeastChannels);
}

bool winograd_serves_gates(const at::Tensor& image, const Conv& x_conv,
                           const Conv& h_conv) {
  // Of the last panel of features at most a quarter of all may be empty.
  constexpr int64_t kPanel = 32;
  const int64_t taps = h_conv.weight.size(2), features = h_conv.weight.size(1);
  int64_t channels = features;
  // A single feature fits both memory formats, and is updated in planes.
  if (features == 1 || !possible(image, h_conv)) return false;
  if (x_conv.weight.defined()) {
    if (!possible(image, x_conv) || x_conv.weight.size(2) != taps) return false;
    channels += x_conv.weight.size(1);
  }
  const bool full = 3 * divide_up(features, kPanel) * kPanel <= 4 * features;
  return forced() || (full && pays(image, channels, h_conv.weight.size(0), taps));
}

}  // namespace trajgru_ext
