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
constexpr T zeros[std::max(kColumns, kMostGradOutputs)] = {};

// A patch of the image, or of the result: the pixels that a tile is made from, or its
// own, and which of them there are.
struct Patch {
  int64_t sample, row, column;  // of its first pixel
  int64_t first_row, last_row, first_column, last_column;

  // rows, columns: of the tile.
  static Patch of_result(const WinogradTiles& tiles, int64_t tile, int rows,
                         int columns) {
    Patch patch{};
    const int64_t row_number = tile / tiles.columns();
    patch.sample = row_number / tiles.rows();
    patch.row = row_number % tiles.rows() * rows;
    patch.column = tile % tiles.columns() * columns;
    patch.last_row = std::min<int64_t>(rows, tiles.height - patch.row);
    patch.last_column = std::min<int64_t>(columns, tiles.width - patch.column);
    return patch;
  }

  // side_rows, side_columns: of the patch.
  static Patch of_image(const WinogradTiles& tiles, int64_t tile, int rows, int columns,
                        int side_rows, int side_columns) {
    Patch patch = of_result(tiles, tile, rows, columns);
    patch.row -= tiles.pad_rows;
    patch.column -= tiles.pad_columns;
    patch.first_row = std::max<int64_t>(0, -patch.row);
    patch.last_row = std::min<int64_t>(side_rows, tiles.image_height - patch.row);
    patch.first_column = std::max<int64_t>(0, -patch.column);
    patch.last_column =
        std::min<int64_t>(side_columns, tiles.image_width - patch.column);
    return patch;
  }

  bool whole(int64_t rows, int64_t columns) const {
    return first_row == 0 && first_column == 0 && last_row == rows &&
           last_column == columns;
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

// The values of a patch of rows by columns pixels at the points, for one vector of
// channels after the other. f_rows, f_columns: the transforms in one dimension; to:
// where the values at the first point begin, those at the next being `point` further.
template <int rows, int columns, int row_points, int column_points, typename T,
          typename FRows, typename FColumns>
[[gnu::always_inline]] inline void transform_patch(const PixelView<T>& image,
                                                   const Patch& patch, int64_t channels,
                                                   const FRows& f_rows,
                                                   const FColumns& f_columns, T* to,
                                                   int64_t point) {
  const int64_t origin =
      patch.sample * image.batch + patch.row * image.row + patch.column * image.col;
  const auto place = [&](int64_t i, int64_t j, int64_t c) {
    return image.data + (origin + i * image.row + j * image.col + c);
  };
  constexpr int points = row_points * column_points;
  const bool whole = patch.whole(rows, columns);
  for (int64_t c = 0; c < channels; c += kVecSize<T>) {
    const int64_t count = channels - c;
    Vec<T> in[rows * columns], out[points];
    if (whole && count >= kVecSize<T>) {
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < columns; ++j) {
          in[i * columns + j] = Vec<T>::loadu(place(i, j, c));
        }
      }
    } else {
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < columns; ++j) {
          in[i * columns + j] =
              patch.holds(i, j) ? load(place(i, j, c), count) : Vec<T>(T(0));
        }
      }
    }
    on_grid<rows, row_points, columns, column_points>(in, out, f_rows, f_columns);
    for (int64_t k = 0; k < points; ++k) out[k].store(to + k * point + c);
  }
}

// The forward transform, B^T d B, of the patch that a tile of outputs is made from.
template <int rows, int columns, typename T>
void transform_image(const WinogradTiles& tiles, int64_t tile,
                     const PixelView<T>& image, int64_t channels, T* to,
                     int64_t point) {
  constexpr int side_rows = winograd_points(rows);
  constexpr int side_columns = winograd_points(columns);
  transform_patch<side_rows, side_columns, side_rows, side_columns>(
      image,
      Patch::of_image(tiles, tile, winograd_outputs(rows), winograd_outputs(columns),
                      side_rows, side_columns),
      channels, [](const Vec<T>* d, Vec<T>* values) { separate<rows>(d, values); },
      [](const Vec<T>* d, Vec<T>* values) { separate<columns>(d, values); }, to, point);
}

