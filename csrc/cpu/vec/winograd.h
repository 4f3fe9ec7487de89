#pragma once

// Winograd's convolution (math/winograd.h) of a tile of outputs: the patch of the image
// that the tile is made from is transformed to its values at the points, these are
// multiplied by the weights' values there, and the products are transformed back.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>

#include "cpu/product.h"
#include "cpu/conv/winograd.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <typename T>
using Vec = at::vec::Vectorized<T>;

template <typename T>
constexpr int64_t kVecSize = Vec<T>::size();

// Bytes of the transformed tiles that are multiplied together: they and their products
// stay in the second-level cache.
constexpr int64_t kTogetherBytes = 768 << 10;
constexpr int64_t kFewestTogether = 12, kMostTogether = 96;

// Columns of the products that are computed together where there is one gate.
constexpr int64_t kColumns = 64;

// Sums begin from these.
template <typename T>
constexpr T zeros[std::max(kColumns, kWinogradOutputs)] = {};

// A patch: the pixels that a tile is made from, and which of them lie in the image.
struct Patch {
  int64_t sample, row, column;  // of its first pixel
  int64_t first_row, last_row, first_column, last_column;

  // side: pixels of a side of the patch; margin: how far it begins before the tile.
  Patch(const WinogradTiles& tiles, int64_t tile, int64_t side, int64_t margin) {
    const int64_t column_number = tile % tiles.columns();
    const int64_t row_number = tile / tiles.columns();
    sample = row_number / tiles.rows();
    row = row_number % tiles.rows() * kTileOutputs - margin;
    column = column_number * kTileOutputs - margin;
    first_row = std::max<int64_t>(0, -row);
    last_row = std::min(side, tiles.height - row);
    first_column = std::max<int64_t>(0, -column);
    last_column = std::min(side, tiles.width - column);
  }

  bool inside(int64_t side) const {
    return first_row == 0 && first_column == 0 && last_row == side &&
           last_column == side;
  }

  bool holds(int64_t i, int64_t j) const {
    return i >= first_row && i < last_row && j >= first_column && j < last_column;
  }
};

template <typename T>
Vec<T> load(const T* from, int64_t count) {
  return count >= kVecSize<T> ? Vec<T>::loadu(from) : Vec<T>::loadu(from, count);
}

template <typename T>
void store(const Vec<T>& value, T* to, int64_t count) {
  count >= kVecSize<T> ? value.store(to) : value.store(to, count);
}

// The values of a patch at the points, for one vector of channels after the other.
// f: the transform in one dimension; to: where the values at the first point begin,
// those at the next being `point` further.
template <int side, int points, typename T, typename F>
[[gnu::always_inline]] inline void transform_patch(const PixelView<T>& image,
                                                   const Patch& patch, int64_t channels,
                                                   const F& f, T* to, int64_t point) {
  const int64_t origin =
      patch.sample * image.batch + patch.row * image.row + patch.column * image.col;
  const auto place = [&](int64_t i, int64_t j, int64_t c) {
    return image.data + (origin + i * image.row + j * image.col + c);
  };
  const bool inside = patch.inside(side);
  for (int64_t c = 0; c < channels; c += kVecSize<T>) {
    const int64_t count = channels - c;
    Vec<T> in[side * side], out[points * points];
    if (inside && count >= kVecSize<T>) {
      for (int i = 0; i < side; ++i) {
        for (int j = 0; j < side; ++j) {
          in[i * side + j] = Vec<T>::loadu(place(i, j, c));
        }
      }
    } else {
      for (int i = 0; i < side; ++i) {
        for (int j = 0; j < side; ++j) {
          in[i * side + j] =
              patch.holds(i, j) ? load(place(i, j, c), count) : Vec<T>(T(0));
        }
      }
    }
    on_square<side, points>(in, out, f);
    for (int64_t k = 0; k < points * points; ++k) out[k].store(to + k * point + c);
  }
}

// The forward transform, B^T d B, of the patch that a tile of outputs is made from.
template <int taps, typename T>
void transform_image(const WinogradTiles& tiles, int64_t tile,
                     const PixelView<T>& image, int64_t channels, T* to,
                     int64_t point) {
  constexpr int side = winograd_points(taps);
  transform_patch<side, side>(
      image, Patch(tiles, tile, side, taps / 2), channels,
      [](const Vec<T>* d, Vec<T>* values) { separate<taps>(d, values); }, to, point);
}

// The transform of the gradient to a tile of outputs, for the gradient to the weights.
template <int taps, typename T>
void transform_grad(const WinogradTiles& tiles, int64_t tile, const PixelView<T>& grad,
                    int64_t channels, T* to, int64_t point) {
  transform_patch<kTileOutputs, winograd_points(taps)>(
      grad, Patch(tiles, tile, kTileOutputs, 0), channels,
      [](const Vec<T>* y, Vec<T>* values) { evaluate<taps, kTileOutputs>(y, values); },
      to, point);
}

