#include "cpu/flow_conv.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/images.h"
#include "cpu/parallel.h"
#include "cpu/product.h"
#include "operators/flow/flow_conv.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Pixels of one product: few enough for the buffer of warped values to stay near the
// core, more in the backward pass, where the products sum over them and each reads and
// writes the whole gradient to the weights. A product works on so many rows at a time.
constexpr int64_t kMostRows = 128, kBackRows = 256, kRowsAtOnce = 12;

// Channels of the input that a thread owns in the backward pass: whole cache lines,
// and wide products of links x channels columns; fewer where there is little to share.
constexpr int64_t kOwnedChannels = 32, kFewOwnedChannels = 16, kLittleToShare = 8;

// Parts that the weight gradient is summed up in, each over some of the samples.
constexpr int64_t kWeightParts = 4;

template <typename scalar_t>
FlowConv<scalar_t> flow_conv_args(const Tensor& input, const Tensor& flows,
                                  double flow_scale, Tensor& storage) {
  using coord_t = at::opmath_type<scalar_t>;
  return {image_size(input), flows.size(1) / 2, pixel_view<scalar_t>(input, storage),
          flow_view<const coord_t>(flows), static_cast<coord_t>(flow_scale)};
}

// Some of the links alone.
template <typename scalar_t>
FlowConv<scalar_t> links_of(FlowConv<scalar_t> args, int64_t first, int64_t links) {
  args.flows.data += 2 * first * args.flows.component;
  args.links = links;
  return args;
}

// A matrix packed for products, by all threads.
template <typename T>
Tensor packed(const Matrix<T>& matrix, const at::TensorOptions& options) {
  const auto& products = product_kernels<T>(matrix.columns);
  const int64_t panels = products.panels(matrix.columns);
  const Tensor panel = at::empty({panels, matrix.depth, products.panel}, options);
  T* data = panel.mutable_data_ptr<T>();
  const int64_t values = std::max<int64_t>(matrix.depth * products.panel, 1);
  at::parallel_for(
      0, panels, divide_up(kGrainValues, values),
      [&](int64_t begin, int64_t end) { products.pack(matrix, begin, end, data); });
  return panel;
}

template <typename scalar_t>
void flow_conv_tiles(const FlowConv<scalar_t>& args, const Tensor& kernel,
                     const Tensor& offset, const Tensor& output) {
  using coord_t = at::opmath_type<scalar_t>;
  const int64_t outputs = kernel.size(0), depth = kernel.size(1);
  const int64_t pixels = args.size.pixels();
  const int64_t most = fair_share(args.size.batch, pixels, kMostRows, kRowsAtOnce);
  const int64_t tiles = divide_up(pixels, most);
  const auto& kernels = flow_conv_kernels<scalar_t>(args.size.channels);
  const auto& products = product_kernels<coord_t>(outputs);
  const Tensor right = packed<coord_t>(
      {kernel.const_data_ptr<coord_t>(), depth, outputs, 1, depth}, kernel.options());
  const ImageView<scalar_t> out = image_view<scalar_t>(output);
  const bool in_place = out.channel == 1 && std::is_same_v<scalar_t, coord_t>;
  const int64_t every = args.size.batch * pixels * kernel.numel();
  for_items(args.size.batch * tiles, every, [&](int64_t begin, int64_t end) {
    const int64_t row = apart<coord_t>(depth);
    const Tensor warped = at::empty({most, row}, kernel.options());
    const Tensor result =
        in_place ? Tensor() : at::empty({most, outputs}, kernel.options());
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sample = item / tiles, first = item % tiles * most;
      const int64_t rows = std::min(most, pixels - first);
      const Block block{sample, first, first + rows, 0, args.size.channels};
      kernels.gather(args, block, warped.mutable_data_ptr<coord_t>(), row,
                     block.channels);
      scalar_t* to = out.data + sample * out.batch + first * out.pixel;
      coord_t* sums;
      if constexpr (std::is_same_v<scalar_t, coord_t>) sums = to;
      if (!in_place) sums = result.mutable_data_ptr<coord_t>();
      products.multiply({rows, depth, outputs, warped.const_data_ptr<coord_t>(), row,
                         right.const_data_ptr<coord_t>(), sums, outputs,
                         offset.const_data_ptr<coord_t>()});
      if (out.channel > 1) {
        kernels.transpose(sums, rows, outputs, to, out.channel);
      } else if (!in_place) {
        std::copy_n(sums, rows * outputs, to);
      }
    }
  });
}

