// Winograd's convolution to the sums of gates, fused with the update of the gates
// (csrc/math/*_step.h and gru_gates.h), which reads the sums of a tile from the stack:
//
//   products at a tile's points  --sum_gates-->  sums of its 4 x 4 pixels
//   a row of its pixels          --update_row->  the new state, and what else it writes

#include "cpu/gate_kernels.h"
#include "cpu/vec/gate_loop.h"
#include "cpu/vec/winograd.h"
#include "math/gru_output.h"
#include "math/gru_reset.h"
#include "math/gru_step.h"
#include "math/lstm_step.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

constexpr int64_t kMostGates = 4, kWidestPanel = 32;

// Calls f(view) for all tensors of an update but the sums, and returns the view of the
// sums.
template <typename D, typename F>
auto& for_tensors(LstmStep<D>& args, const F& f) {
  f(args.gates), f(args.c), f(args.h), f(args.mask);
  f(args.w_ci), f(args.w_cf), f(args.w_co);
  f(args.h_output), f(args.c_output);
  return args.h_gates;
}

template <typename D, typename F>
auto& for_tensors(GruStep<D>& args, const F& f) {
  f(args.gates), f(args.h), f(args.mask), f(args.candidate), f(args.output);
  return args.h_gates;
}

template <typename D, typename F>
auto& for_tensors(GruReset<D>& args, const F& f) {
  f(args.h), f(args.u), f(args.reset);
  return args.x_gates;
}

template <typename D, typename F>
auto& for_tensors(GruOutput<D>& args, const F& f) {
  f(args.u), f(args.h), f(args.mask), f(args.output);
  return args.candidate;
}

// The sums of a tile's pixels for some features of every gate: [pixels, gates,
// features].
template <typename T>
struct TileSums {
  int64_t pixel, gate;  // elements from one pixel and one gate to the next
  T values[kTileOutputs * kTileOutputs * kMostGates * kWidestPanel];

  T* at(int64_t k, int64_t number) { return values + k * pixel + number * gate; }

  // The pixels of the tile's row i, as a row's update reads them.
  GateView<const T> row(int64_t i) const {
    return {values + i * kTileOutputs * pixel, 0, pixel, gate};
  }
};

// From the products of a tile to the sums of the gates' features from `first` on, which
// go to the convolution's output too where it has one.
template <int taps, typename T>
void sum_gates(const WinogradConv<T>& conv, const Patch& patch,
               const TileProducts<T>& products, int64_t first, int64_t features,
               TileSums<T>& sums) {
  constexpr int pixels = kTileOutputs * kTileOutputs;
  for (int64_t gate = 0; gate < conv.gates; ++gate) {
    for (int64_t c = 0; c < features; c += kVecSize<T>) {
      const int64_t output = gate * conv.features + first + c;
      Vec<T> out[pixels];
      products.template outputs<taps, taps>(gate * sums.gate + c, out);
      add_bias<pixels>(conv, output, features - c, out);
      if (conv.output != nullptr) {
        store_outputs<kTileOutputs, kTileOutputs>(conv, patch, output, features - c,
                                                  out);
      }
      for (int k = 0; k < pixels; ++k) out[k].store(sums.at(k, gate) + c);
    }
  }
}

// Updates the features from `first` on of the pixels of the tile's row i.
template <typename Args, typename T>
void update_row(const WinogradConv<T>& conv, const Args& args, const Patch& patch,
                int64_t i, int64_t first, int64_t features, const TileSums<T>& sums) {
  using D = typename Args::Dtypes;
  // Where the row's first pixel lies among the rows of the update.
  const int64_t width = conv.tiles.width, pixels = conv.tiles.height * width;
  const bool by_sample = args.rows.outer > 1;
  const int64_t outer = by_sample ? patch.sample : 0;
  const int64_t inner =
      (by_sample ? 0 : patch.sample * pixels) + (patch.row + i) * width + patch.column;
  Args here = args;
  auto& view = for_tensors(here, [&](auto& tensor) {
    if (tensor.present()) tensor.data = tensor.at(outer, inner, 0, first);
  });
  view = sums.row(i);
  for (int64_t j = 0; j < patch.last_column; ++j) {
    PlaceInRow<D, true> at{0, j, 0, 0};
    update_blocks(here, at, features);
    if (at.index < features) {
      update(here, PlaceInRow<D, false>{0, j, at.index, features - at.index});
    }
  }
}

// Tile by tile, a panel's features of all gates: their sums, and at once, while these
// are in cache, the update. docs/kernels.md has a picture.
template <int taps, typename Args, typename T>
void convolve(const WinogradConv<T>& conv, const Args& args, int64_t begin, int64_t end,
              T* buffer) {
  const int64_t panel_size = product_kernels<T>().panel;
  const int64_t most = features_together(conv);
  convolve<taps, taps>(
      conv, begin, end, buffer,
      [&](const Patch& patch, const TileProducts<T>& products, int64_t panel) {
        const int64_t first = panel / conv.gates * panel_size;
        const int64_t features = std::min(most, conv.features - first);
        TileSums<T> sums;
        sums.pixel = conv.gates * most;
        sums.gate = most;
        sum_gates<taps>(conv, patch, products, first, features, sums);
        for (int64_t i = 0; i < patch.last_row; ++i) {
          update_row(conv, args, patch, i, first, features, sums);
        }
      });
}

template <typename Args, typename T>
void convolve(const WinogradConv<T>& conv, const Args& args, int64_t begin, int64_t end,
              T* buffer) {
  conv.tiles.tap_rows == 3 ? convolve<3>(conv, args, begin, end, buffer)
                           : convolve<5>(conv, args, begin, end, buffer);
}

}  // namespace

template <typename Args>
const WinogradStepKernels<Args>& winograd_step_kernels() {
  static constexpr WinogradStepKernels<Args> kernels = {convolve<Args>};
  return kernels;
}

#define TRAJGRU_INSTANTIATE_WINOGRAD_STEP(Args)                       \
  template const WinogradStepKernels<Args<GateDtypes<float, float>>>& \
  winograd_step_kernels<Args<GateDtypes<float, float>>>();

TRAJGRU_INSTANTIATE_WINOGRAD_STEP(LstmStep)
TRAJGRU_INSTANTIATE_WINOGRAD_STEP(GruStep)
TRAJGRU_INSTANTIATE_WINOGRAD_STEP(GruReset)
TRAJGRU_INSTANTIATE_WINOGRAD_STEP(GruOutput)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
