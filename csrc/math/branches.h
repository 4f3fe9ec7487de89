#pragma once

// Branches, images of one size, mixed by a weight for each branch, sample and channel,
// which comes from logits l (SE: Hu et al. 2018, arXiv 1709.01507; SK: Li et al. 2019,
// arXiv 1903.06586):
//
//   se_scale    w = sigma(l), one branch
//   sk_select   w_m = exp(l_m) / sum_k exp(l_k)
//   both        y = sum_m w_m x_m
//
// and, from the dot products d_m = sum over the pixels of dy x_m,
//
//   se_scale    dl = d w (1 - w)
//   sk_select   dl_m = w_m (d_m - sum_k w_k d_k)
//
// Sums over pixels are formed chunk by chunk, so that they do not depend on how many
// threads there are, and then added up in the chunks' order.

#include <cstdint>

#include "math/divide_up.h"
#include "math/gates.h"
#include "math/host_device.h"

namespace trajgru_ext {

// As many pointers as fit a kernel's parameters with ease.
constexpr int kMostBranches = 16;

// An image whose pixels are numbered through: in planes pixel is 1, in channels last
// channel is.
template <typename T>
struct BranchView {
  T* data;  // null where absent
  int64_t batch, channel, pixel;

  TRAJGRU_HOST_DEVICE T* at(int64_t b, int64_t c, int64_t p) const {
    return data + (b * batch + c * channel + p * pixel);
  }
};

struct BranchSize {
  int64_t batch, channels, pixels;
  int branches;
  bool planes;
  int64_t chunk;  // pixels

  TRAJGRU_HOST_DEVICE int64_t chunks() const { return divide_up(pixels, chunk); }

  // Pixels of the chunk of this number.
  TRAJGRU_HOST_DEVICE int64_t length(int64_t number) const {
    const int64_t rest = pixels - number * chunk;
    return rest < chunk ? rest : chunk;
  }

  // Offsets into weights [batch, branches, channels] and into sums [batch, chunks,
  // branches, channels].
  TRAJGRU_HOST_DEVICE int64_t weight(int64_t b, int64_t m, int64_t c) const {
    return (b * branches + m) * channels + c;
  }
  TRAJGRU_HOST_DEVICE int64_t sum(int64_t b, int64_t number, int64_t m,
                                  int64_t c) const {
    return ((b * chunks() + number) * branches + m) * channels + c;
  }
};

// The sums over the pixels of all branches together, for which size has one branch.
template <typename scalar_t, typename T>
struct BranchSums {
  using Scalar = scalar_t;

  BranchSize size;
  int branches;
  BranchView<const scalar_t> branch[kMostBranches];
  T* sums;
};

template <typename scalar_t, typename T>
struct BranchBlend {
  using Scalar = scalar_t;

  BranchSize size;
  BranchView<const scalar_t> branch[kMostBranches];
  const T* weights;
  BranchView<scalar_t> output;
};

template <typename scalar_t, typename T>
struct BranchBlendBackward {
  using Scalar = scalar_t;

  BranchSize size;
  BranchView<const scalar_t> branch[kMostBranches], grad;
  const T* weights;
  BranchView<scalar_t> branch_grad[kMostBranches];  // null where not wanted
  T* sums;                                          // dot products, or null
};

enum class Weighting : int { sigma, softmax };

// From here on an item is a sample and a channel: item = b * channels + c.
template <typename T>
struct BranchWeights {
  BranchSize size;
  Weighting weighting;
  const T* logits;
  T* weights;
};

template <typename T>
TRAJGRU_HOST_DEVICE void compute(const BranchWeights<T>& args, int64_t item) {
  const BranchSize& size = args.size;
  const int64_t b = item / size.channels, step = size.channels;
  const int64_t first = size.weight(b, 0, item - b * size.channels);
  const T* logits = args.logits + first;
  T* weights = args.weights + first;
  if (args.weighting == Weighting::sigma) {
    weights[0] = sigma(logits[0]);
    return;
  }
  T largest = logits[0], sum = 0;
  for (int m = 1; m < size.branches; ++m) {
    if (logits[m * step] > largest) largest = logits[m * step];
  }
  for (int m = 0; m < size.branches; ++m) {
    weights[m * step] = exponential(logits[m * step] - largest);
    sum += weights[m * step];
  }
  for (int m = 0; m < size.branches; ++m) weights[m * step] /= sum;
}

// The gradients to the logits from the chunks' dot products, whose sums are left where
// the first chunk's were.
template <typename T>
struct BranchSlopes {
  BranchSize size;
  Weighting weighting;
  const T* weights;
  T* sums;
  T* logits_grad;
};

template <typename T>
TRAJGRU_HOST_DEVICE void compute(const BranchSlopes<T>& args, int64_t item) {
  const BranchSize& size = args.size;
  const int64_t b = item / size.channels, c = item - b * size.channels;
  T mean = 0;  // by the weights
  for (int m = 0; m < size.branches; ++m) {
    T& dot = args.sums[size.sum(b, 0, m, c)];
    for (int64_t k = 1; k < size.chunks(); ++k) dot += args.sums[size.sum(b, k, m, c)];
    mean += args.weights[size.weight(b, m, c)] * dot;
  }
  for (int m = 0; m < size.branches; ++m) {
    const T dot = args.sums[size.sum(b, 0, m, c)];
    const T w = args.weights[size.weight(b, m, c)];
    args.logits_grad[size.weight(b, m, c)] =
        args.weighting == Weighting::sigma ? dot * sigma_slope(w) : w * (dot - mean);
  }
}

// The means from the chunks' sums.
template <typename scalar_t, typename T>
struct BranchMeans {
  BranchSize size;
  const T* sums;
  scalar_t* means;
};

template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void compute(const BranchMeans<scalar_t, T>& args, int64_t item) {
  const BranchSize& size = args.size;
  const int64_t b = item / size.channels, c = item - b * size.channels;
  T sum = 0;
  for (int64_t k = 0; k < size.chunks(); ++k) sum += args.sums[size.sum(b, k, 0, c)];
  args.means[item] = static_cast<scalar_t>(sum / static_cast<T>(size.pixels));
}

}  // namespace trajgru_ext