Tensor flow_conv(const Tensor& input, const Tensor& flows, const Tensor& weight,
                 const OptionalTensor& bias, double flow_scale) {
  check_flow_conv(input, flows, weight, bias);
  const PlainDispatch plain;
  const Tensor output = empty_conv_output(input, weight.size(0));
  if (output.numel() == 0) return output;
  const at::ScalarType sums = opmath_dtype(input);
  const Tensor coordinates = flows.to(sums);
  const Tensor kernel = weight.to(sums).contiguous();
  const Tensor offset = bias.has_value()
                            ? bias->to(sums).contiguous()
                            : at::zeros({weight.size(0)}, kernel.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, input.scalar_type(), "flow_conv", [&] {
        Tensor storage;
        const auto args =
            flow_conv_args<scalar_t>(input, coordinates, flow_scale, storage);
        flow_conv_tiles(args, kernel, offset, output);
      });
  return output;
}

// What one thread has to itself in the backward pass: some samples, some channels of
// the input.
struct Share {
  int64_t first_sample, last_sample, channel, channels;
};

// The warped values of a block, packed for a product that sums over its pixels; in
// place where panels hold channels of one link. warped: room for them.
template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
void gather_packed(const FlowConv<scalar_t>& args, const Block& block, coord_t* warped,
                   coord_t* packed) {
  const int64_t rows = block.end - block.begin, columns = args.links * block.channels;
  const auto& kernels = flow_conv_kernels<scalar_t>(block.channels);
  const auto& products = product_kernels<coord_t>(columns);
  const int64_t panel = products.panel;
  if (block.channels % panel != 0) {
    kernels.gather(args, block, warped, columns, block.channels);
    return products.pack({warped, rows, columns, columns, 1}, 0,
                         products.panels(columns), packed);
  }
  for (int64_t first = 0; first < block.channels; first += panel) {
    const Block part{block.sample, block.begin, block.end, block.channel + first,
                     panel};
    kernels.gather(args, part, packed + first * rows, panel, block.channels * rows);
  }
}

// f(block, the rows of grad, [B, pixels, O], at its pixels) for those of a share.
template <typename coord_t, typename F>
void for_blocks(const ImageSize& size, const Share& share, const Tensor& grad,
                const F& f) {
  const int64_t pixels = size.pixels();
  for (int64_t sample = share.first_sample; sample < share.last_sample; ++sample) {
    for (int64_t first = 0; first < pixels; first += kBackRows) {
      const int64_t rows = std::min(kBackRows, pixels - first);
      f(Block{sample, first, first + rows, share.channel, share.channels}, rows,
        grad.const_data_ptr<coord_t>() + (sample * pixels + first) * grad.size(2));
    }
  }
}

// A share's gradient to the weights of args' links, [O, links * channels], of which the
// rows are `stride` apart.
template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
void weights_grad(const FlowConv<scalar_t>& args, const Share& share,
                  const Tensor& grad, coord_t* weight_grad, int64_t stride) {
  const int64_t outputs = grad.size(2), columns = args.links * share.channels;
  const auto& products = product_kernels<coord_t>(columns);
  const Tensor buffer = at::empty({kBackRows, columns}, grad.options());
  const Tensor panels =
      at::empty({products.panels(columns) * products.panel, kBackRows}, grad.options());
  const Tensor zeros = at::zeros({columns}, grad.options());
  coord_t* right = panels.mutable_data_ptr<coord_t>();
  bool begun = false;
  for_blocks<coord_t>(
      args.size, share, grad,
      [&](const Block& block, int64_t rows, const coord_t* block_grad) {
        gather_packed(args, block, buffer.mutable_data_ptr<coord_t>(), right);
        products.multiply_transposed(
            {outputs, rows, columns, block_grad, outputs, right, weight_grad, stride,
             begun ? nullptr : zeros.const_data_ptr<coord_t>()});
        begun = true;
      });
}

