#include "cpu/conv/conv_algorithm.h"

#include <algorithm>
#include <atomic>

#include "cpu/capability.h"
#include "cpu/conv/winograd.h"
#include "math/divide_up.h"

namespace trajgru_ext {
namespace {

std::atomic<ConvAlgorithm> chosen{ConvAlgorithm::automatic};

bool forced() {
  return chosen == ConvAlgorithm::winograd;
}

// Whether Winograd's convolution can compute it at all.
bool possible(const ConvProblem& conv) {
  return conv.dilation[0] == 1 && conv.dilation[1] == 1 &&
         std::min(conv.height, conv.width) > 0 && conv.height * conv.width > 1 &&
         chosen != ConvAlgorithm::direct;
}

// Whether it can within a sequence.
bool possible_same(const ConvProblem& conv) {
  const at::Tensor& weight = conv.weight;
  return weight.scalar_type() == at::kFloat && weight.size(2) == weight.size(3) &&
         winograd_taps(weight.size(2), weight.size(3)) && possible(conv);
}

// Whether conv2d can.
bool possible_conv2d(const ConvProblem& conv) {
  const int64_t rows = conv.weight.size(2), columns = conv.weight.size(3);
  return (winograd_taps(rows, columns) || (columns == 1 && winograd_taps(1, rows))) &&
         possible(conv);
}

// The pixels of all tiles.
int64_t tiled(int64_t pixels, int64_t taps) {
  const int64_t tile = winograd_outputs(static_cast<int>(taps));
  return divide_up(pixels, tile) * tile;
}

// Whether it pays. Tiles reach beyond the image by less than half of it; below some
// channels the transformations take longer than the products that they save, and below
// some pixels those of the weights do (measured with AVX2 and AVX512; torch's own
// convolution has them in any case).
bool pays(const ConvProblem& conv, int64_t channels) {
  constexpr int64_t kLeastPixels = 256;
  const int64_t outputs = conv.weight.size(0);
  const int64_t rows = conv.weight.size(2), columns = conv.weight.size(3);
  const int64_t pixels = conv.height * conv.width;
  const auto wider = [&](int64_t fewest, int64_t fewest_outputs) {
    return channels >= fewest && outputs >= fewest_outputs;
  };
  const bool wide = rows != columns ? wider(32, 32)
                    : rows == 5     ? wider(8, 16)
                                    : wider(16, 32);
  return wide && pixels >= kLeastPixels &&
         2 * tiled(conv.height, rows) * tiled(conv.width, columns) <= 3 * pixels &&
         cpu_capability() != Capability::DEFAULT;
}

#if defined(TRAJGRU_X86)
#define TRAJGRU_CPU_HAS(feature) (__builtin_cpu_supports(feature) != 0)
#else
#define TRAJGRU_CPU_HAS(feature) false
#endif

// Whether the processor multiplies in the dtype itself, which by AVX512-BF16 is twice
// as fast as in float32 and by AMX many times.
bool multiplied(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return TRAJGRU_CPU_HAS("amx-bf16") || TRAJGRU_CPU_HAS("avx512bf16");
    case at::kHalf:
      return TRAJGRU_CPU_HAS("avx512fp16");
    default:
      return false;
  }
}

// Whether tiles of float32 pay for images of the weight's dtype.
bool floats_pay(const at::Tensor& weight) {
  constexpr int64_t kManyChannels = 64;
  if (!multiplied(weight.scalar_type())) return true;
  return weight.scalar_type() == at::kBFloat16 && !TRAJGRU_CPU_HAS("amx-bf16") &&
         weight.size(2) * weight.size(3) == 25 &&
         std::min(weight.size(0), weight.size(1)) >= kManyChannels;
}

// Whether it pays for the gradient to the weight, too.
bool weight_grad_pays(const ConvProblem& conv) {
  // The gradient of few pixels sums up few products: the transforms would not pay.
  constexpr int64_t kFewPixels = 1024, kFewChannels = 64, kLeastChannels = 32;
  const int64_t outputs = conv.weight.size(0), channels = conv.weight.size(1);
  const bool few = conv.height * conv.width < kFewPixels;
  return pays(conv, channels) &&
         std::min(outputs, channels) >= (few ? kFewChannels : kLeastChannels);
}

}  // namespace

ConvAlgorithm conv_algorithm() {
  return chosen;
}

void set_conv_algorithm(ConvAlgorithm algorithm) {
  chosen = algorithm;
}

bool use_winograd(const ConvProblem& conv) {
  return possible_same(conv) && (forced() || pays(conv, conv.weight.size(1)));
}

bool use_winograd_weight_grad(const ConvProblem& conv) {
  return possible_same(conv) && (forced() || weight_grad_pays(conv));
}

bool convolved_in_floats(at::ScalarType dtype) {
  return is_half(dtype) && !multiplied(dtype);
}

// Winograd's tiles, whose gates are updated in cache, save more than what products of
// AVX512-BF16 and AVX512-FP16 do, which are twice as fast.
bool sequences_in_floats(at::ScalarType dtype) {
  return is_half(dtype) && !(dtype == at::kBFloat16 && TRAJGRU_CPU_HAS("amx-bf16"));
}

bool use_winograd_conv2d(const ConvProblem& conv) {
  return possible_conv2d(conv) &&
         (forced() || (pays(conv, conv.weight.size(1)) && floats_pay(conv.weight)));
}

bool use_winograd_conv2d_weight_grad(const ConvProblem& conv) {
  return possible_conv2d(conv) &&
         (forced() ||
          (weight_grad_pays(conv) && !multiplied(conv.weight.scalar_type())));
}

bool use_winograd_gates(const OptionalTensor& x_weight, at::IntArrayRef x_dilation,
                        const ConvProblem& h_conv) {
  // Of the last panel of features at most a quarter of all may be empty.
  constexpr int64_t kPanel = 32;
  const int64_t features = h_conv.weight.size(1);
  int64_t channels = features;
  // A single feature fits both memory formats, and is updated in planes.
  if (features == 1 || !possible_same(h_conv)) return false;
  if (x_weight.has_value()) {
    const ConvProblem x_conv{*x_weight, x_dilation, h_conv.height, h_conv.width};
    if (!possible_same(x_conv) || x_weight->size(2) != h_conv.weight.size(2))
      return false;
    channels += x_weight->size(1);
  }
  const bool full = 3 * divide_up(features, kPanel) * kPanel <= 4 * features;
  return forced() || (full && pays(h_conv, channels));
}

}  // namespace trajgru_ext
