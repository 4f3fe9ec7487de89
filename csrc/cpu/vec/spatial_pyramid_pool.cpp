#include "cpu/spatial_pyramid_pool.h"

#include <algorithm>
#include <iterator>

#include "cpu/vec/simd.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

constexpr int64_t kChannels = kPyramidChannels;

// Before a loop over the channels: the compiler makes vectors of it.
#define TRAJGRU_SIMD _Pragma("omp simd")

// The channels of one item.
struct Group {
  int64_t sample, channel, channels;

  Group(const PyramidSize& size, int64_t item) {
    const int64_t groups = divide_up<int64_t>(size.channels, kChannels);
    sample = item / groups;
    channel = (item - sample * groups) * kChannels;
    channels = std::min(kChannels, size.channels - channel);
  }
};

// f(element of the image, element of the buffer) for a row of pixels.
template <typename data_t, typename T, typename F>
void for_row(const BranchView<data_t>& image, const Group& at, int64_t pixel,
             int64_t width, T* row, const F& f) {
  if (image.channel == 1) {
    for (int64_t w = 0; w < width; ++w) {
      data_t* from = image.at(at.sample, at.channel, pixel + w);
      for (int64_t k = 0; k < at.channels; ++k) f(from[k], row[w * kChannels + k]);
    }
    return;
  }
  for (int64_t k = 0; k < at.channels; ++k) {
    data_t* from = image.at(at.sample, at.channel + k, pixel);
    for (int64_t w = 0; w < width; ++w) {
      f(from[w * image.pixel], row[w * kChannels + k]);
    }
  }
}

// Channel k of pixel w is element w * stride + k.
template <typename T>
struct Row {
  T* data;
  int64_t stride;
};

// The row where it is, where it can be worked on so; else the buffer.
template <typename data_t, typename T>
Row<T> row_of(const BranchView<data_t>& image, const Group& at, int64_t pixel,
              T* buffer) {
  if constexpr (std::is_same_v<std::remove_const_t<data_t>, std::remove_const_t<T>>) {
    if (image.channel == 1 && at.channels == kChannels) {
      return {image.at(at.sample, at.channel, pixel), image.pixel};
    }
  }
  return {buffer, kChannels};
}

// f(bin, its first column, how many) for the bins that row h has a part in.
template <typename F>
void for_bins(const PyramidSize& size, const PyramidBins& bins, int64_t h, const F& f) {
  const PyramidBins::Span* span = bins.spans;
  for (int64_t n = 1; n <= size.levels; ++n) {
    const int64_t first = bins.first[(n - 1) * size.height + h];
    for (int64_t j = 0; j < n; ++j, ++span) {
      if (span->count > 0) f(first + j, span->begin, span->count);
    }
  }
}

// f(element of the result, element of the buffer) for all bins of the group; `area` is
// that of the bin, with its padding.
template <typename F>
void for_results(const PyramidSize& size, const Group& at, const F& f) {
  for (int64_t n = 1; n <= size.levels; ++n) {
    const int64_t area = size.area(n);
    for (int64_t k = 0; k < at.channels; ++k) {
      const int64_t first = size.place(at.sample, at.channel + k, n, 0);
      for (int64_t number = 0; number < n * n; ++number) {
        f(first + number, (bins_below(n) + number) * kChannels + k, area);
      }
    }
  }
}

// All channels of a group in registers.
template <typename T>
using AllChannels = Simd<T, kChannels / at::vec::Vectorized<T>::size()>;

template <typename T>
void add(const Row<const T>& row, int64_t count, T* value) {
  using V = AllChannels<T>;
  V sum = V::load(value);
  for (int64_t w = 0; w < count; ++w) sum = sum + V::load(row.data + w * row.stride);
  sum.store(value);
}

template <typename T>
void find_largest(const Row<const T>& row, int64_t count, int32_t pixel, T* value,
                  int32_t* place) {
  using V = AllChannels<T>;
  using Vec = at::vec::Vectorized<T>;
  // Columns are counted as numbers of T, which are exact as far as this.
  constexpr int64_t kMost = 1 << 20;
  for (int64_t begin = 0; begin < count; begin += kMost) {
    const int64_t end = std::min(begin + kMost, count);
    V largest = V::load(value), taken(-1), here(0);
    for (int64_t w = begin; w < end; ++w, here = here + V(1)) {
      const V x = V::load(row.data + w * row.stride);
      for (size_t i = 0; i < std::size(x.v); ++i) {
        const Vec takes = (x.v[i] > largest.v[i]) | (x.v[i] != x.v[i]);  // exceeds()
        largest.v[i] = Vec::blendv(largest.v[i], x.v[i], takes);
        taken.v[i] = Vec::blendv(taken.v[i], here.v[i], takes);
      }
    }
    largest.store(value);
    T column[kChannels];
    taken.store(column);
    const int32_t first = pixel + static_cast<int32_t>(begin);
    TRAJGRU_SIMD
    for (int64_t k = 0; k < kChannels; ++k) {
      place[k] = column[k] < 0 ? place[k] : first + static_cast<int32_t>(column[k]);
    }
  }
}

