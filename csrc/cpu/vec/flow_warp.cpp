#include "cpu/flow_warp.h"

#include <algorithm>

#include "cpu/vec/tile.h"
#include "cpu/vec/transpose.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <Padding kPadding, typename scalar_t>
void forward_tiles(const FlowWarpForward<scalar_t>& args, int64_t begin_tile,
                   int64_t end_tile) {
  using coord_t = at::opmath_type<scalar_t>;
  constexpr int64_t kBlock = 64;  // channels of a tile of planes on the stack
  const int64_t channels = args.size.channels;
  const ImageView<scalar_t>& output = args.output;
  Taps<coord_t> taps[kTilePixels];
  scalar_t values[kTilePixels * kBlock];
  for (int64_t index = begin_tile; index < end_tile; ++index) {
    const Tile tile = numbered_tile(args.size, index);
    const scalar_t* image = args.input.data + tile.sample * args.input.batch;
    scalar_t* out =
        output.data + tile.sample * output.batch + tile.begin * output.pixel;
    if (output.channel == 1) {
      const auto visit = [&](const Located<coord_t>& at) {
        warp_pixel(image, find_taps(args.size, args.input, at), channels,
                   out + (at.pixel - tile.begin) * output.pixel);
      };
      for_each_cell<kPadding>(args.size, args.flow, args.flow_scale, tile, visit);
      continue;
    }
    const auto visit = [&](const Located<coord_t>& at) {
      taps[at.pixel - tile.begin] = find_taps(args.size, args.input, at);
    };
    for_each_cell<kPadding>(args.size, args.flow, args.flow_scale, tile, visit);
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

template <Padding kPadding, typename scalar_t>
void reach_of_tiles(const FlowWarpBackward<scalar_t>& args, int64_t begin_tile,
                    int64_t end_tile) {
  using coord_t = at::opmath_type<scalar_t>;
  const ImageSize& size = args.size;
  const FlowView<coord_t>& flow_grad = args.flow_grad;
  for (int64_t index = begin_tile; index < end_tile; ++index) {
    const Tile tile = numbered_tile(size, index);
    int64_t begin = size.pixels(), end = 0;
    const auto visit = [&](const Located<coord_t>& at) {
      if (at.target == FlowTarget::inside) {
        const int64_t row = std::max<int64_t>(at.cell.row, 0);
        const int64_t col = std::max<int64_t>(at.cell.col, 0);
        const int64_t last_row = std::min(at.cell.row + 1, size.height - 1);
        const int64_t last_col = std::min(at.cell.col + 1, size.width - 1);
        begin = std::min(begin, row * size.width + col);
        end = std::max(end, last_row * size.width + last_col + 1);
      } else if (flow_grad.data != nullptr) {
        coord_t* out = flow_grad.data + tile.sample * flow_grad.batch +
                       at.row * flow_grad.row + at.col * flow_grad.col;
        out[0] = out[flow_grad.component] = value_without_cell<coord_t>(at.target);
      }
    };
    for_each_cell<kPadding>(size, args.flow, args.flow_scale, tile, visit);
    args.reach[index] = {begin, end};
  }
}

template <Padding kPadding, bool kSums, bool kDots, typename scalar_t, typename coord_t>
void backward_tile(const FlowWarpBackward<scalar_t>& args, const Tile& tile,
                   const Band<coord_t>& band) {
  const ImageSize& size = args.size;
  const FlowView<coord_t>& flow_grad = args.flow_grad;
  const scalar_t* image = args.input.data + tile.sample * args.input.batch;
  const auto visit = [&](const Located<coord_t>& at) {
    if (at.target != FlowTarget::inside) return;
    const scalar_t* grad = args.grad.data + tile.sample * args.grad.batch +
                           at.row * args.grad.row + at.col * args.grad.col;
    coord_t du, dv;
    if (pull_back<kSums, kDots>(size, at, band, image, args.input, grad, size.channels,
                                du, dv)) {
      stop_where_clipped<kPadding>(at.cell, size.height, size.width, du, dv);
      coord_t* out = flow_grad.data + tile.sample * flow_grad.batch +
                     at.row * flow_grad.row + at.col * flow_grad.col;
      out[0] = args.flow_scale * du;
      out[flow_grad.component] = args.flow_scale * dv;
    }
  };
  for_each_cell<kPadding>(size, args.flow, args.flow_scale, tile, visit);
}

template <Padding kPadding, bool kSums, bool kDots, typename scalar_t, typename coord_t>
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
        backward_tile<kPadding, kSums, kDots>(
            args, numbered_tile(size, tile),
            Band<coord_t>{begin, end, sums, sums_pixel});
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

template <Padding kPadding, typename scalar_t>
void backward_of_bands(const FlowWarpBackward<scalar_t>& args, int64_t begin_band,
                       int64_t end_band, at::opmath_type<scalar_t>* sums) {
  if (args.flow_grad.data == nullptr) {
    backward_bands<kPadding, true, false>(args, begin_band, end_band, sums);
  } else if (args.input_grad.data == nullptr) {
    backward_bands<kPadding, false, true>(args, begin_band, end_band, sums);
  } else {
    backward_bands<kPadding, true, true>(args, begin_band, end_band, sums);
  }
}

// The table's functions: which padding it is stands before all loops.

template <typename scalar_t>
void forward(const FlowWarpForward<scalar_t>& args, int64_t begin_tile,
             int64_t end_tile) {
  const auto run = args.padding == Padding::border
                       ? forward_tiles<Padding::border, scalar_t>
                       : forward_tiles<Padding::zeros, scalar_t>;
  run(args, begin_tile, end_tile);
}

template <typename scalar_t>
void reach(const FlowWarpBackward<scalar_t>& args, int64_t begin_tile,
           int64_t end_tile) {
  const auto run = args.padding == Padding::border
                       ? reach_of_tiles<Padding::border, scalar_t>
                       : reach_of_tiles<Padding::zeros, scalar_t>;
  run(args, begin_tile, end_tile);
}

template <typename scalar_t>
void backward(const FlowWarpBackward<scalar_t>& args, int64_t begin_band,
              int64_t end_band, at::opmath_type<scalar_t>* sums) {
  const auto run = args.padding == Padding::border
                       ? backward_of_bands<Padding::border, scalar_t>
                       : backward_of_bands<Padding::zeros, scalar_t>;
  run(args, begin_band, end_band, sums);
}

}  // namespace

template <typename scalar_t>
const FlowWarpKernels<scalar_t>& flow_warp_kernels() {
  static constexpr FlowWarpKernels<scalar_t> kernels = {
      forward<scalar_t>, reach<scalar_t>, backward<scalar_t>};
  return kernels;
}

TRAJGRU_INSTANTIATE_KERNELS(FlowWarpKernels, flow_warp_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
