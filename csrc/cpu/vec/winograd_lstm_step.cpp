#include "cpu/vec/lanes.h"
#include "cpu/vec/winograd.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

constexpr int64_t kGates = 4, kWidestPanel = 32;

// The arguments as seen from a place.
template <typename D>
LstmStep<D> seen_from(const LstmStep<D>& args, int64_t outer, int64_t inner,
                      int64_t index) {
  LstmStep<D> seen = args;
  const auto move = [&](auto& view) {
    if (view.present()) view.data = view.at(outer, inner, 0, index);
  };
  move(seen.gates);
  move(seen.c);
  move(seen.h);
  move(seen.mask);
  move(seen.w_ci);
  move(seen.w_cf);
  move(seen.w_co);
  move(seen.h_output);
  move(seen.c_output);
  return seen;
}

// A panel's features of all gates, updated as soon as a tile's sums are there.
template <int taps, typename D, typename T>
void convolve(const WinogradConv<T>& conv, const LstmStep<D>& args, int64_t begin,
              int64_t end, T* buffer) {
  constexpr int side = kTileOutputs;
  const int64_t panel_size = product_kernels<T>().panel, row = kGates * panel_size;
  convolve<taps>(
      conv, begin, end, buffer,
      [&](const Patch& patch, const auto& products, int64_t panel) {
        const int64_t first = panel / kGates * panel_size;
        const int64_t features = std::min(panel_size, conv.features - first);
        T sums[side * side * kGates * kWidestPanel];
        for (int64_t gate = 0; gate < kGates; ++gate) {
          for (int64_t c = 0; c < features; c += kLanes<T>) {
            Vec<T> out[side * side];
            products.template outputs<taps>(gate * panel_size + c, out);
            const int64_t output = gate * conv.features + first + c;
            const Vec<T> bias = conv.bias == nullptr
                                    ? Vec<T>(T(0))
                                    : load(conv.bias + output, features - c);
            for (int k = 0; k < side * side; ++k) {
              (out[k] + bias).store(sums + k * row + gate * panel_size + c);
            }
          }
        }
        const bool by_sample = args.rows.outer > 1;
        for (int64_t i = 0; i < patch.last_row; ++i) {
          const int64_t pixel = (patch.row + i) * conv.tiles.width + patch.column;
          LstmStep<D> seen = seen_from(
              args, by_sample ? patch.sample : 0,
              by_sample ? pixel
                        : patch.sample * conv.tiles.height * conv.tiles.width + pixel,
              first);
          seen.h_gates = {sums + i * side * row, 0, row, panel_size};
          for (int64_t j = 0; j < patch.last_column; ++j) {
            PlaceInRow<D, true> at{0, j, 0, 0};
            update_packs(seen, at, features);
            if (at.index < features) {
              update(seen, PlaceInRow<D, false>{0, j, at.index, features - at.index});
            }
          }
        }
      });
}

template <typename T>
void convolve(const WinogradConv<T>& conv, const LstmStep<GateDtypes<T, T>>& args,
              int64_t begin, int64_t end, T* buffer) {
  conv.tiles.taps == 3 ? convolve<3>(conv, args, begin, end, buffer)
                       : convolve<5>(conv, args, begin, end, buffer);
}

}  // namespace

template <typename T>
const WinogradLstmKernels<T>& winograd_lstm_kernels() {
  static constexpr WinogradLstmKernels<T> kernels = {convolve<T>};
  return kernels;
}

template const WinogradLstmKernels<float>& winograd_lstm_kernels<float>();

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
