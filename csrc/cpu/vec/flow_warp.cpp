// Compiled once per instruction set. Only at::vec, which lives in a namespace of its
// own for each set, and functions of this file: a function shared with other files
// could reach a processor that cannot run it.

#include "cpu/flow_warp.h"

#include <algorithm>

#include "cpu/vec/wide.h"
#include "math/bilinear.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

struct Tile {
  int64_t sample, begin, end;  // pixels of the sample

  Tile(const ImageSize& size, int64_t index)
      : sample(index / size.tiles()),
        begin(index % size.tiles() * kTilePixels),
        end(std::min(begin + kTilePixels, size.pixels())) {}

  int64_t pixels() const { return end - begin; }
};

// f(pixel, landing, cell) for the tile's pixels in order.
template <typename coord_t, typename F>
void for_each_cell(const ImageSize& size, const FlowView<const coord_t>& flow,
                   coord_t flow_scale, const Tile& tile, const F& f) {
  const coord_t* data = flow.data + tile.sample * flow.batch;
  int64_t row = tile.begin / size.width, col = tile.begin % size.width;
  for (int64_t pixel = tile.begin; pixel < tile.end; ++pixel) {
    const coord_t* at = data + row * flow.row + col * flow.col;
    Cell<coord_t, int64_t> cell;
    const Landing landing =
        locate(row, col, flow_scale * at[0], flow_scale * at[flow.component],
               size.height, size.width, cell);
    f(pixel, landing, cell);
    if (++col == size.width) {
      col = 0;
      ++row;
    }
  }
}

// The corners that a pixel reads: inside the image and of a weight that is not zero,
// so that whatever lies beside a whole displacement cannot leak in.
template <typename coord_t>
struct Taps {
  int count;
  Landing landing;
  int64_t offset[kCorners];
  coord_t weight[kCorners];
};

template <typename scalar_t, typename coord_t>
Taps<coord_t> find_taps(const ImageSize& size, const PixelView<scalar_t>& input,
                        Landing landing, const Cell<coord_t, int64_t>& cell) {
  Taps<coord_t> taps;
  taps.count = 0;
  taps.landing = landing;
  if (landing != Landing::inside) return taps;
  const int64_t first = cell.row * input.row + cell.col * input.col;
  for (int k = 0; k < kCorners; ++k) {
    const coord_t weight = corner_weight(cell, k);
    if (weight != 0 && corner_inside(cell, k, size.height, size.width)) {
      taps.offset[taps.count] = first + (k >> 1) * input.row + (k & 1) * input.col;
      taps.weight[taps.count++] = weight;
    }
  }
  return taps;
}

// output[c] = sum_k weight[k] * image[offset[k] + c]
template <int kCount, typename scalar_t, typename coord_t>
void blend(const scalar_t* image, const Taps<coord_t>& taps, int64_t channels,
           scalar_t* output) {
  using W = Wide<scalar_t>;
  typename W::Vec weight[kCount];
  for (int k = 0; k < kCount; ++k) weight[k] = typename W::Vec(taps.weight[k]);
  int64_t c = 0;
  for (; c + W::kSize <= channels; c += W::kSize) {
    W sum = W::zero();
    for (int k = 0; k < kCount; ++k) {
      sum.add_product(weight[k], W::load(image + taps.offset[k] + c));
    }
    sum.store(output + c);
  }
  for (; c < channels; ++c) {
    coord_t sum = 0;
    for (int k = 0; k < kCount; ++k) {
      sum += taps.weight[k] * static_cast<coord_t>(image[taps.offset[k] + c]);
    }
    output[c] = static_cast<scalar_t>(sum);
  }
}

template <typename scalar_t, typename coord_t>
void warp_pixel(const scalar_t* image, const Taps<coord_t>& taps, int64_t channels,
                scalar_t* output) {
  switch (taps.count) {
    case 4:
      return blend<4>(image, taps, channels, output);
    case 3:
      return blend<3>(image, taps, channels, output);
    case 2:
      return blend<2>(image, taps, channels, output);
    case 1:
      return blend<1>(image, taps, channels, output);
    default:
      std::fill_n(output, channels,
                  static_cast<scalar_t>(value_without_cell<coord_t>(taps.landing)));
  }
}

