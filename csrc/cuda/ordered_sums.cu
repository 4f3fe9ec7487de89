#include "cuda/ordered_sums.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>

#include <algorithm>
#include <tuple>

#include "cuda/images.h"
#include "cuda/ordered_sums.h"
#include "tensors/tensors.h"

namespace trajgru_ext::cuda {
namespace {

using at::Tensor;

// The samples that the rows belong to, and the cells of these.
struct Extent {
  int64_t first_sample, samples, cells;

  Extent(const WarpedRows& rows, int64_t pixels) {
    const int64_t height = rows.flows.size(2), width = rows.flows.size(3);
    first_sample = rows.first / (height * width);
    samples = (rows.first + pixels - 1) / (height * width) + 1 - first_sample;
    cells = samples * (height + 1) * (width + 1);
  }
};

// The warps of each cell: from `begin[cell]` on in `order`, up to the next cell's.
struct SortedWarps {
  Tensor begin, order, fraction;
};

template <typename coord_t, typename index_t>
SortedWarps sort_warps(const WarpedRows& rows, int64_t pixels, const Extent& extent) {
  const int64_t links = rows.flows.size(1) / 2;
  const auto numbers =
      rows.flows.options().dtype(c10::CppTypeToScalarType<index_t>::value);
  const Tensor cell = at::empty({pixels * links}, numbers);
  const Tensor fraction = at::empty({pixels * links, 2}, rows.flows.options());
  const WarpCells<coord_t, index_t> args{
      image_size<index_t>(rows.flows),
      static_cast<index_t>(links),
      static_cast<index_t>(rows.first),
      static_cast<index_t>(pixels),
      image_view<const coord_t, index_t>(rows.flows),
      static_cast<coord_t>(rows.flow_scale),
      static_cast<index_t>(extent.first_sample),
      static_cast<index_t>(extent.cells),
      data<index_t>(cell),
      reinterpret_cast<Vector<coord_t, 2>*>(data<coord_t>(fraction))};
  const auto kernel = rows.padding == Padding::border
                          ? warp_cells_kernel<coord_t, Padding::border, index_t>
                          : warp_cells_kernel<coord_t, Padding::zeros, index_t>;
  launch(kernel, grid_size(pixels * links), kBlock, 0, current_stream(), args);
  const auto [sorted, order] = at::sort(cell, /*stable=*/true, 0, /*descending=*/false);
  const Tensor begin = at::searchsorted(sorted, at::arange(extent.cells + 1, numbers),
                                        /*out_int32=*/sizeof(index_t) == 4);
  return {begin, order, fraction};
}

template <typename scalar_t, int kVector, typename index_t>
void add_sorted(const SortedWarps& warps, const Tensor& grad, const Tensor& sums) {
  using coord_t = at::opmath_type<scalar_t>;
  const int group = group_log2(sums.size(3) / kVector);
  const OrderedSums<scalar_t, index_t> args{
      static_cast<index_t>(sums.size(0)),
      static_cast<index_t>(sums.size(3)),
      static_cast<index_t>(sums.size(1)),
      static_cast<index_t>(sums.size(2)),
      data<const index_t>(warps.begin),
      data<const int64_t>(warps.order),
      reinterpret_cast<const Vector<coord_t, 2>*>(data<const coord_t>(warps.fraction)),
      data<const scalar_t>(grad),
      data<coord_t>(sums),
      group};
  launch(ordered_sums_kernel<scalar_t, kVector, index_t>,
         grid_size(sums.size(0) * sums.size(1) * sums.size(2) << group), kBlock, 0,
         current_stream(), args);
}

// Whether `count` channels of each row are loaded as one.
template <typename T>
bool aligned_rows(const Tensor& rows, int64_t channels, int count) {
  const auto address = reinterpret_cast<uintptr_t>(rows.const_data_ptr());
  return channels % count == 0 && address % (count * sizeof(T)) == 0;
}

template <typename scalar_t, typename index_t>
void add_piece(const WarpedRows& rows, int64_t pixels, const Extent& extent,
               const Tensor& sums) {
  constexpr int kWide = kVectorBytes / sizeof(scalar_t);
  using coord_t = at::opmath_type<scalar_t>;
  const int64_t channels = sums.size(3);
  const bool wide = aligned_rows<scalar_t>(rows.grad, channels, kWide) &&
                    aligned_rows<coord_t>(sums, channels, kWide);
  const auto run =
      wide ? add_sorted<scalar_t, kWide, index_t> : add_sorted<scalar_t, 1, index_t>;
  run(sort_warps<coord_t, index_t>(rows, pixels, extent), rows.grad,
      sums.narrow(0, extent.first_sample, extent.samples));
}

}  // namespace

void add_in_order(const WarpedRows& rows, const Tensor& sums) {
  const int64_t links = rows.flows.size(1) / 2, pixels = rows.grad.size(0);
  const int64_t most = std::max<int64_t>(1, kListedWarps / std::max<int64_t>(links, 1));
  for (int64_t at = 0; at < pixels && rows.grad.numel() > 0; at += most) {
    const int64_t count = std::min(most, pixels - at);
    WarpedRows piece = rows;
    piece.first += at;
    piece.grad = rows.grad.narrow(0, at, count);
    const Extent extent(piece, count);
    // A pixel has fewer than two threads for each of its channels.
    const bool narrow = fits_32_bits(std::max(extent.cells, 2 * sums.numel()),
                                     {piece.grad, rows.flows, sums});
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, rows.grad.scalar_type(), "ordered_sums", [&] {
          const auto run =
              narrow ? add_piece<scalar_t, int32_t> : add_piece<scalar_t, int64_t>;
          run(piece, count, extent, sums);
        });
  }
}

}  // namespace trajgru_ext::cuda
