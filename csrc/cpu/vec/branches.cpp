// See flow_warp.cpp for what files of this folder may use.

#include "cpu/branch_kernels.h"

#include <algorithm>

#include "cpu/vec/branch_items.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// f(how many pixels from the cursors on, as std::integral_constant) through an item in
// channels last: a few together, since a sum in memory would wait for the one before;
// but one by one where pixels are so long that memory is no longer read in order.
template <typename scalar_t, typename F, typename... C>
[[gnu::always_inline]] inline void for_pixels(const BranchSize& size, const Item& item,
                                              const F& f, C&... cursors) {
  constexpr int64_t kTogether = 4, kBytes = 1024;
  int64_t p = 0;
  if (kTogether * size.channels * static_cast<int64_t>(sizeof(scalar_t)) <= kBytes) {
    for (; p + kTogether <= item.length; p += kTogether) {
      f(std::integral_constant<int64_t, kTogether>());
      (cursors.next(kTogether), ...);
    }
  }
  for (; p < item.length; ++p) {
    f(std::integral_constant<int64_t, 1>());
    (cursors.next(), ...);
  }
}

template <typename scalar_t, typename T>
void sums(const BranchSums<scalar_t, T>& args, int64_t begin, int64_t end) {
  using V = PackOf<scalar_t>;
  const BranchSize& size = args.size;
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    T* out = args.sums + size.sum(item.sample, item.number, 0, item.channel);
    auto x = cursors(args.branch, args.branches, item);
    if (size.planes) {
      WidePack<V> sum(0);
      for (int m = 0; m < x.count; ++m) {
        const scalar_t* from = x.at[m];
        for_packs<V>(item.length,
                     [&](int64_t i, const auto& pack) { sum += pack.load(from + i); });
      }
      *out = sum_of_pack(sum);
      continue;
    }
    std::fill_n(out, size.channels, T(0));
    const auto add = [&](auto pixels) {
      for (int m = 0; m < x.count; ++m) {
        const scalar_t* from = x.at[m];
        const int64_t step = x.pixel[m];
        for_packs<V>(size.channels, [=](int64_t c, const auto& pack) {
          auto sum = pack.load(out + c);
          for (int64_t k = 0; k < pixels; ++k) {
            sum = sum + pack.load(from + k * step + c);
          }
          pack.store(out + c, sum);
        });
      }
    };
    for_pixels<scalar_t>(size, item, add, x);
  }
}

// Whether an image of this size is too large for the caches, and lies so that it can be
// written past them.
template <typename scalar_t>
bool streams(const BranchSize& size, const Cursor<scalar_t>& at) {
  constexpr int64_t kBytes = sizeof(scalar_t);
  return size.batch * size.channels * size.pixels * kBytes >= kStreamBytes &&
         streamable(at.at[0], size.planes ? 0 : at.pixel[0] * kBytes);
}

template <typename scalar_t, typename T>
void blend(const BranchBlend<scalar_t, T>& args, int64_t begin, int64_t end) {
  using V = PackOf<scalar_t>;
  const BranchSize& size = args.size;
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    const T* weights = args.weights + size.weight(item.sample, 0, item.channel);
    auto x = cursors(args.branch, size.branches, item);
    Cursor<scalar_t> y;
    y.add(args.output, item, item.channel);
    const auto mix = [&](auto streams) {
      return [&, streams](int64_t i, const auto& pack) {
        using Value = ValueOf<decltype(pack)>;
        const auto weight = [&](int m) {
          const T* w = weights + m * size.channels;
          return size.planes ? Value(*w) : pack.load(w + i);
        };
        Value sum = weight(0) * pack.load(x.at[0] + i);
        for (int m = 1; m < x.count; ++m) {
          sum = sum + weight(m) * pack.load(x.at[m] + i);
        }
        streams ? pack.stream(y.at[0] + i, sum) : pack.store(y.at[0] + i, sum);
      };
    };
    if (streams(size, y)) {
      for_item<V>(size, item, mix(std::true_type()), x, y);
    } else {
      for_item<V>(size, item, mix(std::false_type()), x, y);
    }
  }
  end_streams();
}

// One branch of one item.
template <bool kGrads, bool kDots, bool kStreams, typename scalar_t, typename T>
void backward(const BranchBlendBackward<scalar_t, T>& args, const Item& item, int m) {
  using V = PackOf<scalar_t>;
  const BranchSize& size = args.size;
  const T* weights = args.weights + size.weight(item.sample, m, item.channel);
  Cursor<const scalar_t> dy, x;
  Cursor<scalar_t> dx;
  dy.add(args.grad, item, item.channel);
  if (kDots) x.add(args.branch[m], item, item.channel);
  if (kGrads) dx.add(args.branch_grad[m], item, item.channel);
  if constexpr (kGrads && !kStreams) {
    if (streams(size, dx)) return backward<kGrads, kDots, true>(args, item, m);
  }
  T* dots =
      kDots ? args.sums + size.sum(item.sample, item.number, m, item.channel) : nullptr;
  const auto pull = [&](int64_t i, int64_t k, const auto& pack, const auto& weight,
                        auto& dot) {
    const auto grad = pack.load(dy.at[0] + k * dy.pixel[0] + i);
    if (kDots) dot += grad * pack.load(x.at[0] + k * x.pixel[0] + i);
    if (!kGrads) return;
    scalar_t* to = dx.at[0] + k * dx.pixel[0] + i;
    kStreams ? pack.stream(to, grad * weight) : pack.store(to, grad * weight);
  };
  if (size.planes) {
    WidePack<V> dot(0);
    for_packs<V>(item.length, [&](int64_t i, const auto& pack) {
      pull(i, 0, pack, ValueOf<decltype(pack)>(*weights), dot);
    });
    if (kDots) *dots = sum_of_pack(dot);
    return;
  }
  if (kDots) std::fill_n(dots, size.channels, T(0));
  const auto pull_pixels = [&](auto pixels) {
    for_packs<V>(size.channels, [&](int64_t c, const auto& pack) {
      const auto weight = pack.load(weights + c);
      auto dot = kDots ? pack.load(dots + c) : weight;
      for (int64_t k = 0; k < pixels; ++k) pull(c, k, pack, weight, dot);
      if (kDots) pack.store(dots + c, dot);
    });
  };
  for_pixels<scalar_t>(size, item, pull_pixels, dy, x, dx);
}

template <typename scalar_t, typename T>
void backward(const BranchBlendBackward<scalar_t, T>& args, int64_t begin,
              int64_t end) {
  const bool grads = args.branch_grad[0].data != nullptr;
  const auto run = !grads                 ? backward<false, true, false, scalar_t, T>
                   : args.sums == nullptr ? backward<true, false, false, scalar_t, T>
                                          : backward<true, true, false, scalar_t, T>;
  for (int64_t item = begin; item < end; ++item) {
    const Item at(args.size, item);
    for (int m = 0; m < args.size.branches; ++m) run(args, at, m);
  }
  end_streams();
}

}  // namespace

template <typename scalar_t>
const BranchKernels<scalar_t>& branch_kernels() {
  using T = at::opmath_type<scalar_t>;
  static constexpr BranchKernels<scalar_t> kernels = {
      sums<scalar_t, T>, blend<scalar_t, T>, backward<scalar_t, T>};
  return kernels;
}

TRAJGRU_INSTANTIATE_KERNELS(BranchKernels, branch_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
