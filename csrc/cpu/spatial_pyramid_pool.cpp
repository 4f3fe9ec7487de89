#include "cpu/spatial_pyramid_pool.h"

#include <memory>
#include <vector>

#include "cpu/branch_device.h"
#include "tensors/library.h"
#include "operators/branches/spatial_pyramid_pool.h"

namespace trajgru_ext {
namespace {

struct CpuPyramidDevice : CpuBranchDevice {
  template <typename scalar_t, typename T>
  static void run(const PyramidPool<scalar_t, T>& args) {
    for_groups<T>(args.size, [&](const auto&... rest) {
      pyramid_kernels<scalar_t>(kPyramidChannels).forward(args, rest...);
    });
  }

  template <typename scalar_t, typename T>
  static void run(const PyramidPoolBackward<scalar_t, T>& args) {
    for_groups<T>(args.size, [&](const auto&... rest) {
      pyramid_kernels<scalar_t>(kPyramidChannels).backward(args, rest...);
    });
  }

 private:
  // The last group is worked on whole: its channels beyond the image hold anything.
  template <typename T, typename F>
  static void for_groups(const PyramidSize& size, const F& f) {
    std::vector<int64_t> first;
    std::vector<PyramidBins::Span> spans;
    std::vector<int32_t> start;
    for (int64_t n = 1; n <= size.levels; ++n) {
      const PyramidAxis rows(size.height, n), cols(size.width, n);
      for (int64_t h = 0; h < size.height; ++h) {
        first.push_back(bins_below(n) + rows.bin(h) * n);
      }
      for (int64_t j = 0; j < n; ++j) {
        spans.push_back({cols.begin(j), cols.end(j) - cols.begin(j)});
      }
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const bool any = rows.end(i) > rows.begin(i) && cols.end(j) > cols.begin(j);
          const int64_t pixel = rows.begin(i) * size.width + cols.begin(j);
          start.push_back(any ? static_cast<int32_t>(pixel) : -1);
        }
      }
    }
    const PyramidBins bins{first.data(), spans.data(), start.data()};
    const int64_t items = size.batch * divide_up(size.channels, kPyramidChannels);
    const int64_t values = kPyramidChannels * size.pixels();
    at::parallel_for(
        0, items, divide_up(kGrainValues, values), [&](int64_t begin, int64_t end) {
          const int64_t count = size.bins() * kPyramidChannels;
          const auto numbers =
              std::make_unique<T[]>(size.width * kPyramidChannels + count);
          const auto places = std::make_unique<int32_t[]>(count);
          T* row = numbers.get();
          T* of_bins = row + size.width * kPyramidChannels;
          f(bins, PyramidBuffers<T>{row, of_bins, places.get()}, begin, end);
        });
  }
};

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  PyramidOperators<CpuPyramidDevice>::implement(m);
}

}  // namespace
}  // namespace trajgru_ext
