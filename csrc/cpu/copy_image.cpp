#include "cpu/copy_image.h"

#include <ATen/Dispatch.h>

#include "cpu/images.h"
#include "cpu/copy_image_kernels.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

// Whether each sample is dense: in planes, or pixel by pixel.
bool dense(const at::Tensor& image, bool planes) {
  const ImageSize size = image_size(image);
  const int64_t pixel = planes ? 1 : size.channels;
  return has_stride(image, 1, planes ? size.pixels() : 1) &&
         has_stride(image, 2, size.width * pixel) && has_stride(image, 3, pixel);
}

}  // namespace

void copy_on_cpu(const at::Tensor& to, const at::Tensor& from) {
  TORCH_CHECK_VALUE(to.dim() == 4 && to.sizes() == from.sizes(),
                    "copy_image: to and from must be images [B, C, H, W] of one size, "
                    "got ",
                    to.sizes(), " and ", from.sizes());
  const PlainDispatch plain;
  const bool from_channels_last = dense(from, false) && dense(to, true);
  const bool from_planes = dense(from, true) && dense(to, false);
  // Both where a sample has one channel or pixel.
  if (from_planes == from_channels_last || to.scalar_type() != from.scalar_type()) {
    to.copy_(from);
    return;
  }
  const ImageSize size = image_size(from);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, from.scalar_type(), "copy_image", [&] {
        const auto& kernels = copy_image_kernels<scalar_t>(size.channels);
        const auto move = from_planes ? kernels.to_channels_last : kernels.to_planes;
        const Batched<const scalar_t> source{from.const_data_ptr<scalar_t>(),
                                             from.stride(0)};
        const Batched<scalar_t> target{to.mutable_data_ptr<scalar_t>(), to.stride(0)};
        for_tiles(size, [&](int64_t begin, int64_t end) {
          move(size, source, target, begin, end);
        });
      });
}

at::Tensor contiguous(const at::Tensor& image, at::MemoryFormat format) {
  if (image.is_contiguous(format)) return image;
  const auto options = image.options().memory_format(format);
  const at::Tensor found = at::empty(image.sizes(), options);
  copy_on_cpu(found, image);
  return found;
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("copy_image", &copy_on_cpu);
}

}  // namespace trajgru_ext
