#pragma once

// The warp of a tile of pixels and its transpose, of which every loop that moves along
// a flow is made. docs/kernels.md has a picture.

#include <c10/macros/Macros.h>

#include <algorithm>

#include "cpu/vec/wide.h"
#include "cpu/views.h"
#include "math/bilinear.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

struct Tile {
  int64_t sample, begin, end;  // pixels of the sample

  int64_t pixels() const { return end - begin; }
};

// The tiles of kTilePixels, numbered through all samples.
inline Tile numbered_tile(const ImageSize& size, int64_t index) {
  const int64_t begin = index % size.tiles() * kTilePixels;
  return {index / size.tiles(), begin, std::min(begin + kTilePixels, size.pixels())};
}

// The cells of some pixels of one row; of a pixel that is not interior the other arrays
// hold nothing of use. Plain loops over arrays, which the compiler turns into vectors.
template <typename coord_t>
struct Cells {
  int32_t row[kTilePixels], col[kTilePixels];
  coord_t fy[kTilePixels], fx[kTilePixels];
  bool interior[kTilePixels];

  // u, v: displacements of the pixels from (row, col) on.
  void locate(const coord_t* u, const coord_t* v, int64_t pixels, int32_t at_row,
              int32_t at_col, int32_t height, int32_t width) {
    // A displacement that is too large, or NaN, gets a whole part that leaves the
    // image, so that its pixel is not interior.
    const coord_t limit = displacement_limit<coord_t, int32_t>();
    for (int64_t p = 0; p < pixels; ++p) {
      const coord_t whole_u = std::fabs(u[p]) < limit ? std::floor(u[p]) : limit;
      const coord_t whole_v = std::fabs(v[p]) < limit ? std::floor(v[p]) : limit;
      fx[p] = u[p] - whole_u;
      fy[p] = v[p] - whole_v;
      col[p] = at_col + static_cast<int32_t>(p) + static_cast<int32_t>(whole_u);
      row[p] = at_row + static_cast<int32_t>(whole_v);
    }
    for (int64_t p = 0; p < pixels; ++p) {
      interior[p] = (col[p] >= 0) & (col[p] < width - 1) & (row[p] >= 0) &
                    (row[p] < height - 1) & (fx[p] > 0) & (fx[p] < 1) & (fy[p] > 0) &
                    (fy[p] < 1);
    }
  }
};

// An output pixel, and where its flow points. interior: all four corners are inside the
// image and have weights that are not zero.
template <typename coord_t>
struct Located {
  int64_t pixel, row, col;
  FlowTarget target;
  bool interior;
  Cell<coord_t, int64_t> cell;
};

// f(Located) for the tile's pixels in order. Most are interior, and are located many at
// a time; the others one by one.
template <Padding kPadding = Padding::zeros, typename coord_t, typename F>
void for_each_cell(const ImageSize& size, const FlowView<const coord_t>& flow,
                   coord_t flow_scale, const Tile& tile, const F& f) {
  const bool small = std::max(size.height, size.width) <
                     static_cast<int64_t>(displacement_limit<coord_t, int32_t>());
  Cells<coord_t> cells;
  coord_t u[kTilePixels], v[kTilePixels];
  for (int64_t pixel = tile.begin; pixel < tile.end;) {
    const int64_t row = pixel / size.width, col = pixel % size.width;
    const int64_t pixels = std::min({tile.end - pixel, size.width - col, kTilePixels});
    const coord_t* data =
        flow.data + tile.sample * flow.batch + row * flow.row + col * flow.col;
    for (int64_t p = 0; p < pixels; ++p) {
      u[p] = flow_scale * data[p * flow.col];
      v[p] = flow_scale * data[p * flow.col + flow.component];
    }
    if (small) cells.locate(u, v, pixels, row, col, size.height, size.width);
    for (int64_t p = 0; p < pixels; ++p) {
      Located<coord_t> at{pixel + p, row, col + p, FlowTarget::inside, true, {}};
      if (small && cells.interior[p]) {
        at.cell = {cells.row[p], cells.col[p], cells.fy[p], cells.fx[p]};
      } else {
        at.interior = false;
        at.target =
            locate<kPadding>(row, at.col, u[p], v[p], size.height, size.width, at.cell);
      }
      f(at);
    }
    pixel += pixels;
  }
}