// planes[c * plane + p] = rows[p * channels + c], in blocks that stay in registers.
template <typename from_t, typename scalar_t>
void transpose(const from_t* rows, int64_t row_stride, int64_t pixels, int64_t channels,
               scalar_t* planes, int64_t plane) {
  constexpr int64_t kBlock = 8;
  for (int64_t c0 = 0; c0 < channels; c0 += kBlock) {
    const int64_t c1 = std::min(c0 + kBlock, channels);
    for (int64_t p0 = 0; p0 < pixels; p0 += kBlock) {
      const int64_t p1 = std::min(p0 + kBlock, pixels);
      for (int64_t c = c0; c < c1; ++c) {
        for (int64_t p = p0; p < p1; ++p) {
          planes[c * plane + p] = static_cast<scalar_t>(rows[p * row_stride + c]);
        }
      }
    }
  }
}

template <typename scalar_t>
void pack(const ImageSize& size, const scalar_t* planes, scalar_t* packed,
          int64_t begin_tile, int64_t end_tile) {
  const int64_t channels = size.channels;
  for (int64_t index = begin_tile; index < end_tile; ++index) {
    const Tile tile(size, index);
    const int64_t sample = tile.sample * channels * size.pixels();
    transpose(planes + sample + tile.begin, size.pixels(), channels, tile.pixels(),
              packed + sample + tile.begin * channels, channels);
  }
}

template <typename scalar_t>
void forward(const FlowWarpForward<scalar_t>& args, int64_t begin_tile,
             int64_t end_tile) {
  using coord_t = at::opmath_type<scalar_t>;
  constexpr int64_t kBlock = 64;  // channels of a tile of planes on the stack
  const int64_t channels = args.size.channels;
  const ImageView<scalar_t>& output = args.output;
  Taps<coord_t> taps[kTilePixels];
  scalar_t values[kTilePixels * kBlock];
  for (int64_t index = begin_tile; index < end_tile; ++index) {
    const Tile tile(args.size, index);
    for_each_cell(args.size, args.flow, args.flow_scale, tile,
                  [&](int64_t pixel, Landing landing, const auto& cell) {
                    taps[pixel - tile.begin] =
                        find_taps(args.size, args.input, landing, cell);
                  });
    const scalar_t* image = args.input.data + tile.sample * args.input.batch;
    scalar_t* out =
        output.data + tile.sample * output.batch + tile.begin * output.pixel;
    if (output.channel == 1) {
      for (int64_t p = 0; p < tile.pixels(); ++p) {
        warp_pixel(image, taps[p], channels, out + p * output.pixel);
      }
      continue;
    }
    for (int64_t c = 0; c < channels; c += kBlock) {
      const int64_t block = std::min(kBlock, channels - c);
      for (int64_t p = 0; p < tile.pixels(); ++p) {
        warp_pixel(image + c, taps[p], block, values + p * block);
      }
      transpose(values, block, tile.pixels(), block, out + c * output.channel,
                output.channel);
    }
  }
}

template <typename scalar_t>
void reach(const FlowWarpBackward<scalar_t>& args, int64_t begin_tile,
           int64_t end_tile) {
  using coord_t = at::opmath_type<scalar_t>;
  const ImageSize& size = args.size;
  const FlowView<coord_t>& flow_grad = args.flow_grad;
  for (int64_t index = begin_tile; index < end_tile; ++index) {
    const Tile tile(size, index);
    int64_t begin = size.pixels(), end = 0;
    const auto visit = [&](int64_t pixel, Landing landing, const auto& cell) {
      if (landing == Landing::inside) {
        const int64_t row = std::max<int64_t>(cell.row, 0);
        const int64_t col = std::max<int64_t>(cell.col, 0);
        const int64_t last_row = std::min(cell.row + 1, size.height - 1);
        const int64_t last_col = std::min(cell.col + 1, size.width - 1);
        begin = std::min(begin, row * size.width + col);
        end = std::max(end, last_row * size.width + last_col + 1);
      } else if (flow_grad.data != nullptr) {
        coord_t* at = flow_grad.data + tile.sample * flow_grad.batch +
                      pixel / size.width * flow_grad.row +
                      pixel % size.width * flow_grad.col;
        at[0] = at[flow_grad.component] = value_without_cell<coord_t>(landing);
      }
    };
    for_each_cell(size, args.flow, args.flow_scale, tile, visit);
    args.reach[index] = {begin, end};
  }
}

