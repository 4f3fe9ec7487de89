// The first derivatives of operators that take a list of branches; the list comes last
// of their tensors.

#include <algorithm>
#include <tuple>

#include "autograd/rules.h"
#include "operators/branches/channel_mean.h"
#include "operators/branches/hff_concat.h"
#include "operators/branches/sk_select.h"
#include "tensors/calls.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

namespace call {
// Their signatures are the same for all devices.
using Hff = HffOperators<void>;
using Select = SkSelectOperators<void>;
TRAJGRU_OPERATOR(channel_mean, ChannelMeanOperators<void>::mean);
TRAJGRU_OPERATOR(hff_concat, Hff::concat);
TRAJGRU_OPERATOR(hff_concat_backward, Hff::concat_backward);
TRAJGRU_OPERATOR(hff_concat_affine_backward, Hff::affine_backward);
TRAJGRU_OPERATOR(sk_select, Select::select);
TRAJGRU_OPERATOR(sk_select_backward, Select::select_backward);
}  // namespace call

namespace {

using at::Tensor;

void drop(Tensors& tensors, size_t first) {
  std::fill(tensors.begin() + static_cast<int64_t>(first), tensors.end(), Tensor());
}

// Of the branches alone; numbers: their height and width.
struct ChannelMeanRule : Rule {
  Tensors forward(at::TensorList branches, const Numbers&) const override {
    return {call::channel_mean(branches)};
  }

  void forget(Tensors& branches) const override { drop(branches, 0); }

  // The same number for all pixels, which no kernel needs to write.
  Tensors backward(at::TensorList grads, at::TensorList saved, const Numbers& numbers,
                   const Needs&) const override {
    const auto height = static_cast<int64_t>(numbers.at(0));
    const auto width = static_cast<int64_t>(numbers.at(1));
    const Tensor& grad = grads[0];
    const int64_t batch = grad.size(0), channels = grad.size(1);
    const Tensor each = grad.div(std::max<int64_t>(height * width, 1))
                            .reshape({batch, channels, 1, 1})
                            .expand({batch, channels, height, width});
    return Tensors(saved.size(), each);
  }

  bool of_torch() const override { return true; }
};

// Of the logits and the branches.
struct SkSelectRule : Rule {
  Tensors forward(at::TensorList tensors, const Numbers&) const override {
    return {call::sk_select(tensors.slice(1), tensors[0])};
  }

  void forget(Tensors&) const override {}

  Tensors backward(at::TensorList grads, at::TensorList saved, const Numbers&,
                   const Needs& needs) const override {
    const bool any = std::find(needs.begin() + 1, needs.end(), true) != needs.end();
    const auto [stack, to_logits] =
        call::sk_select_backward(grads[0], saved.slice(1), saved[0], any, needs[0]);
    Tensors found(saved.size());
    found[0] = to_logits;
    if (!any) return found;
    const Tensors each = stack.unbind();
    std::copy(each.begin(), each.end(), found.begin() + 1);
    return found;
  }
};

// Of scale, shift, slope and the branches; the number is how many sums are skipped.
struct HffConcatRule : Rule {
  Tensors forward(at::TensorList tensors, const Numbers& numbers) const override {
    return {call::hff_concat(tensors.slice(kBranches), skipped(numbers),
                             given(tensors[0]), given(tensors[1]), given(tensors[2]))};
  }

  // The sums alone are linear.
  void forget(Tensors& tensors) const override {
    if (sums_alone(tensors)) drop(tensors, kBranches);
  }

  Tensors backward(at::TensorList grads, at::TensorList saved, const Numbers& numbers,
                   const Needs&) const override {
    const int64_t first = skipped(numbers);
    const size_t branches = saved.size() - kBranches;
    Tensors found(saved.size());
    if (sums_alone(saved)) {
      const Tensors each =
          call::hff_concat_backward(grads[0], static_cast<int64_t>(branches), first)
              .unbind();
      std::copy(each.begin(), each.end(), found.begin() + kBranches);
      return found;
    }
    Tensor stack;
    std::tie(stack, found[0], found[1], found[2]) = call::hff_concat_affine_backward(
        grads[0], saved.slice(kBranches), first, given(saved[0]), given(saved[1]),
        given(saved[2]));
    const Tensors each = stack.unbind();
    for (size_t k = 0; k < branches; ++k) {
      // Those that are skipped are in the first sum that is not.
      found[kBranches + k] =
          each[std::max<int64_t>(static_cast<int64_t>(k) - first, 0)];
    }
    return found;
  }

 private:
  static constexpr size_t kBranches = 3;  // where they begin

  static int64_t skipped(const Numbers& numbers) {
    return static_cast<int64_t>(numbers.at(0));
  }
  static bool sums_alone(at::TensorList tensors) {
    return !tensors[0].defined() && !tensors[2].defined();
  }
  static OptionalTensor given(const Tensor& tensor) {
    return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
  }
};

}  // namespace

Rules branch_rules() {
  Rules all;
  all.emplace("channel_mean", std::make_unique<ChannelMeanRule>());
  all.emplace("hff_concat", std::make_unique<HffConcatRule>());
  all.emplace("sk_select", std::make_unique<SkSelectRule>());
  return all;
}

}  // namespace trajgru_ext