// The corners that a pixel reads: those inside the image whose weight is not zero, so
// that a NaN beside a whole displacement does not spread.
template <typename coord_t>
struct Taps {
  int count;
  FlowTarget target;
  int64_t offset[kCorners];
  coord_t weight[kCorners];
};

template <typename scalar_t, typename coord_t>
C10_ALWAYS_INLINE Taps<coord_t> find_taps(const ImageSize& size,
                                          const PixelView<scalar_t>& input,
                                          const Located<coord_t>& at) {
  Taps<coord_t> taps;
  taps.count = 0;
  taps.target = at.target;
  if (at.target != FlowTarget::inside) return taps;
  const int64_t first = at.cell.row * input.row + at.cell.col * input.col;
  if (at.interior) {
    taps.count = kCorners;
    for (int k = 0; k < kCorners; ++k) {
      taps.offset[k] = first + (k >> 1) * input.row + (k & 1) * input.col;
      taps.weight[k] = corner_weight(at.cell, k);
    }
    return taps;
  }
  for (int k = 0; k < kCorners; ++k) {
    const coord_t weight = corner_weight(at.cell, k);
    if (weight != 0 && corner_inside(at.cell, k, size.height, size.width)) {
      taps.offset[taps.count] = first + (k >> 1) * input.row + (k & 1) * input.col;
      taps.weight[taps.count++] = weight;
    }
  }
  return taps;
}

// output[c] = sum_k weight[k] * image[offset[k] + c]
template <int kCount, typename scalar_t, typename coord_t, typename output_t>
C10_ALWAYS_INLINE void blend(const scalar_t* image, const Taps<coord_t>& taps,
                             int64_t channels, output_t* output) {
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
    output[c] = static_cast<output_t>(sum);
  }
}

// One pixel of the result. output_t: scalar_t, or its opmath type.
template <typename scalar_t, typename coord_t, typename output_t>
C10_ALWAYS_INLINE void warp_pixel(const scalar_t* image, const Taps<coord_t>& taps,
                                  int64_t channels, output_t* output) {
  // Nearly all pixels read four corners, so that case comes first and is inlined.
  if (taps.count == kCorners) return blend<kCorners>(image, taps, channels, output);
  switch (taps.count) {
    case 3:
      return blend<3>(image, taps, channels, output);
    case 2:
      return blend<2>(image, taps, channels, output);
    case 1:
      return blend<1>(image, taps, channels, output);
    default:
      std::fill_n(output, channels,
                  static_cast<output_t>(value_without_cell<coord_t>(taps.target)));
  }
}

// The corners that one output pixel touches in the backward pass.
template <typename scalar_t, typename coord_t>
struct Corners {
  const scalar_t* value[kCorners];  // null: not read
  coord_t* sum[kCorners];           // null: not in the band, or of no weight
  coord_t weight[kCorners];
};

// Reads grad once for both results: sum[k][c] += weight[k] * grad[c] where kSums, and
// the gradient to the flow where kDots. kAll: no pointer of `at` is null.
template <bool kSums, bool kDots, bool kAll, typename grad_t, typename scalar_t,
          typename coord_t>