// How many features of each gate are computed together: where there are several gates,
// a panel of each, so that a tile can be updated as soon as its panels are there.
template <typename T>
int64_t features_together(const WinogradConv<T>& conv) {
  return conv.gates == 1 ? kColumns : product_kernels<T>().panel;
}

// The parts of a thread's buffer: the values of some tiles at the points, and their
// products with some panels of weights.
template <typename T>
struct ConvBuffer {
  int64_t points, row, point, panels, columns, product_point;

  ConvBuffer(const WinogradConv<T>& conv, int64_t tiles) {
    const int64_t panel = product_kernels<T>().panel;
    points = conv.tiles.points();
    row = in_lines<T>(conv.depth() + kVecSize<T>);  // the last vector is stored whole
    point = apart<T>(tiles * row);
    columns = conv.gates * features_together(conv);
    panels = columns / panel;
    product_point = apart<T>(tiles * columns);
  }

  int64_t size() const { return points * (point + product_point); }
};

template <typename T>
int64_t together(const WinogradConv<T>& conv) {
  const ConvBuffer<T> one(conv, 1);
  const int64_t bytes = one.points * (one.row + one.columns) * sizeof(T);
  const int64_t tiles = kTogetherBytes / bytes / kFewestTogether * kFewestTogether;
  return std::clamp<int64_t>(tiles, kFewestTogether, kMostTogether);
}

template <typename T>
int64_t buffer_size(const WinogradConv<T>& conv) {
  return ConvBuffer<T>(conv, together(conv)).size();
}

// The products of one tile: for each point a row of columns, `point` apart.
template <typename T>
struct TileProducts {
  const T* data;
  int64_t point;

  // Transforms one vector of columns back, to kTileOutputs * kTileOutputs outputs.
  template <int taps>
  void outputs(int64_t column, Vec<T>* out) const {
    constexpr int points = winograd_points(taps);
    Vec<T> in[points * points];
    for (int64_t k = 0; k < points * points; ++k) {
      in[k] = Vec<T>::loadu(data + k * point + column);
    }
    on_square<points, kTileOutputs>(in, out, [](const Vec<T>* values, Vec<T>* y) {
      evaluate_transposed<taps, kTileOutputs>(values, y);
    });
  }
};

// Adds the bias to a vector of outputs at every pixel of a tile. output: the first of
// them; count: how many there are, where fewer than a vector.
template <typename T>
void add_bias(const WinogradConv<T>& conv, int64_t output, int64_t count, Vec<T>* out) {
  if (conv.bias == nullptr) return;
  const Vec<T> bias = load(conv.bias + output, count);
  for (int k = 0; k < kTileOutputs * kTileOutputs; ++k) out[k] = out[k] + bias;
}

// Stores a vector of outputs at every pixel of a tile that lies in the image.
template <typename T>
void store_outputs(const WinogradConv<T>& conv, const Patch& patch, int64_t output,
                   int64_t count, const Vec<T>* out) {
  T* to = conv.output + patch.sample * conv.batch + patch.row * conv.row +
          patch.column * conv.col + output;
  // The loops have constant bounds, so that `out` stays in registers.
  const bool inside = patch.inside(kTileOutputs);
  for (int i = 0; i < kTileOutputs; ++i) {
    for (int j = 0; j < kTileOutputs; ++j) {
      if (!inside && !patch.holds(i, j)) continue;
      store(out[i * kTileOutputs + j], to + i * conv.row + j * conv.col, count);
    }
  }
}

// Calls finish(patch, products, panel) for every tile and every group of panels that is
// computed together; panel: the first of the group.
template <int taps, typename T, typename F>
void convolve(const WinogradConv<T>& conv, int64_t begin, int64_t end, T* buffer,
              const F& finish) {
  const ProductKernels<T>& products = product_kernels<T>();
  const int64_t most = together(conv), depth = conv.depth();
  const int64_t panels = conv.gates * products.panels(conv.features);
  const ConvBuffer<T> parts(conv, most);
  T* values = buffer;
  T* product = buffer + parts.points * parts.point;
  for (int64_t first = begin; first < end; first += most) {
    const int64_t tiles = std::min(most, end - first);
    for (int64_t n = 0, channel = 0; n < kWinogradImages;
         channel += conv.channels[n++]) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        transform_image<taps>(conv.tiles, first + tile, conv.images[n],
                              conv.channels[n], values + tile * parts.row + channel,
                              parts.point);
      }
    }
    for (int64_t panel = 0; panel < panels; panel += parts.panels) {
      const int64_t count = std::min(parts.panels, panels - panel);
      for (int64_t k = 0; k < parts.points; ++k) {
        for (int64_t n = 0; n < count; ++n) {
          products.multiply(
              {tiles, depth, products.panel, values + k * parts.point, parts.row,
               conv.weights + (k * panels + panel + n) * depth * products.panel,
               product + k * parts.product_point + n * products.panel, parts.columns,
               zeros<T>});
        }
      }
      for (int64_t tile = 0; tile < tiles; ++tile) {
        finish(Patch(conv.tiles, first + tile, kTileOutputs, 0),
               TileProducts<T>{product + tile * parts.columns, parts.product_point},
               panel);
      }
    }
  }
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
