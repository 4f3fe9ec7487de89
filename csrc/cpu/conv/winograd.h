#pragma once

// Winograd's convolution of stride 1 (math/winograd.h), on channels-last images, with
// as many rows of taps as columns or with one.

#include <algorithm>

#include "cpu/capability.h"
#include "cpu/views.h"
#include "math/divide_up.h"
#include "math/winograd.h"

namespace trajgru_ext {

// Whether there are kernels for so many taps.
inline bool winograd_taps(int64_t rows, int64_t columns) {
  if (rows == 1) return columns == 3 || columns == 5 || columns == 7;
  return rows == columns && (rows == 3 || rows == 5);
}

// A result that is computed in tiles, numbered row by row, image by image; the image
// that it is made from, and how far that is padded.
struct WinogradTiles {
  int64_t batch, height, width, image_height, image_width;
  int64_t tap_rows, tap_columns;  // 1 row where they are not as many
  int64_t pad_rows, pad_columns;

  int64_t rows() const { return divide_up<int64_t>(height, outputs(tap_rows)); }
  int64_t columns() const { return divide_up<int64_t>(width, outputs(tap_columns)); }
  int64_t count() const { return batch * rows() * columns(); }

  // Of a tile: the points in two dimensions.
  int64_t points() const { return points(tap_rows) * points(tap_columns); }

 private:
  static int outputs(int64_t taps) { return winograd_outputs(static_cast<int>(taps)); }
  static int points(int64_t taps) { return winograd_points(static_cast<int>(taps)); }
};

// Weights [gates * features, channels, k', k] with any strides, which make the channels
// from first_channel on of `depth`. Packed, those of a vector of features lie together,
// gate by gate.
template <typename T>
struct WinogradWeights {
  const T* data;
  int64_t gates, features, channels, tap_rows, tap_columns;
  int64_t output, channel, row, col;  // strides
  int64_t first_channel, depth;

  const T* at(int64_t o, int64_t c, int64_t i, int64_t j) const {
    return data + (o * output + c * channel + i * row + j * col);
  }
};

// The images of one or two tensors, whose channels follow one another.
constexpr int kWinogradImages = 2;

template <typename T>
struct WinogradConv {
  WinogradTiles tiles;
  PixelView<T> images[kWinogradImages];
  int64_t channels[kWinogradImages];
  const T* weights;         // [points, panels, depth, panel], as packed
  int64_t gates, features;  // of the outputs
  const T* bias;            // null: 0
  T* output;                // null: nothing but what gates are updated to is wanted
  int64_t batch, row, col;  // strides of the output

  int64_t depth() const { return channels[0] + channels[1]; }
};

// The gradient to weights of some outputs, tiles `first` to first + count of which are
// worked on together.
template <typename T>
struct WinogradWeightsGrad {
  WinogradTiles tiles;
  PixelView<T> grad, image;
  int64_t outputs, channels;
  int64_t first, count;
  T* buffer;  // both sides' values at the points
};

// The most outputs of a part of it.
constexpr int64_t kMostGradOutputs = 128;

// A part of it: from some channels to some outputs, in whole panels but for the last,
// at some points.
template <typename T>
struct WinogradGradBlock {
  int64_t channel, channels;  // the first, and how many
  int64_t output, outputs;
  int64_t point, points;
  T* sums;  // its gradient to the transformed weights, whose outputs are dense
  int64_t sums_channel, sums_point;  // strides
};

template <typename T>
struct WinogradKernels {
  // Panels of each gate; elements of the packed weights, of which some panels are made.
  int64_t (*panels)(int64_t features);
  int64_t (*weights_size)(const WinogradWeights<T>& weights);
  void (*pack)(const WinogradWeights<T>& weights, int64_t begin, int64_t end,
               T* packed);

  // Tiles that are best worked on together, and elements of the buffer for them.
  int64_t (*together)(const WinogradConv<T>& conv);
  int64_t (*buffer_size)(const WinogradConv<T>& conv);
  void (*convolve)(const WinogradConv<T>& conv, int64_t begin, int64_t end, T* buffer);

  // The tiles that are best worked on together, and elements of the buffer for `count`.
  int64_t (*grad_together)(const WinogradWeightsGrad<T>& grad);
  int64_t (*grad_buffer_size)(const WinogradWeightsGrad<T>& grad);
  // begin, end: tiles, counted from the first.
  void (*transform_sides)(const WinogradWeightsGrad<T>& grad, int64_t begin,
                          int64_t end);
  // Adds to the sums but for the first tiles.
  void (*sum_products)(const WinogradWeightsGrad<T>& grad,
                       const WinogradGradBlock<T>& block);
  // From the sums; the taps of a channel are dense, and those of the next follow.
  void (*finish_grad)(const WinogradWeightsGrad<T>& grad,
                      const WinogradGradBlock<T>& block, T* weights_grad,
                      int64_t output_stride);
};

TRAJGRU_DECLARE_KERNELS(WinogradKernels, winograd_kernels)

// A convolution to the sums of gates, which are updated tile by tile, in cache. Args:
// the update's (math/gates.h and its kin), whose view of the sums is filled in.
template <typename Args>
struct WinogradStepKernels {
  void (*convolve)(const WinogradConv<typename Args::Dtypes::math_t>& conv,
                   const Args& args, int64_t begin, int64_t end,
                   typename Args::Dtypes::math_t* buffer);
};

TRAJGRU_DECLARE_KERNELS(WinogradStepKernels, winograd_step_kernels)

}  // namespace trajgru_ext
