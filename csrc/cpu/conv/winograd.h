#pragma once

// Winograd's convolution of stride 1 (math/winograd.h), on channels-last images.

#include "cpu/capability.h"
#include "cpu/views.h"
#include "math/winograd.h"

namespace trajgru_ext {

// The images that are convolved, cut into tiles of kTileOutputs by kTileOutputs pixels
// of the result, numbered row by row, image by image.
struct WinogradTiles {
  int64_t batch, height, width, taps;

  int64_t rows() const { return divide_up<int64_t>(height, kTileOutputs); }
  int64_t columns() const { return divide_up<int64_t>(width, kTileOutputs); }
  int64_t count() const { return batch * rows() * columns(); }

  // Of a tile: the points in two dimensions.
  int64_t points() const {
    const int points = winograd_points(static_cast<int>(taps));
    return points * points;
  }
};

// Weights [gates * features, channels, k, k] with any strides, which make the channels
// from first_channel on of `depth`. Packed, those of a vector of features lie together,
// gate by gate.
template <typename T>
struct WinogradWeights {
  const T* data;
  int64_t gates, features, channels, taps;
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

// Outputs of a gradient to weights whose products are a thread's, in whole panels.
constexpr int64_t kWinogradOutputs = 128;

// The gradient to weights of some outputs, tiles `first` to first + count of which are
// worked on together.
template <typename T>
struct WinogradWeightsGrad {
  WinogradTiles tiles;
  PixelView<T> grad, image;
  int64_t outputs, channels;
  int64_t first, count;
  T* buffer;  // both sides' values at the points
  T* sums;    // [points, C, O]: the gradient to the transformed weights
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

  // The tiles that are best worked on together, and elements of the buffer for them.
  int64_t (*grad_together)(const WinogradWeightsGrad<T>& grad);
  int64_t (*grad_buffer_size)(const WinogradWeightsGrad<T>& grad);
  // begin, end: tiles, counted from the first.
  void (*transform_sides)(const WinogradWeightsGrad<T>& grad, int64_t begin,
                          int64_t end);
  // kWinogradOutputs of a point, or what is left from the first on; adds to the sums
  // but for the first tiles.
  void (*sum_products)(const WinogradWeightsGrad<T>& grad, int64_t point,
                       int64_t first_output);
  // From the sums of some channels; the taps of one are dense, and those of the next
  // follow.
  void (*finish_grad)(const WinogradWeightsGrad<T>& grad, int64_t begin, int64_t end,
                      T* weights_grad, int64_t output_stride);
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
