#include "cpu/conv/conv_algorithm.h"

#include <algorithm>
#include <atomic>

#include "cpu/capability.h"
#include "math/divide_up.h"
#include "math/winograd.h"

namespace trajgru_ext {
namespace {

std::atomic<ConvAlgorithm> chosen{ConvAlgorithm::automatic};

bool forced() {
  return chosen == ConvAlgorithm::winograd;
}

// Whether Winograd's convolution can compute it at all.
bool possible(const ConvProblem& conv) {
  const at::Tensor& weight = conv.weight;
  const int64_t taps = weight.size(2);
  const bool fits = weight.scalar_type() == at::kFloat && (taps == 3 || taps == 5) &&
                    weight.size(3) == taps && conv.dilation[0] == 1 &&
                    conv.dilation[1] == 1 && conv.height * conv.width > 1;
  return fits && chosen != ConvAlgorithm::direct;
}

// Whether it pays. Tiles reach beyond the image by less than half of it; below some
// channels the transformations take longer than the products that they save, and below
// some pixels those of the weights do, which each call of an operator makes once
// (measured with AVX2 and AVX512; torch's own convolution has them in any case).
bool pays(const ConvProblem& conv, int64_t channels) {
  constexpr int64_t kTile = kTileOutputs, kLeastPixels = 256;
  const int64_t outputs = conv.weight.size(0), taps = conv.weight.size(2);
  const int64_t pixels = conv.height * conv.width;
  const int64_t tiled =
      divide_up(conv.height, kTile) * divide_up(conv.width, kTile) * kTile * kTile;
  const bool wide =
      taps == 3 ? channels >= 16 && outputs >= 32 : channels >= 8 && outputs >= 16;
  return wide && pixels >= kLeastPixels && 2 * tiled <= 3 * pixels &&
         cpu_capability() != Capability::DEFAULT;
}

}  // namespace

ConvAlgorithm conv_algorithm() {
  return chosen;
}

void set_conv_algorithm(ConvAlgorithm algorithm) {
  chosen = algorithm;
}

bool use_winograd(const ConvProblem& conv) {
  return possible(conv) && (forced() || pays(conv, conv.weight.size(1)));
}

bool use_winograd_weight_grad(const ConvProblem& conv) {
  // The gradient of few pixels sums up few products: the transforms would not pay.
  constexpr int64_t kFewPixels = 1024, kFewChannels = 64, kLeastChannels = 32;
  if (!possible(conv)) return false;
  if (forced()) return true;
  const int64_t outputs = conv.weight.size(0), channels = conv.weight.size(1);
  const int64_t fewest = std::min(outputs, channels);
  const bool few = conv.height * conv.width < kFewPixels;
  return pays(conv, channels) && fewest >= (few ? kFewChannels : kLeastChannels);
}

bool use_winograd_gates(const OptionalTensor& x_weight, at::IntArrayRef x_dilation,
                        const ConvProblem& h_conv) {
  // Of the last panel of features at most a quarter of all may be empty.
  constexpr int64_t kPanel = 32;
  const int64_t features = h_conv.weight.size(1);
  int64_t channels = features;
  // A single feature fits both memory formats, and is updated in planes.
  if (features == 1 || !possible(h_conv)) return false;
  if (x_weight.has_value()) {
    const ConvProblem x_conv{*x_weight, x_dilation, h_conv.height, h_conv.width};
    if (!possible(x_conv) || x_weight->size(2) != h_conv.weight.size(2)) return false;
    channels += x_weight->size(1);
  }
  const bool full = 3 * divide_up(features, kPanel) * kPanel <= 4 * features;
  return forced() || (full && pays(h_conv, channels));
}

}  // namespace trajgru_ext
