#include "cpu/gate_kernels.h"
#include "cpu/vec/gate_loop.h"
#include "cpu/vec/winograd.h"

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

// The convolution to the sums of all gates and the update, panel by panel of features:
// a tile's sums go from registers to a small array in the first-level cache, from which
// they are updated at once. docs/kernels.md has a picture.
template <int taps, typename Args, typename T>
void convolve(const WinogradConv<T>& conv, const Args& args, int64_t begin, int64_t end,
              T* buffer) {
  using D = typename Args::Dtypes;
  constexpr int side = kTileOutputs;
  const int64_t panel_size = product_kernels<T>().panel;
  const int64_t most = features_together(conv);
  const int64_t row = conv.gates * most;
  convolve<taps>(
      conv, begin, end, buffer,
      [&](const Patch& patch, const auto& products, int64_t panel) {
        const int64_t first = panel / conv.gates * panel_size;
        const int64_t features = std::min(most, conv.features - first);
        T sums[side * side * kMostGates * kWidestPanel];
        for (int64_t gate = 0; gate < conv.gates; ++gate) {
          for (int64_t c = 0; c < features; c += kVecSize<T>) {
            const int64_t output = gate * conv.features + first + c;
            Vec<T> out[side * side];
            products.template outputs<taps>(gate * most + c, out);
            add_bias(conv, output, features - c, out);
            if (conv.output != nullptr) {
              store_outputs(conv, patch, output, features - c, out);
            }
            for (int k = 0; k < side * side; ++k) {
              out[k].store(sums + k * row + gate * most + c);
            }
          }
        }
        const bool by_sample = args.rows.outer > 1;
        const int64_t width = conv.tiles.width, pixels = conv.tiles.height * width;
        for (int64_t i = 0; i < patch.last_row; ++i) {
          const int64_t outer = by_sample ? patch.sample : 0;
          const int64_t inner = (by_sample ? 0 : patch.sample * pixels) +
                                (patch.row + i) * width + patch.column;
          Args seen = args;
          auto& view = for_tensors(seen, [&](auto& tensor) {
            if (tensor.present()) tensor.data = tensor.at(outer, inner, 0, first);
          });
          view = {sums + i * side * row, 0, row, most};
          for (int64_t j = 0; j < patch.last_column; ++j) {
            PlaceInRow<D, true> at{0, j, 0, 0};
            update_blocks(seen, at, features);
            if (at.index < features) {
              update(seen, PlaceInRow<D, false>{0, j, at.index, features - at.index});
            }
          }
        }
      });
}

template <typename Args, typename T>
void convolve(const WinogradConv<T>& conv, const Args& args, int64_t begin, int64_t end,
              T* buffer) {
  conv.tiles.taps == 3 ? convolve<3>(conv, args, begin, end, buffer)
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