// A share's gradients to the input, [B, pixels, C], and its part of those to the flows;
// either may be undefined. weight: [O, links * channels], packed.
template <typename scalar_t>
void images_grad(const FlowConv<scalar_t>& args, const Share& share, const Tensor& grad,
                 const Tensor& weight, const Tensor& input_grad,
                 const Tensor& flows_grad) {
  using coord_t = at::opmath_type<scalar_t>;
  const auto& kernels = flow_conv_kernels<scalar_t>(share.channels);
  const int64_t outputs = grad.size(2), columns = args.links * share.channels;
  const auto& products = product_kernels<coord_t>(columns);
  const Tensor buffer = at::empty({kBackRows, columns}, grad.options());
  const Tensor zeros = at::zeros({columns}, grad.options());
  coord_t* warped_grad = buffer.mutable_data_ptr<coord_t>();
  FlowView<coord_t> to_flows{};
  if (flows_grad.defined()) to_flows = flow_view<coord_t>(flows_grad);
  Tensor sums;
  if (input_grad.defined()) {
    sums =
        input_grad.narrow(0, share.first_sample, share.last_sample - share.first_sample)
            .narrow(2, share.channel, share.channels);
    sums.zero_();
  }
  for_blocks<coord_t>(
      args.size, share, grad,
      [&](const Block& block, int64_t rows, const coord_t* block_grad) {
        products.multiply({rows, outputs, columns, block_grad, outputs,
                           weight.const_data_ptr<coord_t>(), warped_grad, columns,
                           zeros.const_data_ptr<coord_t>()});
        coord_t* of_sample = nullptr;
        if (sums.defined()) {
          of_sample = sums.mutable_data_ptr<coord_t>() +
                      (block.sample - share.first_sample) * sums.stride(0);
        }
        kernels.scatter(args, block, warped_grad, of_sample,
                        sums.defined() ? sums.stride(1) : 0, to_flows);
      });
}