// One output pixel's part in the backward pass, with the corners it may touch.
template <typename scalar_t, typename coord_t>
struct Corners {
  const scalar_t* value[kCorners];  // null: not read
  coord_t* sum[kCorners];           // null: not in the band, or of no weight
  coord_t weight[kCorners];
  coord_t dot[kCorners];
};

// sum[k][c] += weight[k] * grad[c] and dot[k] = sum_c grad[c] * value[k][c], in one
// reading of grad. kAll: every corner that is asked for is there.
template <bool kSums, bool kDots, bool kAll, typename scalar_t, typename coord_t>
void spread(const scalar_t* grad, int64_t channels, Corners<scalar_t, coord_t>& at) {
  using W = Wide<scalar_t>;
  W dots[kCorners];
  for (int k = 0; k < kCorners; ++k) {
    dots[k] = W::zero();
    at.dot[k] = 0;
  }
  int64_t c = 0;
  for (; c + W::kSize <= channels; c += W::kSize) {
    const W g = W::load(grad + c);
    for (int k = 0; k < kCorners; ++k) {
      if (kSums && (kAll || at.sum[k] != nullptr)) {
        W sum = W::load_sums(at.sum[k] + c);
        sum.add_product(typename W::Vec(at.weight[k]), g);
        sum.store_sums(at.sum[k] + c);
      }
      if (kDots && (kAll || at.value[k] != nullptr)) {
        dots[k].add_product(g, W::load(at.value[k] + c));
      }
    }
  }
  if (kDots && c > 0) {
    for (int k = 0; k < kCorners; ++k) at.dot[k] = dots[k].sum();
  }
  for (; c < channels; ++c) {
    const coord_t g = static_cast<coord_t>(grad[c]);
    for (int k = 0; k < kCorners; ++k) {
      if (kSums && (kAll || at.sum[k] != nullptr)) at.sum[k][c] += at.weight[k] * g;
      if (kDots && (kAll || at.value[k] != nullptr)) {
        at.dot[k] += g * static_cast<coord_t>(at.value[k][c]);
      }
    }
  }
}

template <bool kSums, bool kDots, typename scalar_t, typename coord_t>
void backward_tile(const FlowWarpBackward<scalar_t>& args, const Tile& tile,
                   int64_t band_begin, int64_t band_end, coord_t* sums,
                   int64_t sums_pixel) {
  const ImageSize& size = args.size;
  const PixelView<scalar_t>& input = args.input;
  const auto visit = [&](int64_t pixel, Landing landing, const auto& cell) {
    if (landing != Landing::inside) return;
    const int64_t owner =
        std::max<int64_t>(cell.row, 0) * size.width + std::max<int64_t>(cell.col, 0);
    const bool owned = kDots && owner >= band_begin && owner < band_end;
    Corners<scalar_t, coord_t> at;
    int summed = 0, read = 0;
    for (int k = 0; k < kCorners; ++k) {
      const int64_t row = cell.row + (k >> 1), col = cell.col + (k & 1);
      const bool inside = corner_inside(cell, k, size.height, size.width);
      const int64_t corner = row * size.width + col;
      at.weight[k] = corner_weight(cell, k);
      const bool sum = kSums && inside && at.weight[k] != 0 && corner >= band_begin &&
                       corner < band_end;
      const bool value = owned && inside;
      at.sum[k] = sum ? sums + (corner - band_begin) * sums_pixel : nullptr;
      at.value[k] = value ? input.data + tile.sample * input.batch + row * input.row +
                                col * input.col
                          : nullptr;
      summed += sum;
      read += value;
    }
    if (summed == 0 && !owned) return;
    const int64_t i = pixel / size.width, j = pixel % size.width;
    const scalar_t* grad = args.grad.data + tile.sample * args.grad.batch +
                           i * args.grad.row + j * args.grad.col;
    if ((!kSums || summed == kCorners) && (!kDots || read == kCorners)) {
      spread<kSums, kDots, true>(grad, size.channels, at);
    } else {
      spread<kSums, kDots, false>(grad, size.channels, at);
    }
    if (owned) {
      const FlowView<coord_t>& flow_grad = args.flow_grad;
      coord_t* out = flow_grad.data + tile.sample * flow_grad.batch +
                     i * flow_grad.row + j * flow_grad.col;
      out[0] = args.flow_scale * gradient_u(cell, at.dot);
      out[flow_grad.component] = args.flow_scale * gradient_v(cell, at.dot);
    }
  };
  for_each_cell(size, args.flow, args.flow_scale, tile, visit);
}

