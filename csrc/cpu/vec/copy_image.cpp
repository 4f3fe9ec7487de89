#include "cpu/copy_image_kernels.h"

#include "cpu/vec/tile.h"
#include "cpu/vec/transpose.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <typename scalar_t>
void to_channels_last(const ImageSize& size, const Batched<const scalar_t>& from,
                      const Batched<scalar_t>& to, int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = numbered_tile(size, index);
    transpose(from.data + tile.sample * from.batch + tile.begin, size.pixels(),
              size.channels, tile.pixels(),
              to.data + tile.sample * to.batch + tile.begin * size.channels,
              size.channels);
  }
}

template <typename scalar_t>
void to_planes(const ImageSize& size, const Batched<const scalar_t>& from,
               const Batched<scalar_t>& to, int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = numbered_tile(size, index);
    transpose(from.data + tile.sample * from.batch + tile.begin * size.channels,
              size.channels, tile.pixels(), size.channels,
              to.data + tile.sample * to.batch + tile.begin, size.pixels());
  }
}

}  // namespace

template <typename scalar_t>
const CopyImageKernels<scalar_t>& copy_image_kernels() {
  static constexpr CopyImageKernels<scalar_t> kernels = {to_channels_last<scalar_t>,
                                                         to_planes<scalar_t>};
  return kernels;
}

TRAJGRU_INSTANTIATE_KERNELS(CopyImageKernels, copy_image_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
