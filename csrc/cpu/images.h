#pragma once

// From Tensors to the views that the CPU loops work on.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "cpu/copy_image.h"
#include "cpu/views.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// A thread should have about this many values to move before it is worth waking.
constexpr int64_t kGrainValues = 1 << 15;

inline ImageSize image_size(const at::Tensor& image) {
  return {image.size(0), image.size(1), image.size(2), image.size(3)};
}

template <typename F>
void for_tiles(const ImageSize& size, const F& f) {
  const int64_t tile_values = kTilePixels * std::max<int64_t>(size.channels, 1);
  at::parallel_for(0, size.batch * size.tiles(), divide_up(kGrainValues, tile_values),
                   f);
}

// The image channels last: itself where a pixel's channels follow one another, else a
// copy, in storage.
template <typename scalar_t>
PixelView<scalar_t> pixel_view(const at::Tensor& image, at::Tensor& storage) {
  storage = has_stride(image, 1, 1) ? image
                                    : contiguous(image, at::MemoryFormat::ChannelsLast);
  return {storage.const_data_ptr<scalar_t>(), storage.stride(0), storage.stride(2),
          storage.stride(3)};
}

// The image as [B, pixels, C]: a view where it is channels last, else a packed copy.
template <typename scalar_t>
at::Tensor pixel_rows(const at::Tensor& image) {
  at::Tensor storage;
  pixel_view<scalar_t>(image, storage);
  return storage.permute({0, 2, 3, 1}).flatten(1, 2);
}

template <typename T>
FlowView<T> flow_view(const at::Tensor& flow) {
  return {data<T>(flow), flow.stride(0), flow.stride(1), flow.stride(2),
          flow.stride(3)};
}

// Of a dense tensor in one of the two formats.
template <typename scalar_t>
ImageView<scalar_t> image_view(const at::Tensor& image) {
  const bool planes = image.is_contiguous();
  return {image.mutable_data_ptr<scalar_t>(), image.stride(0),
          planes && image.size(1) > 1 ? image.size(2) * image.size(3) : 1,
          planes && image.size(1) > 1 ? 1 : image.size(1)};
}

}  // namespace trajgru_ext