// The sum over all pixels, each sample by one thread and in one order.
Tensor sum_pixels(const Tensor& rows) {
  std::vector<Tensor> sums(rows.size(0));
  for_items(rows.size(0), kProductsOfSum * rows.numel(),
            [&](int64_t begin, int64_t end) {
              for (int64_t n = begin; n < end; ++n) sums[n] = rows.select(0, n).sum(0);
            });
  Tensor total = at::zeros({rows.size(2)}, rows.options());
  for (const Tensor& sum : sums) total.add_(sum);
  return total;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> flow_conv_backward(
    const Tensor& grad, const Tensor& input, const Tensor& flows, const Tensor& weight,
    double flow_scale, bool input_grad, bool flows_grad, bool weight_grad,
    bool bias_grad) {
  check_flow_conv_backward("flow_conv_backward", grad, input, flows, weight);
  const PlainDispatch plain;
  const at::ScalarType sums = opmath_dtype(input);
  const Tensor coordinates = flows.to(sums), kernel = weight.to(sums);
  const auto options = kernel.options();
  const int64_t batch = input.size(0), channels = input.size(1);
  const int64_t pixels = input.size(2) * input.size(3), outputs = weight.size(0);
  const int64_t links = flows.size(1) / 2;
  const int64_t every = batch * pixels * weight.numel();
  // Chosen by the sizes alone, and added up in their order: the result does not depend
  // on the threads.
  const int64_t parts = std::min(batch, kWeightParts);
  const bool little = parts * divide_up(channels, kOwnedChannels) < kLittleToShare;
  const int64_t most = little ? kFewOwnedChannels : kOwnedChannels;
  const int64_t blocks = divide_up(channels, most);

  const Tensor input_rows =
      input_grad ? at::empty({batch, pixels, channels}, options) : Tensor();
  const Tensor matrix = kernel.reshape({outputs, links, channels});
  std::vector<Tensor> block_flows_grad(flows_grad ? blocks : 0);
  for (Tensor& one : block_flows_grad) one = empty_image(flows, sums);
  std::vector<Tensor> block_weight(blocks);
  AT_DISPATCH_FLOATING_TYPES(sums, "flow_conv_backward", [&] {
    if (!input_grad && !flows_grad) return;  // the gradient to the weights needs none
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t some = std::min(most, channels - block * most);
      const Tensor part = matrix.narrow(2, block * most, some).contiguous();
      const int64_t columns = links * some;
      block_weight[block] = packed<scalar_t>(
          {part.const_data_ptr<scalar_t>(), outputs, columns, columns, 1}, options);
    }
  });
  std::vector<Share> shares;
  for (int64_t part = 0; part < parts; ++part) {
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t channel = block * most;
      shares.push_back({part * batch / parts, (part + 1) * batch / parts, channel,
                        std::min(most, channels - channel)});
    }
  }
  const int64_t count = static_cast<int64_t>(shares.size());
  std::vector<Tensor> share_weight_grad(weight_grad ? count : 0);

  Tensor to_bias = empty_result(weight);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, input.scalar_type(), "flow_conv_backward", [&] {
        using coord_t = at::opmath_type<scalar_t>;
        Tensor storage;
        const auto args =
            flow_conv_args<scalar_t>(input, coordinates, flow_scale, storage);
        const Tensor grad_rows = pixel_rows<scalar_t>(grad).to(sums).contiguous();
        if (input_grad || flows_grad) {
          for_items(count, every, [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; ++n) {
              const int64_t block = n % blocks;
              images_grad(args, shares[n], grad_rows, block_weight[block], input_rows,
                          flows_grad ? block_flows_grad[block] : Tensor());
            }
          });
        }
        if (weight_grad) {
          for (int64_t n = 0; n < count; ++n) {
            const int64_t columns = links * shares[n].channels;
            share_weight_grad[n] = pixels > 0 ? at::empty({outputs, columns}, options)
                                              : at::zeros({outputs, columns}, options);
          }
          const int64_t most_links =
              fair_share(count, links, std::max<int64_t>(links, 1), 1);
          const int64_t groups = divide_up(links, most_links);
          for_items(count * groups, every, [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; ++n) {
              const Share& share = shares[n / groups];
              const int64_t link = n % groups * most_links;
              const auto some =
                  links_of(args, link, std::min(most_links, links - link));
              weights_grad(some, share, grad_rows,
                           share_weight_grad[n / groups].mutable_data_ptr<coord_t>() +
                               link * share.channels,
                           links * share.channels);
            }
          });
        }
        if (bias_grad) to_bias = sum_pixels(grad_rows).to(weight.scalar_type());
      });

  Tensor to_input = empty_result(input);
  Tensor to_flows = empty_result(flows);
  Tensor to_weight = empty_result(weight);
  if (input_grad) {
    const Tensor image =
        input_rows.view({batch, input.size(2), input.size(3), channels});
    to_input = in_form_of(empty_image(input), image.permute({0, 3, 1, 2}), copy_on_cpu);
  }
  if (flows_grad) {
    Tensor sum = blocks > 0 ? block_flows_grad[0] : empty_image(flows, sums).zero_();
    for (int64_t block = 1; block < blocks; ++block) sum.add_(block_flows_grad[block]);
    to_flows = sum.to(flows.scalar_type());
  }
  if (weight_grad) {
    const Tensor sum = at::empty({outputs, links, channels}, options);
    if (parts == 0) sum.zero_();
    for (int64_t n = 0; n < count; ++n) {
      const Share& share = shares[n];
      const Tensor part = share_weight_grad[n].view({outputs, links, share.channels});
      const Tensor whole = sum.narrow(2, share.channel, share.channels);
      share.first_sample == 0 ? whole.copy_(part) : whole.add_(part);
    }
    to_weight = sum.view({outputs, links * channels}).to(weight.scalar_type());
  }
  return {to_input, to_flows, to_weight, to_bias};
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("flow_conv", &flow_conv);
  m.impl("flow_conv_backward", &flow_conv_backward);
}

}  // namespace
}  // namespace trajgru_ext