C10_ALWAYS_INLINE void spread(const Cell<coord_t, int64_t>& cell, const grad_t* grad,
                              int64_t channels, const Corners<scalar_t, coord_t>& at,
                              coord_t& du, coord_t& dv) {
  using W = Wide<scalar_t>;
  W dots[kCorners];
  for (int k = 0; k < kCorners; ++k) dots[k] = W::zero();
  int64_t c = 0;
  for (; c + W::kSize <= channels; c += W::kSize) {
    const W g = W::load(grad + c);
    for (int k = 0; k < kCorners; ++k) {
      if (kSums && (kAll || at.sum[k] != nullptr)) {
        W sum = W::load(at.sum[k] + c);
        sum.add_product(typename W::Vec(at.weight[k]), g);
        sum.store(at.sum[k] + c);
      }
      if (kDots && (kAll || at.value[k] != nullptr)) {
        dots[k].add_product(g, W::load(at.value[k] + c));
      }
    }
  }
  coord_t rest[kCorners] = {0, 0, 0, 0};
  for (; c < channels; ++c) {
    const coord_t g = static_cast<coord_t>(grad[c]);
    for (int k = 0; k < kCorners; ++k) {
      if (kSums && (kAll || at.sum[k] != nullptr)) at.sum[k][c] += at.weight[k] * g;
      if (kDots && (kAll || at.value[k] != nullptr)) {
        rest[k] += g * static_cast<coord_t>(at.value[k][c]);
      }
    }
  }
  if (kDots) {
    // Combined before the lanes of a vector are added up, which is the dearer step.
    typename W::Vec partial[kCorners];
    for (int k = 0; k < kCorners; ++k) partial[k] = dots[k].folded();
    du = gradient_u(cell, rest);
    dv = gradient_v(cell, rest);
    if (channels >= W::kSize) {
      du += sum_of_lanes(gradient_u(cell, partial));
      dv += sum_of_lanes(gradient_v(cell, partial));
    }
  }
}

// The input pixels whose gradient one thread owns at a time, and their sums.
template <typename coord_t>
struct Band {
  int64_t begin, end;  // pixels
  coord_t* sums;       // of pixel begin
  int64_t pixel;       // stride

  bool has(int64_t at) const { return at >= begin && at < end; }
};

// Carries the gradient of one output pixel to its corners within the band. The band
// that has the first corner inside the image also computes the gradient to the flow, du
// and dv; returns whether it did.
template <bool kSums, bool kDots, typename grad_t, typename scalar_t, typename coord_t>
C10_ALWAYS_INLINE bool pull_back(const ImageSize& size, const Located<coord_t>& place,
                                 const Band<coord_t>& band, const scalar_t* image,
                                 const PixelView<scalar_t>& input, const grad_t* grad,
                                 int64_t channels, coord_t& du, coord_t& dv) {
  const Cell<coord_t, int64_t>& cell = place.cell;
  const int64_t corner = cell.row * size.width + cell.col;
  Corners<scalar_t, coord_t> at;
  if (place.interior && band.has(corner) && band.has(corner + size.width + 1)) {
    for (int k = 0; k < kCorners; ++k) {
      const int64_t row = k >> 1, col = k & 1;
      at.weight[k] = corner_weight(cell, k);
      at.sum[k] =
          band.sums + (corner - band.begin + row * size.width + col) * band.pixel;
      at.value[k] = image + (cell.row + row) * input.row + (cell.col + col) * input.col;
    }
    spread<kSums, kDots, true>(cell, grad, channels, at, du, dv);
    return kDots;
  }
  const int64_t first =
      std::max<int64_t>(cell.row, 0) * size.width + std::max<int64_t>(cell.col, 0);
  const bool owned = kDots && band.has(first);
  bool any = owned;
  for (int k = 0; k < kCorners; ++k) {
    const int64_t row = cell.row + (k >> 1), col = cell.col + (k & 1);
    const int64_t here = row * size.width + col;
    const bool inside = corner_inside(cell, k, size.height, size.width);
    at.weight[k] = corner_weight(cell, k);
    const bool sum = kSums && inside && at.weight[k] != 0 && band.has(here);
    at.sum[k] = sum ? band.sums + (here - band.begin) * band.pixel : nullptr;
    at.value[k] = owned && inside ? image + row * input.row + col * input.col : nullptr;
    any |= sum;
  }
  if (any) spread<kSums, kDots, false>(cell, grad, channels, at, du, dv);
  return owned;
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
