#pragma once

// Winograd's convolution tile by tile (math/winograd.h). See flow_warp.cpp for what
// files of this folder may use.

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
constexpr int64_t kLanes = Vec<T>::size();

// Bytes of the transformed tiles that are worked on together: they and what is made of
// them stay in the second cache.
constexpr int64_t kTogetherBytes = 768 << 10;
constexpr int64_t kFewestTogether = 12, kMostTogether = 96;

// Columns of the products that are worked on together where there is one gate.
constexpr int64_t kColumns = 64;

// What sums begin from.
template <typename T>
constexpr T zeros[std::max(kColumns, kWinogradOutputs)] = {};

// A tile of the image, and the part of its patch that lies in the image.
struct Patch {
  int64_t sample, row, column;  // of its first pixel
  int64_t first_row, last_row, first_column, last_column;

  // side: of the patch; margin: how far it begins before the tile.
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
  return count >= kLanes<T> ? Vec<T>::loadu(from) : Vec<T>::loadu(from, count);
}

template <typename T>
void store(const Vec<T>& value, T* to, int64_t count) {
  count >= kLanes<T> ? value.store(to) : value.store(to, count);
}

// The values of a patch at the points, one vector of channels after the other.
// f: from side * side vectors to as many as there are points. to: of the first point.
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
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    const int64_t count = channels - c;
    Vec<T> in[side * side], out[points * points];
    if (inside && count >= kLanes<T>) {
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

// What the tile's outputs are made from.
template <int taps, typename T>
void transform_image(const WinogradTiles& tiles, int64_t tile,
                     const PixelView<T>& image, int64_t channels, T* to,
                     int64_t point) {
  constexpr int side = winograd_points(taps);
  transform_patch<side, side>(
      image, Patch(tiles, tile, side, taps / 2), channels,
      [](const Vec<T>* d, Vec<T>* values) { separate<taps>(d, values); }, to, point);
}

// The gradient to the tile's outputs.
template <int taps, typename T>
void transform_grad(const WinogradTiles& tiles, int64_t tile, const PixelView<T>& grad,
                    int64_t channels, T* to, int64_t point) {
  transform_patch<kTileOutputs, winograd_points(taps)>(
      grad, Patch(tiles, tile, kTileOutputs, 0), channels,
      [](const Vec<T>* y, Vec<T>* values) { evaluate<taps, kTileOutputs>(y, values); },
      to, point);
}

// Of each gate, features that are worked on together.
template <typename T>
int64_t features_together(const WinogradConv<T>& conv) {
  return conv.gates == 1 ? kColumns : product_kernels<T>().panel;
}

// A buffer's parts: the tiles' values at the points, and their products with some
// panels of weights.
template <typename T>
struct ConvBuffer {
  int64_t points, row, point, panels, columns, product_point;

  ConvBuffer(const WinogradConv<T>& conv, int64_t tiles) {
    const int64_t panel = product_kernels<T>().panel;
    points = conv.tiles.points();
    row = in_lines<T>(conv.depth() + kLanes<T>);  // a part of a vector is written whole
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

// The values at the points of some columns, which lie `point` apart.
template <typename T>
struct TileProducts {
  const T* data;
  int64_t point;

  // One vector of columns, as the tile's kTileOutputs * kTileOutputs outputs.
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

// To a vector of a tile's outputs the bias, from one output on.
template <typename T>
void add_bias(const WinogradConv<T>& conv, int64_t output, int64_t count, Vec<T>* out) {
  if (conv.bias == nullptr) return;
  const Vec<T> bias = load(conv.bias + output, count);
  for (int k = 0; k < kTileOutputs * kTileOutputs; ++k) out[k] = out[k] + bias;
}

// To where they lie in the image.
template <typename T>
void store_outputs(const WinogradConv<T>& conv, const Patch& patch, int64_t output,
                   int64_t count, const Vec<T>* out) {
  T* to = conv.output + patch.sample * conv.batch + patch.row * conv.row +
          patch.column * conv.col + output;
  // Of a size that is known, so that the outputs stay in registers.
  const bool inside = patch.inside(kTileOutputs);
  for (int i = 0; i < kTileOutputs; ++i) {
    for (int j = 0; j < kTileOutputs; ++j) {
      if (!inside && !patch.holds(i, j)) continue;
      store(out[i * kTileOutputs + j], to + i * conv.row + j * conv.col, count);
    }
  }
}

// finish(patch, products, panel) for every tile and its outputs in some panels, from
// that panel on.
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
