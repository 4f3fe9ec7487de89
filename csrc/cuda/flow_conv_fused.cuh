#pragma once

// flow_conv in one kernel. A block takes a tile of pixels, a row of its products each,
// and all outputs, a column each. Slice by slice of the links' channels it gathers the
// warped values and fetches the weights into shared memory, and multiplies them
// (tile_products.cuh). Slices take turns in two buffers: while one is multiplied, what
// the next is made of is on its way.
//
// What becomes of the sums is the kernel's second argument: OutputTiles writes them,
// and GruTiles (flow_conv_gru_step.cuh) updates a GRU's gates by them.

#include "cuda/tile_products.cuh"
#include "cuda/warp_pixel.cuh"

namespace trajgru_ext::cuda {

template <typename scalar_t>
struct FlowConvTiles {
  ImageSize<int32_t> size;
  int32_t links, outputs;
  ImageView<const scalar_t, int32_t> input;  // channels last, as the output
  ImageView<const float, int32_t> flows;
  float flow_scale;
  const scalar_t* weight;  // [outputs, links, channels]
};

// A block's first pixel.
struct Tile {
  int32_t sample, row, col;

  TRAJGRU_HOST_DEVICE Tile(int32_t tile, const ImageSize<int32_t>& size) {
    const int32_t across = divide_up<int32_t>(size.width, kTileWidth);
    const int32_t down = divide_up<int32_t>(size.height, kTileHeight);
    const int32_t line = tile / across;
    col = (tile - line * across) * kTileWidth;
    sample = line / down;
    row = (line - sample * down) * kTileHeight;
  }
};

// What a thread brings to a slice: 16 bytes of a row. Eight threads in a row write to
// as many rows, and the two parts of a row are read together.
template <typename scalar_t>
struct Part {
  static constexpr int kVector = 16 / sizeof(scalar_t);
  using Values = Vector<scalar_t, kVector>;
  int row, channel;

  explicit TRAJGRU_HOST_DEVICE Part(int number)
      : row(number / kLanes * kSide + number % kSide),
        channel(number / kSide % 2 * kVector) {}

  template <typename Products, int kRows>
  __device__ void store(Slice<scalar_t, kRows>& slice, Values values) const {
#pragma unroll
    for (scalar_t& one : values.value) one = Products::rounded(one);
    store_shared(reinterpret_cast<Values*>(&slice.value[row * slice.kStride + channel]),
                 values);
  }
};

// Gathers warped values, slice by slice: the channels of the first link, of the next.
template <typename Products>
class WarpedPart {
 public:
  using scalar_t = typename Products::scalar_t;

  __device__ WarpedPart(const FlowConvTiles<scalar_t>& args, const Tile& tile)
      : part_(threadIdx.x),
        row_(tile.row + part_.row / kTileWidth),
        col_(tile.col + part_.row % kTileWidth),
        site_((tile.sample * args.size.height + row_) * args.size.width + col_, 0,
              args.size),
        channel_(args.size.channels) {}

  // Fetches what the next slice is made of.
  __device__ void load(const FlowConvTiles<scalar_t>& args) {
    if (channel_ == args.size.channels) {
      channel_ = 0;
      begin_link(args);
    }
#pragma unroll
    for (int k = 0; k < kCorners; ++k) {
      if (corners_.first[k] != nullptr) {
        values_[k] = *reinterpret_cast<const Values*>(corners_.first[k] + channel_ +
                                                      part_.channel);
      }
    }
    channel_ += kSliceChannels<scalar_t>;
  }

  __device__ void store(Slice<scalar_t, kTilePixels>& slice) const {
    part_.template store<Products>(
        slice, blend<Part<scalar_t>::kVector>(corners_, target_,
                                              [&](int k) { return values_[k]; }));
  }

 private:
  using Values = typename Part<scalar_t>::Values;

  __device__ void begin_link(const FlowConvTiles<scalar_t>& args) {
    ImageView<const float, int32_t> flow = args.flows;
    flow.data += 2 * ++link_ * flow.channel;
    Cell<float, int32_t> cell;
    target_ = FlowTarget::outside;
    if (row_ < args.size.height && col_ < args.size.width) {
      target_ = locate(site_, flow, args.flow_scale, args.size, cell);
    }
    corners_ = find_corners(site_, target_, cell, args.size, args.input);
  }

  const Part<scalar_t> part_;
  const int32_t row_, col_;
  const Site<int32_t> site_;
  int32_t channel_, link_ = -1;
  FlowTarget target_;
  Corners<scalar_t, float> corners_;
  Values values_[kCorners];
};

// Fetches weights, whose rows are more than threads have parts of.
template <typename Products>
class WeightPart {
 public:
  using scalar_t = typename Products::scalar_t;

  template <typename Results>
  __device__ WeightPart(const FlowConvTiles<scalar_t>& args, const Results& results) {
#pragma unroll
    for (int n = 0; n < kParts; ++n) {
      const Part<scalar_t> part = number(n);
      if (part.row < args.outputs) {
        from_[n] =
            args.weight + part.channel +
            results.output_of(part.row, args.outputs) * args.links * args.size.channels;
      }
    }
  }