// Of no pixels the sum is 0; the largest is -inf, at the first pixel, or for a bin in
// the padding alone 0, at none.
template <bool kLargest, typename T>
void clear(const PyramidSize& size, const PyramidBins& bins,
           const PyramidBuffers<T>& buffers) {
  constexpr T kLeast = -std::numeric_limits<T>::infinity();
  for (int64_t bin = 0; bin < size.bins(); ++bin) {
    const int32_t start = bins.start[bin];
    std::fill_n(buffers.values + bin * kChannels, kChannels,
                kLargest && start >= 0 ? kLeast : T(0));
    std::fill_n(buffers.places + bin * kChannels, kChannels, start);
  }
}

template <bool kLargest, typename scalar_t, typename T>
void pool(const PyramidPool<scalar_t, T>& args, const PyramidBins& bins,
          const PyramidBuffers<T>& buffers, const Group& at) {
  const PyramidSize& size = args.size;
  clear<kLargest>(size, bins, buffers);
  for (int64_t h = 0; h < size.height; ++h) {
    const int64_t pixel = h * size.width;
    const auto row =
        row_of<const scalar_t, const T>(args.input, at, pixel, buffers.row);
    if (row.data == buffers.row) {
      const auto read = [](const scalar_t& from, T& to) { to = static_cast<T>(from); };
      for_row(args.input, at, pixel, size.width, buffers.row, read);
    }
    for_bins(size, bins, h, [&](int64_t bin, int64_t first, int64_t count) {
      const Row<const T> part{row.data + first * row.stride, row.stride};
      T* value = buffers.values + bin * kChannels;
      if (kLargest) {
        find_largest(part, count, static_cast<int32_t>(pixel + first), value,
                     buffers.places + bin * kChannels);
      } else {
        add(part, count, value);
      }
    });
  }
  for_results(size, at, [&](int64_t to, int64_t from, int64_t area) {
    const T value = buffers.values[from];
    args.output[to] = static_cast<scalar_t>(kLargest ? value : value / area);
    if (kLargest) args.places[to] = buffers.places[from];
  });
}

template <bool kLargest, typename scalar_t, typename T>
void spread(const PyramidPoolBackward<scalar_t, T>& args, const PyramidBins& bins,
            const PyramidBuffers<T>& buffers, const Group& at) {
  const PyramidSize& size = args.size;
  for_results(size, at, [&](int64_t from, int64_t to, int64_t area) {
    const T grad = static_cast<T>(args.grad[from]);
    buffers.values[to] = kLargest ? grad : grad / area;
    if (kLargest) buffers.places[to] = args.places[from];
  });
  for (int64_t h = 0; h < size.height; ++h) {
    const int64_t pixel = h * size.width;
    const Row<T> row = row_of(args.input_grad, at, pixel, buffers.row);
    for (int64_t w = 0; w < size.width; ++w) {
      std::fill_n(row.data + w * row.stride, kChannels, T(0));
    }
    for_bins(size, bins, h, [&](int64_t bin, int64_t first, int64_t count) {
      T value[kChannels];
      int32_t place[kChannels];
      std::copy_n(buffers.values + bin * kChannels, kChannels, value);
      std::copy_n(buffers.places + bin * kChannels, kChannels, place);
      for (int64_t w = first; w < first + count; ++w) {
        T* sum = row.data + w * row.stride;
        const int32_t here = static_cast<int32_t>(pixel + w);
        TRAJGRU_SIMD
        for (int64_t k = 0; k < kChannels; ++k) {
          sum[k] += !kLargest || place[k] == here ? value[k] : T(0);
        }
      }
    });
    if (row.data == buffers.row) {
      const auto write = [](scalar_t& to, const T& from) {
        to = static_cast<scalar_t>(from);
      };
      for_row(args.input_grad, at, pixel, size.width, buffers.row, write);
    }
  }
}

template <typename scalar_t, typename T>
void forward(const PyramidPool<scalar_t, T>& args, const PyramidBins& bins,
             const PyramidBuffers<T>& buffers, int64_t begin, int64_t end) {
  const auto run =
      args.size.largest ? pool<true, scalar_t, T> : pool<false, scalar_t, T>;
  for (int64_t item = begin; item < end; ++item) {
    run(args, bins, buffers, Group(args.size, item));
  }
}

template <typename scalar_t, typename T>
void backward(const PyramidPoolBackward<scalar_t, T>& args, const PyramidBins& bins,
              const PyramidBuffers<T>& buffers, int64_t begin, int64_t end) {
  const auto run =
      args.size.largest ? spread<true, scalar_t, T> : spread<false, scalar_t, T>;
  for (int64_t item = begin; item < end; ++item) {
    run(args, bins, buffers, Group(args.size, item));
  }
}

}  // namespace

template <typename scalar_t>
const PyramidKernels<scalar_t>& pyramid_kernels() {
  using T = at::opmath_type<scalar_t>;
  static constexpr PyramidKernels<scalar_t> kernels = {forward<scalar_t, T>,
                                                       backward<scalar_t, T>};
  return kernels;
}

TRAJGRU_INSTANTIATE_KERNELS(PyramidKernels, pyramid_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