template <bool kSums, bool kDots, typename scalar_t, typename coord_t>
void backward_bands(const FlowWarpBackward<scalar_t>& args, int64_t begin_band,
                    int64_t end_band, coord_t* sums) {
  const ImageSize& size = args.size;
  const ImageView<scalar_t>& out = args.input_grad;
  const bool in_place = kSums && !args.needs_sums();
  const int64_t sums_pixel = in_place ? out.pixel : size.channels;
  for (int64_t index = begin_band; index < end_band; ++index) {
    const int64_t sample = index / args.bands;
    const int64_t begin = index % args.bands * args.band_pixels;
    const int64_t end = std::min(begin + args.band_pixels, size.pixels());
    scalar_t* band =
        kSums ? out.data + sample * out.batch + begin * out.pixel : nullptr;
    if constexpr (std::is_same_v<scalar_t, coord_t>) {
      if (in_place) sums = band;
    }
    if (kSums) {
      for (int64_t p = 0; p < end - begin; ++p) {
        std::fill_n(sums + p * sums_pixel, size.channels, coord_t(0));
      }
    }
    for (int64_t t = 0; t < size.tiles(); ++t) {
      const int64_t tile = sample * size.tiles() + t;
      if (args.reach[tile].begin < end && args.reach[tile].end > begin) {
        backward_tile<kSums, kDots>(args, Tile(size, tile), begin, end, sums,
                                    sums_pixel);
      }
    }
    if (!kSums || in_place) continue;
    if (out.channel == 1) {
      for (int64_t p = 0; p < end - begin; ++p) {
        const coord_t* from = sums + p * size.channels;
        std::transform(from, from + size.channels, band + p * out.pixel,
                       [](coord_t sum) { return static_cast<scalar_t>(sum); });
      }
    } else {
      transpose(sums, size.channels, end - begin, size.channels, band, out.channel);
    }
  }
}

template <typename scalar_t>
void backward(const FlowWarpBackward<scalar_t>& args, int64_t begin_band,
              int64_t end_band, at::opmath_type<scalar_t>* sums) {
  if (args.flow_grad.data == nullptr) {
    backward_bands<true, false>(args, begin_band, end_band, sums);
  } else if (args.input_grad.data == nullptr) {
    backward_bands<false, true>(args, begin_band, end_band, sums);
  } else {
    backward_bands<true, true>(args, begin_band, end_band, sums);
  }
}

}  // namespace

template <typename scalar_t>
const FlowWarpKernels<scalar_t>& flow_warp_kernels() {
  static constexpr FlowWarpKernels<scalar_t> kernels = {
      pack<scalar_t>, forward<scalar_t>, reach<scalar_t>, backward<scalar_t>};
  return kernels;
}

template const FlowWarpKernels<float>& flow_warp_kernels<float>();
template const FlowWarpKernels<double>& flow_warp_kernels<double>();
template const FlowWarpKernels<at::BFloat16>& flow_warp_kernels<at::BFloat16>();
template const FlowWarpKernels<at::Half>& flow_warp_kernels<at::Half>();

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