  __device__ void load() {
#pragma unroll
    for (int n = 0; n < kParts; ++n) {
      if (from_[n] == nullptr) continue;
      values_[n] = *reinterpret_cast<const Values*>(from_[n]);
      from_[n] += kSliceChannels<scalar_t>;
    }
  }

  __device__ void store(Slice<scalar_t, kTileOutputs>& slice) const {
#pragma unroll
    for (int n = 0; n < kParts; ++n) {
      const Part<scalar_t> part = number(n);
      if (part.row < kTileOutputs) part.template store<Products>(slice, values_[n]);
    }
  }

 private:
  using Values = typename Part<scalar_t>::Values;
  static constexpr int kParts = divide_up(2 * kTileOutputs, kFusedThreads);

  static __device__ Part<scalar_t> number(int n) {
    return Part<scalar_t>(threadIdx.x + n * kFusedThreads);
  }

  const scalar_t* from_[kParts] = {};
  Values values_[kParts] = {};
};

// Adds the bias and writes the pixels that are inside the image.
template <typename scalar_t>
struct OutputTiles {
  const scalar_t* bias;  // [outputs], or null
  ImageView<scalar_t, int32_t> output;

  // Of which output a column is.
  __device__ int output_of(int column, int /*outputs*/) const { return column; }

  template <typename Products>
  __device__ void take(const FlowConvTiles<scalar_t>& args, const Tile& tile,
                       const Products& products, float* sums) const {
    products.visit(sums, [&](int i, int j) {
      write(args, tile, sums, warp_line() + i, warp_column() + j * kSide);
    });
  }

 private:
  __device__ void write(const FlowConvTiles<scalar_t>& args, const Tile& tile,
                        const float* sums, int line, int first) const {
    constexpr int kCount = kOutputsAtOnce;
    const int lane = threadIdx.x % kLanes;
    const int fourth = lane / 4;
    const int to = first + lane % 4 * kCount;
    const int32_t row = tile.row + line;
#pragma unroll
    for (int half = 0; half < kSide; half += kSide / 2) {
      const int pixel = half + fourth / 4 * 4 + fourth % 2 * 2 + fourth / 2 % 2;
      const auto sum = load_shared(reinterpret_cast<const Vector<float, kCount>*>(
          sums + pixel * kSumStride + lane % 4 * kCount));
      const int32_t col = tile.col + pixel;
      if (row >= args.size.height || col >= args.size.width || to >= args.outputs) {
        continue;
      }
      Vector<scalar_t, kCount> result;
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        const float added = bias == nullptr ? 0.0f : static_cast<float>(bias[to + n]);
        result.value[n] = static_cast<scalar_t>(sum.value[n] + added);
      }
      scalar_t* const at = output.data + tile.sample * output.batch + row * output.row +
                           col * output.col + to;
      *reinterpret_cast<Vector<scalar_t, kCount>*>(at) = result;
    }
  }
};

template <typename scalar_t, template <typename> typename Products, typename Results>
__global__ void __launch_bounds__(kFusedThreads)
    flow_conv_fused_kernel(FlowConvTiles<scalar_t> args, Results results) {
  using Warped = Slice<scalar_t, kTilePixels>;
  using Weight = Slice<scalar_t, kTileOutputs>;
  TRAJGRU_SHARED(Warped, warped, 2);
  TRAJGRU_SHARED(Weight, weight, 2);
  if constexpr (kExists<Products, scalar_t>) {
    const Tile tile(blockIdx.x, args.size);
    WarpedPart<Products<scalar_t>> of_warped(args, tile);
    WeightPart<Products<scalar_t>> of_weight(args, results);
    Products<scalar_t> products;
    const bool multiplies = warp_column() < args.outputs;  // all of a warp
    const int32_t slices = args.links * (args.size.channels / kSliceChannels<scalar_t>);
    of_warped.load(args);
    of_weight.load();
    of_warped.store(warped[0]);
    of_weight.store(weight[0]);
    __syncthreads();
    for (int32_t s = 0; s < slices; ++s) {
      const bool more = s + 1 < slices;
      if (more) {
        of_warped.load(args);
        of_weight.load();
      }
      if (multiplies) products.add(warped[s % 2], weight[s % 2]);
      if (more) {
        of_warped.store(warped[(s + 1) % 2]);
        of_weight.store(weight[(s + 1) % 2]);
      }
      __syncthreads();
    }
    // The warped values have been read: there is room for a fragment of each warp.
    constexpr int kSums = kSide * kSumStride;
    static_assert(kFusedThreads / kLanes * kSums * sizeof(float) <= 2 * sizeof(Warped));
    float* const sums = reinterpret_cast<float*>(warped);
    if (multiplies) {
      results.take(args, tile, products, sums + threadIdx.x / kLanes * kSums);
    }
  }
}

}  // namespace trajgru_ext::cuda
