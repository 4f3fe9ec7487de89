#include "cpu/hff_concat.h"

#include <algorithm>

#include "cpu/vec/branch_items.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// The slices of the result, or of its gradient.
template <typename T>
Cursors<T, kMostBranches> slices(const BranchView<T>& view, const BranchSize& size,
                                 int skipped, const Item& item) {
  Cursors<T, kMostBranches> all;
  for (int k = 0; k < size.branches - skipped; ++k) {
    all.add(view, item, k * size.channels + item.channel);
  }
  return all;
}

template <typename scalar_t, typename T>
[[gnu::flatten]] void forward(const HffConcat<scalar_t, T>& args, int64_t begin,
                              int64_t end) {
  using V = SimdOf<scalar_t>;
  const BranchSize& size = args.size;
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    auto x = cursors(args.branch, size.branches, item);
    auto y = slices(args.output, size, args.skipped, item);
    const auto run = [&](int64_t i, const auto& block) {
      using Value = ValueOf<decltype(block)>;
      const auto weight = [&](const T* numbers, int k) {
        const T* first = numbers + k * size.channels;
        return size.planes ? Value(first[item.channel]) : block.load(first + i);
      };
      fuse<Value>(
          args, [&](int m) { return block.load(x.at[m] + i); },
          [&](int k, const Value& z) { block.store(y.at[k] + i, z); }, weight);
    };
    for_item<V>(size, item, run, x, y);
  }
}

template <typename scalar_t, typename T>
[[gnu::flatten]] void backward(const HffConcatBackward<scalar_t, T>& args,
                               int64_t begin, int64_t end) {
  using V = SimdOf<scalar_t>;
  const BranchSize& size = args.size;
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    auto dy = slices(args.grad, size, args.skipped, item);
    Cursors<scalar_t, kMostBranches> dx;
    for (int m = 0; m < size.branches; ++m) {
      dx.add(args.branch_grad[m], item, item.channel);
    }
    const auto run = [&](int64_t i, const auto& block) {
      using Value = ValueOf<decltype(block)>;
      fuse<Value>(
          args, [&](int k) { return block.load(dy.at[k] + i); },
          [&](int m, const Value& sum) { block.store(dx.at[m] + i, sum); });
    };
    for_item<V>(size, item, run, dy, dx);
  }
}

template <typename scalar_t, typename T>
[[gnu::flatten]] void affine_backward(const HffAffineBackward<scalar_t, T>& args,
                                      int64_t begin, int64_t end) {
  using V = SimdOf<scalar_t>;
  const BranchSize& size = args.of.size;
  const HffAffine<T>& affine = args.of.affine;
  const int count = args.slices();
  for (int64_t number = begin; number < end; ++number) {
    const Item item(size, number);
    auto x = cursors(args.of.branch, size.branches, item);
    auto dy = slices(args.grad, size, args.of.skipped, item);
    Cursors<scalar_t, kMostBranches> dx;
    for (int k = 0; k < count; ++k) {
      dx.add(args.slice_grad[k], item, item.channel);
    }
    T* sums =
        args.sums + args.sums_size().sum(item.sample, item.number, 0, item.channel);
    WideSimd<V> of_plane[3 * kMostBranches];
    if (size.planes) std::fill_n(of_plane, 3 * count, WideSimd<V>(0));
    if (!size.planes) std::fill_n(sums, 3 * count * size.channels, T(0));
    const auto run = [&](int64_t i, const auto& block) {
      using Value = ValueOf<decltype(block)>;
      const auto load = [&](int m) { return block.load(x.at[m] + i); };
      const auto weight = [&](const T* numbers, int k) {
        const T* first = numbers + k * size.channels;
        return size.planes ? Value(first[item.channel]) : block.load(first + i);
      };
      const auto add = [&](int m, const Value& value) {
        if (size.planes) {
          of_plane[m] += value;
        } else {
          T* sum = sums + m * size.channels + i;
          block.store(sum, block.load(sum) + value);
        }
      };
      Value total(0);
      for (int k = count - 1; k >= 0; --k) {
        const Value grad = block.load(dy.at[k] + i);
        const auto grads = slice_grads(args.of, k, grad, load, weight);
        if (affine.scale != nullptr) {
          add(k, grads.scale);
          add(count + k, grads.shift);
        }
        if (affine.slope != nullptr) add(2 * count + k, grads.slope);
        total = total + grads.sum;
        block.store(dx.at[k] + i, total);
      }
    };
    for_item<V>(size, item, run, x, dy, dx);
    if (!size.planes) continue;
    for (int m = 0; m < 3 * count; ++m) {
      sums[m * size.channels] = sum_of_lanes(of_plane[m]);
    }
  }
}

}  // namespace

template <typename scalar_t>
const HffKernels<scalar_t>& hff_kernels() {
  using T = at::opmath_type<scalar_t>;
  static constexpr HffKernels<scalar_t> kernels = {
      forward<scalar_t, T>, backward<scalar_t, T>, affine_backward<scalar_t, T>};
  return kernels;
}

TRAJGRU_INSTANTIATE_KERNELS(HffKernels, hff_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
