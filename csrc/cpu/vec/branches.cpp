#include "cpu/branch_kernels.h"

#include <algorithm>

#include "cpu/vec/branch_items.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// Goes through an item in channels last a few pixels at a time: f gets their number as
// std::integral_constant, and adds them up in registers, since a sum in memory waits
// for the one before. Pixels of many channels go one by one, so that memory is read in
// order.
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
  using V = SimdOf<scalar_t>;
  const BranchSize& size = args.size;
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    T* out = args.sums + size.sum(item.sample, item.number, 0, item.channel);
    auto x = cursors(args.branch, args.branches, item);
    if (size.planes) {
      WideSimd<V> sum(0);
      for (int m = 0; m < x.count; ++m) {
        const scalar_t* from = x.at[m];
        for_blocks<V>(item.length, [&](int64_t i, const auto& block) {
          sum += block.load(from + i);
        });
      }
      *out = sum_of_lanes(sum);
      continue;
    }
    std::fill_n(out, size.channels, T(0));
    const auto add = [&](auto pixels) {
      for (int m = 0; m < x.count; ++m) {
        const scalar_t* from = x.at[m];
        const int64_t step = x.pixel[m];
        for_blocks<V>(size.channels, [=](int64_t c, const auto& block) {
          auto sum = block.load(out + c);
          for (int64_t k = 0; k < pixels; ++k) {
            sum = sum + block.load(from + k * step + c);
          }
          block.store(out + c, sum);
        });
      }
    };
    for_pixels<scalar_t>(size, item, add, x);
  }
}

// Whether an image of this size is too large for the caches, and is aligned so that it
// can be stored past them.
template <typename scalar_t>
bool streams(const BranchSize& size, const Cursor<scalar_t>& at) {
  constexpr int64_t kBytes = sizeof(scalar_t);
  return size.batch * size.channels * size.pixels * kBytes >= kStreamBytes &&
         streamable(at.at[0], size.planes ? 0 : at.pixel[0] * kBytes);
}

template <typename scalar_t, typename T>
void blend(const BranchBlend<scalar_t, T>& args, int64_t begin, int64_t end) {
  using V = SimdOf<scalar_t>;
  const BranchSize& size = args.size;
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    const T* weights = args.weights + size.weight(item.sample, 0, item.channel);
    auto x = cursors(args.branch, size.branches, item);
    Cursor<scalar_t> y;
    y.add(args.output, item, item.channel);
    const auto mix = [&](auto streams) {
      return [&, streams](int64_t i, const auto& block) {
        using Value = ValueOf<decltype(block)>;
        const auto weight = [&](int m) {
          const T* w = weights + m * size.channels;
          return size.planes ? Value(*w) : block.load(w + i);
        };
        Value sum = weight(0) * block.load(x.at[0] + i);
        for (int m = 1; m < x.count; ++m) {
          sum = sum + weight(m) * block.load(x.at[m] + i);
        }
        streams ? block.stream(y.at[0] + i, sum) : block.store(y.at[0] + i, sum);
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

// The gradients of branch m in one item. kGrads: to the branch; kDots: to its weight.
template <bool kGrads, bool kDots, bool kStreams, typename scalar_t, typename T>
void backward(const BranchBlendBackward<scalar_t, T>& args, const Item& item, int m) {
  using V = SimdOf<scalar_t>;
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
  const auto pull = [&](int64_t i, int64_t k, const auto& block, const auto& weight,
                        auto& dot) {
    const auto grad = block.load(dy.at[0] + k * dy.pixel[0] + i);
    if (kDots) dot += grad * block.load(x.at[0] + k * x.pixel[0] + i);
    if (!kGrads) return;
    scalar_t* to = dx.at[0] + k * dx.pixel[0] + i;
    kStreams ? block.stream(to, grad * weight) : block.store(to, grad * weight);
  };
  if (size.planes) {
    WideSimd<V> dot(0);
    for_blocks<V>(item.length, [&](int64_t i, const auto& block) {
      pull(i, 0, block, ValueOf<decltype(block)>(*weights), dot);
    });
    if (kDots) *dots = sum_of_lanes(dot);
    return;
  }
  if (kDots) std::fill_n(dots, size.channels, T(0));
  const auto pull_pixels = [&](auto pixels) {
    for_blocks<V>(size.channels, [&](int64_t c, const auto& block) {
      const auto weight = block.load(weights + c);
      auto dot = kDots ? block.load(dots + c) : weight;
      for (int64_t k = 0; k < pixels; ++k) pull(c, k, block, weight, dot);
      if (kDots) block.store(dots + c, dot);
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
