#include "cpu/pack.h"

#include "cpu/vec/tile.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <typename scalar_t>
void pack(const ImageSize& size, const scalar_t* planes, scalar_t* packed,
          int64_t begin_tile, int64_t end_tile) {
  const int64_t channels = size.channels;
  for (int64_t index = begin_tile; index < end_tile; ++index) {
    const Tile tile = numbered_tile(size, index);
    const int64_t sample = tile.sample * channels * size.pixels();
    transpose(planes + sample + tile.begin, size.pixels(), channels, tile.pixels(),
              packed + sample + tile.begin * channels, channels);
  }
}

}  // namespace

template <typename scalar_t>
const PackKernels<scalar_t>& pack_kernels() {
  static constexpr PackKernels<scalar_t> kernels = {pack<scalar_t>};
  return kernels;
}

TRAJGRU_INSTANTIATE_KERNELS(PackKernels, pack_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