// The transform of the gradient to a tile of outputs, for the gradient to the weights.
template <int rows, int columns, typename T>
void transform_grad(const WinogradTiles& tiles, int64_t tile, const PixelView<T>& grad,
                    int64_t channels, T* to, int64_t point) {
  constexpr int tile_rows = winograd_outputs(rows);
  constexpr int tile_columns = winograd_outputs(columns);
  transform_patch<tile_rows, tile_columns, winograd_points(rows),
                  winograd_points(columns)>(
      grad, Patch::of_result(tiles, tile, tile_rows, tile_columns), channels,
      [](const Vec<T>* y, Vec<T>* values) { evaluate<rows, tile_rows>(y, values); },
      [](const Vec<T>* y, Vec<T>* values) {
        evaluate<columns, tile_columns>(y, values);
      },
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

  // Transforms one vector of columns back, to the outputs of a tile.
  template <int rows, int columns>
  void outputs(int64_t column, Vec<T>* out) const {
    constexpr int row_points = winograd_points(rows);
    constexpr int column_points = winograd_points(columns);
    constexpr int tile_rows = winograd_outputs(rows);
    constexpr int tile_columns = winograd_outputs(columns);
    Vec<T> in[row_points * column_points];
    for (int64_t k = 0; k < row_points * column_points; ++k) {
      in[k] = Vec<T>::loadu(data + k * point + column);
    }
    on_grid<row_points, tile_rows, column_points, tile_columns>(
        in, out,
        [](const Vec<T>* values, Vec<T>* y) {
          evaluate_transposed<rows, tile_rows>(values, y);
        },
        [](const Vec<T>* values, Vec<T>* y) {
          evaluate_transposed<columns, tile_columns>(values, y);
        });
  }
};

// Adds the bias to a vector of outputs at every pixel of a tile of so many. output: the
// first of them; count: how many there are, where fewer than a vector.
template <int pixels, typename T>
void add_bias(const WinogradConv<T>& conv, int64_t output, int64_t count, Vec<T>* out) {
  if (conv.bias == nullptr) return;
  const Vec<T> bias = load(conv.bias + output, count);
  for (int k = 0; k < pixels; ++k) out[k] = out[k] + bias;
}

// Stores a vector of outputs at every pixel of a tile that lies in the image.
template <int rows, int columns, typename T>
void store_outputs(const WinogradConv<T>& conv, const Patch& patch, int64_t output,
                   int64_t count, const Vec<T>* out) {
  T* to = conv.output + patch.sample * conv.batch + patch.row * conv.row +
          patch.column * conv.col + output;
  // The loops have constant bounds, so that `out` stays in registers.
  const bool whole = patch.whole(rows, columns);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      if (!whole && !patch.holds(i, j)) continue;
      store(out[i * columns + j], to + i * conv.row + j * conv.col, count);
    }
  }
}

// Calls finish(patch, products, panel) for every tile and every group of panels that is
// computed together; panel: the first of the group.
template <int rows, int columns, typename T, typename F>
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
        transform_image<rows, columns>(
            conv.tiles, first + tile, conv.images[n], conv.channels[n],
            values + tile * parts.row + channel, parts.point);
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
        finish(Patch::of_result(conv.tiles, first + tile, winograd_outputs(rows),
                                winograd_outputs(columns)),
               TileProducts<T>{product + tile * parts.columns, parts.product_point},
               panel);
      }
    }
  }
}

// f.template operator()<rows, columns>() for the taps.
template <typename F>
void for_taps(int64_t tap_rows, int64_t tap_columns, const F& f) {
  if (tap_rows == 1) {
    switch (tap_columns) {
      case 3:
        return f.template operator()<1, 3>();
      case 5:
        return f.template operator()<1, 5>();
      default:
        return f.template operator()<1, 7>();
    }
  }
  tap_columns == 3 ? f.template operator()<3, 3>() : f.template operator()<5, 5>();
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
